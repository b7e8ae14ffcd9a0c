//! `kernelbox sessions`: opens, shows and ends them.
pub(crate) mod open;
mod watch;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use kernelbox_proto::v1::{
    CreateSessionRequest, DeleteSessionRequest, ErrorCode, GetSessionRequest, ListSessionsRequest, SandboxState,
    Session,
};

use super::{
    ago,
    connect::{Client, ConnectArgs, connect},
    duration,
    failure::{Exit, Failure, Result, is},
    key_value,
    progress::Progress,
    request_id, say, session_name,
    table::{self, Table, cut, print_json, write_stdout},
};

/// Longer descriptions of tools are cut, so that a table stays a table.
const DESCRIPTION: usize = 80;

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List your sessions, newest first
    List {
        /// Only those with this label (repeatable)
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
        #[command(flatten)]
        common: Common,
    },
    /// Show one session
    Get {
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Open a session and print its id
    Create {
        /// Its id: 1 to 63 of a-z, 0-9 and "-" [default: the server makes one]
        id: Option<String>,
        /// A name for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        display_name: String,
        /// A label (repeatable)
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        label: Vec<(String, String)>,
        /// An environment variable of its kernels (repeatable)
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        env: Vec<(String, String)>,
        /// The model that answers in it, by the name that the server gives it [default: the server's]
        #[arg(long, value_name = "NAME", default_value = "")]
        model: String,
        /// The model's system prompt, in place of Kernelbox's own
        #[arg(long, value_name = "TEXT", conflicts_with = "system_prompt_file")]
        system_prompt: Option<String>,
        /// Read the system prompt from a file
        #[arg(long, value_name = "FILE")]
        system_prompt_file: Option<PathBuf>,
        /// Put after the system prompt
        #[arg(long, value_name = "TEXT", default_value = "")]
        system_prompt_suffix: String,
        /// Remove its processes after so long without use [default: the server's]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        idle_timeout: Option<Duration>,
        /// Wait until its kernel is ready
        #[arg(long)]
        start: bool,
        #[command(flatten)]
        common: Common,
    },
    /// End sessions, with their files
    Delete {
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show what happens in a session outside its executions, until Ctrl-C
    Watch {
        id: String,
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

pub(crate) async fn run(args: SessionsArgs) -> Result<Exit> {
    match args.action {
        Action::List { label, common } => list(label, &common).await?,
        Action::Get { id, common } => {
            let request = GetSessionRequest { name: session_name(&id)? };
            let session = common.client().await?.sessions().get_session(request).await?.into_inner();
            common.show(&session)?;
        }
        Action::Create {
            id,
            display_name,
            label,
            env,
            model,
            system_prompt,
            system_prompt_file,
            system_prompt_suffix,
            idle_timeout,
            start,
            common,
        } => {
            let system_prompt = match system_prompt_file {
                Some(file) => {
                    std::fs::read_to_string(&file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?
                }
                None => system_prompt.unwrap_or_default(),
            };
            let session = Session {
                display_name,
                model,
                system_prompt,
                system_prompt_suffix,
                labels: label.into_iter().collect(),
                env: env.into_iter().collect(),
                idle_timeout: idle_timeout.map(duration),
                ..Session::default()
            };
            let session_id = id.unwrap_or_default();
            let request = CreateSessionRequest { session: Some(session), session_id, request_id: request_id(), start };
            create(request, &common).await?;
        }
        Action::Delete { ids, connect: args } => {
            let names = ids.iter().map(|id| session_name(id)).collect::<Result<Vec<_>>>()?;
            let client = connect(&args, &Progress::new()).await?;
            return delete(&client, names).await;
        }
        Action::Watch { id, common } => watch::watch(&session_name(&id)?, &common).await?,
    }
    Ok(Exit::Ok)
}

impl Common {
    async fn client(&self) -> Result<Client> {
        let progress = Progress::new();
        let client = connect(&self.connect, &progress).await;
        progress.clear();
        client
    }

    fn show(&self, session: &Session) -> Result<()> {
        if self.json {
            return print_json("Session", session);
        }
        let mut table = Table::new(&["SESSION", id(session)]);
        table.row(["name".to_owned(), or_dash(&session.display_name)]);
        table.row(["labels".to_owned(), labels(session)]);
        table.row(["kernels".to_owned(), state(session)]);
        table.row(["sandboxes so far".to_owned(), session.generation.to_string()]);
        table.row(["model".to_owned(), or_dash(&session.model)]);
        for tool in &session.tools {
            table.row(["tool".to_owned(), described(&tool.name, &tool.description)]);
        }
        for server in &session.mcp_servers {
            table.row(["MCP server".to_owned(), described(&server.name, &server.url)]);
        }
        table.row(["opened".to_owned(), table::time(session.create_time.as_ref())]);
        table.row(["last used".to_owned(), table::time(session.last_activity_time.as_ref())]);
        table.print()?;
        table::paragraph("SYSTEM PROMPT", &session.effective_system_prompt)
    }
}

async fn list(labels_wanted: Vec<(String, String)>, common: &Common) -> Result<()> {
    let client = common.client().await?;
    let mut table = Table::new(&["SESSION", "KERNELS", "OPENED", "USED", "LABELS", "NAME"]);
    let mut request =
        ListSessionsRequest { page_size: 1000, labels: labels_wanted.into_iter().collect(), ..Default::default() };
    loop {
        let page = client.sessions().list_sessions(request.clone()).await?.into_inner();
        for session in &page.sessions {
            if common.json {
                print_json("Session", session)?;
                continue;
            }
            let (opened, used) = (ago(session.create_time.as_ref()), ago(session.last_activity_time.as_ref()));
            let name = or_dash(&session.display_name);
            table.row([id(session).to_owned(), state(session), opened, used, labels(session), name]);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if common.json { Ok(()) } else { table.print() }
}

async fn create(request: CreateSessionRequest, common: &Common) -> Result<()> {
    let client = common.client().await?;
    let progress = Progress::new();
    progress.say("opening a session");
    let session = client.sessions().create_session(request).await;
    progress.clear();
    let session = session?.into_inner();
    if common.json { print_json("Session", &session) } else { write_stdout(format!("{}\n", id(&session)).as_bytes()) }
}

/// Ends all that can be ended; the exit code tells whether all were.
async fn delete(client: &Client, names: Vec<String>) -> Result<Exit> {
    let mut exit = Exit::Ok;
    for name in names {
        match client.sessions().delete_session(DeleteSessionRequest { name: name.clone() }).await {
            Ok(_) => {}
            Err(status) if is(&status, ErrorCode::SessionNotFound) => {
                say(&format!("no such session: {}", name.trim_start_matches("sessions/")));
                exit = Exit::Failed;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(exit)
}

fn id(session: &Session) -> &str {
    session.name.trim_start_matches("sessions/")
}

fn state(session: &Session) -> String {
    table::word(SandboxState::as_str_name(&session.sandbox_state()), "SANDBOX_STATE_")
}

fn labels(session: &Session) -> String {
    let mut pairs: Vec<_> = session.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    or_dash(&pairs.join(","))
}

/// A name and what is said of it, on one line.
fn described(name: &str, what: &str) -> String {
    let what = what.lines().next().unwrap_or_default();
    if what.is_empty() { name.to_owned() } else { format!("{name}: {}", cut(what, DESCRIPTION)) }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
