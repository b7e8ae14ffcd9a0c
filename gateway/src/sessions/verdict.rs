//! What a failed call to a sandbox means: not run, refused, lost with its sandbox, or only cut off.
use std::{sync::Arc, time::Duration};

use kernelbox_proto::{DOMAIN, Error, v1::ErrorCode};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Live, SessionRouter, Slot};

/// A connection breaks a moment before the end of its process is known.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) enum Verdict {
    /// It has certainly not run; the session's next sandbox may have it.
    NotRun,
    /// The sandbox's own answer.
    Refused(Error),
    /// The sandbox ended under it.
    Lost(Error),
    /// The connection broke and the sandbox lives.
    Broken,
}

impl SessionRouter {
    /// `has_run`: what the call is about is known to have begun there.
    pub(crate) async fn verdict(&self, slot: &Arc<Slot>, live: &Arc<Live>, status: &Status, has_run: bool) -> Verdict {
        let error = Error::from_status(status);
        if error.code == ErrorCode::SandboxRetired {
            slot.leave(live);
            live.end("IdleTimeout", "it was retired");
            return Verdict::NotRun;
        }
        if !is_of_connection(status) {
            return Verdict::Refused(error);
        }
        tracing::debug!(session = %slot.id, error = status as &dyn std::error::Error, "a call to a sandbox broke");
        match tokio::time::timeout(ENDS_WITHIN, live.sandbox.ended()).await {
            Ok(_) if !has_run && never_sent(status) => {
                slot.leave(live);
                Verdict::NotRun
            }
            Ok(ended) => {
                slot.leave(live);
                let files = match self.0.checkpoints {
                    None => "files are kept",
                    Some(_) => "files are as they were last saved",
                };
                let message = format!(
                    "the sandbox ended while the call ran ({}: {}); {files}, variables are gone, and whether the code had \
                     effects is not known",
                    ended.reason, ended.message
                );
                Verdict::Lost(Error::new(ErrorCode::SandboxLost, message).with("reason", ended.reason))
            }
            Err(_) => Verdict::Broken,
        }
    }
}

/// No supervisor said so: it could not be reached, or was cut off.
pub(super) fn is_of_connection(status: &Status) -> bool {
    let ours = status.get_error_details().error_info().is_some_and(|info| info.domain == DOMAIN);
    !ours && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
}

/// The connection could not even be made.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// For calls that cannot be taken up again.
pub(crate) fn broken() -> Error {
    Error::new(
        ErrorCode::SandboxLost,
        "the connection to the sandbox broke while the call ran; whether it had effects is not known",
    )
}
