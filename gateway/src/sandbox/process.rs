//! The provider of one machine: a supervisor process per session, and one host zygote that their kernels are forked from.
//!
//! It does not confine code; that is said at the start.
mod child;
pub(crate) mod dirs;
mod leftovers;
mod maker;
mod spawn;
mod tokens;
mod warm;
mod zygote;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{
    dirs::{DirsError, RunDir, SessionDirs},
    maker::Maker,
    warm::Warm,
    zygote::{Recipe, Zygote},
};
use super::{Claim, NoSandbox, Sandbox, SandboxProvider};
use crate::config::ServeConfig;
use async_trait::async_trait;
use kernelbox_proto::{
    Error, SessionId,
    token::{Signer, SignerError},
    v1::{SandboxStage, Stage},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    Dirs(#[from] DirsError),
    #[error("cannot clear {} of what an earlier server left", path.display())]
    Clear { path: PathBuf, source: io::Error },
    #[error("kernelbox-supervisor is neither beside the own executable nor on PATH; say where it is with --supervisor")]
    NoSupervisor,
    #[error(transparent)]
    KeyPair(#[from] SignerError),
}

/// Sandboxes as processes of this machine.
pub struct ProcessProvider {
    maker: Arc<Maker>,
    warm: Arc<Warm>,
}

impl ProcessProvider {
    /// Clears what an earlier server left and starts the host zygote. Blocks for a moment.
    pub fn start(settings: &ServeConfig) -> Result<Self, ProcessError> {
        let ServeConfig { process: config, data_dir, run_dir, idle_timeout, .. } = settings;
        let supervisor = find_supervisor(config.supervisor.as_deref())?;
        let mut config = config.clone();
        // A bare name is looked up on PATH; anything else must not depend on where a child runs.
        if config.python.components().count() > 1 {
            config.python = std::path::absolute(&config.python).unwrap_or(config.python);
        }
        let run_dir = RunDir::open(run_dir.as_deref(), data_dir)?;
        leftovers::clear(&run_dir.path).map_err(|source| ProcessError::Clear { path: run_dir.path.clone(), source })?;
        warm::sweep(data_dir)?;
        let zygote_state = data_dir.join("zygote");
        dirs::private_dir(&zygote_state)?;
        let zygote = Zygote::start(Recipe {
            supervisor: supervisor.clone(),
            socket: run_dir.zygote_socket(),
            state_dir: zygote_state,
            record: run_dir.path.join("zygote.json"),
            config: config.clone(),
        });
        let maker = Arc::new(Maker {
            config,
            supervisor,
            data_dir: data_dir.to_owned(),
            run_dir,
            signer: Arc::new(Signer::generate()?),
            zygote,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        let warm = Warm::start(Arc::clone(&maker), maker.config.warm_sandboxes, *idle_timeout);
        Ok(Self { maker, warm })
    }
}

#[async_trait]
impl SandboxProvider for ProcessProvider {
    fn warm_session(&self) -> Option<SessionId> {
        self.warm.session()
    }

    async fn acquire(&self, claim: Claim, stages: mpsc::Sender<SandboxStage>) -> Result<Arc<dyn Sandbox>, NoSandbox> {
        if let Some(sandbox) = self.warm.take(&claim.session).await {
            return Ok(Arc::new(sandbox));
        }
        let tell = |message: &str| {
            // A stage that nobody takes is of no use later.
            let _ = stages.try_send(SandboxStage {
                stage: Stage::Starting.into(),
                position: 0,
                message: message.to_owned(),
            });
        };
        Ok(Arc::new(self.maker.make(&claim.session, tell).await?))
    }

    fn isolation(&self) -> String {
        "code is not confined: it runs as this user, with this machine's files and network".to_owned()
    }

    async fn forget(&self, session: &SessionId) -> Result<(), Error> {
        self.warm.end(session).await;
        let root = SessionDirs::of(&self.maker.data_dir, session).root;
        let removed = tokio::task::spawn_blocking(move || dirs::remove(&root)).await;
        removed
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| crate::services::internal("the removal of a session's files", &error))
    }

    async fn shutdown(&self) {
        self.maker.stopping.cancel();
        self.maker.tasks.close();
        self.maker.tasks.wait().await;
        self.maker.zygote.shutdown().await;
        let data_dir = self.maker.data_dir.clone();
        let swept = tokio::task::spawn_blocking(move || warm::sweep(&data_dir).map_err(io::Error::other)).await;
        if let Err(error) = swept.map_err(io::Error::other).flatten() {
            tracing::warn!("the next start clears up what was made ahead: {error}");
        }
    }
}

fn find_supervisor(wanted: Option<&Path>) -> Result<PathBuf, ProcessError> {
    const NAME: &str = "kernelbox-supervisor";
    if let Some(path) = wanted {
        return Ok(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(NAME));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join(NAME));
    let executable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    beside.into_iter().chain(on_path).find(executable).ok_or(ProcessError::NoSupervisor)
}
