//! `kernelbox turns`: what was asked in a session, how it went, and what still runs.
use std::path::PathBuf;

use clap::{Args, Subcommand};
use kernelbox_proto::{
    TurnId,
    v1::{CancelTurnRequest, GetTurnRequest, ListTurnsRequest, ModelUsage, Turn as TurnFacts, TurnStatus},
};

use super::{
    ago,
    connect::{Client, ConnectArgs, connect},
    failure::{Exit, Failure, Result},
    progress::Progress,
    say, session_name,
    signals::Signals,
    table::{self, Table, cut, print_json, visible, write_stdout},
    turn::{End, Files, OnInterrupt, Output, Turn},
};

/// Longer messages are cut, so that a table stays a table.
const MESSAGE: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct TurnsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the turns of a session, newest first
    List {
        session: String,
        #[command(flatten)]
        common: Common,
    },
    /// Show one turn: what was asked, the answer, the files
    Get {
        session: String,
        turn: String,
        #[command(flatten)]
        common: Common,
    },
    /// Show what a turn does, and did, until it ends; Ctrl-C leaves it running
    Resume {
        session: String,
        turn: String,
        /// Only what came after the event of this number
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        after: i64,
        /// Save images and the files that the turn makes here [default: images the terminal cannot show, in ./kernelbox-output]
        #[arg(long, short, value_name = "DIR")]
        output_dir: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// End a turn early; what it did is kept
    Cancel {
        session: String,
        turn: String,
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

pub(crate) async fn run(args: TurnsArgs) -> Result<Exit> {
    match args.action {
        Action::List { session, common } => list(session_name(&session)?, &common).await?,
        Action::Get { session, turn, common } => {
            let request = GetTurnRequest { name: turn_name(&session, &turn)? };
            let turn = common.client().await?.turns().get_turn(request).await?.into_inner();
            common.show(&turn)?;
        }
        Action::Resume { session, turn, after, output_dir, common } => {
            let name = turn_name(&session, &turn)?;
            return resume(&session_name(&session)?, name, after, output_dir, &common).await;
        }
        Action::Cancel { session, turn, common } => {
            let request = CancelTurnRequest { name: turn_name(&session, &turn)? };
            let turn = common.client().await?.turns().cancel_turn(request).await?.into_inner();
            if common.json {
                print_json("Turn", &turn)?;
            } else {
                write_stdout(format!("{}\n", status(&turn)).as_bytes())?;
            }
        }
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

    fn show(&self, turn: &TurnFacts) -> Result<()> {
        if self.json {
            return print_json("Turn", turn);
        }
        let mut table = Table::new(&["TURN", id(turn)]);
        table.row(["status".to_owned(), status(turn)]);
        table.row(["began".to_owned(), table::time(turn.create_time.as_ref())]);
        table.row(["took".to_owned(), took(turn)]);
        table.row(["tokens".to_owned(), tokens(turn.usage.as_ref())]);
        table.row(["last event".to_owned(), turn.last_sequence.to_string()]);
        for artifact in &turn.artifacts {
            table.row(["file".to_owned(), format!("{} ({})", artifact.path, table::bytes(artifact.size))]);
        }
        table.print()?;
        for (title, text) in [("QUESTION", &turn.message), ("ANSWER", &turn.answer)] {
            table::paragraph(title, text)?;
        }
        Ok(())
    }
}

async fn list(parent: String, common: &Common) -> Result<()> {
    let client = common.client().await?;
    let mut table = Table::new(&["TURN", "STATUS", "BEGAN", "TOOK", "TOKENS", "QUESTION"]);
    let mut request = ListTurnsRequest { parent, page_size: 1000, page_token: String::new() };
    loop {
        let page = client.turns().list_turns(request.clone()).await?.into_inner();
        for turn in &page.turns {
            if common.json {
                print_json("Turn", turn)?;
                continue;
            }
            let question = cut(&turn.message.replace('\n', " "), MESSAGE);
            let began = ago(turn.create_time.as_ref());
            table.row([id(turn).to_owned(), status(turn), began, took(turn), tokens(turn.usage.as_ref()), question]);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if common.json { Ok(()) } else { table.print() }
}

async fn resume(session: &str, name: String, after: i64, output_dir: Option<PathBuf>, common: &Common) -> Result<Exit> {
    let progress = Progress::new();
    let mut signals = Signals::new()?;
    let client = tokio::select! {
        client = connect(&common.connect, &progress) => client?,
        _ = signals.next() => return Ok(Exit::Left),
    };
    progress.say("waiting for the turn");
    let known = client.turns().get_turn(GetTurnRequest { name: name.clone() }).await?.into_inner();
    let under_way = matches!(known.status(), TurnStatus::Running | TurnStatus::WaitingForTool);
    if !under_way && after >= known.last_sequence {
        progress.clear();
        say(&format!("nothing came after that; the turn has ended: {}", status(&known)));
        return Ok(if known.status() == TurnStatus::Completed { Exit::Ok } else { Exit::Failed });
    }
    let id = session.trim_start_matches("sessions/");
    let files = match output_dir {
        Some(_) => Files::Save,
        None => Files::Name(format!("kernelbox files get {id}:")),
    };
    let mut output = Output::new(&client, session, output_dir.as_deref(), files, common.json, progress.clone());
    let turn = name.rsplit('/').next().unwrap_or_default().to_owned();
    let end = Turn::resume(&client, name, after).watch(&mut output, &mut signals, OnInterrupt::Leave).await;
    progress.clear();
    match end? {
        End::Over(exit) => Ok(exit),
        End::Left => {
            say(&format!("left; the turn goes on. `kernelbox turns cancel {id} {turn}` ends it"));
            Ok(Exit::Left)
        }
        End::Terminated => Ok(Exit::Left),
    }
}

/// `sessions/{session}/turns/{turn}` for ids as people type them.
fn turn_name(session: &str, turn: &str) -> Result<String> {
    let session = session_name(session)?;
    let id = turn.strip_prefix(&format!("{session}/turns/")).unwrap_or(turn);
    let id: TurnId = id.parse().map_err(|_| Failure::usage(format!("not the id of a turn: {}", visible(turn))))?;
    Ok(format!("{session}/turns/{id}"))
}

fn id(turn: &TurnFacts) -> &str {
    turn.name.rsplit('/').next().unwrap_or_default()
}

fn status(turn: &TurnFacts) -> String {
    table::word(TurnStatus::as_str_name(&turn.status()), "TURN_STATUS_").replace('_', " ")
}

/// How long it took; `-` while it has not ended.
fn took(turn: &TurnFacts) -> String {
    let seconds = |time: prost_types::Timestamp| time.seconds as f64 + f64::from(time.nanos) / 1e9;
    match (turn.create_time, turn.end_time) {
        (Some(began), Some(ended)) => format!("{:.1} s", seconds(ended) - seconds(began)),
        _ => "-".to_owned(),
    }
}

/// For example `1200 in, 34 out`.
fn tokens(usage: Option<&ModelUsage>) -> String {
    usage.map_or_else(|| "-".to_owned(), |usage| format!("{} in, {} out", usage.input_tokens, usage.output_tokens))
}
