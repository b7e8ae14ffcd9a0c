//! From status, headers and body to a [`Failure`]. Pure: no waiting, no words of its own.
//!
//! Every provider has its own error bodies; <https://platform.openai.com/docs/guides/error-codes>,
//! <https://platform.claude.com/docs/en/api/errors>, <https://openrouter.ai/docs/api/reference/errors-and-debugging>,
//! <https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter>.
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::Failure;

/// What a prompt that is too long is called.
const TOO_LONG: [&str; 12] = [
    "context_length_exceeded",
    "exceed_context_size",
    "context length",
    "context size",
    "context window",
    "context limit",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "maximum number of tokens",
    "too large for model",
    "request_too_large",
];
const FILTERED: [&str; 4] = ["content_filter", "responsibleaipolicyviolation", "content_policy", "moderation"];
const SPENT: [&str; 4] = ["insufficient_quota", "billing", "credit balance", "insufficient credits"];
const OVERLOADED: [&str; 5] = ["overloaded", "rate_limit", "rate limit", "too many requests", "capacity"];
const DENIED: [&str; 4] = ["authentication_error", "permission_error", "invalid_api_key", "unauthorized"];
const REFUSED: [&str; 4] = ["invalid_request_error", "not_found_error", "badrequesterror", "model_not_found"];
/// Words about how a server was started: to ask again changes nothing, whatever the status.
const MISCONFIGURED: [&str; 3] = ["--enable-auto-tool-choice", "--tool-call-parser", "--jinja"];

/// A server's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::model) struct Said {
    pub message: String,
    /// Its kinds and codes, as they came.
    pub kind: String,
    /// A status in place of a code.
    pub status: Option<u16>,
}

impl Said {
    /// Reads an error's body.
    pub(in crate::model) fn read(body: &str) -> Self {
        match serde_json::from_str::<Value>(body) {
            Ok(json) => Self::of(&json),
            // A proxy's page says nothing that the status does not.
            Err(_) if body.trim_start().starts_with('<') => Self::default(),
            Err(_) => Self { message: body.trim().to_owned(), ..Self::default() },
        }
    }

    /// Reads an error from the JSON that holds it.
    pub(in crate::model) fn of(json: &Value) -> Self {
        let json = json.get(0).unwrap_or(json);
        let error = match &json["error"] {
            Value::Null => json,
            Value::String(message) => return Self { message: message.clone(), ..Self::default() },
            error => error,
        };
        let mut said = Self::default();
        let mut kinds = Vec::new();
        for part in [&error["type"], &error["code"], &error["status"], &error["innererror"]["code"], &error["param"]] {
            match part {
                Value::String(kind) => kinds.push(kind.as_str()),
                Value::Number(code) => said.status = code.as_u64().and_then(|code| u16::try_from(code).ok()),
                _ => {}
            }
        }
        said.kind = kinds.join(" ");
        said.message = message_of(error);
        // OpenRouter has the provider's own words inside: as text, which may be JSON.
        if let Some(raw) = error["metadata"]["raw"].as_str() {
            let inner = Self::read(raw);
            said.message = format!("{}: {}", said.message, inner.message);
        }
        said
    }

    pub(in crate::model) fn all(&self) -> String {
        format!("{} {}", self.kind, self.message)
    }
}

fn message_of(error: &Value) -> String {
    if let Some(message) = error["message"].as_str() {
        return message.to_owned();
    }
    match &error["detail"] {
        Value::String(detail) => detail.clone(),
        // FastAPI: what is wrong, and where.
        Value::Array(details) => {
            let detail = |it: &Value| {
                let place: Vec<_> = it["loc"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                format!("{}: {}", place.join("."), it["msg"].as_str().unwrap_or_default())
            };
            details.iter().map(detail).collect::<Vec<_>>().join("; ")
        }
        _ => String::new(),
    }
}

/// What it comes to. Without a status, for an error in an answer that had begun.
pub(super) fn judge(status: Option<u16>, said: &Said) -> Failure {
    let words = said.all().to_lowercase();
    let has = |any: &[&str]| any.iter().any(|part| words.contains(part));
    let status = status.or(said.status.filter(|code| (400..600).contains(code)));
    if has(&MISCONFIGURED) {
        return Failure::Refused;
    }
    match status {
        // OpenAI says 429 for spent credit, too, which does not pass.
        Some(429 | 529) if has(&SPENT) => Failure::Refused,
        Some(429 | 529) => Failure::Overloaded,
        // Groq says 413 where the tokens of a minute are used up.
        Some(413) if has(&["rate_limit"]) => Failure::Overloaded,
        Some(413) => Failure::TooLong,
        _ if has(&TOO_LONG) => Failure::TooLong,
        Some(400 | 403) | None if has(&FILTERED) => Failure::Filtered,
        Some(401 | 403) => Failure::Denied,
        Some(408 | 409 | 425) => Failure::Server,
        Some(501) => Failure::Refused,
        Some(500..) => Failure::Server,
        Some(_) => Failure::Refused,
        None if has(&SPENT) => Failure::Refused,
        None if has(&OVERLOADED) => Failure::Overloaded,
        None if has(&DENIED) => Failure::Denied,
        None if has(&REFUSED) => Failure::Refused,
        None => Failure::Server,
    }
}

/// `Retry-After` in seconds or as a date, or OpenAI's `retry-after-ms`.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |name: &str| text(name).and_then(|text| text.parse::<f64>().ok());
    if let Some(millis) = number("retry-after-ms") {
        return Duration::try_from_secs_f64(millis / 1000.0).ok();
    }
    if let Some(seconds) = number(RETRY_AFTER.as_str()) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text(RETRY_AFTER.as_str())?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests;
