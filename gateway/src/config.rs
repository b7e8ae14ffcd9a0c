//! What a gateway is told at its start. The command turns flags into a [`ServeConfig`]; tests fill one in by hand.
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{limits::Limits, model::ModelsConfig, sandbox::cluster::ClusterConfig};

/// The port that clients expect.
pub const DEFAULT_PORT: u16 = 7070;
/// The port of health checks.
pub const DEFAULT_ADMIN_PORT: u16 = 7071;

/// A session is saved after so long without use.
const QUIET: Duration = Duration::from_secs(10);

/// Everything that `serve` needs.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// `--listen`: gRPC and HTTP. Port 0 takes any that is free.
    pub listen: SocketAddr,
    /// `--admin-listen`: /metrics, /healthz and /readyz; none without.
    pub admin_listen: Option<SocketAddr>,
    /// `--tls-cert`, `--tls-key`, `--tls-client-ca`.
    pub tls: Option<TlsConfig>,
    /// `--data-dir`: database, keys, sessions. Made if missing, 0700.
    pub data_dir: PathBuf,
    /// `--run-dir`: sockets. None: `$XDG_RUNTIME_DIR/kernelbox/...`, else below `/tmp`.
    pub run_dir: Option<PathBuf>,
    /// `--keys`: the file of hashed keys. None: `keys.yaml` in the data directory.
    pub keys: Option<PathBuf>,
    /// `--objects`: where checkpoints are kept, for sandboxes that do not keep their sessions' files. None: `objects` in the data
    /// directory.
    pub objects: Option<String>,
    /// Such a session is saved once it was not used for so long.
    pub quiet: Duration,
    /// `--idle-timeout` of sessions that do not say their own.
    pub idle_timeout: Duration,
    /// `--drain-timeout`: how long running streams may go on after the first signal.
    pub drain_timeout: Duration,
    /// Ends the server after so long without a call and without a running execution: for servers started in the background.
    pub exit_when_idle: Option<Duration>,
    /// `--allow-private-fetch`: FetchUrl and the tools of MCP servers may reach private addresses.
    pub allow_private_fetch: bool,
    /// `--turn-event-retention`: how long an ended turn's events can be followed again.
    pub turn_event_retention: Duration,
    pub limits: Limits,
    /// `--controller`: sandboxes are pods of a cluster. None: they are processes of this machine.
    pub cluster: Option<ClusterConfig>,
    pub process: ProcessConfig,
    /// Turns may use a model of this machine: Ollama, llama.cpp, LM Studio, or the one installed in `local-model/` of one of these
    /// folders, which is then run as a child. Empty: models are not looked for.
    pub local_model_dirs: Vec<PathBuf>,
    /// `--model...` and the providers' variables.
    pub models: ModelsConfig,
}

/// Settings of the `process` provider.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// `--python`: the interpreter of the kernels.
    pub python: PathBuf,
    /// `--supervisor`. None: `kernelbox-supervisor` beside the own executable, else on PATH.
    pub supervisor: Option<PathBuf>,
    /// `--uv`. None: the supervisor looks for it.
    pub uv: Option<PathBuf>,
    /// `--warm-up`: modules imported ahead of the first kernel.
    pub warm_up: Vec<String>,
    /// `--warm-sandboxes`: made ahead of the sessions that will use them.
    pub warm_sandboxes: u32,
    /// `--execution-timeout` of executions that do not say their own. None: the supervisor's default.
    pub execution_timeout: Option<Duration>,
    /// `--memory-limit` of a sandbox, bytes.
    pub memory_limit: Option<u64>,
    /// `--process-limit` of a sandbox.
    pub process_limit: Option<u32>,
    /// `--disk-limit` of a workspace, bytes.
    pub disk_limit: Option<u64>,
    /// How long a sandbox may take to its first answer.
    pub start_timeout: Duration,
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate that one of these signed.
    pub client_ca: Option<PathBuf>,
}

impl ServeConfig {
    /// The defaults of a server on this machine.
    pub fn new(data_dir: impl Into<PathBuf>, python: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            admin_listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_ADMIN_PORT)),
            tls: None,
            data_dir: data_dir.into(),
            run_dir: None,
            keys: None,
            objects: None,
            quiet: QUIET,
            idle_timeout: Duration::from_secs(15 * 60),
            drain_timeout: Duration::from_secs(30),
            exit_when_idle: None,
            allow_private_fetch: false,
            turn_event_retention: Duration::from_secs(30 * 24 * 3600),
            limits: Limits::default(),
            cluster: None,
            process: ProcessConfig {
                python: python.into(),
                supervisor: None,
                uv: None,
                warm_up: ["numpy", "pandas", "matplotlib.pyplot"].map(str::to_owned).to_vec(),
                warm_sandboxes: 1,
                execution_timeout: None,
                memory_limit: None,
                process_limit: None,
                disk_limit: None,
                start_timeout: Duration::from_secs(120),
            },
            local_model_dirs: Vec::new(),
            models: ModelsConfig::default(),
        }
    }

    /// The same on free ports of the loopback interface: for tests and servers inside a command.
    #[must_use]
    pub fn on_free_ports(mut self) -> Self {
        self.listen.set_port(0);
        self.admin_listen = None;
        self
    }

    /// The local key's file, 0600.
    pub fn key_file(&self) -> PathBuf {
        key_file(&self.data_dir)
    }
}

/// Where the server of a data directory keeps the key for this machine's own commands.
pub fn key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("key")
}

/// What `serve` tells once it answers.
#[derive(Debug, Clone)]
pub struct Bound {
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// Whether clients speak TLS to `address`.
    pub tls: bool,
    /// Which model answers, in words; none if there is none.
    pub model: Option<String>,
}

impl Bound {
    /// `http://127.0.0.1:7070`
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// How a server is stopped: `drain` lets running streams end, `abort` does not.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    pub drain: CancellationToken,
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Drains on the first SIGTERM or SIGINT, aborts on the second. Needs a tokio runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let shutdown = Self::default();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            for token in [told.drain, told.abort] {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                token.cancel();
            }
        });
        Ok(shutdown)
    }
}

pub(crate) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, crate::ServeError> {
    TcpListener::bind(address).await.map_err(|source| crate::ServeError::Listen {
        address,
        flag: flag.to_owned(),
        source,
    })
}
