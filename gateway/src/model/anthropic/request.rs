//! A prompt as Anthropic's format has it. Pure.
//!
//! <https://platform.claude.com/docs/en/api/messages/create>
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::model::{AssistantMessage, CallResult, Message, Part, Prompt, ToolCall, object_of};

/// What a server or a model wants otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// It is asked to think, and to show a summary of it.
    pub thinking: bool,
    /// Earlier thinking goes back to it.
    pub thoughts: bool,
}

pub(super) fn body(model: &str, prompt: &Prompt, manner: Manner) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("max_tokens".into(), prompt.max_output_tokens.unwrap_or_else(|| output_limit(model)).into());
    body.insert("stream".into(), true.into());
    if manner.thinking {
        body.insert("thinking".into(), json!({"type": "adaptive", "display": "summarized"}));
    }
    let mut tools: Vec<_> = prompt
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters}))
        .collect();
    let names = called(&prompt.messages);
    if tools.is_empty() && !names.is_empty() {
        // Calls in the messages want their tools declared, though none may be called now.
        tools = names.iter().map(|name| json!({"name": name, "input_schema": {"type": "object"}})).collect();
    }
    if !tools.is_empty() && (prompt.words_only || prompt.tools.is_empty()) {
        body.insert("tool_choice".into(), json!({"type": "none"}));
    }
    let mut messages = messages(model, prompt, manner);
    // What is stable ends with the system prompt: the tools come before it. The conversation so far is stable, too.
    if prompt.system.is_empty() {
        tools.last_mut().map(cached);
    } else {
        let mut system = json!({"type": "text", "text": prompt.system});
        cached(&mut system);
        body.insert("system".into(), json!([system]));
    }
    let last = messages.last_mut().filter(|message| message["role"] == "user");
    last.and_then(|message| message["content"].as_array_mut()?.last_mut()).map(cached);
    if !tools.is_empty() {
        body.insert("tools".into(), tools.into());
    }
    body.insert("messages".into(), messages.into());
    body.into()
}

/// <https://platform.claude.com/docs/en/build-with-claude/prompt-caching>
fn cached(block: &mut Value) {
    block["cache_control"] = json!({"type": "ephemeral"});
}

/// Tokens of an answer, thinking included, where the prompt does not say.
fn output_limit(model: &str) -> u32 {
    match model {
        _ if model.starts_with("claude-3-5") || !model.starts_with("claude-") => 8_192,
        _ if model.starts_with("claude-3") => 4_096,
        _ => 32_000,
    }
}

fn called(messages: &[Message]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for message in messages {
        let Message::Assistant(said) = message else { continue };
        for call in &said.calls {
            if !names.contains(&call.name.as_str()) {
                names.push(&call.name);
            }
        }
    }
    names
}

fn messages(model: &str, prompt: &Prompt, manner: Manner) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    for message in &prompt.messages {
        let (role, content) = match message {
            Message::User(parts) => ("user", parts.iter().filter_map(block).collect()),
            // The results come first: nothing of the user's is before them, as the calls are just before.
            Message::Results(results) => ("user", results.iter().map(result).collect()),
            Message::Assistant(said) => ("assistant", assistant(model, said, manner)),
        };
        if content.is_empty() {
            continue;
        }
        // Messages of the same role in a row are one.
        match messages.last_mut().filter(|last| last["role"] == role).and_then(|last| last["content"].as_array_mut()) {
            Some(last) => last.extend(content),
            None => messages.push(json!({"role": role, "content": content})),
        }
    }
    messages
}

fn assistant(model: &str, said: &AssistantMessage, manner: Manner) -> Vec<Value> {
    let kept = said.opaque.as_ref().map(|opaque| &opaque["anthropic"]).filter(|kept| kept["model"] == model);
    let kept = kept.and_then(|kept| kept["content"].as_array()).filter(|_| manner.thoughts);
    if let Some(content) = kept.filter(|content| has_calls(content, &said.calls)) {
        return content.iter().filter(|block| !is_empty_text(block)).cloned().collect();
    }
    let text =
        Some(&said.text).filter(|text| !text.trim().is_empty()).map(|text| json!({"type": "text", "text": text}));
    text.into_iter().chain(said.calls.iter().map(call)).collect()
}

/// Whether the blocks make just these calls: whoever keeps the message may have changed them.
fn has_calls(content: &[Value], calls: &[ToolCall]) -> bool {
    let made = content.iter().filter(|block| block["type"] == "tool_use").map(|block| &block["id"]);
    made.eq(calls.iter().map(|call| call.id.as_str()))
}

fn is_empty_text(block: &Value) -> bool {
    block["type"] == "text" && block["text"].as_str().is_none_or(|text| text.trim().is_empty())
}

fn call(call: &ToolCall) -> Value {
    json!({"type": "tool_use", "id": id(&call.id), "name": call.name, "input": object_of(&call.arguments)})
}

fn result(result: &CallResult) -> Value {
    let content: Vec<_> = result.parts.iter().filter_map(block).collect();
    let mut json = json!({"type": "tool_result", "tool_use_id": id(&result.call)});
    if !content.is_empty() {
        json["content"] = content.into();
    }
    if result.failed {
        json["is_error"] = true.into();
    }
    json
}

/// Ids of other providers have letters that are not allowed here.
fn id(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' }).collect()
}

/// None: a text without letters, which is not allowed.
fn block(part: &Part) -> Option<Value> {
    match part {
        Part::Text(text) if text.trim().is_empty() => None,
        Part::Text(text) => Some(json!({"type": "text", "text": text})),
        Part::Image { media_type, data } => {
            let source = json!({"type": "base64", "media_type": media_type, "data": STANDARD.encode(data)});
            Some(json!({"type": "image", "source": source}))
        }
    }
}

#[cfg(test)]
mod tests;
