//! `kernelbox exec`: runs code, shows what happens as it happens, and ends with an exit code that says how it went.
mod follow;
mod input;
mod output;

use std::{io::Read as _, path::PathBuf, time::Duration};

use clap::Args;
use kernelbox_proto::v1::{
    AutoInstall, ExecuteRequest, ExecutionEvent, InterruptRequest, SendInputRequest, Session, execution_event::Kind,
};

use self::{follow::Execution, input::Lines, output::Output};
use super::{
    connect::{self, Client, ConnectArgs},
    duration,
    failure::{Exit, Failure, Result},
    follow::Follow,
    key_value,
    progress::Progress,
    request_id, say, session_name,
    sessions::open::{self, TIDY_LIMIT},
    signals::{Asked, Signals},
};

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The code; `-` reads it from stdin
    #[arg(value_name = "CODE", required_unless_present = "file", conflicts_with = "file")]
    code: Option<String>,
    /// Read the code from a file
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The session to run in, made if it does not exist; it stays [default: a new one that ends with the command]
    #[arg(long, short, env = "KERNELBOX_SESSION", value_name = "ID")]
    session: Option<String>,
    /// The kernel of the session that runs it: each name has variables of its own
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// python3, bash, or another of `kernelbox kernels` [default: python3]
    #[arg(long, short, value_name = "NAME")]
    kernel: Option<String>,
    /// End the code after so long, for example 30s [default: the server's]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// A folder of the session's workspace to run in
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// An environment variable for this code alone (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Which missing packages are installed
    #[arg(long, value_enum, value_name = "WHICH")]
    auto_install: Option<Install>,
    /// Run the code once more if a package had to be installed while it ran; its side effects happen again
    #[arg(long)]
    rerun: bool,
    /// Save images and the files that the code makes here [default: images the terminal cannot show, in ./kernelbox-output]
    #[arg(long, short, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Print one event a line, as proto3 JSON
    #[arg(long)]
    json: bool,
    /// Start no server in the background: run one inside this command. Its sessions end with it
    #[arg(long, conflicts_with = "endpoint")]
    no_daemon: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Install {
    /// Those that Kernelbox knows
    Known,
    /// Whatever the index has under the name of the import
    Any,
    /// None
    Off,
}

pub(crate) async fn run(args: ExecArgs) -> Result<Exit> {
    let code = args.read_code()?;
    let lasting = args.session.as_deref().map(session_name).transpose()?;
    let progress = Progress::new();
    let mut signals = Signals::new()?;
    #[cfg(target_os = "linux")]
    if args.no_daemon {
        let data_dir = args.connect.data_dir.as_deref();
        let (server, client) = super::serve::Embedded::start(data_dir, &progress).await?;
        let result = in_session(&args, &client, code, lasting, &progress, &mut signals).await;
        progress.clear();
        server.stop().await;
        return result;
    }
    let client = tokio::select! {
        client = connect::connect(&args.connect, &progress) => client?,
        _ = signals.next() => return Ok(Exit::Left),
    };
    let result = in_session(&args, &client, code, lasting, &progress, &mut signals).await;
    progress.clear();
    result
}

/// Runs the code in its session; one that was made for it alone is removed again.
async fn in_session(
    args: &ExecArgs,
    client: &Client,
    code: String,
    lasting: Option<String>,
    progress: &Progress,
    signals: &mut Signals,
) -> Result<Exit> {
    progress.say("opening a session");
    if let Some(session) = lasting {
        return watch(args, client, args.request(code, session), true, progress, signals).await;
    }
    let session = Session { display_name: "kernelbox exec".to_owned(), ..Session::default() };
    let session = open::new(client, session).await?;
    let result = watch(args, client, args.request(code, session.clone()), false, progress, signals).await;
    let lost = result.as_ref().is_err_and(|failure| failure.exit == Exit::NoServer);
    open::remove(client, session, lost, progress).await;
    result
}

/// Runs the code, shows events, answers questions and passes on Ctrl-C, until the execution has ended. `create` makes the session first
/// if there is none.
async fn watch(
    args: &ExecArgs,
    client: &Client,
    request: ExecuteRequest,
    create: bool,
    progress: &Progress,
    signals: &mut Signals,
) -> Result<Exit> {
    let execution = format!("{}/executions/{}", request.session, request.request_id);
    let mut output = Output::new(args, client, &request.session, progress.clone());
    let call = Execution { client: client.clone(), request, name: execution.clone(), create };
    // A session that is there already was made by this server.
    let mut follow: Follow<ExecutionEvent> = Follow::start(call, 0, !create);
    let mut lines = Lines::default();
    let mut interrupted = false;
    loop {
        tokio::select! {
            event = follow.next() => {
                let event = event?;
                if let Some(Kind::InputRequested(question)) = &event.kind {
                    lines.ask(question);
                }
                match output.event(event).await {
                    Ok(Some(exit)) => return Ok(exit),
                    Ok(None) => {}
                    // Nobody reads any more: the code need not go on.
                    Err(failure) => {
                        let _ = interrupt(client, &execution).await;
                        return Err(failure);
                    }
                }
            }
            answer = lines.answer() => match answer {
                Some((input, value)) => {
                    let answer = SendInputRequest { name: execution.clone(), input, value };
                    // The question may be over: then the execution's own events say why.
                    if let Err(status) = client.code().send_input(answer).await {
                        say(status.message());
                    }
                }
                None => {
                    say("the code asks for input and stdin has ended: interrupting it");
                    interrupt(client, &execution).await?;
                }
            },
            asked = signals.next() => {
                progress.clear();
                match asked {
                    Asked::Interrupt if !interrupted => {
                        interrupted = true;
                        say("interrupting the code (Ctrl-C again leaves)");
                        if let Err(failure) = interrupt(client, &execution).await {
                            say(&failure.message);
                        }
                    }
                    Asked::Interrupt => return Ok(leave(args)),
                    Asked::End => {
                        // Best effort: the command ends in any case.
                        let _ = interrupt(client, &execution).await;
                        return Ok(Exit::Left);
                    }
                }
            }
        }
    }
}

fn leave(args: &ExecArgs) -> Exit {
    if let Some(session) = &args.session {
        say(&format!("left; the code may still run in session {session}"));
    }
    Exit::Left
}

async fn interrupt(client: &Client, execution: &str) -> Result<()> {
    let request = InterruptRequest { name: execution.to_owned(), ..InterruptRequest::default() };
    match tokio::time::timeout(TIDY_LIMIT, client.code().interrupt(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Failure::no_server("the server does not answer")),
    }
}

impl ExecArgs {
    fn read_code(&self) -> Result<String> {
        match (&self.file, self.code.as_deref()) {
            (Some(file), _) => {
                std::fs::read_to_string(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
            }
            (None, Some("-")) => {
                let mut code = String::new();
                std::io::stdin().read_to_string(&mut code).map_err(|e| Failure::usage(format!("stdin: {e}")))?;
                Ok(code)
            }
            (None, code) => Ok(code.unwrap_or_default().to_owned()),
        }
    }

    fn request(&self, code: String, session: String) -> ExecuteRequest {
        let auto_install = match self.auto_install {
            None => AutoInstall::Unspecified,
            Some(Install::Known) => AutoInstall::Known,
            Some(Install::Any) => AutoInstall::Any,
            Some(Install::Off) => AutoInstall::Off,
        };
        ExecuteRequest {
            session,
            code,
            context: self.context.clone().unwrap_or_default(),
            kernel: self.kernel.clone().unwrap_or_default(),
            timeout: self.timeout.map(duration),
            working_directory: self.cwd.clone().unwrap_or_default(),
            env: self.env.iter().cloned().collect(),
            request_id: request_id(),
            cancel_on_disconnect: false,
            // Code that came from stdin has read it to its end.
            allow_input: self.code.as_deref() != Some("-"),
            auto_install: auto_install.into(),
            rerun_after_install: self.rerun,
            output_limit_bytes: 0,
        }
    }
}
