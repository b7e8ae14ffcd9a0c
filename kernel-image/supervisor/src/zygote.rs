//! The supervisor's side of the session zygote: processes are started, signalled and waited for through it.
//!
//! Code in the sandbox may reach the zygote, so every line that it sends is untrusted: bounded, parsed, and checked against what
//! was asked. A zygote that breaks the protocol or ends is dropped; with it end all its processes, and the next request starts another.
mod link;
mod wire;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use link::{Exit, Process};
pub use wire::{Missing, Scan};

use crate::sync::lock;
use link::{Answer, Link};

/// How long a zygote may take to be forked from the host's.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long one of our own may take to start and to warm up: libraries of gigabytes come slowly from a cold disk.
const WARM_LIMIT: Duration = Duration::from_secs(600);
/// How long it may take to answer a request.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the zygote: {0}")]
    Unreachable(String),
    #[error("the zygote did not answer in {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the zygote ended")]
    Ended,
    #[error("{0}")]
    Failed(String),
}

/// Where the session zygote comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The host zygote's socket.
    Host(PathBuf),
    /// A process of our own.
    Own { python: PathBuf, program: PathBuf, warm_up: String },
}

/// What the session zygote is told first.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Begin {
    pub sandbox: String,
    /// The whole environment of the kernels.
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub packages: PathBuf,
    pub log: PathBuf,
}

/// A program to start.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub stdout: Option<PathBuf>,
    pub stderr: Option<PathBuf>,
}

/// The session zygote.
#[derive(Debug)]
pub struct Zygote {
    source: Source,
    begin: Begin,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    /// The live link, for those who only want to know.
    live: Mutex<Weak<Link>>,
    next_id: AtomicU64,
}

impl Zygote {
    /// Starts nothing yet: the first request does.
    pub fn new(source: Source, begin: Begin) -> Self {
        Self { source, begin, link: tokio::sync::Mutex::new(None), live: Mutex::default(), next_id: AtomicU64::new(1) }
    }

    /// Forks a Python kernel from the warm interpreter.
    pub async fn fork(
        &self,
        connection_file: PathBuf,
        env: BTreeMap<String, String>,
        cwd: PathBuf,
    ) -> Result<Process, Error> {
        let id = self.id();
        self.start(id, &wire::Request::Fork { id, connection_file, env, cwd }).await
    }

    /// Starts any program, in a process session of its own.
    pub async fn exec(&self, program: Program) -> Result<Process, Error> {
        let id = self.id();
        let Program { argv, env, cwd, stdout, stderr } = program;
        self.start(id, &wire::Request::Exec { id, argv, env, cwd, stdout, stderr }).await
    }

    /// Finds the imports of a cell that are missing. `policy` is "known" or "any".
    pub async fn scan(&self, code: &str, policy: &'static str) -> Result<Scan, Error> {
        let id = self.id();
        let request = wire::Request::Scan { id, code, policy, workspace: &self.begin.cwd };
        match self.ask(id, &request).await? {
            Answer::Scanned(scan) => match scan.error {
                None => Ok(scan),
                Some(error) => Err(Error::Failed(error)),
            },
            Answer::Started(_) => Err(Error::Failed("the zygote answered another question".into())),
        }
    }

    /// Ends the zygote and all its processes.
    pub async fn end(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.end().await;
        }
    }

    /// The session zygote's process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        lock(&self.live).upgrade().filter(|link| !link.ended()).map(|link| link.pid)
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn start(&self, id: u64, request: &wire::Request<'_>) -> Result<Process, Error> {
        match self.ask(id, request).await? {
            Answer::Started(process) => Ok(process),
            Answer::Scanned(_) => Err(Error::Failed("the zygote answered another question".into())),
        }
    }

    async fn ask(&self, id: u64, request: &wire::Request<'_>) -> Result<Answer, Error> {
        let link = self.link().await?;
        tokio::time::timeout(ANSWER_LIMIT, link.ask(id, request)).await.map_err(|_| Error::Timeout(ANSWER_LIMIT))?
    }

    async fn link(&self) -> Result<Arc<Link>, Error> {
        let mut slot = self.link.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.ended()) {
            return Ok(Arc::clone(link));
        }
        let limit = match self.source {
            Source::Host(_) => READY_LIMIT,
            Source::Own { .. } => WARM_LIMIT,
        };
        let opened = tokio::time::timeout(limit, Link::open(&self.source, &self.begin));
        let link = Arc::new(opened.await.map_err(|_| Error::Timeout(limit))??);
        *slot = Some(Arc::clone(&link));
        *lock(&self.live) = Arc::downgrade(&link);
        Ok(link)
    }
}
