//! What a turn may be asked: checks with errors that name the field. Pure.
use std::time::Duration;

use kernelbox_proto::{
    Error,
    v1::{ErrorCode, StartTurnRequest, TurnOptions},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{agent::Task, limits::TurnLimits};

const MAX_MESSAGE: usize = 256 << 10;
const MAX_ATTACHMENTS: usize = 256;
const MAX_TOOL_CONTENT: usize = 512 << 10;

pub(super) fn digest(request: &StartTurnRequest) -> String {
    hex::encode(Sha256::digest(request.encode_to_vec()))
}

/// The task, within the server's limits: a turn may ask for less, never for more.
pub(super) fn task(request: StartTurnRequest, limits: &TurnLimits) -> Result<Task, Error> {
    let StartTurnRequest { message, attachments, options, .. } = request;
    if message.trim().is_empty() {
        return Err(Error::invalid("message", "must say what is asked"));
    }
    if message.len() > MAX_MESSAGE {
        let problem =
            format!("message: must have at most {MAX_MESSAGE} bytes; upload the rest as a file and attach it");
        return Err(Error::new(ErrorCode::TooLarge, problem));
    }
    if attachments.len() > MAX_ATTACHMENTS {
        return Err(Error::invalid("attachments", format!("must be at most {MAX_ATTACHMENTS}")));
    }
    let TurnOptions { max_iterations, timeout, max_tokens, execution_timeout, .. } = options.unwrap_or_default();
    let own = TurnLimits {
        iterations: lower("max_iterations", max_iterations, limits.iterations, "--max-turn-iterations")?,
        tokens: lower("max_tokens", max_tokens, limits.tokens, "--max-turn-tokens")?,
        timeout: match duration("timeout", timeout)? {
            Some(own) if own > limits.timeout => {
                let most = humantime::format_duration(limits.timeout);
                return Err(Error::invalid(
                    "options.timeout",
                    format!("must be at most {most} (limit --turn-timeout)"),
                ));
            }
            Some(own) => own,
            None => limits.timeout,
        },
        output_bytes: limits.output_bytes,
    };
    Ok(Task { message, attachments, limits: own, execution_timeout: duration("execution_timeout", execution_timeout)? })
}

/// What the caller asks for, if it is at most the server's limit.
fn lower<N: TryInto<M> + Copy, M: Copy + PartialOrd + Default + std::fmt::Display>(
    field: &str,
    asked: Option<N>,
    limit: M,
    flag: &str,
) -> Result<M, Error> {
    let Some(asked) = asked else { return Ok(limit) };
    match asked.try_into() {
        Ok(asked) if asked > M::default() && asked <= limit => Ok(asked),
        _ => Err(Error::invalid(&format!("options.{field}"), format!("must be 1 to {limit} (limit {flag})"))),
    }
}

fn duration(field: &str, wire: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    let Some(wire) = wire else { return Ok(None) };
    match Duration::try_from(wire) {
        Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
        _ => Err(Error::invalid(&format!("options.{field}"), "must be more than 0")),
    }
}

pub(super) fn sequence(after: i64) -> Result<i64, Error> {
    if after < 0 { Err(Error::invalid("after_sequence", "must be 0 or more")) } else { Ok(after) }
}

pub(super) fn page_token(token: &str) -> Result<Option<i64>, Error> {
    match token {
        "" => Ok(None),
        token => match token.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::invalid("page_token", "must be next_page_token of the page before")),
        },
    }
}

pub(super) fn tool_content(content: &str) -> Result<(), Error> {
    if content.len() > MAX_TOOL_CONTENT {
        let problem =
            format!("content: must have at most {MAX_TOOL_CONTENT} bytes; upload the rest as a file and name it");
        return Err(Error::new(ErrorCode::TooLarge, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: TurnOptions) -> StartTurnRequest {
        StartTurnRequest { message: "hello".into(), options: Some(options), ..Default::default() }
    }

    #[test]
    fn a_turn_may_ask_for_less_and_not_for_more() {
        let limits = TurnLimits { iterations: 10, tokens: 100, timeout: Duration::from_secs(60), output_bytes: 5 };
        let less = TurnOptions { max_iterations: Some(3), max_tokens: Some(100), ..Default::default() };
        let task_of = |options| task(request(options), &limits);
        let own = task_of(less).unwrap().limits;
        assert_eq!((own.iterations, own.tokens, own.timeout), (3, 100, limits.timeout));
        for (more, field) in [
            (TurnOptions { max_iterations: Some(11), ..Default::default() }, "max_iterations"),
            (TurnOptions { max_iterations: Some(0), ..Default::default() }, "max_iterations"),
            (TurnOptions { max_tokens: Some(-1), ..Default::default() }, "max_tokens"),
            (TurnOptions { timeout: Duration::from_secs(61).try_into().ok(), ..Default::default() }, "timeout"),
            (TurnOptions { timeout: Some(prost_types::Duration::default()), ..Default::default() }, "timeout"),
        ] {
            let error = task_of(more).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, Some(format!("options.{field}"))));
        }
    }

    #[test]
    fn a_message_says_something_and_is_not_endless() {
        let of = |message: &str| {
            let request = StartTurnRequest { message: message.into(), ..Default::default() };
            task(request, &TurnLimits::default()).map(|_| ()).map_err(|error| error.code)
        };
        assert_eq!(of("hi"), Ok(()));
        assert_eq!(of(" \n"), Err(ErrorCode::InvalidArgument));
        assert_eq!(of(&"x".repeat(MAX_MESSAGE + 1)), Err(ErrorCode::TooLarge));
    }
}
