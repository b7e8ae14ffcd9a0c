//! `kernelbox up` and `kernelbox serve`, and the server that a command embeds.
mod args;
mod model_args;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kernelbox_gateway::{Bound, ServeConfig, Shutdown};
use kernelbox_telemetry::{LogFormat, Logs, Telemetry};
use tokio::{sync::oneshot, task::JoinHandle};

pub(crate) use self::args::{ServeArgs, UpArgs};
use self::model_args::ModelArgs;

use super::{
    connect::Client,
    daemon, environment,
    failure::{Exit, Failure, Result},
    progress::Progress,
    say,
    server_file::{self, ServerFile},
};

pub(crate) async fn up(args: UpArgs) -> Result<Exit> {
    if args.background {
        // Neither the terminal's Ctrl-C nor its end reaches the server from here on.
        nix::unistd::setsid().map_err(|e| Failure::local("cannot leave the terminal", e))?;
    }
    let _telemetry = telemetry(args.common.log_format, "warn")?;
    let data_dir = server_file::data_dir(args.common.data_dir.as_deref())?;
    let claimed = Claimed::new(&data_dir)?;
    let (python, uv) = match &args.common.python {
        Some(python) => (python.clone(), None),
        None => environment::ensure(&data_dir, &Progress::new()).await.map(|env| (env.python, Some(env.uv)))?,
    };
    let mut config = args.common.config(&data_dir, python)?;
    config.admin_listen = None;
    config.local_model_dirs = local_model_dirs(&data_dir)?;
    config.process.uv = uv;
    run(config, &claimed, true).await
}

pub(crate) async fn serve(args: ServeArgs) -> Result<Exit> {
    let _telemetry = telemetry(args.common.log_format, "info")?;
    let python = match (&args.common.python, &args.controller) {
        (Some(python), _) => python.clone(),
        // Pods bring their own.
        (None, Some(_)) => PathBuf::new(),
        (None, None) => {
            return Err(Failure::usage(
                "say which interpreter the kernels run in with --python (it needs ipykernel), or let `kernelbox up` set one up; \
                 in a cluster say where the controller is with --controller",
            ));
        }
    };
    let data_dir = server_file::data_dir(args.common.data_dir.as_deref())?;
    let claimed = Claimed::new(&data_dir)?;
    run(args.config(&data_dir, python)?, &claimed, false).await
}

/// This server's own data directory, and the usual one: `deploy/local-model/get` installs there.
fn local_model_dirs(data_dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(vec![data_dir.to_owned(), server_file::data_dir(None)?])
}

/// Serves until a signal, or until nothing has been asked for a while.
async fn run(config: ServeConfig, claimed: &Claimed, greet: bool) -> Result<Exit> {
    if config.cluster.is_none() {
        environment::check(&config.process.python).await?;
    }
    let listen = config.listen;
    let key = config.key_file();
    let shutdown = Shutdown::on_signals().map_err(|e| Failure::local("cannot wait for signals", e))?;
    let (tell, told) = oneshot::channel();
    let mut server = Box::pin(kernelbox_gateway::serve(config, tell, shutdown));
    let bound = tokio::select! {
        ended = &mut server => return ended.map(|()| Exit::Ok).map_err(|e| cannot_serve(&e)),
        Ok(bound) = told => bound,
    };
    claimed.announce(&bound)?;
    if greet {
        say(&format!("ready at {}; the key is in {}", bound.endpoint(), key.display()));
        say("code is not confined: it runs as you, with your files and your network");
        match &bound.model {
            Some(model) => say(&format!("questions are answered by {model}")),
            None => say(
                "questions need a language model: set OPENAI_API_KEY or ANTHROPIC_API_KEY, or run deploy/local-model/get",
            ),
        }
        if listen.port() != 0 {
            say("try: kernelbox exec 'print(1)'   (Ctrl-C here ends the server)");
        }
    }
    server.await.map(|()| Exit::Ok).map_err(|e| cannot_serve(&e))
}

/// The data directory is this process's; what it says of its server goes when it ends.
#[derive(Debug)]
struct Claimed {
    data_dir: PathBuf,
    _lock: std::fs::File,
}

impl Claimed {
    fn new(data_dir: &Path) -> Result<Self> {
        daemon::make_data_dir(data_dir)?;
        Ok(Self { _lock: daemon::claim(data_dir)?, data_dir: data_dir.to_owned() })
    }

    /// Tells other commands where the server is, in one step.
    fn announce(&self, bound: &Bound) -> Result<()> {
        let file = ServerFile {
            endpoint: bound.endpoint(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let path = ServerFile::path(&self.data_dir);
        let write = || {
            let mut new = tempfile::NamedTempFile::new_in(&self.data_dir)?;
            serde_json::to_writer(&mut new, &file)?;
            new.persist(&path)?;
            Ok(())
        };
        write().map_err(|e: std::io::Error| Failure::local(path.display(), e))
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(ServerFile::path(&self.data_dir));
    }
}

/// A server that lives in this command, with data of its own that ends with it.
#[derive(Debug)]
pub(crate) struct Embedded {
    shutdown: Shutdown,
    server: JoinHandle<std::result::Result<(), kernelbox_gateway::ServeError>>,
    _data: tempfile::TempDir,
    _telemetry: Telemetry,
}

impl Embedded {
    pub(crate) async fn start(data_dir: Option<&Path>, progress: &Progress) -> Result<(Self, Client)> {
        let telemetry = telemetry(LogFormat::Text, "error")?;
        let shared = server_file::data_dir(data_dir)?;
        daemon::make_data_dir(&shared)?;
        let (python, uv) = match std::env::var_os("KERNELBOX_PYTHON") {
            Some(python) => (PathBuf::from(python), None),
            None => environment::ensure(&shared, progress).await.map(|env| (env.python, Some(env.uv)))?,
        };
        environment::check(&python).await?;
        progress.say("starting a server in this command");
        let data =
            tempfile::TempDir::with_prefix("kernelbox-").map_err(|e| Failure::local("no temporary folder", e))?;
        let mut config = ServeConfig::new(data.path(), python).on_free_ports();
        config.process.uv = uv;
        // For one session: there is no next one to have it ready for.
        config.process.warm_sandboxes = 0;
        config.drain_timeout = Duration::from_secs(1);
        config.local_model_dirs = local_model_dirs(&shared)?;
        config.models = ModelArgs::of_environment()?.config()?;
        let shutdown = Shutdown::default();
        let (tell, told) = oneshot::channel();
        let server = tokio::spawn(kernelbox_gateway::serve(config, tell, shutdown.clone()));
        let Ok(bound) = told.await else {
            return Err(match server.await {
                Ok(Err(error)) => cannot_serve(&error),
                _ => Failure::no_server("the embedded server ended"),
            });
        };
        let key = server_file::local_key(data.path());
        let client = Client::new(&bound.endpoint(), key.as_deref(), None)?;
        Ok((Self { shutdown, server, _data: data, _telemetry: telemetry }, client))
    }

    /// Ends the server and all that it runs.
    pub(crate) async fn stop(self) {
        self.shutdown.drain.cancel();
        self.shutdown.abort.cancel();
        // Its own failure changes nothing for a command that is done.
        let _ = self.server.await;
    }
}

fn cannot_serve(error: &dyn std::error::Error) -> Failure {
    let mut message = format!("cannot serve: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Failure::new(Exit::Failed, message)
}

/// The server's logs, of this level if `RUST_LOG` does not say more, and its spans.
fn telemetry(format: LogFormat, level: &str) -> Result<Telemetry> {
    // rmcp logs the addresses of MCP servers whole, and they may have keys in them; the turn is told what went wrong.
    let filter = format!("{level},rmcp=off");
    let logs = Logs { format, filter: &filter };
    kernelbox_telemetry::start_and_export("kernelbox-gateway", env!("CARGO_PKG_VERSION"), logs)
        .map_err(|error| Failure::usage(error.to_string()))
}
