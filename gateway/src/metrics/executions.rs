//! Executions, as their events pass.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kernelbox_metrics::{
    Book, Counters, Error, Histogram, Histograms, IntCounter, IntGauge, Observe as _, START, labels,
};
use kernelbox_proto::v1::{
    ErrorCode, ExecutionEvent, ExecutionFinished, ExecutionStatus, PackageInstalled, execution_event::Kind,
};

labels! {
    /// How an execution ended.
    pub(crate) enum Ran = "status" {
        Ok = "ok",
        Error = "error",
        TimedOut = "timed_out",
        Interrupted = "interrupted",
        KernelDied = "kernel_died",
        Limit = "limit",
        /// Its sandbox could not run it.
        Failed = "failed",
        /// Its sandbox ended under it.
        Lost = "lost",
        /// It got no sandbox, or its sandbox did not take it.
        NotRun = "not_run",
    }
}

labels! {
    /// Whether the session had a sandbox.
    pub(crate) enum Sandbox = "sandbox" {
        Had = "had",
        New = "new",
    }
}

labels! {
    /// Where an execution's time went, in its sandbox.
    enum Stage = "stage" {
        Queue = "queue",
        Install = "install",
        Kernel = "kernel",
        Artifacts = "artifacts",
    }
}

labels! {
    /// What of a sandbox was used up.
    enum Limit = "limit" {
        Memory = "memory",
        Processes = "processes",
        Disk = "disk",
        Output = "output",
    }
}

labels! {
    /// Whether it worked.
    pub(crate) enum Installed = "outcome" {
        Ok = "ok",
        Failed = "failed",
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Executions {
    pub(crate) ended: Counters<Ran>,
    pub(crate) running: IntGauge,
    pub(crate) waits: Histograms<Sandbox>,
    times: Histogram,
    stages: Histograms<Stage>,
    limits: Counters<Limit>,
    kernels_died: IntCounter,
    packages: Counters<Installed>,
    install_times: Histogram,
}

impl Executions {
    pub(super) fn new(book: &mut Book) -> Result<Self, Error> {
        Ok(Self {
            ended: book.counters(
                "kernelbox_executions_total",
                "Executions that ended, of clients and of turns, by how. Lost: the sandbox ended under it. Not run: \
                 there was no sandbox for it, or it refused the execution.",
            )?,
            running: book.gauge("kernelbox_executions_running", "Executions that this gateway follows now.")?,
            waits: book.histograms(
                "kernelbox_execution_wait_seconds",
                "Time from the call until the kernel began with the code, by whether the session had a sandbox.",
                START,
            )?,
            times: book.histogram(
                "kernelbox_execution_seconds",
                "Time from the moment that the code was sent to its kernel until it ended.",
                START,
            )?,
            stages: book.histograms(
                "kernelbox_execution_stage_seconds",
                "Where the time of an execution went in its sandbox: waiting for others in its context, installing \
                 packages, in the kernel, looking for files that changed.",
                START,
            )?,
            limits: book.counters(
                "kernelbox_execution_limits_total",
                "Executions that met a limit of their sandbox. Beyond that of output they go on, and the rest is cut.",
            )?,
            kernels_died: book.counter(
                "kernelbox_kernels_died_total",
                "Kernels that ended under an execution without being asked to.",
            )?,
            packages: book.counters(
                "kernelbox_packages_installed_total",
                "Packages that were installed for imports or by calls, or could not be.",
            )?,
            install_times: book.histogram(
                "kernelbox_package_install_seconds",
                "Time of an install, told for each package of it.",
                START,
            )?,
        })
    }

    /// What an event has to tell that was not counted yet.
    pub(crate) fn take(&self, event: &ExecutionEvent) {
        match &event.kind {
            Some(Kind::Truncated(_)) => self.limits.inc(Limit::Output),
            Some(Kind::KernelDied(_)) => self.kernels_died.inc(),
            Some(Kind::PackageInstalled(package)) => self.installed(package),
            Some(Kind::Finished(finished)) => self.finished(finished),
            _ => {}
        }
    }

    fn finished(&self, finished: &ExecutionFinished) {
        self.ended.inc(match finished.status() {
            ExecutionStatus::Ok => Ran::Ok,
            ExecutionStatus::Error => Ran::Error,
            ExecutionStatus::TimedOut => Ran::TimedOut,
            ExecutionStatus::Interrupted => Ran::Interrupted,
            ExecutionStatus::KernelDied => Ran::KernelDied,
            ExecutionStatus::Limit => Ran::Limit,
            ExecutionStatus::Failed
            | ExecutionStatus::Unspecified
            | ExecutionStatus::Queued
            | ExecutionStatus::Running => Ran::Failed,
        });
        let limit = match finished.code() {
            ErrorCode::MemoryLimit => Some(Limit::Memory),
            ErrorCode::ProcessLimit => Some(Limit::Processes),
            ErrorCode::DiskLimit => Some(Limit::Disk),
            _ => None,
        };
        limit.into_iter().for_each(|limit| self.limits.inc(limit));
        finished.wall_time.into_iter().filter_map(span).for_each(|took| self.times.took(took));
        for (stage, name) in [
            (Stage::Queue, "queue"),
            (Stage::Install, "install"),
            (Stage::Kernel, "kernel"),
            (Stage::Artifacts, "artifacts"),
        ] {
            let took = finished.stages.get(name).copied().and_then(span);
            took.into_iter().for_each(|took| self.stages.took(stage, took));
        }
    }

    pub(crate) fn installed(&self, package: &PackageInstalled) {
        let failed = !package.failure.is_empty();
        self.packages.inc(if failed { Installed::Failed } else { Installed::Ok });
        package.duration.into_iter().filter_map(span).for_each(|took| self.install_times.took(took));
    }
}

fn span(span: prost_types::Duration) -> Option<Duration> {
    span.try_into().ok()
}

/// Executions whose events a sandbox's gateway remembers to have counted; then it forgets them all.
const REMEMBERED: usize = 1024;

/// How far the executions of a sandbox were counted: their events may pass more than once, as streams are taken up and replayed.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<HashMap<String, i64>>);

impl Counted {
    /// Whether this event is to be counted: it is of a kind that is, and did not pass before.
    pub(crate) fn is_new(&self, event: &ExecutionEvent) -> bool {
        let counts = matches!(
            event.kind,
            Some(
                Kind::Started(_)
                    | Kind::Truncated(_)
                    | Kind::KernelDied(_)
                    | Kind::PackageInstalled(_)
                    | Kind::Finished(_)
            )
        );
        if !counts {
            return false;
        }
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = counted.get_mut(&event.execution) {
            let is_new = event.sequence > *last;
            *last = event.sequence.max(*last);
            return is_new;
        }
        if counted.len() >= REMEMBERED {
            counted.clear();
        }
        counted.insert(event.execution.clone(), event.sequence);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_passes_again_is_not_counted_again() {
        let counted = Counted::default();
        let event = |execution: &str, sequence, kind| ExecutionEvent {
            execution: execution.to_owned(),
            sequence,
            time: None,
            kind: Some(kind),
        };
        let finished = || Kind::Finished(ExecutionFinished::default());
        assert!(counted.is_new(&event("a", 1, Kind::Started(Default::default()))));
        assert!(!counted.is_new(&event("a", 2, Kind::Stdout(Default::default()))));
        assert!(counted.is_new(&event("a", 3, finished())));
        assert!(!counted.is_new(&event("a", 1, Kind::Started(Default::default()))));
        assert!(!counted.is_new(&event("a", 3, finished())));
        assert!(counted.is_new(&event("b", 3, finished())));
    }
}
