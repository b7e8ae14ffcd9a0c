//! What went wrong with an MCP server, in words that hold neither its headers nor its whole address.
use std::{collections::HashMap, error::Error as StdError, fmt};

use http::{HeaderName, HeaderValue};
use kernelbox_proto::{
    Error,
    v1::{ErrorCode, McpServer},
};
use rmcp::{
    service::{ClientInitializeError, ServiceError},
    transport::streamable_http_client::StreamableHttpError,
};

use crate::{
    agent::text::one_line,
    fetch::{PRIVATE, is_refused, what},
};

/// Words of the server's own.
const MAX_WORDS: usize = 500;

/// A server's name, and what must not be said of it.
#[derive(Clone)]
pub(super) struct Failure {
    server: String,
    secrets: Vec<String>,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Failure {
    pub(super) fn new(server: &McpServer) -> Self {
        // Of "Bearer x" a server may repeat x alone. Short words would be found everywhere.
        let words = server.headers.values().flat_map(|value| std::iter::once(value.as_str()).chain(value.split(' ')));
        let secrets = words.filter(|word| word.len() > 6).map(str::to_owned).collect();
        Self { server: server.name.clone(), secrets }
    }

    /// For the turn.
    pub(super) fn error(&self, code: ErrorCode, words: &str) -> Error {
        Error::new(code, format!("the MCP server {:?} cannot be used: {}", self.server, self.clean(words)))
    }

    pub(super) fn connecting(&self, error: &ClientInitializeError) -> Error {
        let (code, words) = match error {
            ClientInitializeError::TransportError { error, .. } => transport(error.error.as_ref()),
            ClientInitializeError::JsonRpcError(error) => (ErrorCode::UrlFailed, format!("it says: {}", error.message)),
            ClientInitializeError::ConnectionClosed(_) => {
                (ErrorCode::UrlFailed, "it does not speak MCP over streamable HTTP".to_owned())
            }
            other => (ErrorCode::UrlFailed, other.to_string()),
        };
        self.error(code, &words)
    }

    pub(super) fn listing(&self, error: &ServiceError) -> Error {
        let (code, words) = service(error);
        self.error(code, &format!("its tools cannot be listed: {words}"))
    }

    /// For the model.
    pub(super) fn calling(&self, error: &ServiceError) -> String {
        format!("The call failed: {}", self.clean(&service(error).1))
    }

    fn clean(&self, words: &str) -> String {
        let clean = self.secrets.iter().fold(words.to_owned(), |words, secret| words.replace(secret, "***"));
        one_line(&clean, MAX_WORDS)
    }
}

/// The server's headers, for sending.
pub(super) fn headers(server: &McpServer) -> Result<HashMap<HeaderName, HeaderValue>, Error> {
    let header = |(name, value): (&String, &String)| {
        let name = HeaderName::try_from(name).ok()?;
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    let headers: Option<_> = server.headers.iter().map(header).collect();
    headers.ok_or_else(|| Failure::new(server).error(ErrorCode::InvalidArgument, "a header of it is not valid"))
}

fn service(error: &ServiceError) -> (ErrorCode, String) {
    match error {
        ServiceError::McpError(error) => (ErrorCode::UrlFailed, error.message.to_string()),
        ServiceError::TransportSend(error) => transport(error.error.as_ref()),
        ServiceError::TransportClosed => (ErrorCode::UrlFailed, "the connection was closed".to_owned()),
        other => (ErrorCode::UrlFailed, other.to_string()),
    }
}

fn transport(error: &(dyn StdError + 'static)) -> (ErrorCode, String) {
    let mut chain = std::iter::successors(Some(error), |cause| (*cause).source());
    let found = chain.find_map(|cause| cause.downcast_ref::<StreamableHttpError<reqwest::Error>>());
    let words = match found {
        Some(StreamableHttpError::Client(error)) if is_refused(error) => {
            return (ErrorCode::UrlRefused, PRIVATE.to_owned());
        }
        Some(StreamableHttpError::Client(error)) => format!("it {}", what(error)),
        Some(StreamableHttpError::HttpStatus(error)) => format!("it answers HTTP {}", error.status),
        Some(StreamableHttpError::AuthRequired(_) | StreamableHttpError::InsufficientScope(_)) => {
            "it refuses the credentials in the headers".to_owned()
        }
        Some(StreamableHttpError::UnexpectedServerResponse(words)) => format!("it answers {words}"),
        Some(other) => other.to_string(),
        None => "the connection broke off".to_owned(),
    };
    (ErrorCode::UrlFailed, words)
}
