//! What the server says, and how it fails to.
use axum::response::Response;
use serde_json::{Value, json};

use super::{
    anthropic, body,
    body::{Answering, Delivery},
    openai,
    seen::{Seen, Wire},
};

/// One reply. Without faults it comes as the request wants it: streamed or whole, in the request's format.
#[derive(Debug, Clone)]
pub struct Reply {
    kind: Kind,
    delivery: Delivery,
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Kind {
    Answer(Answer),
    Error {
        status: u16,
        kind: String,
        message: String,
    },
    Raw {
        status: u16,
        content_type: String,
        body: Vec<u8>,
    },
    /// The connection ends without a word.
    HangUp,
    /// Not even headers.
    Silent,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    Stop,
    ToolUse,
    Length,
    Filter,
}

/// The parts of an answer, in the order in which they are sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub reasoning: String,
    pub text: String,
    pub calls: Vec<Call>,
    /// Input and output tokens.
    pub usage: (u64, u64),
    pub stop: Option<StopReason>,
    /// Characters of a piece of text or arguments.
    pub piece: usize,
    /// Ends the stream with an error event: its kind and message.
    pub error: Option<(String, String)>,
}

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub id: Option<String>,
    pub name: String,
    pub arguments: String,
}

impl Answer {
    pub(super) fn stop(&self) -> StopReason {
        self.stop.unwrap_or(if self.calls.is_empty() { StopReason::Stop } else { StopReason::ToolUse })
    }
}

impl Reply {
    fn of(kind: Kind) -> Self {
        Self { kind, delivery: Delivery::default(), headers: Vec::new() }
    }

    /// No text, no calls: an answer all the same.
    pub fn empty() -> Self {
        Self::of(Kind::Answer(Answer { usage: (10, 5), piece: 8, ..Answer::default() }))
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::empty().and_text(text)
    }

    /// Calls a tool.
    pub fn call(name: &str, arguments: Value) -> Self {
        Self::empty().and_call(name, arguments)
    }

    /// Runs code with the `python` tool.
    pub fn python(code: &str) -> Self {
        Self::call("python", json!({"code": code}))
    }

    /// An error status, with the format's own body.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        Self::of(Kind::Error { status, kind: kind.to_owned(), message: message.to_owned() })
    }

    /// 429, with `Retry-After` as it is given: seconds or an HTTP date.
    pub fn too_many(retry_after: &str) -> Self {
        Self::error(429, "rate_limit_error", "too many requests").header("retry-after", retry_after)
    }

    /// 529, which Anthropic has for overload.
    pub fn overloaded() -> Self {
        Self::error(529, "overloaded_error", "Overloaded")
    }

    /// These bytes as they are: for what a provider really sent.
    pub fn raw(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::of(Kind::Raw { status, content_type: content_type.to_owned(), body: body.into() })
    }

    /// A stream that was written down.
    pub fn events(body: impl Into<Vec<u8>>) -> Self {
        Self::raw(200, "text/event-stream", body)
    }

    /// A stream with an event that is no JSON.
    pub fn bad_json() -> Self {
        Self::events("data: {\"choices\": [oops\n\n")
    }

    /// A text of this many bytes.
    pub fn huge(bytes: usize) -> Self {
        Self::text("lorem ipsum dolor. ".repeat(bytes / 19 + 1)).pieces_of(16 << 10)
    }

    /// The connection ends without an answer.
    pub fn hang_up() -> Self {
        Self::of(Kind::HangUp)
    }

    /// Nothing ever comes.
    pub fn silent() -> Self {
        Self::of(Kind::Silent)
    }

    fn answer(&mut self) -> &mut Answer {
        match &mut self.kind {
            Kind::Answer(answer) => answer,
            kind => panic!("{kind:?} is no answer"),
        }
    }

    #[must_use]
    pub fn and_text(mut self, text: impl Into<String>) -> Self {
        self.answer().text.push_str(&text.into());
        self
    }

    #[must_use]
    pub fn reasoning(mut self, text: impl Into<String>) -> Self {
        self.answer().reasoning.push_str(&text.into());
        self
    }

    /// One more call, beside those that are there.
    #[must_use]
    pub fn and_call(self, name: &str, arguments: Value) -> Self {
        self.and_raw_call(name, &arguments.to_string())
    }

    /// A call whose arguments need not be JSON.
    #[must_use]
    pub fn and_raw_call(mut self, name: &str, arguments: &str) -> Self {
        self.answer().calls.push(Call { id: None, name: name.to_owned(), arguments: arguments.to_owned() });
        self
    }

    /// The id of the last call.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.answer().calls.last_mut().expect("a call").id = Some(id.to_owned());
        self
    }

    #[must_use]
    pub fn usage(mut self, input: u64, output: u64) -> Self {
        self.answer().usage = (input, output);
        self
    }

    #[must_use]
    pub fn stop(mut self, reason: StopReason) -> Self {
        self.answer().stop = Some(reason);
        self
    }

    /// Text and arguments come in pieces of so many characters.
    #[must_use]
    pub fn pieces_of(mut self, characters: usize) -> Self {
        self.answer().piece = characters.max(1);
        self
    }

    /// After its content, the stream says an error instead of an end.
    #[must_use]
    pub fn then_error(mut self, kind: &str, message: &str) -> Self {
        self.answer().error = Some((kind.to_owned(), message.to_owned()));
        self
    }

    /// A header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Every byte comes by itself.
    #[must_use]
    pub fn by_the_byte(mut self) -> Self {
        self.delivery.by_the_byte = true;
        self
    }

    /// Nothing comes after so many bytes, and the connection stays.
    #[must_use]
    pub fn stall_after(mut self, bytes: usize) -> Self {
        self.delivery.stall_after = Some(bytes);
        self
    }

    /// The connection is cut after so many bytes.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.delivery.cut_after = Some(bytes);
        self
    }

    /// The stream ends in order after so many bytes: no end marker, no error.
    #[must_use]
    pub fn end_after(mut self, bytes: usize) -> Self {
        self.delivery.end_after = Some(bytes);
        self
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self.kind, Kind::Silent)
    }

    /// None: there is no response.
    pub(super) fn respond(
        &self,
        seen: &Seen,
        next_id: &mut dyn FnMut() -> usize,
        answering: Answering,
    ) -> Option<Response> {
        let anthropic = seen.wire == Wire::Anthropic;
        match &self.kind {
            Kind::Answer(answer) => {
                let mut answer = answer.clone();
                for call in &mut answer.calls {
                    call.id.get_or_insert_with(|| format!("call_{}", next_id()));
                }
                if !seen.streams() {
                    let whole = if anthropic { anthropic::whole(&answer) } else { openai::whole(&answer, seen) };
                    return Some(body::json(200, &self.headers, &whole));
                }
                let events = if anthropic { anthropic::events(&answer) } else { openai::events(&answer, seen) };
                Some(self.delivery.respond(200, "text/event-stream", &self.headers, events, answering))
            }
            Kind::Error { status, kind, message } => {
                let error = if anthropic {
                    anthropic::error(kind, message)
                } else {
                    json!({"error": {"message": message, "type": kind, "param": null, "code": kind}})
                };
                Some(body::json(*status, &self.headers, &error))
            }
            Kind::Raw { status, content_type, body } => {
                Some(self.delivery.respond(*status, content_type, &self.headers, vec![body.clone().into()], answering))
            }
            Kind::HangUp | Kind::Silent => None,
        }
    }
}

/// Pieces of so many characters.
pub(super) fn pieces(text: &str, characters: usize) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    letters.chunks(characters.max(1)).map(|piece| piece.iter().collect()).collect()
}
