//! The one table of error codes: each with its gRPC status, its HTTP status and whether the same call may work later.
use std::{collections::HashMap, time::Duration};

use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1::ErrorCode;

/// `google.rpc.ErrorInfo.domain` of every Kernelbox error.
pub const DOMAIN: &str = "kernelbox.dev";

pub type Result<T> = std::result::Result<T, Error>;

/// An error that a client may see: its code, and words that say what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: ErrorCode,
    pub message: String,
    /// How long to wait before the next try, where that is known.
    pub retry_after: Option<Duration>,
    /// The request's field that is wrong, for `InvalidArgument` and `InvalidPath`.
    pub field: Option<String>,
    /// More facts for machines: `ErrorInfo.metadata`.
    pub metadata: HashMap<String, String>,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, field: None, metadata: HashMap::new() }
    }

    /// `InvalidArgument` for a field of the request.
    pub fn invalid(field: &str, problem: impl AsRef<str>) -> Self {
        let mut error = Self::new(ErrorCode::InvalidArgument, format!("{field}: {}", problem.as_ref()));
        error.field = Some(field.to_owned());
        error
    }

    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// The code's name as machines read it, for example `SESSION_NOT_FOUND`.
    pub fn reason(&self) -> &'static str {
        self.code.reason()
    }

    /// Reads a status that another part of Kernelbox sent. A status without our details is read by its gRPC code.
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let code = info
            .and_then(|info| ErrorCode::from_str_name(&format!("ERROR_CODE_{}", info.reason)))
            .unwrap_or_else(|| ErrorCode::from_grpc(status.code()));
        Self {
            code,
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            field: details
                .bad_request()
                .and_then(|bad| bad.field_violations.first())
                .map(|violation| violation.field.clone()),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason(), DOMAIN, error.metadata);
        if let Some(delay) = error.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Some(field) = error.field {
            details.add_bad_request_violation(field, error.message.clone());
        }
        if error.code == ErrorCode::QuotaExceeded {
            details.add_quota_failure_violation("tenant", error.message.clone());
        }
        Self::with_error_details(error.code.grpc(), error.message, details)
    }
}

impl ErrorCode {
    /// Its name without the prefix, for example `SESSION_NOT_FOUND`.
    pub fn reason(self) -> &'static str {
        self.as_str_name().trim_start_matches("ERROR_CODE_")
    }

    pub fn grpc(self) -> Code {
        self.row().0
    }

    pub fn http(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the same call may work later, without any harm in trying.
    pub fn retriable(self) -> bool {
        self.row().2
    }

    /// The table: gRPC status, HTTP status, retriable.
    fn row(self) -> (Code, u16, bool) {
        match self {
            Self::Unspecified | Self::Internal => (Code::Internal, 500, false),
            Self::InvalidArgument | Self::InvalidPath => (Code::InvalidArgument, 400, false),
            Self::NotARegularFile | Self::NotADirectory => (Code::FailedPrecondition, 409, false),
            Self::RequestIdReused | Self::AlreadyExists => (Code::AlreadyExists, 409, false),
            Self::Unauthenticated => (Code::Unauthenticated, 401, false),
            Self::PermissionDenied | Self::UrlRefused => (Code::PermissionDenied, 403, false),
            Self::SessionNotFound
            | Self::ExecutionNotFound
            | Self::ContextNotFound
            | Self::FileNotFound
            | Self::KernelNotFound
            | Self::TurnNotFound => (Code::NotFound, 404, false),
            Self::DigestMismatch => (Code::FailedPrecondition, 412, false),
            Self::OutOfRange => (Code::OutOfRange, 416, false),
            Self::InputNotRequested
            | Self::TurnRunning
            | Self::SandboxBound
            | Self::ModelUnavailable
            | Self::ToolCallNotWaiting => (Code::FailedPrecondition, 409, false),
            Self::TooLarge => (Code::ResourceExhausted, 413, false),
            Self::QuotaExceeded | Self::RateLimited | Self::NoCapacity => (Code::ResourceExhausted, 429, true),
            Self::MemoryLimit | Self::ProcessLimit => (Code::ResourceExhausted, 429, false),
            Self::DiskLimit => (Code::ResourceExhausted, 507, false),
            Self::SandboxRetired | Self::SandboxStartFailed | Self::KernelUnavailable | Self::ShuttingDown => {
                (Code::Unavailable, 503, true)
            }
            Self::SandboxLost => (Code::Unavailable, 503, false),
            Self::PackageInstallFailed => (Code::FailedPrecondition, 424, false),
            Self::UrlFailed | Self::ModelFailed => (Code::Unavailable, 502, true),
            Self::Unimplemented => (Code::Unimplemented, 501, false),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, 504, false),
            Self::Cancelled => (Code::Cancelled, 499, false),
            Self::Conflict => (Code::Aborted, 409, true),
        }
    }

    /// The nearest code for a status that has none of ours.
    fn from_grpc(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::ResourceExhausted => Self::QuotaExceeded,
            Code::OutOfRange => Self::OutOfRange,
            Code::Unimplemented => Self::Unimplemented,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Cancelled,
            Code::Aborted => Self::Conflict,
            Code::Unavailable => Self::SandboxLost,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = ErrorCode> {
        (1..).map_while(|n| ErrorCode::try_from(n).ok())
    }

    #[test]
    fn the_comments_of_the_contract_say_what_the_table_does() {
        let contract = include_str!("../kernelbox/v1/error.proto");
        assert!(all().count() >= 40);
        for code in all() {
            let before = contract.split(&format!("{} =", code.as_str_name())).next().unwrap();
            let comment: Vec<_> =
                before.lines().rev().skip(1).take_while(|l| l.trim_start().starts_with("//")).collect();
            let comment = comment.into_iter().rev().map(str::trim).collect::<Vec<_>>().join(" ").replace("// ", "");
            let grpc = format!("{:?}", code.grpc());
            let said = comment.replace('_', "").to_uppercase();
            assert!(said.contains(&grpc.to_uppercase()), "{code:?} is {grpc}, its comment: {comment}");
            assert!(comment.contains(&code.http().as_u16().to_string()), "{code:?}: {comment}");
            assert_eq!(code.retriable(), comment.contains("retriable"), "{code:?}: {comment}");
        }
    }

    #[test]
    fn an_error_survives_the_wire() {
        let mut error = Error::invalid("code", "must not be empty").retry_after(Duration::from_secs(3)).with("k", "v");
        error.field = Some("code".into());
        assert_eq!(Error::from_status(&Status::from(error.clone())), error);
    }

    #[test]
    fn every_code_survives_the_wire() {
        for code in all() {
            assert_eq!(Error::from_status(&Status::from(Error::new(code, "m"))).code, code);
        }
    }
}
