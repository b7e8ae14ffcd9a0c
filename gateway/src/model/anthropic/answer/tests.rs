//! What Anthropic streams, as answers.
use proptest::prelude::*;

use super::*;

fn read(events: &[Value]) -> Result<(Vec<Chunk>, Answer), Trouble> {
    let (mut reader, mut chunks) = (Reader::new("m"), VecDeque::new());
    for event in events {
        if reader.event(&event.to_string(), &mut chunks)? {
            break;
        }
    }
    let answer = reader.end(&mut chunks)?;
    Ok((chunks.into(), answer))
}

fn start(index: u64, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u64, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn end(reason: &str) -> [Value; 2] {
    let usage = json!({"output_tokens": 7});
    [
        json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}),
        json!({"type": "message_stop"}),
    ]
}

/// <https://platform.claude.com/docs/en/build-with-claude/streaming>: thinking, text and a call, with pings between.
fn thinking_and_calling() -> Vec<Value> {
    let usage =
        json!({"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 1});
    let mut events = vec![
        json!({"type": "message_start", "message": {"usage": usage}}),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, json!({"type": "thinking_delta", "thinking": "h"})),
        json!({"type": "ping"}),
        delta(0, json!({"type": "thinking_delta", "thinking": "m"})),
        delta(0, json!({"type": "signature_delta", "signature": "sig"})),
        json!({"type": "content_block_stop", "index": 0}),
        start(1, json!({"type": "redacted_thinking", "data": "secret"})),
        start(2, json!({"type": "text", "text": ""})),
        delta(2, json!({"type": "text_delta", "text": "Look."})),
        start(3, json!({"type": "tool_use", "id": "toolu_1", "name": "python", "input": {}})),
        delta(3, json!({"type": "input_json_delta", "partial_json": ""})),
        delta(3, json!({"type": "input_json_delta", "partial_json": "{\"code\": \"1"})),
        delta(3, json!({"type": "input_json_delta", "partial_json": "\"}"})),
        json!({"type": "something_new", "index": 3}),
    ];
    events.extend(end("tool_use"));
    events
}

#[test]
fn blocks_become_text_reasoning_and_calls() {
    let (chunks, answer) = read(&thinking_and_calling()).unwrap();
    let said = [Chunk::Reasoning("h".into()), Chunk::Reasoning("m".into()), Chunk::Text("Look.".into())];
    assert_eq!(chunks, said);
    assert_eq!(answer.message.text, "Look.");
    let call = ToolCall { id: "toolu_1".into(), name: "python".into(), arguments: "{\"code\": \"1\"}".into() };
    assert_eq!(answer.message.calls, [call]);
    assert_eq!(answer.usage, Usage { input_tokens: 18, output_tokens: 7, cached_input_tokens: 5, reasoning_tokens: 0 });
    assert_eq!(answer.stop, Stop::Done);
}

#[test]
fn signed_thinking_is_kept_as_it_came_in_its_place() {
    let opaque = read(&thinking_and_calling()).unwrap().1.message.opaque.unwrap();
    assert_eq!(
        opaque["anthropic"]["content"],
        json!([
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "secret"},
            {"type": "text", "text": "Look."},
            {"type": "tool_use", "id": "toolu_1", "name": "python", "input": {"code": "1"}},
        ])
    );
    let mut plain = vec![start(0, json!({"type": "text", "text": "hi"}))];
    plain.extend(end("end_turn"));
    assert_eq!(read(&plain).unwrap().1.message.opaque, None);
}

#[test]
fn a_limit_in_the_middle_of_a_call_is_told_and_the_call_is_cut() {
    let mut events = vec![
        start(0, json!({"type": "tool_use", "id": "a", "name": "python", "input": {}})),
        delta(0, json!({"type": "input_json_delta", "partial_json": "{\"code\": \"impo"})),
    ];
    events.extend(end("max_tokens"));
    let answer = read(&events).unwrap().1;
    assert_eq!((answer.stop, answer.message.calls[0].arguments.as_str()), (Stop::Length, "{\"code\": \"impo"));
}

#[test]
fn every_end_has_its_name() {
    // https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
    for (reason, stop) in [
        ("end_turn", Stop::Done),
        ("tool_use", Stop::Done),
        ("stop_sequence", Stop::Done),
        ("max_tokens", Stop::Length),
        ("model_context_window_exceeded", Stop::Length),
        ("refusal", Stop::Filtered),
    ] {
        assert_eq!(read(&end(reason)).unwrap().1.stop, stop, "{reason}");
    }
}

#[test]
fn overload_in_the_middle_of_a_stream_is_said_and_a_stream_without_end_is_broken() {
    let mut events = vec![start(0, json!({"type": "text", "text": "hi"}))];
    assert!(matches!(read(&events), Err(Trouble::Broken(_))));
    events.push(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
    match read(&events) {
        Err(Trouble::Said(said)) => {
            assert_eq!((said.kind.as_str(), said.message.as_str()), ("overloaded_error", "Overloaded"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_texts_are_two_paragraphs_and_an_input_may_come_at_once() {
    let mut events = vec![
        start(0, json!({"type": "text", "text": "One."})),
        start(1, json!({"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}})),
        start(2, json!({"type": "text", "text": "Two."})),
    ];
    events.extend(end("tool_use"));
    let (chunks, answer) = read(&events).unwrap();
    let said: String =
        chunks.iter().filter_map(|it| if let Chunk::Text(text) = it { Some(text.as_str()) } else { None }).collect();
    assert_eq!((said.as_str(), answer.message.text.as_str()), ("One.\n\nTwo.", "One.\n\nTwo."));
    assert_eq!(answer.message.calls[0].arguments, "{\"x\":1}");
}

#[test]
fn gateways_may_count_at_the_end() {
    // OpenRouter's messages API: nothing at first, everything in message_delta.
    let usage = json!({"input_tokens": 9, "output_tokens": 4});
    let answer = read(&[
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 0, "output_tokens": 0}}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}),
        json!({"type": "message_stop"}),
    ]);
    assert_eq!(answer.unwrap().1.usage, Usage { input_tokens: 9, output_tokens: 4, ..Usage::default() });
}

proptest! {
    #[test]
    fn no_order_of_events_makes_it_panic(order in prop::collection::vec(0usize..17, 0..30)) {
        let events = thinking_and_calling();
        let _ = read(&order.into_iter().map(|at| events[at].clone()).collect::<Vec<_>>());
    }
}
