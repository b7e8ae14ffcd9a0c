//! The flags of `up` and `serve`, and what they say to the server.
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use kernelbox_gateway::{ClusterConfig, ServeConfig, TlsConfig};
use kernelbox_telemetry::LogFormat;

use super::model_args::ModelArgs;
use crate::command::failure::Result;

/// What both `up` and `serve` take.
#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Where clients reach it (gRPC and HTTP); port 0 takes a free one
    #[arg(long, env = "KERNELBOX_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// Sessions, database and keys [default: ~/.local/share/kernelbox]
    #[arg(long, env = "KERNELBOX_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The kernels' interpreter, which has ipykernel
    #[arg(long, env = "KERNELBOX_PYTHON", value_name = "FILE")]
    pub python: Option<PathBuf>,
    /// Remove a session's processes after so long without use; its files stay
    #[arg(long, env = "KERNELBOX_IDLE_TIMEOUT", value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    pub idle_timeout: Duration,
    /// End an execution that does not say its own timeout after so long [default: 1h]
    #[arg(long, env = "KERNELBOX_EXECUTION_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub execution_timeout: Option<Duration>,
    /// Memory of a session's processes together, for example 4GiB [default: no limit]
    #[arg(long, env = "KERNELBOX_MEMORY_LIMIT", value_name = "SIZE", value_parser = size)]
    pub memory_limit: Option<u64>,
    /// Processes of a session [default: no limit]
    #[arg(long, env = "KERNELBOX_PROCESS_LIMIT", value_name = "N")]
    pub process_limit: Option<u32>,
    /// Disk space of a session's workspace, for example 10GiB [default: no limit]
    #[arg(long, env = "KERNELBOX_DISK_LIMIT", value_name = "SIZE", value_parser = size)]
    pub disk_limit: Option<u64>,
    /// End the server after so long without a call
    #[arg(long, env = "KERNELBOX_EXIT_WHEN_IDLE", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub exit_when_idle: Option<Duration>,
    /// How the server's log is written
    #[arg(long, env = "KERNELBOX_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Started by a command: a process session of its own, no terminal.
    #[arg(long, hide = true)]
    pub background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Have sandboxes as pods of a cluster, from the controller at this address, such as http://kernelbox-controller:7080
    #[arg(long, env = "KERNELBOX_CONTROLLER", value_name = "URL")]
    pub controller: Option<String>,
    /// The file with the token that says to the controller which gateway this is
    #[arg(
        long,
        env = "KERNELBOX_CONTROLLER_TOKEN",
        value_name = "FILE",
        default_value = "/var/run/secrets/kernelbox.dev/controller/token"
    )]
    pub controller_token: PathBuf,
    /// Where /metrics, /healthz and /readyz answer [default: nowhere]
    #[arg(long, env = "KERNELBOX_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// Serve TLS with this certificate chain (PEM)
    #[arg(long, env = "KERNELBOX_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, env = "KERNELBOX_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Clients must show a certificate that one of these signed (PEM)
    #[arg(long, env = "KERNELBOX_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// The file of hashed API keys [default: keys.yaml in the data directory]
    #[arg(long, env = "KERNELBOX_KEYS", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Where sessions' files are saved whose sandboxes do not keep them: a folder, s3://, gs:// or az:// [default: objects in the data directory]
    #[arg(long, env = "KERNELBOX_OBJECTS", value_name = "URL")]
    pub objects: Option<String>,
    /// Sockets [default: below $XDG_RUNTIME_DIR, else /tmp]
    #[arg(long, env = "KERNELBOX_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The supervisor [default: kernelbox-supervisor beside this program, else on PATH]
    #[arg(long, env = "KERNELBOX_SUPERVISOR", value_name = "FILE")]
    pub supervisor: Option<PathBuf>,
    /// uv, which installs packages [default: looked for beside the interpreter, then on PATH]
    #[arg(long, env = "KERNELBOX_UV", value_name = "FILE")]
    pub uv: Option<PathBuf>,
    /// Modules that every Python kernel has imported when it starts
    #[arg(
        long,
        env = "KERNELBOX_WARM_UP",
        value_name = "MODULES",
        value_delimiter = ',',
        default_value = "numpy,pandas,matplotlib.pyplot"
    )]
    pub warm_up: Vec<String>,
    /// Sandboxes made ahead, so that sessions start in milliseconds; 0: none
    #[arg(long, env = "KERNELBOX_WARM_SANDBOXES", value_name = "N", default_value_t = 1)]
    pub warm_sandboxes: u32,
    /// How long a session's processes may take to start
    #[arg(long, env = "KERNELBOX_START_TIMEOUT", value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    pub start_timeout: Duration,
    /// How long streams may go on after the first signal; a second signal ends them
    #[arg(long, env = "KERNELBOX_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,
    /// Let FetchUrl and MCP servers be at private addresses
    #[arg(long, env = "KERNELBOX_ALLOW_PRIVATE_FETCH")]
    pub allow_private_fetch: bool,
    /// Sessions that have sandboxes at once [default: 64; with --controller 10000]
    #[arg(long, env = "KERNELBOX_MAX_SANDBOXES", value_name = "N")]
    pub max_sandboxes: Option<u32>,
    /// Sessions of a tenant [default: 10000]
    #[arg(long, env = "KERNELBOX_MAX_SESSIONS", value_name = "N")]
    pub max_sessions: Option<u32>,
    /// Executions of a tenant at once [default: 2000]
    #[arg(long, env = "KERNELBOX_MAX_EXECUTIONS", value_name = "N")]
    pub max_executions: Option<u32>,
    /// Turns of a tenant at once [default: 1000]
    #[arg(long, env = "KERNELBOX_MAX_TURNS", value_name = "N")]
    pub max_turns: Option<u32>,
    /// Model calls of a turn [default: 25]
    #[arg(long, env = "KERNELBOX_MAX_TURN_ITERATIONS", value_name = "N")]
    pub max_turn_iterations: Option<u32>,
    /// How long a turn may take [default: 15m]
    #[arg(long, env = "KERNELBOX_TURN_TIMEOUT", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub turn_timeout: Option<Duration>,
    /// Tokens of a turn, in and out [default: 1000000]
    #[arg(long, env = "KERNELBOX_MAX_TURN_TOKENS", value_name = "N")]
    pub max_turn_tokens: Option<u64>,
    /// What the code of a turn may put out [default: 32MiB]
    #[arg(long, env = "KERNELBOX_MAX_TURN_OUTPUT_BYTES", value_name = "SIZE", value_parser = size)]
    pub max_turn_output_bytes: Option<u64>,
    /// How long an ended turn can be followed again [default: 30d]
    #[arg(long, env = "KERNELBOX_TURN_EVENT_RETENTION", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub turn_event_retention: Option<Duration>,
    /// Other streams of a tenant at once [default: 2000]
    #[arg(long, env = "KERNELBOX_MAX_STREAMS", value_name = "N")]
    pub max_streams: Option<u32>,
    /// Requests of a tenant [default: 5000]
    #[arg(long, env = "KERNELBOX_MAX_REQUESTS_PER_SECOND", value_name = "N")]
    pub max_requests_per_second: Option<u32>,
    /// One file sent over HTTP or fetched from an address [default: 16GiB]
    #[arg(long, env = "KERNELBOX_MAX_FILE_BYTES", value_name = "SIZE", value_parser = size)]
    pub max_file_bytes: Option<u64>,
    /// One gRPC message [default: 4MiB]
    #[arg(long, env = "KERNELBOX_MAX_MESSAGE_BYTES", value_name = "SIZE", value_parser = size)]
    pub max_message_bytes: Option<u64>,
}

impl CommonArgs {
    pub(super) fn config(&self, data_dir: &Path, python: PathBuf) -> Result<ServeConfig> {
        let mut config = ServeConfig::new(data_dir, python);
        config.listen = self.listen;
        config.idle_timeout = self.idle_timeout;
        config.exit_when_idle = self.exit_when_idle;
        config.process.execution_timeout = self.execution_timeout;
        config.process.memory_limit = self.memory_limit;
        config.process.process_limit = self.process_limit;
        config.process.disk_limit = self.disk_limit;
        config.models = self.model.config()?;
        Ok(config)
    }
}

impl ServeArgs {
    pub(super) fn config(self, data_dir: &Path, python: PathBuf) -> Result<ServeConfig> {
        let mut config = self.common.config(data_dir, python)?;
        config.admin_listen = self.admin_listen;
        if let Some(controller) = self.controller {
            config.cluster = Some(ClusterConfig { controller, token: self.controller_token });
            // The cluster and its pools have limits of their own.
            config.limits.sandboxes = 10_000;
        }
        config.tls =
            self.tls_cert.zip(self.tls_key).map(|(cert, key)| TlsConfig { cert, key, client_ca: self.tls_client_ca });
        config.keys = self.keys;
        config.objects = self.objects;
        config.run_dir = self.run_dir;
        config.process.supervisor = self.supervisor;
        config.process.uv = self.uv;
        config.process.warm_up = self.warm_up.into_iter().filter(|module| !module.is_empty()).collect();
        config.process.warm_sandboxes = self.warm_sandboxes;
        config.process.start_timeout = self.start_timeout;
        config.drain_timeout = self.drain_timeout;
        config.allow_private_fetch = self.allow_private_fetch;
        config.turn_event_retention = self.turn_event_retention.unwrap_or(config.turn_event_retention);
        let limits = &mut config.limits;
        limits.sandboxes = self.max_sandboxes.unwrap_or(limits.sandboxes);
        limits.tenant.sessions = self.max_sessions.unwrap_or(limits.tenant.sessions);
        limits.tenant.executions = self.max_executions.unwrap_or(limits.tenant.executions);
        limits.tenant.turns = self.max_turns.unwrap_or(limits.tenant.turns);
        limits.turn.iterations = self.max_turn_iterations.unwrap_or(limits.turn.iterations);
        limits.turn.timeout = self.turn_timeout.unwrap_or(limits.turn.timeout);
        limits.turn.tokens = self.max_turn_tokens.unwrap_or(limits.turn.tokens);
        limits.turn.output_bytes = self.max_turn_output_bytes.unwrap_or(limits.turn.output_bytes);
        limits.tenant.streams = self.max_streams.unwrap_or(limits.tenant.streams);
        limits.tenant.requests_per_second = self.max_requests_per_second.unwrap_or(limits.tenant.requests_per_second);
        limits.file_bytes = self.max_file_bytes.unwrap_or(limits.file_bytes);
        if let Some(bytes) = self.max_message_bytes {
            limits.message_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        Ok(config)
    }
}

/// `512MiB`, `4GiB`, `1000000`; for clap.
fn size(text: &str) -> std::result::Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| "must be a number of bytes, such as 512MiB".to_owned())?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("unknown unit {unit:?}: KiB, MiB and GiB are known")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!((size("512MiB"), size("10"), size("2G")), (Ok(512 << 20), Ok(10), Ok(2 << 30)));
        assert!(size("5 apples").is_err() && size("-1").is_err() && size("99999999999GiB").is_err());
    }
}
