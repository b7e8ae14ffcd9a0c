//! Answers in Anthropic's format for messages.
use axum::body::Bytes;
use serde_json::{Value, json};

use super::reply::{Answer, StopReason, pieces};

/// The signature of all reasoning that this server makes up.
const SIGNATURE: &str = "c2lnbmVkIGJ5IHRoZSBzY3JpcHRlZCBtb2RlbA==";

pub(super) fn error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
}

/// The whole answer at once.
pub(super) fn whole(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if !answer.reasoning.is_empty() {
        content.push(json!({"type": "thinking", "thinking": answer.reasoning, "signature": SIGNATURE}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    for call in &answer.calls {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input}));
    }
    let (input, output) = answer.usage;
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "scripted", "content": content,
        "stop_reason": stop_reason(answer), "stop_sequence": null,
        "usage": {"input_tokens": input, "output_tokens": output},
    })
}

/// The answer as the events of a stream.
pub(super) fn events(answer: &Answer) -> Vec<Bytes> {
    let (input, output) = answer.usage;
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "scripted", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": 1}});
    let mut events = vec![json!({"type": "message_start", "message": message}), json!({"type": "ping"})];
    let mut blocks = Blocks { events: &mut events, index: 0, piece: answer.piece };
    if !answer.reasoning.is_empty() {
        let start = json!({"type": "thinking", "thinking": "", "signature": ""});
        let signature = json!({"type": "signature_delta", "signature": SIGNATURE});
        blocks.add(
            start,
            &answer.reasoning,
            |piece| json!({"type": "thinking_delta", "thinking": piece}),
            Some(signature),
        );
    }
    if !answer.text.is_empty() {
        blocks.add(
            json!({"type": "text", "text": ""}),
            &answer.text,
            |piece| json!({"type": "text_delta", "text": piece}),
            None,
        );
    }
    for call in &answer.calls {
        let start = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
        let delta = |piece| json!({"type": "input_json_delta", "partial_json": piece});
        blocks.add(start, &call.arguments, delta, None);
    }
    if let Some((kind, message)) = &answer.error {
        events.push(error(kind, message));
    } else {
        let delta = json!({"stop_reason": stop_reason(answer), "stop_sequence": null});
        events.push(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}));
        events.push(json!({"type": "message_stop"}));
    }
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()).into()).collect()
}

struct Blocks<'a> {
    events: &'a mut Vec<Value>,
    index: usize,
    piece: usize,
}

impl Blocks<'_> {
    fn add(&mut self, start: Value, text: &str, delta: impl Fn(String) -> Value, last: Option<Value>) {
        let index = self.index;
        self.events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        for delta in pieces(text, self.piece).into_iter().map(delta).chain(last) {
            self.events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        self.events.push(json!({"type": "content_block_stop", "index": index}));
        self.index += 1;
    }
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.stop() {
        StopReason::Stop => "end_turn",
        StopReason::ToolUse => "tool_use",
        StopReason::Length => "max_tokens",
        StopReason::Filter => "refusal",
    }
}
