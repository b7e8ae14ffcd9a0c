//! The `kernelbox` command: what its words mean, and which of them does what.
//!
//! Everything below speaks to a server over gRPC; only `serve` and `environment` know the server itself.
mod chat;
mod connect;
#[cfg(target_os = "linux")]
mod daemon;
#[cfg(target_os = "linux")]
mod environment;
mod exec;
mod failure;
mod files;
mod follow;
mod keep;
mod packages;
mod progress;
mod run;
mod screen;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(not(target_os = "linux"))]
#[path = "command/serve_elsewhere.rs"]
mod serve;
mod server_file;
mod sessions;
mod show;
mod signals;
mod table;
mod terminal;
mod turn;
mod turns;
mod variables;

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{CommandFactory as _, Parser, Subcommand};
use failure::{Exit, Failure, Result};

const EXITS: &str = "Exit codes:
  0  it worked
  1  the code raised, timed out or lost its kernel; the turn failed or was cancelled; or the call failed
  2  usage
  3  no server
  4  not allowed
  5  a limit was reached, or there is no capacity";

const EXAMPLES: &str = "Examples:
  kernelbox run 'What is 17*23?'                   a model answers, with code that it runs in a session of its own
  kernelbox run --file sales.csv 'Plot the sales by month' --output-dir out
  kernelbox run 'How many primes are below 10^6?' > answer.txt
  kernelbox chat --session s1                      questions and answers in a session that lasts
  kernelbox turns list s1                          what was asked, and how it went
  kernelbox exec 'print(1)'                        in a session of its own, which ends with it
  kernelbox exec --session s1 'x = 1'              in a session that lasts: files and variables stay
  kernelbox exec --session s1 --file plot.py --output-dir out
  kernelbox files put data.csv s1:data.csv
  kernelbox up                                     a server on this machine, until Ctrl-C

With neither --endpoint nor a server of yours on this machine, commands start one in the background; it ends
after 15 idle minutes.";

/// Answers questions with code, and runs code, in isolated Jupyter kernels.
#[derive(Debug, Parser)]
#[command(name = "kernelbox", version, after_help = format!("{EXAMPLES}\n\n{EXITS}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server on this machine; sets up its Python environment first
    Up(serve::UpArgs),
    /// Run a server with everything said by flags
    Serve(Box<serve::ServeArgs>),
    /// Ask a model one question, which it answers by writing and running code
    Run(Box<run::RunArgs>),
    /// Talk with a model that writes and runs code
    Chat(Box<chat::ChatArgs>),
    /// Run code and show what it prints
    Exec(Box<exec::ExecArgs>),
    /// Open, list and end sessions
    Sessions(sessions::SessionsArgs),
    /// Show what was asked in a session, and follow or end what still runs
    Turns(turns::TurnsArgs),
    /// Move files in and out of a session
    Files(files::FilesArgs),
    /// List and install a session's Python packages
    Packages(packages::PackagesArgs),
    /// List the variables of a session
    Variables(variables::VariablesArgs),
    /// List the kernels that a session can run
    Kernels(variables::KernelsArgs),
    /// Print the reference of metrics, which is kept in docs/metrics.md
    #[command(hide = true)]
    Metrics,
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The whole program.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::local("cannot start", error))),
    };
    let result = runtime.block_on(dispatch(cli.command));
    // A thread that waits for a line of input must not hold the program.
    runtime.shutdown_background();
    end(result)
}

async fn dispatch(command: Command) -> Result<Exit> {
    match command {
        Command::Up(args) => Box::pin(serve::up(args)).await,
        Command::Serve(args) => Box::pin(serve::serve(*args)).await,
        Command::Run(args) => Box::pin(run::run(*args)).await,
        Command::Chat(args) => Box::pin(chat::run(*args)).await,
        Command::Exec(args) => Box::pin(exec::run(*args)).await,
        Command::Sessions(args) => Box::pin(sessions::run(args)).await,
        Command::Turns(args) => Box::pin(turns::run(args)).await,
        Command::Files(args) => Box::pin(files::run(args)).await,
        Command::Packages(args) => Box::pin(packages::run(args)).await,
        Command::Variables(args) => Box::pin(variables::variables(args)).await,
        Command::Kernels(args) => Box::pin(variables::kernels(args)).await,
        Command::Metrics => {
            let page = kernelbox_gateway::metrics::reference().map_err(|error| Failure::local("no metrics", error))?;
            table::write_stdout(page.as_bytes())?;
            Ok(Exit::Ok)
        }
        Command::Completions { shell } => completions(shell),
    }
}

fn end(result: Result<Exit>) -> ExitCode {
    let exit = result.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            say(&failure.message);
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn completions(shell: Shell) -> Result<Exit> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kernelbox", &mut script);
    table::write_stdout(&script)?;
    Ok(Exit::Ok)
}

/// A line on stderr from the command itself, told apart from what code prints. Nobody may read stderr: that is no error.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "kernelbox: {text}");
}

/// `KEY=VALUE`, for clap.
fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// An id of a request, which makes it safe to send again.
fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// `sessions/{id}` for an id as people type it.
fn session_name(id: &str) -> Result<String> {
    let id = id.strip_prefix("sessions/").unwrap_or(id);
    let id: kernelbox_proto::SessionId = id.parse().map_err(|e: kernelbox_proto::Error| Failure::usage(e.message))?;
    Ok(id.name())
}

/// How long ago, roughly: `now`, `5m`, `3h`, `2d`; `-` where absent.
fn ago(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time.copied().and_then(|time| SystemTime::try_from(time).ok()) else { return "-".to_owned() };
    match time.elapsed().unwrap_or_default().as_secs() {
        0..60 => "now".to_owned(),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        Cli::command().debug_assert();
    }
}
