//! A prompt as OpenAI's format has it. Pure.
//!
//! <https://platform.openai.com/docs/api-reference/chat/create>
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::model::{AssistantMessage, CallResult, Message, Part, Prompt, ToolCall, object_of};

/// What a server wants otherwise than most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// It takes `stream_options`.
    pub usage: bool,
    /// It calls the limit `max_completion_tokens`.
    pub completion_tokens: bool,
    /// It wants `reasoning_effort: none` where there are tools.
    pub no_effort: bool,
}

pub(super) fn body(model: &str, prompt: &Prompt, manner: Manner) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages(model, prompt).into());
    body.insert("stream".into(), true.into());
    if manner.usage {
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    if let Some(limit) = prompt.max_output_tokens {
        let field = if manner.completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        body.insert(field.into(), limit.into());
    }
    if !prompt.tools.is_empty() {
        let tools = prompt.tools.iter().map(|tool| {
            let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
            json!({"type": "function", "function": function})
        });
        body.insert("tools".into(), tools.collect());
        if prompt.words_only {
            body.insert("tool_choice".into(), "none".into());
        }
        if manner.no_effort {
            body.insert("reasoning_effort".into(), "none".into());
        }
    }
    body.into()
}

fn messages(model: &str, prompt: &Prompt) -> Vec<Value> {
    let mut messages = Vec::new();
    if !prompt.system.is_empty() {
        messages.push(json!({"role": "system", "content": prompt.system}));
    }
    // Two messages of the user's in a row are one: the templates of many models want the roles to alternate.
    let mut pending: Vec<Part> = Vec::new();
    for message in &prompt.messages {
        match message {
            Message::User(parts) => pending.extend(parts.iter().cloned()),
            Message::Assistant(said) => {
                if let Some(said) = assistant(model, said) {
                    user(&mut messages, &mut pending);
                    messages.push(said);
                }
            }
            Message::Results(results) => {
                user(&mut messages, &mut pending);
                messages.extend(results.iter().map(result));
                pending = images(results);
            }
        }
    }
    user(&mut messages, &mut pending);
    messages
}

fn user(messages: &mut Vec<Value>, parts: &mut Vec<Part>) {
    let parts = std::mem::take(parts);
    if parts.is_empty() {
        return;
    }
    let has_image = parts.iter().any(|part| matches!(part, Part::Image { .. }));
    // Plain text is understood by every server; parts are not.
    let content: Value = if has_image { parts.iter().map(content_part).collect() } else { text_of(&parts).into() };
    messages.push(json!({"role": "user", "content": content}));
}

fn content_part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image { media_type, data } => {
            let url = format!("data:{media_type};base64,{}", STANDARD.encode(data));
            json!({"type": "image_url", "image_url": {"url": url}})
        }
    }
}

/// None: there is nothing in it.
fn assistant(model: &str, said: &AssistantMessage) -> Option<Value> {
    if said.text.is_empty() && said.calls.is_empty() {
        return None;
    }
    let kept = said.opaque.as_ref().map(|opaque| &opaque["openai"]).filter(|kept| kept["model"] == model);
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = if said.text.is_empty() { Value::Null } else { said.text.clone().into() };
    message.insert("content".into(), content);
    if let Some(fields) = kept.and_then(|kept| kept["message"].as_object()) {
        message.extend(fields.clone());
    }
    if !said.calls.is_empty() {
        let extras = kept.map(|kept| &kept["calls"]);
        message.insert("tool_calls".into(), said.calls.iter().map(|it| call(it, extras)).collect());
    }
    Some(message.into())
}

fn call(call: &ToolCall, extras: Option<&Value>) -> Value {
    // llama.cpp and vLLM read the arguments, and fail on what is no JSON object.
    let arguments = object_of(&call.arguments).to_string();
    let mut json = json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}});
    if let Some(extra) = extras.and_then(|extras| extras.get(&call.id)) {
        json["extra_content"] = extra.clone();
    }
    json
}

fn result(result: &CallResult) -> Value {
    let mut text = text_of(&result.parts);
    if text.is_empty() {
        let has_images = !result.parts.is_empty();
        text = if has_images { "(see the images that follow)" } else { "(nothing)" }.to_owned();
    }
    json!({"role": "tool", "tool_call_id": result.call, "content": text})
}

/// Images may not be in messages of tools; they follow as the user's.
fn images(results: &[CallResult]) -> Vec<Part> {
    let parts = results.iter().flat_map(|result| &result.parts);
    let images: Vec<_> = parts.filter(|part| matches!(part, Part::Image { .. })).cloned().collect();
    if images.is_empty() {
        return images;
    }
    let told = Part::Text("The images of the tools' results, in order:".to_owned());
    std::iter::once(told).chain(images).collect()
}

fn text_of(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Image { .. } => None,
    });
    texts.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests;
