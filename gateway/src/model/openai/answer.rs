//! Events of an OpenAI stream -> an answer. Pure. Also reads the whole answers of servers that do not stream.
//!
//! <https://platform.openai.com/docs/api-reference/chat-streaming>
use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{
    calls::Calls,
    think::{Piece, Think},
};
use crate::model::{
    Answer, AssistantMessage, Chunk, Stop, Usage,
    http::{Decoder, Said, Trouble},
};

#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The model's name, for what only it may be given back.
    model: String,
    /// Anything of an answer came.
    begun: bool,
    text: String,
    think: Think,
    calls: Calls,
    /// What came as `reasoning_content`: DeepSeek and others want it back.
    reasoning_content: String,
    /// OpenRouter's `reasoning_details`, likewise.
    details: Vec<Value>,
    usage: Usage,
    stop: Option<Stop>,
    /// `[DONE]`
    done: bool,
}

impl Reader {
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }

    fn text(&mut self, text: &str, chunks: &mut VecDeque<Chunk>) {
        let mut pieces = Vec::new();
        self.think.push(text, &mut pieces);
        self.add(pieces, chunks);
    }

    fn add(&mut self, pieces: Vec<Piece>, chunks: &mut VecDeque<Chunk>) {
        chunks.extend(pieces.into_iter().map(|piece| match piece {
            Piece::Text(text) => {
                self.text.push_str(&text);
                Chunk::Text(text)
            }
            Piece::Reasoning(text) => Chunk::Reasoning(text),
        }));
    }

    fn delta(&mut self, delta: &Value, chunks: &mut VecDeque<Chunk>) {
        let reasoning = |field: &str| delta[field].as_str().filter(|text| !text.is_empty());
        if let Some(text) = reasoning("reasoning_content") {
            self.reasoning_content.push_str(text);
            chunks.push_back(Chunk::Reasoning(text.to_owned()));
        } else if let Some(text) = reasoning("reasoning") {
            chunks.push_back(Chunk::Reasoning(text.to_owned()));
        }
        for detail in delta["reasoning_details"].as_array().into_iter().flatten() {
            add_detail(&mut self.details, detail);
        }
        match &delta["content"] {
            Value::String(text) => self.text(text, chunks),
            // Mistral's reasoning models have parts.
            Value::Array(parts) => {
                for part in parts {
                    if let Some(text) = part["text"].as_str() {
                        self.text(text, chunks);
                    }
                    for thought in part["thinking"].as_array().into_iter().flatten() {
                        chunks.extend(thought["text"].as_str().map(|text| Chunk::Reasoning(text.to_owned())));
                    }
                }
            }
            _ => {}
        }
        if let Some(refusal) = delta["refusal"].as_str() {
            self.text(refusal, chunks);
        }
        for fragment in delta["tool_calls"].as_array().into_iter().flatten() {
            self.calls.push(fragment);
        }
    }

    /// What has to go back with the message.
    fn opaque(&mut self, extras: serde_json::Map<String, Value>, has_calls: bool) -> Option<Value> {
        let mut fields = serde_json::Map::new();
        if !self.details.is_empty() {
            fields.insert("reasoning_details".into(), std::mem::take(&mut self.details).into());
        } else if has_calls && !self.reasoning_content.is_empty() {
            fields.insert("reasoning_content".into(), std::mem::take(&mut self.reasoning_content).into());
        }
        let is_any = !fields.is_empty() || !extras.is_empty();
        is_any.then(|| json!({"openai": {"model": self.model, "message": fields, "calls": extras}}))
    }
}

impl Decoder for Reader {
    fn event(&mut self, data: &str, chunks: &mut VecDeque<Chunk>) -> Result<bool, Trouble> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(true);
        }
        let json: Value = serde_json::from_str(data).map_err(|error| Trouble::Broken(format!("no JSON: {error}")))?;
        if !json["error"].is_null() || json["object"] == "error" {
            return Err(Trouble::Said(Said::of(&json)));
        }
        if json["usage"].is_object() {
            self.usage = usage(&json["usage"]);
        }
        // Azure's first event has no choice, and the one with the usage has none either.
        let choice = &json["choices"][0];
        if choice.is_null() {
            return Ok(false);
        }
        if !choice["error"].is_null() {
            return Err(Trouble::Said(Said::of(choice)));
        }
        self.begun = true;
        let delta = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
        self.delta(delta, chunks);
        match choice["finish_reason"].as_str() {
            None | Some("") => {}
            Some("error") => return Err(Trouble::Said(Said::default())),
            Some("length" | "max_tokens" | "model_length") => self.stop = Some(Stop::Length),
            Some("content_filter") => self.stop = Some(Stop::Filtered),
            Some(_) => self.stop = Some(Stop::Done),
        }
        Ok(false)
    }

    fn end(&mut self, chunks: &mut VecDeque<Chunk>) -> Result<Answer, Trouble> {
        if !self.begun {
            return Err(Trouble::Broken("there is no answer in what it sent".to_owned()));
        }
        if self.stop.is_none() && !self.done {
            return Err(Trouble::Broken("the answer stopped before its end".to_owned()));
        }
        let mut pieces = Vec::new();
        self.think.end(&mut pieces);
        self.add(pieces, chunks);
        let (calls, extras) = std::mem::take(&mut self.calls).finish();
        let opaque = self.opaque(extras, !calls.is_empty());
        let message = AssistantMessage { text: std::mem::take(&mut self.text), calls, opaque };
        Ok(Answer { message, usage: self.usage, stop: self.stop.unwrap_or_default() })
    }
}

/// Pieces of one reasoning become one again, with whatever came last of its other fields.
fn add_detail(details: &mut Vec<Value>, detail: &Value) {
    if let Some(last) =
        details.last_mut().filter(|last| last["type"] == detail["type"] && last["index"] == detail["index"])
        && let Some(fields) = detail.as_object()
    {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            match (name.as_str(), last[name].as_str(), value.as_str()) {
                ("text" | "summary" | "data", Some(before), Some(more)) => {
                    last[name] = format!("{before}{more}").into();
                }
                _ => last[name] = value.clone(),
            }
        }
        return;
    }
    details.push(detail.clone());
}

fn usage(json: &Value) -> Usage {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let cached = number(&json["prompt_tokens_details"]["cached_tokens"]);
    Usage {
        input_tokens: number(&json["prompt_tokens"]),
        output_tokens: number(&json["completion_tokens"]),
        // DeepSeek has a name of its own.
        cached_input_tokens: cached.max(number(&json["prompt_cache_hit_tokens"])),
        reasoning_tokens: number(&json["completion_tokens_details"]["reasoning_tokens"]),
    }
}

#[cfg(test)]
mod tests;
