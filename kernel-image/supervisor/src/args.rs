//! The command line. Every flag has a `KERNELBOX_*` twin in the environment.
use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use kernelbox_telemetry::LogFormat;

/// Keeps the kernels and the files of one sandbox.
#[derive(Debug, Parser)]
#[command(name = "kernelbox-supervisor", version)]
pub struct Cli {
    /// How the log is written.
    #[arg(long, global = true, env = "KERNELBOX_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one sandbox.
    Serve(Box<ServeArgs>),
    /// Become the host zygote, from which session zygotes are forked.
    Zygote(ZygoteArgs),
    /// Copy this program, and uv, into a folder, for a sandbox whose image has neither.
    Install(InstallArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where to listen: `unix:PATH` or `HOST:PORT`.
    #[arg(long, env = "KERNELBOX_LISTEN")]
    pub listen: String,
    /// The sandbox's uid, the audience of its tokens.
    #[arg(long, env = "KERNELBOX_UID")]
    pub uid: String,
    /// The session's files; code starts here.
    #[arg(long, env = "KERNELBOX_WORKSPACE")]
    pub workspace: PathBuf,
    /// Packages installed for the session.
    #[arg(long, env = "KERNELBOX_PACKAGES")]
    pub packages: PathBuf,
    /// The execution journal, spilled events, the kernels' logs.
    #[arg(long, env = "KERNELBOX_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Sockets and connection files. Must be short: a socket's path has at most 107 bytes.
    #[arg(long, env = "KERNELBOX_RUN_DIR")]
    pub run_dir: PathBuf,
    /// A folder of Ed25519 public keys, one `<kid>.pem` each.
    #[arg(long, env = "KERNELBOX_PUBLIC_KEYS")]
    pub public_keys: PathBuf,
    /// The Python interpreter of the kernels: a path, or a name on PATH.
    #[arg(long, env = "KERNELBOX_PYTHON", default_value = DEFAULT_PYTHON)]
    pub python: PathBuf,
    /// The host zygote's socket. Without it the supervisor starts a session zygote of its own.
    #[arg(long, env = "KERNELBOX_ZYGOTE_SOCKET")]
    pub zygote_socket: Option<PathBuf>,
    /// The uv program. Without it: the one beside the interpreter, else beside this program, else on PATH.
    #[arg(long, env = "KERNELBOX_UV")]
    pub uv: Option<PathBuf>,
    /// Modules imported before kernels are forked, separated by commas.
    #[arg(long, env = "KERNELBOX_WARM_UP", default_value = DEFAULT_WARM_UP)]
    pub warm_up: String,
    /// Variables of the supervisor's own environment that kernels have, too, separated by commas; * for all that are not its own
    /// settings.
    #[arg(long, env = "KERNELBOX_KERNEL_ENV", value_delimiter = ',')]
    pub kernel_env: Vec<String>,
    /// Ends an execution that has no timeout of its own.
    #[arg(long, env = "KERNELBOX_EXECUTION_TIMEOUT", default_value = "1h", value_parser = humantime::parse_duration)]
    pub execution_timeout: Duration,
    /// Memory of all processes together, in bytes.
    #[arg(long, env = "KERNELBOX_MEMORY_LIMIT")]
    pub memory_limit: Option<u64>,
    /// The most processes.
    #[arg(long, env = "KERNELBOX_PROCESS_LIMIT")]
    pub process_limit: Option<u32>,
    /// Size of the workspace, in bytes.
    #[arg(long, env = "KERNELBOX_DISK_LIMIT")]
    pub disk_limit: Option<u64>,
    /// The most contexts.
    #[arg(long, env = "KERNELBOX_MAX_CONTEXTS", default_value_t = 32)]
    pub max_contexts: usize,
    /// How long a sandbox that is told to end waits until what changed is saved, where somebody watches that can save it.
    #[arg(long, env = "KERNELBOX_TERMINATION_GRACE", default_value = "25s", value_parser = humantime::parse_duration)]
    pub termination_grace: Duration,
    /// End when standard input does.
    #[arg(long, env = "KERNELBOX_EXIT_WITH_STDIN")]
    pub exit_with_stdin: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ZygoteArgs {
    /// The Python interpreter of the kernels: a path, or a name on PATH.
    #[arg(long, env = "KERNELBOX_PYTHON", default_value = DEFAULT_PYTHON)]
    pub python: PathBuf,
    /// The socket to listen on.
    #[arg(long, env = "KERNELBOX_LISTEN")]
    pub listen: PathBuf,
    /// Where the Python files are written.
    #[arg(long, env = "KERNELBOX_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Modules imported before kernels are forked, separated by commas.
    #[arg(long, env = "KERNELBOX_WARM_UP", default_value = DEFAULT_WARM_UP)]
    pub warm_up: String,
}

#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    /// The folder. It is made if it is not there.
    pub dir: PathBuf,
    /// Beside it uv is looked for.
    #[arg(long, env = "KERNELBOX_PYTHON", default_value = DEFAULT_PYTHON)]
    pub python: PathBuf,
    /// The uv program. Without it: the one beside the interpreter, else beside this program, else on PATH.
    #[arg(long, env = "KERNELBOX_UV")]
    pub uv: Option<PathBuf>,
}

const DEFAULT_PYTHON: &str = "python3";
const DEFAULT_WARM_UP: &str = "numpy,pandas,matplotlib.pyplot";
