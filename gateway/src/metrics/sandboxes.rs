//! Sandboxes as sessions get and lose them, and their checkpoints.
use std::time::Duration;

use kernelbox_metrics::{BYTES, Book, Counters, Error, Histogram, Histograms, START, labels};
use kernelbox_proto::{sandbox::v1::GetStatusResponse, v1::ErrorCode};

labels! {
    /// Why a session got none.
    enum Reason = "reason" {
        NoCapacity = "no_capacity",
        StartFailed = "start_failed",
        ShuttingDown = "shutting_down",
        Other = "other",
    }
}

labels! {
    /// Why a session has its sandbox no more.
    enum Left = "reason" {
        Idle = "IdleTimeout",
        TemplateChanged = "TemplateChanged",
        ServerStopped = "ServerStopped",
        Deleted = "Deleted",
        Terminated = "Terminated",
        OutOfMemory = "OOMKilled",
        Evicted = "Evicted",
        NodeLost = "NodeLost",
        Failed = "Failed",
        Lost = "Lost",
        Other = "Other",
    }
}

labels! {
    pub(crate) enum Operation = "operation" {
        Save = "save",
        Restore = "restore",
    }
}

labels! {
    pub(crate) enum CheckpointOutcome = "outcome" {
        Ok = "ok",
        /// There was nothing new to save.
        Unchanged = "unchanged",
        /// The session has a later sandbox or checkpoint.
        Fenced = "fenced",
        /// The sandbox is gone, or cannot be reached.
        Unreachable = "unreachable",
        Failed = "failed",
    }
}

labels! {
    /// A step of a supervisor's start.
    enum Step = "step" {
        Zygote = "zygote",
        Kernel = "kernel",
        FirstAnswer = "first_answer",
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Sandboxes {
    pub(crate) waits: Histogram,
    failures: Counters<Reason>,
    left: Counters<Left>,
    pub(crate) checkpoints: Histograms<(Operation, CheckpointOutcome)>,
    bytes: Histograms<Operation>,
    steps: Histograms<Step>,
    memory: Histogram,
}

impl Sandboxes {
    pub(super) fn new(book: &mut Book) -> Result<Self, Error> {
        Ok(Self {
            waits: book.histogram(
                "kernelbox_sandbox_wait_seconds",
                "Time until a session that needed a sandbox had one, with its settings and its files.",
                START,
            )?,
            failures: book.counters(
                "kernelbox_sandbox_failures_total",
                "Times that a session needed a sandbox and got none, by why.",
            )?,
            left: book.counters(
                "kernelbox_sandboxes_left_total",
                "Sandboxes that sessions have no more, by why. Other: what else their provider says.",
            )?,
            checkpoints: book.histograms(
                "kernelbox_checkpoint_seconds",
                "Time to save a sandbox's files, or to bring them back into a new one, by what came of it.",
                START,
            )?,
            bytes: book.histograms(
                "kernelbox_checkpoint_bytes",
                "Bytes of the files in a checkpoint that was saved or brought back.",
                BYTES,
            )?,
            steps: book.histograms(
                "kernelbox_supervisor_start_seconds",
                "Time of each step of a supervisor's start, as it says itself when its sandbox becomes a session's: \
                 the zygote with its libraries, the first kernel, that kernel's first answer.",
                START,
            )?,
            memory: book.histogram(
                "kernelbox_sandbox_memory_bytes",
                "Memory of all processes of a sandbox, as its supervisor says when it is reclaimed by this gateway.",
                BYTES,
            )?,
        })
    }

    pub(crate) fn refused(&self, code: ErrorCode) {
        self.failures.inc(match code {
            ErrorCode::NoCapacity => Reason::NoCapacity,
            ErrorCode::SandboxStartFailed => Reason::StartFailed,
            ErrorCode::ShuttingDown => Reason::ShuttingDown,
            _ => Reason::Other,
        });
    }

    /// `reason` as sessions are told.
    pub(crate) fn left(&self, reason: &str) {
        self.left.inc(match reason {
            "IdleTimeout" => Left::Idle,
            "TemplateChanged" => Left::TemplateChanged,
            "ServerStopped" => Left::ServerStopped,
            "Deleted" => Left::Deleted,
            "Terminated" => Left::Terminated,
            "OOMKilled" => Left::OutOfMemory,
            "Evicted" => Left::Evicted,
            "NodeLost" => Left::NodeLost,
            "Failed" => Left::Failed,
            "Lost" => Left::Lost,
            _ => Left::Other,
        });
    }

    /// What a new sandbox' supervisor says of its start.
    pub(crate) fn started(&self, status: &GetStatusResponse) {
        for (step, name) in [(Step::Zygote, "zygote"), (Step::Kernel, "kernel"), (Step::FirstAnswer, "first_answer")] {
            let took = status.stages.get(name).and_then(|took| Duration::try_from(*took).ok());
            took.into_iter().for_each(|took| self.steps.took(step, took));
        }
    }

    /// What a supervisor says at the end.
    pub(crate) fn reclaimed(&self, status: &GetStatusResponse) {
        #[expect(clippy::cast_precision_loss, reason = "a histogram")]
        self.memory.observe(status.memory_bytes as f64);
    }

    /// `bytes`: of a checkpoint that was moved.
    pub(crate) fn moved(&self, operation: Operation, outcome: CheckpointOutcome, bytes: Option<i64>, took: Duration) {
        self.checkpoints.took((operation, outcome), took);
        if let Some(bytes) = bytes {
            #[expect(clippy::cast_precision_loss, reason = "a histogram")]
            self.bytes.of(operation).observe(bytes as f64);
        }
    }
}
