//! Events of an Anthropic stream -> an answer. Pure.
//!
//! <https://platform.claude.com/docs/en/build-with-claude/streaming>
use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use crate::model::{
    Answer, AssistantMessage, Chunk, Stop, ToolCall, Usage,
    http::{Decoder, Said, Trouble},
    object_of, own_id,
};

#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The model's name: its thinking is for itself only.
    model: String,
    blocks: BTreeMap<u64, Block>,
    text: String,
    usage: Usage,
    stop: Option<Stop>,
    stopped: bool,
}

#[derive(Debug)]
struct Block {
    /// As it has to go back.
    json: Value,
    /// A tool's input, in pieces.
    input: String,
}

impl Reader {
    pub(super) fn new(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }

    fn start(&mut self, index: u64, block: &Value, chunks: &mut VecDeque<Chunk>) {
        let kind = block["type"].as_str().unwrap_or_default();
        if kind == "text" && !self.text.is_empty() && !self.text.ends_with('\n') {
            // Two blocks of text, with thinking or a call between, are two paragraphs.
            self.say("\n\n", chunks);
        }
        self.blocks.insert(index, Block { json: block.clone(), input: String::new() });
        match kind {
            "text" => self.say(block["text"].as_str().unwrap_or_default(), chunks),
            "thinking" => think(block["thinking"].as_str().unwrap_or_default(), chunks),
            _ => {}
        }
    }

    fn delta(&mut self, index: u64, delta: &Value, chunks: &mut VecDeque<Chunk>) {
        let Some(block) = self.blocks.get_mut(&index) else { return };
        let text = |field: &str| delta[field].as_str().unwrap_or_default();
        match text("type") {
            "text_delta" => {
                append(&mut block.json, "text", text("text"));
                self.say(text("text"), chunks);
            }
            "thinking_delta" => {
                append(&mut block.json, "thinking", text("thinking"));
                think(text("thinking"), chunks);
            }
            "signature_delta" => append(&mut block.json, "signature", text("signature")),
            "input_json_delta" => block.input.push_str(text("partial_json")),
            _ => {}
        }
    }

    fn say(&mut self, text: &str, chunks: &mut VecDeque<Chunk>) {
        if !text.is_empty() {
            self.text.push_str(text);
            chunks.push_back(Chunk::Text(text.to_owned()));
        }
    }

    /// Gateways say at the end what they do not know at first. What came from a cache or went into one is not in `input_tokens`.
    fn count(&mut self, json: &Value) {
        let number = |field: &str| json[field].as_u64().unwrap_or(0);
        let cached = number("cache_read_input_tokens");
        let input = number("input_tokens") + cached + number("cache_creation_input_tokens");
        if input > 0 {
            self.usage.input_tokens = input;
            self.usage.cached_input_tokens = cached;
        }
        self.usage.output_tokens = self.usage.output_tokens.max(number("output_tokens"));
    }
}

impl Decoder for Reader {
    fn event(&mut self, data: &str, chunks: &mut VecDeque<Chunk>) -> Result<bool, Trouble> {
        let json: Value = serde_json::from_str(data).map_err(|error| Trouble::Broken(format!("no JSON: {error}")))?;
        let index = json["index"].as_u64().unwrap_or_default();
        match json["type"].as_str().unwrap_or_default() {
            "error" => return Err(Trouble::Said(Said::of(&json))),
            "message_start" => self.count(&json["message"]["usage"]),
            "content_block_start" => self.start(index, &json["content_block"], chunks),
            "content_block_delta" => self.delta(index, &json["delta"], chunks),
            "message_delta" => {
                self.count(&json["usage"]);
                self.stop = json["delta"]["stop_reason"].as_str().map(|reason| match reason {
                    "max_tokens" | "model_context_window_exceeded" => Stop::Length,
                    "refusal" => Stop::Filtered,
                    _ => Stop::Done,
                });
            }
            "message_stop" => {
                self.stopped = true;
                return Ok(true);
            }
            // A ping, the end of a block, and kinds that are yet to come.
            _ if json["error"].is_null() => {}
            _ => return Err(Trouble::Said(Said::of(&json))),
        }
        Ok(false)
    }

    fn end(&mut self, _: &mut VecDeque<Chunk>) -> Result<Answer, Trouble> {
        if !self.stopped && self.stop.is_none() {
            return Err(Trouble::Broken("the answer stopped before its end".to_owned()));
        }
        let mut calls: Vec<ToolCall> = Vec::new();
        let mut blocks = Vec::new();
        for mut block in std::mem::take(&mut self.blocks).into_values() {
            if block.json["type"] == "tool_use" {
                // Some servers have the whole input in the block's start.
                if block.input.is_empty() {
                    block.input = block.json["input"].to_string();
                }
                block.json["input"] = object_of(&block.input);
                let text = |field: &str| block.json[field].as_str().unwrap_or_default().to_owned();
                let (name, id) = (text("name"), own_id(text("id"), &calls));
                // A call without a name is none, and providers refuse it.
                if name.is_empty() {
                    continue;
                }
                block.json["id"] = id.as_str().into();
                calls.push(ToolCall { id, name, arguments: block.input });
            }
            blocks.push(block.json);
        }
        let thinks =
            blocks.iter().any(|block| matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking")));
        let opaque = thinks.then(|| json!({"anthropic": {"model": self.model, "content": blocks}}));
        let message = AssistantMessage { text: std::mem::take(&mut self.text), calls, opaque };
        Ok(Answer { message, usage: self.usage, stop: self.stop.unwrap_or_default() })
    }
}

fn think(text: &str, chunks: &mut VecDeque<Chunk>) {
    if !text.is_empty() {
        chunks.push_back(Chunk::Reasoning(text.to_owned()));
    }
}

fn append(block: &mut Value, field: &str, more: &str) {
    // In place: there are many pieces, and copying all before each would be quadratic.
    match block.get_mut(field) {
        Some(Value::String(text)) => text.push_str(more),
        _ => {
            if let Some(block) = block.as_object_mut() {
                block.insert(field.to_owned(), more.into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
