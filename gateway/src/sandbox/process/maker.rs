//! Makes sandboxes of this machine: a supervisor in folders of its session, with a key and a record, until its first kernel answers.
use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kernelbox_proto::{Error, SessionId, token::Signer, v1::ErrorCode};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    child::{self, ProcessSandbox},
    dirs::{self, RunDir, SessionDirs},
    leftovers::{Process, Record},
    spawn::{self, Tail},
    tokens::Tokens,
    zygote::Zygote,
};
use crate::{config::ProcessConfig, sandbox::Sandbox as _};

pub(super) struct Maker {
    pub config: ProcessConfig,
    pub supervisor: PathBuf,
    pub data_dir: PathBuf,
    pub run_dir: RunDir,
    pub signer: Arc<Signer>,
    pub zygote: Zygote,
    /// What is waited for at the end.
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
}

impl Maker {
    /// A sandbox in the session's folders, ready to be bound. Each step is told.
    pub(super) async fn make(
        self: &Arc<Self>,
        session: &SessionId,
        tell: impl Fn(&str),
    ) -> Result<ProcessSandbox, Error> {
        tell("warming up the Python that kernels are forked from");
        tokio::select! {
            ready = self.zygote.ready() => ready?,
            () = sleep(self.config.start_timeout) => {
                let limit = humantime::format_duration(self.config.start_timeout);
                let what = format!("the warm-up of Python took longer than {limit}");
                return Err(Error::new(ErrorCode::SandboxStartFailed, what));
            }
            () = self.stopping.cancelled() => return Err(stopping()),
        }
        tell("starting the sandbox and its first kernel");
        // In a task of its own: who waits may go away, and a start that is dropped halfway would leave its folder behind. A sandbox that
        // nobody takes ends in order.
        let (maker, id) = (Arc::clone(self), session.clone());
        let started = self.tasks.spawn(async move { maker.start_child(&id).await }).await;
        let (sandbox, tail) = started.map_err(io::Error::other).flatten().map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, %session, "cannot start a sandbox");
            Error::new(ErrorCode::SandboxStartFailed, format!("the sandbox could not be started: {error}"))
                .retry_after(Duration::from_secs(1))
        })?;
        let ready = tokio::select! {
            ready = sandbox.serving(&tail, self.config.start_timeout) => ready,
            () = self.stopping.cancelled() => Err(stopping()),
        };
        if let Err(error) = ready {
            sandbox.destroy().await;
            return Err(error);
        }
        Ok(sandbox)
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
        let keys = child::put_key(dir, self.signer.kid(), self.signer.public_pem())?;
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
        let sandbox = ProcessSandbox::new(uid.to_owned(), child, dir.to_owned(), record, tokens, &self.tasks, stop);
        Ok((sandbox, tail))
    }
}

fn stopping() -> Error {
    Error::new(ErrorCode::ShuttingDown, "the server is shutting down")
}
