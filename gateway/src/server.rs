//! One port for gRPC, grpc-web and HTTP; health, reflection, TLS, and the way down: drain on the first word, abort on the second.
mod admin;
mod connections;
mod credentials;
mod door;
mod routes;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::credentials::Credentials;
use crate::{
    agent::Connector,
    auth::{self, Keys, KeysError},
    config::{self, Bound, ServeConfig, Shutdown},
    fetch::{Fetcher, Reach},
    limits::Gate,
    local_model::{Finder, Places},
    metrics::Metrics,
    model::{Models, ModelsError},
    objects::{Objects, ObjectsError},
    sandbox::{
        SandboxProvider,
        cluster::{ClusterProvider, ControllerError},
        process::{ProcessError, ProcessProvider, dirs},
    },
    services::{Services, TurnService},
    sessions::SessionRouter,
    store::{Journal, Store, StoreError},
    turns::Turns,
};

/// How long connections may take to close after their last stream.
const CLOSE: Duration = Duration::from_secs(2);
/// How long sandboxes may take to end after an abort; what is left ends with this process.
const ABORT: Duration = Duration::from_secs(3);

/// Why a server could not start, or not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address} ({flag})")]
    Listen { address: SocketAddr, flag: String, source: std::io::Error },
    #[error("cannot use the data directory")]
    DataDir(#[from] dirs::DirsError),
    #[error("cannot resolve {}", path.display())]
    Path { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot use the place for checkpoints (--objects)")]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("cannot use the settings of the language model")]
    Models(#[from] ModelsError),
    #[error("cannot make an HTTP client")]
    Fetch(#[from] reqwest::Error),
    #[error("cannot finish what an earlier server began")]
    Earlier(#[source] kernelbox_proto::Error),
    #[error("cannot make the metrics")]
    Metrics(#[from] kernelbox_metrics::Error),
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the start was broken off")]
    Start(#[from] tokio::task::JoinError),
}

/// Serves sandboxes of this machine, or of a cluster if there is a controller, until `shutdown` says so. `bound` is told the addresses once calls are answered.
pub async fn serve(
    mut config: ServeConfig,
    bound: oneshot::Sender<Bound>,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    prepare_data_dir(&mut config)?;
    let provider: Arc<dyn SandboxProvider> = match &config.cluster {
        Some(cluster) => Arc::new(ClusterProvider::start(cluster)?),
        None => {
            let settings = config.clone();
            // It looks at /proc and waits for what it ends.
            let start = move || ProcessProvider::start(&settings);
            Arc::new(tokio::task::spawn_blocking(start).await??)
        }
    };
    serve_with(config, provider, bound, shutdown).await
}

/// The same with any provider.
pub async fn serve_with(
    mut config: ServeConfig,
    provider: Arc<dyn SandboxProvider>,
    bound: oneshot::Sender<Bound>,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    prepare_data_dir(&mut config)?;
    let served = run(config, Arc::clone(&provider), bound, shutdown).await;
    // Also after a start that failed: it may have begun something.
    if tokio::time::timeout(Duration::from_secs(20), provider.shutdown()).await.is_err() {
        tracing::error!("not all sandboxes ended in time; the rest ends with this process");
    }
    served
}

fn prepare_data_dir(config: &mut ServeConfig) -> Result<(), ServeError> {
    dirs::private_dir(&config.data_dir)?;
    let path = config.data_dir.clone();
    config.data_dir = std::fs::canonicalize(&path).map_err(|source| ServeError::Path { path, source })?;
    Ok(())
}

async fn run(
    config: ServeConfig,
    provider: Arc<dyn SandboxProvider>,
    bound: oneshot::Sender<Bound>,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    tracing::warn!("isolation: {}", provider.isolation());
    let keys = config.keys.clone().unwrap_or_else(|| config.data_dir.join("keys.yaml"));
    if config.keys.is_none() {
        auth::ensure_local_key(&config.key_file(), &keys)?;
    }
    let keys = Arc::new(Keys::load(keys)?);
    let metrics = Arc::new(Metrics::new()?);
    let store = Store::open(&config.data_dir.join("kernelbox.db"), metrics.store.clone()).await?;
    let objects = (!provider.keeps_workspaces()).then(|| Objects::open(config.objects.as_deref(), &config.data_dir));
    let router = SessionRouter::new(store.clone(), provider, objects.transpose()?, &config, Arc::clone(&metrics));
    router.finish_deletes().await.map_err(ServeError::Earlier)?;
    let gate = Gate::new(metrics.refusals.clone());
    let reach = Reach::new(config.allow_private_fetch);
    let fetcher = Arc::new(Fetcher::new(reach)?);
    let services =
        Services { router: router.clone(), gate: Arc::clone(&gate), fetcher, file_bytes: config.limits.file_bytes };
    let models = Arc::new(Models::new(config.models.clone())?);
    let places = || Places::usual(std::env::var("OLLAMA_HOST").ok().as_deref());
    let dirs = Some(config.local_model_dirs.clone()).filter(|dirs| !dirs.is_empty());
    let log = config.data_dir.join("local-model.log");
    let local = dirs.map(|dirs| Arc::new(Finder::new(dirs, log, places())));
    let model = match (models.describe(), &local) {
        (None, Some(local)) => local.describe().await,
        (model, _) => model,
    };
    tracing::info!(model, "the model of turns");
    let (journal, mut writer) = Journal::start(store.clone());
    let turns = Turns::new(router.clone(), journal, Connector::new(reach)?);
    turns.finish_earlier().await.map_err(ServeError::Earlier)?;
    router.tasks().spawn(turns.clone().sweep(config.turn_event_retention));
    let turns = TurnService { services, turns, models, local: local.clone(), limits: config.limits.turn.clone() };
    let door = door::Door {
        keys,
        gate: Arc::clone(&gate),
        limits: config.limits.tenant.clone(),
        metrics: Arc::clone(&metrics),
    };
    let (app, health) = routes::build(turns, door, config.limits.message_bytes).await?;
    let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;

    let listener = config::bind(config.listen, "--listen").await?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen {
        address: config.listen,
        flag: "--listen".to_owned(),
        source,
    })?;
    let ready = CancellationToken::new();
    let admin = match config.admin_listen {
        Some(address) => {
            let credentials = Credentials::new(&config, metrics.credentials.clone());
            Some(admin::start(address, ready.child_token(), router.clone(), metrics, credentials).await?)
        }
        None => None,
    };
    let tls = acceptor.is_some();
    let connections = connections::start(listener, acceptor, app);
    tracing::info!(%address, tls, "serving");
    // Nobody need want to know.
    let _ = bound.send(Bound { address, admin: admin.as_ref().map(|it| it.address), tls, model });

    tokio::select! {
        () = shutdown.drain.cancelled() => tracing::info!("draining"),
        () = shutdown.abort.cancelled() => {}
        () = idle(&gate, config.exit_when_idle) => tracing::info!("nothing was asked for a while; ending"),
    }
    ready.cancel();
    gate.drain();
    health.stop().await;
    tokio::select! {
        () = gate.quiet() => {}
        () = tokio::time::sleep(config.drain_timeout) => tracing::warn!("the drain took too long; what runs is ended"),
        () = shutdown.abort.cancelled() => tracing::warn!("aborting; what runs is ended"),
    }
    let aborted = async {
        shutdown.abort.cancelled().await;
        tokio::time::sleep(ABORT).await;
    };
    tokio::select! {
        () = router.shutdown() => {}
        () = aborted => tracing::error!("sandboxes did not end in time; they end with this process"),
    }
    connections.close(if shutdown.abort.is_cancelled() { Duration::ZERO } else { CLOSE }).await;
    if let Some(admin) = admin {
        admin.stop().await;
    }
    if let Some(local) = local {
        local.stop().await;
    }
    // It ends with the last of the turns, which the router waited for; but a connection that is cut off may hold on to it.
    if tokio::time::timeout(CLOSE, &mut writer).await.is_err() {
        // The store waits for the connection that it has.
        writer.abort();
    }
    store.close().await;
    Ok(())
}

/// Returns when nothing was asked and nothing ran for so long; never without a limit.
async fn idle(gate: &Gate, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let rest = gate.idle_since().map_or(limit, |since| limit.saturating_sub(since.elapsed()));
        if rest.is_zero() {
            return;
        }
        tokio::time::sleep(rest.max(Duration::from_millis(20))).await;
    }
}
