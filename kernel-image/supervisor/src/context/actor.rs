//! The task behind a context: it takes commands at any time, and runs the queue in order.
use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex},
};

use kernelbox_proto::{
    Error, ExecutionId,
    v1::{ErrorCode, ExecutionStatus},
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use super::{Command, FirstStart, Job, Settings, Shared, life::hog, router::Router};
use crate::{
    execution::{Execution, Outcome},
    kernel::Kernel,
    sandbox::Sandbox,
    sync::lock,
    watchdog::Breach,
};

pub(super) struct Actor {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) id: String,
    pub(super) settings: Settings,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) router: Arc<Router>,
    pub(super) kernel: Option<Kernel>,
    queue: VecDeque<Job>,
    pub(super) first: watch::Sender<FirstStart>,
    /// Limits of the sandbox that are exceeded.
    pub(super) breaches: watch::Receiver<Option<Breach>>,
}

/// What a command asks of whatever the actor is doing.
pub(super) enum Ask {
    /// Stop what runs.
    Interrupt,
    /// A line for what runs.
    Input { input: String, value: String, reply: oneshot::Sender<Result<(), Error>> },
    /// Replace the kernel.
    Restart { reply: oneshot::Sender<Result<(), Error>> },
    /// End the context.
    End { reply: oneshot::Sender<()> },
}

/// Whether the actor goes on.
pub(super) enum Next {
    Continue,
    /// Replace the kernel, then go on.
    Restart(oneshot::Sender<Result<(), Error>>),
    /// End, and say so to whom it concerns.
    End(Option<oneshot::Sender<()>>),
}

impl Actor {
    pub(super) fn new(
        sandbox: Arc<Sandbox>,
        id: &str,
        settings: Settings,
        commands: mpsc::Receiver<Command>,
        shared: Arc<Mutex<Shared>>,
        first: watch::Sender<FirstStart>,
    ) -> Self {
        let router = Arc::new(Router::new(id, sandbox.events.clone()));
        let breaches = sandbox.breaches.clone();
        Self {
            sandbox,
            id: id.to_owned(),
            settings,
            commands,
            shared,
            router,
            kernel: None,
            queue: VecDeque::new(),
            first,
            breaches,
        }
    }

    pub(super) async fn run(mut self) {
        let mut next = match self.start_kernel(None).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, context = self.id, "the kernel did not start");
                self.first.send_replace(Some(Err(error.to_string())));
                Next::Continue
            }
        };
        let told = loop {
            next = match next {
                Next::End(told) => break told,
                Next::Restart(reply) => self.restart(reply).await,
                Next::Continue => match self.pop() {
                    Some(job) => {
                        let span = job.span.clone();
                        self.run_job(job).instrument(span).await
                    }
                    None => self.wait().await,
                },
            };
        };
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.handle(command, None);
        }
        for job in std::mem::take(&mut self.queue) {
            job.execution.finish(Outcome::because(
                ExecutionStatus::Interrupted,
                ErrorCode::Unspecified,
                "its context was deleted before it ran",
            ));
        }
        self.stop_kernel().await;
        if let Some(told) = told {
            told.send(()).ok();
        }
    }

    /// Does what can be done at once, and says what is left to do.
    pub(super) fn handle(&mut self, command: Command, current: Option<&Execution>) -> Option<Ask> {
        match command {
            Command::Run(job) => {
                self.queue.push_back(job);
                if let Some(job) = self.queue.back()
                    && (current.is_some() || self.queue.len() > 1)
                {
                    job.execution.queued(self.queue.len() - 1 + usize::from(current.is_some()));
                }
                None
            }
            Command::Interrupt { target, clear, reply } => self.interrupt(target.as_ref(), clear, reply, current),
            Command::Input { execution, input, value, reply } => {
                if current.is_some_and(|current| current.identity.id == execution) {
                    return Some(Ask::Input { input, value, reply });
                }
                reply.send(Err(not_waiting(&execution))).ok();
                None
            }
            Command::Restart { fresh, reply } => {
                self.settings.fresh = fresh;
                Some(Ask::Restart { reply })
            }
            Command::End { reply } => Some(Ask::End { reply }),
        }
    }

    fn interrupt(
        &mut self,
        target: Option<&ExecutionId>,
        clear: bool,
        reply: oneshot::Sender<Vec<String>>,
        current: Option<&Execution>,
    ) -> Option<Ask> {
        let running = current.filter(|current| target.is_none_or(|target| current.identity.id == *target));
        let mut names: Vec<_> = running.iter().map(|execution| execution.identity.name.clone()).collect();
        let goes = |job: &Job| target.map_or(clear, |target| job.execution.identity.id == *target);
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue).into_iter().partition(goes);
        self.queue = kept.into();
        for job in &gone {
            names.push(job.execution.identity.name.clone());
            job.execution.finish(Outcome::because(
                ExecutionStatus::Interrupted,
                ErrorCode::Unspecified,
                "taken out of the queue before it ran",
            ));
            self.left_queue(job);
        }
        if !gone.is_empty() {
            self.tell_positions(usize::from(current.is_some()));
        }
        reply.send(names).ok();
        running.map(|_| Ask::Interrupt)
    }

    fn pop(&mut self) -> Option<Job> {
        let job = self.queue.pop_front()?;
        self.left_queue(&job);
        lock(&self.shared).running = Some(job.execution.identity.name.clone());
        self.tell_positions(1);
        Some(job)
    }

    fn left_queue(&self, job: &Job) {
        let mut shared = lock(&self.shared);
        shared.queued = shared.queued.saturating_sub(1);
        shared.queued_bytes = shared.queued_bytes.saturating_sub(job.code.len());
    }

    /// Tells those that wait where they are: each of the next ten places, then ever more rarely.
    fn tell_positions(&self, before: usize) {
        for (place, job) in self.queue.iter().enumerate() {
            let position = place + before;
            let step = if position <= 10 { 1 } else { 10_usize.pow(position.ilog10()) };
            if position > 0 && position.is_multiple_of(step) {
                job.execution.queued(position);
            }
        }
    }

    /// Nothing runs: waits for a command, or for the kernel's death.
    async fn wait(&mut self) -> Next {
        lock(&self.shared).running = None;
        let Self { commands, kernel, breaches, .. } = self;
        let pid = kernel.as_ref().map(Kernel::pid);
        let exited = async {
            match kernel {
                Some(kernel) => kernel.dead().await,
                None => std::future::pending().await,
            }
        };
        let command = tokio::select! {
            command = commands.recv() => command,
            exit = exited => return self.died_idle(exit).await,
            breach = hog(breaches, pid) => return self.end_hog(breach).await,
        };
        let Some(command) = command else { return Next::End(None) };
        match self.handle(command, None) {
            None | Some(Ask::Interrupt) => Next::Continue,
            Some(Ask::Input { reply, .. }) => {
                reply.send(Err(Error::new(ErrorCode::InputNotRequested, "nothing runs in this context"))).ok();
                Next::Continue
            }
            Some(Ask::Restart { reply }) => Next::Restart(reply),
            Some(Ask::End { reply }) => Next::End(Some(reply)),
        }
    }

    /// Awaits something, taking commands meanwhile. A command that stops it all is the answer.
    pub(super) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        current: Option<&Execution>,
    ) -> Result<T, Next> {
        let mut work = std::pin::pin!(work);
        loop {
            let command = tokio::select! {
                done = &mut work => return Ok(done),
                command = self.commands.recv() => command,
            };
            let Some(command) = command else { return Err(Next::End(None)) };
            match self.handle(command, current) {
                None => {}
                Some(Ask::Interrupt) => return Err(Next::Continue),
                Some(Ask::Restart { reply }) => return Err(Next::Restart(reply)),
                Some(Ask::End { reply }) => return Err(Next::End(Some(reply))),
                Some(Ask::Input { reply, .. }) => {
                    let error = Error::new(ErrorCode::InputNotRequested, "the execution does not wait for input");
                    reply.send(Err(error)).ok();
                }
            }
        }
    }
}

fn not_waiting(execution: &ExecutionId) -> Error {
    Error::new(ErrorCode::InputNotRequested, format!("execution {execution} does not wait for input"))
}
