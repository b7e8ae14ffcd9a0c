//! Answers in OpenAI's format for chat completions, Azure's dialect and the `function_call` of before there were tools included.
use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::{
    reply::{Answer, Call, StopReason, pieces},
    seen::{Seen, Wire},
};

/// The whole answer at once.
pub(super) fn whole(answer: &Answer, seen: &Seen) -> Value {
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    let content = if answer.text.is_empty() { Value::Null } else { answer.text.clone().into() };
    message.insert("content".into(), content);
    if !answer.reasoning.is_empty() {
        message.insert("reasoning_content".into(), answer.reasoning.clone().into());
    }
    match answer.calls.first() {
        Some(call) if seen.is_legacy() => {
            message.insert("function_call".into(), json!({"name": call.name, "arguments": call.arguments}));
        }
        Some(_) => {
            let calls = answer.calls.iter().map(|call| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            });
            message.insert("tool_calls".into(), calls.collect());
        }
        None => {}
    }
    let choice = json!({"index": 0, "message": message, "finish_reason": finish_reason(answer, seen)});
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model(seen),
        "choices": [choice], "usage": usage(answer),
    })
}

/// The answer as the events of a stream.
pub(super) fn events(answer: &Answer, seen: &Seen) -> Vec<Bytes> {
    let mut deltas = vec![json!({"role": "assistant", "content": ""})];
    for piece in pieces(&answer.reasoning, answer.piece) {
        deltas.push(json!({"reasoning_content": piece}));
    }
    for piece in pieces(&answer.text, answer.piece) {
        deltas.push(json!({"content": piece}));
    }
    for (index, call) in answer.calls.iter().enumerate() {
        deltas.extend(call_deltas(index, call, answer.piece, seen.is_legacy()));
    }
    let mut events = Vec::new();
    if seen.wire == Wire::Azure {
        events.push(json!({"id": "", "object": "", "model": "", "created": 0, "choices": [],
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}));
    }
    let chunk = |choices: Value| json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model(seen), "choices": choices});
    events.extend(deltas.into_iter().map(|delta| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]))));
    if let Some((kind, message)) = &answer.error {
        events.push(json!({"error": {"message": message, "type": kind, "code": kind}}));
        return events.iter().map(event).collect();
    }
    events.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": finish_reason(answer, seen)}])));
    if seen.body["stream_options"]["include_usage"] == true {
        let mut last = chunk(json!([]));
        last["usage"] = usage(answer);
        events.push(last);
    }
    let mut events: Vec<_> = events.iter().map(event).collect();
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    events
}

/// The name and the id come with the first fragment only.
fn call_deltas(index: usize, call: &Call, piece: usize, legacy: bool) -> Vec<Value> {
    let first = json!({"name": call.name, "arguments": ""});
    let rest = pieces(&call.arguments, piece).into_iter().map(|arguments| json!({"arguments": arguments}));
    if legacy {
        return std::iter::once(first).chain(rest).map(|function| json!({"function_call": function})).collect();
    }
    let first = json!({"index": index, "id": call.id, "type": "function", "function": first});
    let rest = rest.map(|function| json!({"index": index, "function": function}));
    std::iter::once(first).chain(rest).map(|fragment| json!({"tool_calls": [fragment]})).collect()
}

fn event(json: &Value) -> Bytes {
    format!("data: {json}\n\n").into()
}

fn model(seen: &Seen) -> Value {
    seen.body.get("model").cloned().unwrap_or_else(|| "scripted".into())
}

fn finish_reason(answer: &Answer, seen: &Seen) -> &'static str {
    match answer.stop() {
        StopReason::Stop => "stop",
        StopReason::ToolUse if seen.is_legacy() => "function_call",
        StopReason::ToolUse => "tool_calls",
        StopReason::Length => "length",
        StopReason::Filter => "content_filter",
    }
}

fn usage(answer: &Answer) -> Value {
    let (input, output) = answer.usage;
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}
