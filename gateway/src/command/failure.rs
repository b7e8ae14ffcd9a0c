//! Why a command ended without success: words for people, an exit code for scripts.
use kernelbox_proto::{Error, TurnName, v1::ErrorCode};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The exit codes that `kernelbox --help` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    /// The code raised, timed out or lost its kernel; or a call failed for no other reason below.
    Failed = 1,
    Usage = 2,
    NoServer = 3,
    NotAllowed = 4,
    /// A limit was reached, or there is no capacity.
    Limit = 5,
    /// Left by a second Ctrl-C, as shells count it.
    Left = 130,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub exit: Exit,
    /// Empty where all has been said already.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn no_server(message: impl Into<String>) -> Self {
        Self::new(Exit::NoServer, message)
    }

    /// Something on this machine went wrong; `what` names it.
    pub(crate) fn local(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::new(Exit::Failed, format!("{what}: {error}"))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        if connection_lost(&status) {
            let cause = std::error::Error::source(&status).map(root).unwrap_or_default();
            let message = if cause.is_empty() { status.message().to_owned() } else { cause };
            return Self::no_server(format!("the server does not answer: {message}"));
        }
        let error = Error::from_status(&status);
        Self::new(exit_of(error.code), advice(&error))
    }
}

/// The exit code for an error code of the one table.
pub(crate) fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::InvalidPath => Exit::Usage,
        ErrorCode::Unauthenticated | ErrorCode::PermissionDenied | ErrorCode::UrlRefused => Exit::NotAllowed,
        ErrorCode::TooLarge
        | ErrorCode::QuotaExceeded
        | ErrorCode::RateLimited
        | ErrorCode::NoCapacity
        | ErrorCode::MemoryLimit
        | ErrorCode::ProcessLimit
        | ErrorCode::DiskLimit => Exit::Limit,
        ErrorCode::ShuttingDown => Exit::NoServer,
        _ => Exit::Failed,
    }
}

/// Whether the connection failed, rather than the call: then there is none of our details.
pub(crate) fn connection_lost(status: &Status) -> bool {
    let ours = status.get_error_details().error_info().is_some_and(|info| info.domain == kernelbox_proto::DOMAIN);
    // h2 tells a cut stream as Unknown, Internal or Cancelled, a refused connection as Unavailable.
    !ours
        && match status.code() {
            Code::Unavailable => true,
            Code::Unknown | Code::Internal | Code::Cancelled => std::error::Error::source(status).is_some(),
            _ => false,
        }
}

/// Whether there was nobody to connect to.
pub(crate) fn refused(status: &Status) -> bool {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
        .any(<dyn std::error::Error>::is::<tonic::ConnectError>)
}

/// Whether the error is this one of the table.
pub(crate) fn is(status: &Status, code: ErrorCode) -> bool {
    Error::from_status(status).code == code
}

/// The server's words, and what can be done where it said that for programs.
fn advice(error: &Error) -> String {
    let running = error.metadata.get("turn").and_then(|name| name.parse::<TurnName>().ok());
    match (error.retry_after, error.code, running) {
        (_, ErrorCode::TurnRunning, Some(TurnName { session, turn })) => format!(
            "{}; `kernelbox turns resume {session} {turn}` shows it, `kernelbox turns cancel {session} {turn}` ends it",
            error.message
        ),
        (Some(wait), ..) if !wait.is_zero() => {
            format!("{} (try again in {} s)", error.message, wait.as_secs_f64().ceil())
        }
        _ => error.message.clone(),
    }
}

fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_5_and_a_refused_connection_3() {
        let full = Status::from(Error::new(ErrorCode::NoCapacity, "full"));
        assert_eq!(Failure::from(full).exit, Exit::Limit);
        assert_eq!(Failure::from(Status::unavailable("tcp connect error")).exit, Exit::NoServer);
        let lost = Status::from(Error::new(ErrorCode::SandboxLost, "OOMKilled"));
        assert_eq!(Failure::from(lost).exit, Exit::Failed);
    }
}
