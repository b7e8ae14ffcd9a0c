//! `kernelbox run`: asks one question, shows how it is answered, and ends with an exit code that says how it went.
use std::{io::Read as _, path::PathBuf, time::Duration};

use clap::Args;
use kernelbox_proto::v1::{Session, StartTurnRequest, TurnOptions};

use super::{
    connect::{self, Client, ConnectArgs},
    duration,
    failure::{Exit, Failure, Result},
    files::attach,
    progress::Progress,
    request_id, say, session_name,
    sessions::open,
    signals::Signals,
    turn::{End, Files, OnInterrupt, Output, Turn},
};

#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal, stdout shows everything as it comes. Elsewhere it holds the answer alone: the code, what it \
                        prints and all else go to stderr."
)]
pub(crate) struct RunArgs {
    /// What is asked, in words; `-` reads it from stdin
    question: String,
    /// A file that the question is about; it is copied into the session (repeatable)
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The session to ask in, made if it does not exist; it stays [default: a new one that ends with the command]
    #[arg(long, short, env = "KERNELBOX_SESSION", value_name = "ID")]
    session: Option<String>,
    /// The model that answers, by the name that the server gives it [default: the session's]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// End the turn after so long, for example 5m [default: the server's]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Save images and the files that the turn makes here [default: the files, and images that the terminal cannot show, in
    /// ./kernelbox-output]
    #[arg(long, short, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Print one event a line, as proto3 JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: RunArgs) -> Result<Exit> {
    let question = args.read_question()?;
    attach::check(&args.file)?;
    let lasting = args.session.as_deref().map(session_name).transpose()?;
    let progress = Progress::new();
    let mut signals = Signals::new()?;
    let client = tokio::select! {
        client = connect::connect(&args.connect, &progress) => client?,
        _ = signals.next() => return Ok(Exit::Left),
    };
    progress.say("opening a session");
    let result = match lasting {
        Some(session) => {
            tokio::select! {
                opened = open::named(&client, &session, args.session_to_make()) => opened?,
                _ = signals.next() => return Ok(Exit::Left),
            };
            turn(&args, &client, question, session, &progress, &mut signals).await
        }
        None => {
            let session = tokio::select! {
                opened = open::new(&client, args.session_to_make()) => opened?,
                _ = signals.next() => return Ok(Exit::Left),
            };
            let result = turn(&args, &client, question, session.clone(), &progress, &mut signals).await;
            let lost = result.as_ref().is_err_and(|failure| failure.exit == Exit::NoServer);
            open::remove(&client, session, lost, &progress).await;
            result
        }
    };
    progress.clear();
    result
}

async fn turn(
    args: &RunArgs,
    client: &Client,
    question: String,
    session: String,
    progress: &Progress,
    signals: &mut Signals,
) -> Result<Exit> {
    let attachments = tokio::select! {
        attachments = attach::copy(client, &session, &args.file, progress) => attachments?,
        _ = signals.next() => return Ok(Exit::Left),
    };
    let mut output =
        Output::new(client, &session, args.output_dir.as_deref(), Files::Save, args.json, progress.clone());
    let options = TurnOptions {
        model: args.model.clone().unwrap_or_default(),
        timeout: args.timeout.map(duration),
        ..TurnOptions::default()
    };
    let request =
        StartTurnRequest { session, message: question, attachments, options: Some(options), request_id: request_id() };
    progress.say("waiting for the model");
    match Turn::start(client, request).watch(&mut output, signals, OnInterrupt::Cancel).await? {
        End::Over(exit) => Ok(exit),
        End::Left => {
            if let Some(session) = &args.session {
                say(&format!("left; the turn may still run: see `kernelbox turns list {session}`"));
            }
            Ok(Exit::Left)
        }
        End::Terminated => Ok(Exit::Left),
    }
}

impl RunArgs {
    fn read_question(&self) -> Result<String> {
        let mut question = self.question.clone();
        if question == "-" {
            question.clear();
            std::io::stdin().read_to_string(&mut question).map_err(|e| Failure::usage(format!("stdin: {e}")))?;
        }
        if question.trim().is_empty() { Err(Failure::usage("the question is empty")) } else { Ok(question) }
    }

    fn session_to_make(&self) -> Session {
        Session {
            display_name: "kernelbox run".to_owned(),
            model: self.model.clone().unwrap_or_default(),
            ..Session::default()
        }
    }
}
