//! A context: a kernel of its own, and the queue of executions that it runs one at a time.
mod actor;
mod attempt;
mod install;
mod life;
mod router;
mod run;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use kernelbox_proto::{
    Error, ExecutionId,
    v1::{self, AutoInstall, ErrorCode},
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use crate::{
    execution::Execution,
    jupyter::{Control, Request},
    lifecycle::ActivityGuard,
    sandbox::Sandbox,
    spec::Spec,
    sync::lock,
};
use actor::Actor;

/// The most executions that wait in one context.
const MAX_QUEUED: usize = 2_000;
/// The most code that waits in one context, in bytes.
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// How long a kernel may take to take its environment.
const BIND_LIMIT: Duration = Duration::from_secs(10);

/// A piece of code to run.
#[derive(Debug)]
pub struct Job {
    pub execution: Arc<Execution>,
    pub code: String,
    /// The sandbox is not idle while it waits and runs.
    pub active: ActivityGuard,
    pub timeout: Duration,
    /// Applied for this code alone; of Kernelbox's own kernel only.
    pub cwd: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub allow_input: bool,
    pub auto_install: AutoInstall,
    pub rerun_after_install: bool,
    /// Of the call that asked for it.
    pub span: Span,
}

/// How a context's kernels are started.
#[derive(Debug, Clone)]
pub struct Settings {
    pub spec: Spec,
    pub fresh: bool,
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Command {
    Run(Job),
    Interrupt { target: Option<ExecutionId>, clear: bool, reply: oneshot::Sender<Vec<String>> },
    Input { execution: ExecutionId, input: String, value: String, reply: oneshot::Sender<Result<(), Error>> },
    Restart { fresh: bool, reply: oneshot::Sender<Result<(), Error>> },
    End { reply: oneshot::Sender<()> },
}

/// The handle of a context; its actor owns the kernel and the queue.
#[derive(Debug)]
pub struct Context {
    pub id: String,
    pub kernel: String,
    language: String,
    ours: bool,
    create_time: SystemTime,
    commands: mpsc::Sender<Command>,
    shared: Arc<Mutex<Shared>>,
    first: watch::Receiver<FirstStart>,
}

/// How its first kernel's start went: none while it is under way, else why there is no kernel.
type FirstStart = Option<Result<(), String>>;

/// What others may see of the actor's state.
#[derive(Debug, Default)]
struct Shared {
    running: Option<String>,
    queued: usize,
    queued_bytes: usize,
    starts: i32,
    control: Option<Control>,
}

impl Context {
    /// Makes the context; its kernel starts at once.
    pub fn start(sandbox: Arc<Sandbox>, id: &str, settings: Settings) -> Self {
        let (commands, receiver) = mpsc::channel(64);
        let (told, first) = watch::channel(None);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let context = Self {
            id: id.to_owned(),
            kernel: settings.spec.name.clone(),
            language: settings.spec.language.clone(),
            ours: settings.spec.is_ours(),
            create_time: SystemTime::now(),
            commands,
            shared: Arc::clone(&shared),
            first,
        };
        tokio::spawn(Actor::new(sandbox, id, settings, receiver, shared, told).run());
        context
    }

    /// Whether its kernel is Kernelbox's own.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// Waits until its first kernel answered. Else: why it did not.
    pub async fn ready(&self) -> Result<(), String> {
        let mut first = self.first.clone();
        let told = first.wait_for(Option::is_some).await.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| Err("its context was deleted".to_owned()))
    }

    /// Puts code into the queue.
    pub async fn run(&self, job: Job) -> Result<(), Error> {
        {
            let mut shared = lock(&self.shared);
            if shared.queued >= MAX_QUEUED || shared.queued_bytes + job.code.len() > MAX_QUEUED_BYTES {
                let message = format!(
                    "{} executions wait in context {:?}; try again when some have ended",
                    shared.queued, self.id
                );
                return Err(Error::new(ErrorCode::QuotaExceeded, message));
            }
            shared.queued += 1;
            shared.queued_bytes += job.code.len();
        }
        self.commands.send(Command::Run(job)).await.map_err(|_| self.gone())
    }

    /// Interrupts an execution, or what runs and (with `clear`) all that waits. Answers the names of those that end for it.
    pub async fn interrupt(&self, target: Option<ExecutionId>, clear: bool) -> Result<Vec<String>, Error> {
        self.ask(|reply| Command::Interrupt { target, clear, reply }).await
    }

    /// Answers an input request.
    pub async fn input(&self, execution: ExecutionId, input: String, value: String) -> Result<(), Error> {
        self.ask(|reply| Command::Input { execution, input, value, reply }).await?
    }

    /// Replaces the kernel; returns when the new one answered.
    pub async fn restart(&self, fresh: bool) -> Result<(), Error> {
        self.ask(|reply| Command::Restart { fresh, reply }).await?
    }

    /// Ends the kernel; what waits ends as interrupted.
    pub async fn end(&self) {
        self.ask(|reply| Command::End { reply }).await.ok();
    }

    /// The control channel of its kernel.
    pub fn control(&self) -> Result<Control, Error> {
        lock(&self.shared).control.clone().ok_or_else(|| {
            Error::new(ErrorCode::KernelUnavailable, format!("the kernel of context {:?} is starting", self.id))
        })
    }

    /// Gives a running kernel the environment of the session. Kernels that start later have it from their start.
    pub async fn bind(&self, env: &BTreeMap<String, String>) -> Result<(), Error> {
        let control = lock(&self.shared).control.clone();
        match control {
            Some(control) if self.ours && !env.is_empty() => bind(&control, env).await,
            _ => Ok(()),
        }
    }

    /// How it stands. `session` is sessions/{session}.
    pub fn describe(&self, session: &str) -> v1::Context {
        let shared = lock(&self.shared);
        v1::Context {
            name: format!("{session}/contexts/{}", self.id),
            kernel: self.kernel.clone(),
            language: self.language.clone(),
            create_time: Some(self.create_time.into()),
            running: shared.running.clone().unwrap_or_default(),
            queued: i32::try_from(shared.queued).unwrap_or(i32::MAX),
            starts: shared.starts,
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, told) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| self.gone())?;
        told.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> Error {
        Error::new(ErrorCode::ContextNotFound, format!("context {:?} was deleted", self.id))
    }
}

async fn bind(control: &Control, env: &BTreeMap<String, String>) -> Result<(), Error> {
    let request = Request::new("kernelbox_bind_request", serde_json::json!({ "env": env }));
    control.ask(request, BIND_LIMIT).await.map(|_| ()).map_err(|error| {
        Error::new(ErrorCode::KernelUnavailable, format!("a kernel did not take the session's environment: {error}"))
    })
}
