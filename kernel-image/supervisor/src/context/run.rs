//! Runs one execution: packages, the kernel, limits, and how it ends.
use std::{collections::HashSet, future::pending, sync::Arc};

use kernelbox_proto::{
    Error,
    v1::{ErrorCode, ExecutionStatus, execution_event::Kind},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Job,
    actor::{Actor, Ask, Next},
    attempt::{Attempt, Done, Stop},
    life::{HOG_LIMIT, hog, unavailable},
};
use crate::{
    convert::{Output, Reply},
    execution::{Execution, Outcome},
    kernel::{self, Kernel},
    sync::lock,
    watchdog::Breach,
    zygote::Exit,
};

const UNSTOPPABLE: &str = "it did not stop when it was interrupted";

/// How the code left the kernel.
enum Ending {
    /// The kernel said so.
    Done(Done),
    /// The kernel died.
    Died(Exit),
    /// It was killed, because it did not stop.
    Killed,
    /// The code could not be sent.
    Unsent(Error),
    /// A command ends it, and more.
    Told(Next),
}

impl Actor {
    pub(super) async fn run_job(&mut self, job: Job) -> Next {
        let execution = Arc::clone(&job.execution);
        execution.stage("queue", execution.age());
        let mut tried = match self.install_missing(&job).await {
            Ok(tried) => tried,
            Err(next) => return stopped(&execution, next),
        };
        match self.start_kernel(Some(&execution)).await {
            Ok(Next::Continue) if self.kernel.is_some() => {}
            Ok(next) => return stopped(&execution, next),
            Err(error) => {
                let Error { code, message, .. } = unavailable(&error);
                execution.finish(Outcome::because(ExecutionStatus::Failed, code, message));
                return Next::Continue;
            }
        }
        let began = Instant::now();
        execution.begin(self.sandbox.lifecycle.writing());
        let mut number = 1;
        let next = loop {
            let id = match number {
                1 => execution.identity.id.to_string(),
                number => format!("{}.{number}", execution.identity.id),
            };
            let mut attempt = Attempt::new(&job, id, began);
            let ending = self.attempt(&mut attempt).await;
            let stop = attempt.stop.take();
            if let Ending::Done(Done { reply: Some(reply), .. }) = &ending
                && stop.is_none()
                && reply.ename == "ModuleNotFoundError"
            {
                match self.install_after(&job, &reply.evalue, &mut tried).await {
                    Ok(installed) if installed && job.rerun_after_install && number == 1 => {
                        number += 1;
                        continue;
                    }
                    Ok(_) => {}
                    Err(next) => break stopped(&execution, next),
                }
            }
            execution.stage("kernel", began.elapsed());
            break self.conclude(&execution, ending, stop).await;
        };
        self.router.close();
        next
    }

    /// Sends the code and follows it to its end.
    async fn attempt(&mut self, attempt: &mut Attempt<'_>) -> Ending {
        self.router.open(&attempt.id, &attempt.job.execution);
        self.breaches.mark_unchanged();
        let Some(kernel) = &mut self.kernel else { return Ending::Died(Exit::Lost) };
        if let Err(error) = kernel.client.request(&attempt.id, attempt.request()).await {
            return Ending::Unsent(Error::new(ErrorCode::KernelUnavailable, error.to_string()));
        }
        loop {
            let Self { kernel: Some(kernel), commands, breaches, sandbox, .. } = self else {
                return Ending::Died(Exit::Lost);
            };
            if let Some(done) = attempt.ended(kernel.client.heard()) {
                return Ending::Done(done);
            }
            let wake = attempt.wake();
            let (pid, stopping) = (kernel.pid(), attempt.stop.is_some());
            let command = tokio::select! {
                Ok(()) = breaches.changed(), if !stopping => {
                    let breach = breaches.borrow_and_update().clone();
                    if let Some(breach) = breach.filter(|breach| concerns(breach, pid, &lock(&sandbox.kernels))) {
                        attempt.stop(Stop::Limit(breach));
                    }
                    continue;
                }
                said = kernel.next() => {
                    match said {
                        Ok(incoming) => attempt.take(incoming),
                        Err(exit) => return Ending::Died(exit),
                    }
                    continue;
                }
                () = async { match wake { Some(at) => sleep_until(at).await, None => pending().await } } => {
                    if attempt.alarm() {
                        kernel.interrupt().await;
                    } else if attempt.kill_at.is_some_and(|at| at <= Instant::now()) {
                        return Ending::Killed;
                    }
                    continue;
                }
                command = commands.recv() => command,
            };
            let Some(command) = command else { return Ending::Told(Next::End(None)) };
            match self.handle(command, Some(&attempt.job.execution)) {
                None => {}
                Some(Ask::Interrupt) => attempt.stop(Stop::Interrupt),
                Some(Ask::Restart { reply }) => return Ending::Told(Next::Restart(reply)),
                Some(Ask::End { reply }) => return Ending::Told(Next::End(Some(reply))),
                Some(Ask::Input { input, value, reply }) => self.answer(attempt, &input, &value, reply).await,
            }
        }
    }

    async fn answer(
        &mut self,
        attempt: &mut Attempt<'_>,
        input: &str,
        value: &str,
        reply: oneshot::Sender<Result<(), Error>>,
    ) {
        let asked = attempt.question.as_ref().is_some_and(|question| input.is_empty() || question == input);
        let answer = match &mut self.kernel {
            Some(kernel) if asked => {
                attempt.question = None;
                let sent = kernel.client.answer_input(value).await;
                sent.map_err(|error| Error::new(ErrorCode::KernelUnavailable, error.to_string()))
            }
            _ => Err(Error::new(
                ErrorCode::InputNotRequested,
                "the execution does not wait for this input: it was answered, or not asked for",
            )),
        };
        reply.send(answer).ok();
    }

    /// Whether the kernel keeps what its code was stopped for: the next code would be stopped for that, too.
    async fn keeps_its_hoard(&mut self, stop: Option<&Stop>) -> bool {
        let Some(pid) = self.kernel.as_ref().map(Kernel::pid) else { return false };
        let is_own = matches!(stop, Some(Stop::Limit(breach)) if breach.process == Some(pid));
        is_own
            && tokio::select! {
                _ = hog(&mut self.breaches, Some(pid)) => true,
                () = sleep(HOG_LIMIT * 2) => false,
            }
    }

    /// Tells the end of an execution, and replaces the kernel if it is gone.
    async fn conclude(&mut self, execution: &Arc<Execution>, ending: Ending, stop: Option<Stop>) -> Next {
        match ending {
            Ending::Done(_) if self.keeps_its_hoard(stop.as_ref()).await => {
                self.stop_kernel().await;
                self.lost(execution, Exit::Signal(9), stop, "it did not let go of what it used").await
            }
            Ending::Done(done) => {
                // An interrupt before the first line of the code is told in the reply alone.
                let error = done.reply.as_ref().and_then(Reply::error);
                if let Some(error) = error.filter(|_| stop.is_some() && !execution.has_failed()) {
                    execution.output(Output::Error(error), |_| String::new());
                }
                for bundle in done.reply.iter().flat_map(Reply::pages) {
                    execution.output(Output::Display(bundle), |_| String::new());
                }
                let outcome = outcome(done, stop, execution.has_failed());
                self.tell_artifacts(execution).await;
                execution.finish(outcome);
                Next::Continue
            }
            Ending::Died(exit) => {
                self.bury().await;
                self.lost(execution, exit, stop, UNSTOPPABLE).await
            }
            Ending::Killed => {
                self.stop_kernel().await;
                self.lost(execution, Exit::Signal(9), stop, UNSTOPPABLE).await
            }
            Ending::Unsent(Error { code, message, .. }) => {
                self.stop_kernel().await;
                execution.finish(Outcome::because(ExecutionStatus::Failed, code, message));
                self.replace().await
            }
            Ending::Told(next) => {
                self.stop_kernel().await;
                self.tell_artifacts(execution).await;
                stopped(execution, next)
            }
        }
    }

    /// Tells which files the code created, changed or deleted.
    async fn tell_artifacts(&self, execution: &Execution) {
        let began = Instant::now();
        let artifacts = Arc::clone(&self.sandbox.artifacts);
        match tokio::task::spawn_blocking(move || artifacts.changes()).await {
            Ok(Ok(changes)) => {
                for artifact in changes.artifacts {
                    execution.push(Kind::Artifact(artifact));
                }
                if changes.incomplete {
                    tracing::info!(execution = execution.identity.name, "more files changed than are told");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot look for changed files"),
            Err(error) => tracing::error!(%error, "cannot look for changed files"),
        }
        execution.stage("artifacts", began.elapsed());
    }

    /// `why` it was killed, if it was stopped.
    async fn lost(&mut self, execution: &Arc<Execution>, exit: Exit, stop: Option<Stop>, why: &str) -> Next {
        let mut died = kernel::died(exit);
        if stop.is_some() {
            died.message = format!("the kernel was killed: {why}; variables are gone");
        }
        let outcome = match stop {
            Some(stop) => {
                let mut outcome = stop.outcome();
                outcome.message = format!("{}; {}", outcome.message, died.message);
                outcome
            }
            None => {
                // The watchdog looks four times a second; the memory of a container can be used up between two looks.
                let starved = exit == Exit::Signal(9) && self.sandbox.oom_kills.rose();
                let code = if starved { ErrorCode::MemoryLimit } else { ErrorCode::Unspecified };
                if starved {
                    died.message =
                        "the code used up the sandbox's memory, and its kernel was killed; variables are gone".into();
                }
                Outcome::because(ExecutionStatus::KernelDied, code, died.message.clone())
            }
        };
        execution.started(0);
        execution.push(Kind::KernelDied(died));
        self.tell_artifacts(execution).await;
        execution.finish(outcome);
        self.router.close();
        self.replace().await
    }
}

/// How code ended whose kernel said that it is done.
fn outcome(done: Done, stop: Option<Stop>, has_failed: bool) -> Outcome {
    let mut outcome = match (stop, &done.reply) {
        (Some(stop), _) => stop.outcome(),
        (None, Some(reply)) if reply.status == "ok" => Outcome::new(ExecutionStatus::Ok),
        (None, Some(_)) => Outcome::new(ExecutionStatus::Error),
        (None, None) if has_failed => Outcome::new(ExecutionStatus::Error),
        (None, None) => Outcome::because(
            ExecutionStatus::Failed,
            ErrorCode::KernelUnavailable,
            "the kernel became idle without a reply: the code may not have run, or not to its end",
        ),
    };
    if !done.idle {
        "the kernel did not say that all output was sent; the rest, if any, comes as late output"
            .clone_into(&mut outcome.message);
    }
    outcome.execution_count = done.reply.and_then(|reply| reply.execution_count).unwrap_or_default();
    outcome
}

/// Whether a breach is this kernel's: its own, everybody's, or that of processes which no kernel owns.
fn concerns(breach: &Breach, kernel: i32, kernels: &HashSet<i32>) -> bool {
    breach.process.is_none_or(|process| process == kernel || !kernels.contains(&process))
}

/// What becomes of an execution that a command stops before or while it runs.
fn stopped(execution: &Execution, next: Next) -> Next {
    let why = match &next {
        Next::Continue => "interrupted",
        Next::Restart(_) => "the kernel was restarted",
        Next::End(_) => "the context was deleted",
    };
    execution.finish(Outcome::because(ExecutionStatus::Interrupted, ErrorCode::Unspecified, why));
    next
}
