//! `kernelbox variables` and `kernelbox kernels`: what a session has, and what it could run.
use clap::Args;
use kernelbox_proto::v1::{ListKernelsRequest, ListVariablesRequest, Variable};

use super::{
    connect::{ConnectArgs, connect},
    failure::{Exit, Result},
    progress::Progress,
    say, session_name,
    table::{self, Table, print_json},
};

/// Longer reprs are cut, so that a table stays a table.
const REPR: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct VariablesArgs {
    session: String,
    /// The kernel whose variables are meant
    #[arg(long, value_name = "NAME", default_value = "python3")]
    context: String,
    /// Print proto3 JSON, one variable a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KernelsArgs {
    session: String,
    /// Print proto3 JSON, one kernel a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn variables(args: VariablesArgs) -> Result<Exit> {
    let parent = format!("{}/contexts/{}", session_name(&args.session)?, args.context);
    let progress = Progress::new();
    let client = connect(&args.connect, &progress).await?;
    progress.say("asking the session");
    let answer = client.code().list_variables(ListVariablesRequest { parent }).await;
    progress.clear();
    let answer = answer?.into_inner();
    let mut table = Table::new(&["NAME", "TYPE", "SHAPE", "SIZE", "VALUE"]);
    for variable in &answer.variables {
        if args.json {
            print_json("Variable", variable)?;
            continue;
        }
        let size = if variable.size > 0 { table::bytes(variable.size) } else { "-".to_owned() };
        table.row([variable.name.clone(), variable.r#type.clone(), shape(variable), size, value(variable)]);
    }
    if !args.json {
        table.print()?;
    }
    if answer.incomplete {
        say("there are more, or some took too long to describe");
    }
    Ok(Exit::Ok)
}

pub(crate) async fn kernels(args: KernelsArgs) -> Result<Exit> {
    let request = ListKernelsRequest { parent: session_name(&args.session)? };
    let progress = Progress::new();
    let client = connect(&args.connect, &progress).await?;
    progress.say("asking the session");
    let answer = client.code().list_kernels(request).await;
    progress.clear();
    let mut table = Table::new(&["KERNEL", "LANGUAGE", "NAME"]);
    for kernel in answer?.into_inner().kernels {
        if args.json {
            print_json("Kernel", &kernel)?;
            continue;
        }
        table.row([kernel.kernel, kernel.language, kernel.display_name]);
    }
    if !args.json {
        table.print()?;
    }
    Ok(Exit::Ok)
}

fn shape(variable: &Variable) -> String {
    if variable.shape.is_empty() {
        return "-".to_owned();
    }
    variable.shape.iter().map(i64::to_string).collect::<Vec<_>>().join("x")
}

/// The columns of a data frame, the repr of everything else.
fn value(variable: &Variable) -> String {
    let columns: Vec<_> = variable
        .columns
        .iter()
        .map(|column| match column.name.as_str() {
            "" => column.dtype.clone(),
            name => format!("{name}: {}", column.dtype),
        })
        .collect();
    // A number of numpy's has a dtype and no shape: its value says more.
    let scalar = columns.is_empty() || variable.shape.is_empty();
    let text = if scalar { variable.repr.replace('\n', " ") } else { columns.join(", ") };
    table::cut(&text, REPR)
}
