//! One way of a piece of code through its kernel: what came back so far, and when the next thing is due.
use std::time::Duration;

use kernelbox_proto::v1::{ErrorCode, ExecutionStatus, InputRequested, execution_event::Kind};
use serde::Deserialize;
use tokio::time::Instant;

use super::Job;
use crate::{
    convert::Reply,
    execution::Outcome,
    jupyter::{Incoming, Message, Request},
    watchdog::Breach,
};

/// How long an interrupted kernel may go on before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// Memory may grow faster than that.
const MEMORY_GRACE: Duration = Duration::from_millis(500);
/// An interrupt can be lost while a cell begins, so it is sent again while the grace lasts.
const AGAIN: Duration = Duration::from_millis(1_500);
/// The kernel says twice that it is done: with a reply on shell, and idle on iopub. How long the second may be awaited in silence.
const SECOND_WORD_LIMIT: Duration = Duration::from_secs(1);

/// Why an execution is being stopped.
#[derive(Debug, Clone)]
pub(super) enum Stop {
    Timeout(Duration),
    Interrupt,
    /// A limit of the sandbox.
    Limit(Breach),
}

/// How a kernel said that code is done.
pub(super) struct Done {
    /// None where it was lost: an interrupt can meet the kernel's own steps between two pieces of code.
    pub(super) reply: Option<Reply>,
    /// It said that all output was sent.
    pub(super) idle: bool,
}

/// One way of the code through the kernel.
pub(super) struct Attempt<'a> {
    pub(super) job: &'a Job,
    /// The id of the request.
    pub(super) id: String,
    pub(super) stop: Option<Stop>,
    reply: Option<Reply>,
    idle: bool,
    /// The open question's id.
    pub(super) question: Option<String>,
    /// When the next thing happens by itself: the timeout, another interrupt, the end of the grace.
    deadline: Option<Instant>,
    pub(super) kill_at: Option<Instant>,
    /// When the wait for the kernel's second word ends.
    settle_at: Option<Instant>,
    /// How many iopub messages had come when the silence was last looked at.
    heard: u64,
}

impl Stop {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Timeout(timeout) => Outcome::because(
                ExecutionStatus::TimedOut,
                ErrorCode::DeadlineExceeded,
                format!("the code ran longer than its timeout of {}", humantime::format_duration(*timeout)),
            ),
            Self::Limit(breach) => Outcome::because(ExecutionStatus::Limit, breach.code, breach.message.clone()),
            Self::Interrupt => Outcome::because(ExecutionStatus::Interrupted, ErrorCode::Unspecified, "interrupted"),
        }
    }
}

impl<'a> Attempt<'a> {
    pub(super) fn new(job: &'a Job, id: String, began: Instant) -> Self {
        Self {
            job,
            id,
            stop: None,
            reply: None,
            idle: false,
            question: None,
            deadline: began.checked_add(job.timeout),
            kill_at: None,
            settle_at: None,
            heard: 0,
        }
    }

    pub(super) fn request(&self) -> Request {
        let content = serde_json::json!({
            "code": self.job.code, "silent": false, "store_history": true, "user_expressions": {},
            "allow_stdin": self.job.allow_input, "stop_on_error": false,
        });
        let request = Request::new("execute_request", content);
        if self.job.cwd.is_none() && self.job.env.is_empty() {
            return request;
        }
        request.with_metadata(serde_json::json!({ "kernelbox": { "cwd": self.job.cwd, "env": self.job.env } }))
    }

    /// What the kernel said of the end, when it is over: all that it says, or nothing more for a while. `heard` counts the iopub
    /// messages that came so far.
    pub(super) fn ended(&mut self, heard: u64) -> Option<Done> {
        let both = self.reply.is_some() && self.idle;
        if !both && self.settle_at.is_none_or(|at| at > Instant::now()) {
            return None;
        }
        if !both && heard != self.heard {
            self.heard = heard;
            self.settle_at = Some(Instant::now() + SECOND_WORD_LIMIT);
            return None;
        }
        Some(Done { reply: self.reply.take(), idle: self.idle })
    }

    pub(super) fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Idle(id) if id == self.id => {
                self.idle = true;
                self.settle_at = Some(Instant::now() + SECOND_WORD_LIMIT);
            }
            Incoming::Reply(message) if message.parent == self.id && message.kind == "execute_reply" => {
                self.reply = Some(Reply::read(&message.content).unwrap_or_else(|error| {
                    tracing::warn!(%error, "odd reply of the kernel");
                    Reply::default()
                }));
                self.settle_at = Some(Instant::now() + SECOND_WORD_LIMIT);
            }
            Incoming::Input(message) if message.parent == self.id && message.kind == "input_request" => {
                self.question = Some(message.id.clone());
                self.job.execution.push(question(message));
            }
            _ => {}
        }
    }

    pub(super) fn stop(&mut self, why: Stop) {
        if self.stop.is_none() {
            let urgent = matches!(&why, Stop::Limit(breach) if breach.code == ErrorCode::MemoryLimit);
            let grace = if urgent { MEMORY_GRACE } else { GRACE };
            self.stop = Some(why);
            // The alarm sends the interrupt.
            self.deadline = Some(Instant::now());
            self.kill_at = Some(Instant::now() + grace);
        }
    }

    pub(super) fn wake(&self) -> Option<Instant> {
        self.settle_at.or_else(|| [self.deadline, self.kill_at].into_iter().flatten().min())
    }

    /// Whether it is time for an interrupt.
    pub(super) fn alarm(&mut self) -> bool {
        let now = Instant::now();
        if self.settle_at.is_some() || self.deadline.is_none_or(|at| at > now) {
            return false;
        }
        self.stop(Stop::Timeout(self.job.timeout));
        self.deadline = Some(now + AGAIN);
        self.kill_at.is_some_and(|at| at > now)
    }
}

fn question(message: Message) -> Kind {
    #[derive(Deserialize, Default)]
    struct Question {
        #[serde(default)]
        prompt: String,
        #[serde(default)]
        password: bool,
    }
    let Question { mut prompt, password } = serde_json::from_slice(&message.content).unwrap_or_default();
    prompt.truncate(prompt.floor_char_boundary(64 << 10));
    Kind::InputRequested(InputRequested { prompt, password, input: message.id })
}
