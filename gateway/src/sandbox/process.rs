//! The provider of one machine: a supervisor process per session, and one host zygote that their kernels are forked from.
//!
//! It does not confine code; that is said at the start.
mod child;
pub(crate) mod dirs;
mod leftovers;
mod spawn;
mod tokens;
mod zygote;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kernelbox_proto::{
    Error, SessionId,
    v1::{ErrorCode, SandboxStage, Stage},
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use self::{
    child::ProcessSandbox,
    dirs::{DirsError, RunDir, SessionDirs},
    leftovers::{Process, Record},
    spawn::Tail,
    tokens::{KeyPairError, Signer, Tokens},
    zygote::{Recipe, Zygote},
};
use super::{Claim, Sandbox, SandboxProvider};
use crate::config::ProcessConfig;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    Dirs(#[from] DirsError),
    #[error("cannot clear {} of what an earlier server left", path.display())]
    Clear { path: PathBuf, source: io::Error },
    #[error("kernelbox-supervisor is neither beside the own executable nor on PATH; say where it is with --supervisor")]
    NoSupervisor,
    #[error(transparent)]
    KeyPair(#[from] KeyPairError),
}

/// Sandboxes as processes of this machine.
pub struct ProcessProvider {
    config: ProcessConfig,
    supervisor: PathBuf,
    data_dir: PathBuf,
    run_dir: RunDir,
    signer: Arc<Signer>,
    zygote: Zygote,
    children: TaskTracker,
    stopping: tokio_util::sync::CancellationToken,
}

impl ProcessProvider {
    /// Clears what an earlier server left and starts the host zygote. Blocks for a moment.
    pub fn start(config: &ProcessConfig, data_dir: &Path, run_dir: Option<&Path>) -> Result<Self, ProcessError> {
        let supervisor = find_supervisor(config.supervisor.as_deref())?;
        let mut config = config.clone();
        // A bare name is looked up on PATH; anything else must not depend on where a child runs.
        if config.python.components().count() > 1 {
            config.python = std::path::absolute(&config.python).unwrap_or(config.python);
        }
        let run_dir = RunDir::open(run_dir, data_dir)?;
        leftovers::clear(&run_dir.path).map_err(|source| ProcessError::Clear { path: run_dir.path.clone(), source })?;
        let zygote_state = data_dir.join("zygote");
        dirs::private_dir(&zygote_state)?;
        let zygote = Zygote::start(Recipe {
            supervisor: supervisor.clone(),
            socket: run_dir.zygote_socket(),
            state_dir: zygote_state,
            record: run_dir.path.join("zygote.json"),
            config: config.clone(),
        });
        Ok(Self {
            config,
            supervisor,
            data_dir: data_dir.to_owned(),
            run_dir,
            signer: Arc::new(Signer::generate()?),
            zygote,
            children: TaskTracker::new(),
            stopping: tokio_util::sync::CancellationToken::new(),
        })
    }

    /// Starts a supervisor in a folder of its own.
    async fn start_child(&self, session: &SessionId) -> io::Result<(ProcessSandbox, Tail)> {
        let uid = uuid::Uuid::new_v4().simple().to_string();
        let dir = self.run_dir.path.join(&uid[..8]);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let started = self.start_in(&dir, &uid, session).await;
        if started.is_err() {
            // What was made so far; the error that is told is the first.
            let _ = dirs::remove(&dir);
        }
        started
    }

    async fn start_in(&self, dir: &Path, uid: &str, session: &SessionId) -> io::Result<(ProcessSandbox, Tail)> {
        let dirs = SessionDirs::of(&self.data_dir, session);
        dirs.make().map_err(io::Error::other)?;
        let keys = child::put_key(dir, &self.signer.kid, &self.signer.public_pem)?;
        let config = &self.config;
        let mut command = spawn::command(&self.supervisor);
        command.arg("serve").arg("--exit-with-stdin").args(["--uid", uid]);
        command.arg("--listen").arg(format!("unix:{}", dir.join("supervisor.sock").display()));
        for (flag, path) in [
            ("--workspace", &dirs.workspace),
            ("--packages", &dirs.packages),
            ("--state-dir", &dirs.state),
            ("--run-dir", &dir.to_owned()),
            ("--public-keys", &keys),
            ("--python", &config.python),
            ("--zygote-socket", &self.run_dir.zygote_socket()),
        ] {
            command.arg(flag).arg(path);
        }
        if let Some(uv) = &config.uv {
            command.arg("--uv").arg(uv);
        }
        let numbers = [
            ("--memory-limit", config.memory_limit.map(|it| it.to_string())),
            ("--process-limit", config.process_limit.map(|it| it.to_string())),
            ("--disk-limit", config.disk_limit.map(|it| it.to_string())),
            ("--execution-timeout", config.execution_timeout.map(|it| humantime::format_duration(it).to_string())),
        ];
        for (flag, value) in numbers {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        command.env("KERNELBOX_SANDBOX", uid);

        // Written before there is a process, so that whatever happens, the next start finds it.
        let mut record = Record { uid: uid.to_owned(), pids: Vec::new() };
        record.write(&dir.join("sandbox.json"))?;
        let (child, tail) = spawn::spawn(command, uid[..8].to_owned()).await?;
        record.pids.extend(child.id().and_then(Process::of));
        record.write(&dir.join("sandbox.json"))?;
        let tokens = Arc::new(Tokens::new(Arc::clone(&self.signer), uid.to_owned(), session.clone()));
        let stop = self.stopping.child_token();
        let sandbox = ProcessSandbox::new(uid.to_owned(), child, dir.to_owned(), record, tokens, &self.children, stop);
        Ok((sandbox, tail))
    }
}

#[async_trait]
impl SandboxProvider for ProcessProvider {
    async fn acquire(&self, claim: Claim, stages: mpsc::Sender<SandboxStage>) -> Result<Arc<dyn Sandbox>, Error> {
        // A stage that nobody takes is of no use later.
        let tell = |message: &str| {
            let _ = stages.try_send(SandboxStage {
                stage: Stage::Starting.into(),
                position: 0,
                message: message.to_owned(),
            });
        };
        tell("warming up the Python that kernels are forked from");
        tokio::time::timeout(self.config.start_timeout, self.zygote.ready()).await.map_err(|_| {
            let limit = humantime::format_duration(self.config.start_timeout);
            Error::new(ErrorCode::SandboxStartFailed, format!("the warm-up of Python took longer than {limit}"))
        })??;
        tell("starting the sandbox and its first kernel");
        let (sandbox, tail) = self.start_child(&claim.session).await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, session = %claim.session, "cannot start a sandbox");
            Error::new(ErrorCode::SandboxStartFailed, format!("the sandbox could not be started: {error}"))
                .retry_after(Duration::from_secs(1))
        })?;
        let ready = tokio::select! {
            ready = sandbox.serving(&tail, self.config.start_timeout) => ready,
            () = self.stopping.cancelled() => Err(Error::new(ErrorCode::ShuttingDown, "the server is shutting down")),
        };
        if let Err(error) = ready {
            sandbox.destroy().await;
            return Err(error);
        }
        Ok(Arc::new(sandbox))
    }

    fn isolation(&self) -> String {
        "code is not confined: it runs as this user, with this machine's files and network".to_owned()
    }

    async fn forget(&self, session: &SessionId) -> Result<(), Error> {
        let root = SessionDirs::of(&self.data_dir, session).root;
        let removed = tokio::task::spawn_blocking(move || dirs::remove(&root)).await;
        removed
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| crate::services::internal("the removal of a session's files", &error))
    }

    async fn shutdown(&self) {
        self.stopping.cancel();
        self.children.close();
        self.children.wait().await;
        self.zygote.shutdown().await;
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
