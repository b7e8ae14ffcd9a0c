//! A turn that runs here, as others reach it: to cancel it, and to answer its calls of the client's own tools.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kernelbox_proto::{Error, v1::ErrorCode};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Recorder;

pub(crate) struct Running {
    pub recorder: Recorder,
    cancel: CancellationToken,
    reason: Mutex<String>,
    waiting: Mutex<HashMap<String, oneshot::Sender<ToolAnswer>>>,
    over: CancellationToken,
}

/// What a client says to a call of its own tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolAnswer {
    pub content: String,
    pub failed: bool,
}

impl Running {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            cancel: CancellationToken::new(),
            reason: Mutex::default(),
            waiting: Mutex::default(),
            over: CancellationToken::new(),
        }
    }

    /// The first reason counts.
    pub(crate) fn cancel(&self, reason: &str) {
        let mut said = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() {
            reason.clone_into(&mut said);
        }
        self.cancel.cancel();
    }

    /// Returns the reason once it is cancelled.
    pub(crate) async fn cancelled(&self) -> String {
        self.cancel.cancelled().await;
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn cancel_token(&self) -> &CancellationToken {
        &self.cancel
    }

    pub(super) fn set_over(&self) {
        self.over.cancel();
    }

    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// What is received is the client's answer to this call.
    pub(crate) fn wait_for_tool(&self, call: &str) -> oneshot::Receiver<ToolAnswer> {
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(call.to_owned(), answer);
        answered
    }

    /// Nobody waits for this call any more.
    pub(crate) fn forget_tool(&self, call: &str) {
        self.waiting().remove(call);
    }

    pub(crate) fn answer_tool(&self, call: &str, answer: ToolAnswer) -> Result<(), Error> {
        let waiting = self.waiting().remove(call).ok_or_else(|| not_waiting(call))?;
        waiting.send(answer).map_err(|_| not_waiting(call))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<ToolAnswer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn not_waiting(call: &str) -> Error {
    Error::new(
        ErrorCode::ToolCallNotWaiting,
        format!("the turn does not wait for tool call {call}: it was answered, its time is over, or it never was"),
    )
}
