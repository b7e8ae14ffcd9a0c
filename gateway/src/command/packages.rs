//! `kernelbox packages`: what a session's code can import.
use clap::{Args, Subcommand};
use kernelbox_proto::v1::{InstallPackagesRequest, ListPackagesRequest, install_packages_event::Kind};

use super::{
    connect::{ConnectArgs, connect},
    failure::{Exit, Result},
    progress::Progress,
    say, session_name,
    table::{Table, print_json, visible, write_stdout},
};

#[derive(Debug, Args)]
pub(crate) struct PackagesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the Python packages that a session's code can import
    List {
        session: String,
        /// Only those installed for the session
        #[arg(long)]
        installed: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Install Python packages for a session
    Install {
        session: String,
        /// As pip takes them: humanize, "polars>=1"
        #[arg(required = true)]
        requirements: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Print proto3 JSON, one message a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: PackagesArgs) -> Result<Exit> {
    match args.action {
        Action::List { session, installed, common } => list(&session, installed, &common).await,
        Action::Install { session, requirements, common } => install(&session, requirements, &common).await,
    }
}

async fn list(session: &str, installed: bool, common: &Common) -> Result<Exit> {
    let request = ListPackagesRequest { parent: session_name(session)? };
    let progress = Progress::new();
    let client = connect(&common.connect, &progress).await?;
    progress.say("asking the session");
    let packages = client.code().list_packages(request).await;
    progress.clear();
    let mut table = Table::new(&["PACKAGE", "VERSION", "FROM"]);
    for package in packages?.into_inner().packages.iter().filter(|package| package.session || !installed) {
        if common.json {
            print_json("Package", package)?;
            continue;
        }
        let from = if package.session { "session" } else { "base" };
        table.row([package.distribution.clone(), package.version.clone(), from.to_owned()]);
    }
    if !common.json {
        table.print()?;
    }
    Ok(Exit::Ok)
}

async fn install(session: &str, requirements: Vec<String>, common: &Common) -> Result<Exit> {
    let request = InstallPackagesRequest { session: session_name(session)?, requirements };
    let progress = Progress::new();
    let client = connect(&common.connect, &progress).await?;
    progress.say("installing");
    let mut events = client.code().install_packages(request).await?.into_inner();
    let mut exit = Exit::Ok;
    while let Some(event) = events.message().await.inspect_err(|_| progress.clear())? {
        if common.json {
            progress.clear();
            print_json("InstallPackagesEvent", &event)?;
        }
        match event.kind {
            Some(Kind::Progress(line)) => progress.say(visible(&line)),
            Some(Kind::Package(package)) => {
                progress.clear();
                let name = visible(&package.distribution);
                if !package.failure.is_empty() {
                    exit = Exit::Failed;
                    say(&format!("could not install {name}: {}", package.failure));
                } else if !common.json {
                    write_stdout(format!("{name} {}\n", visible(&package.version)).as_bytes())?;
                }
                progress.say("installing");
            }
            None => {}
        }
    }
    progress.clear();
    Ok(exit)
}
