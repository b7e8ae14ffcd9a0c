//! What servers of the OpenAI format stream, as answers.
use proptest::prelude::*;

use super::*;
use crate::model::{Failure, ToolCall};

/// Every chunk that the events give, the answer last.
fn read(events: &[Value]) -> Result<(Vec<Chunk>, Answer), Trouble> {
    let data: Vec<_> = events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]).collect();
    read_data(data.iter().map(String::as_str))
}

fn read_data<'a>(data: impl IntoIterator<Item = &'a str>) -> Result<(Vec<Chunk>, Answer), Trouble> {
    let (mut reader, mut chunks) = (Reader::new("m"), VecDeque::new());
    for data in data {
        if reader.event(data, &mut chunks)? {
            break;
        }
    }
    let answer = reader.end(&mut chunks)?;
    Ok((chunks.into(), answer))
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn text(chunks: &[Chunk]) -> String {
    chunks.iter().filter_map(|it| if let Chunk::Text(text) = it { Some(text.as_str()) } else { None }).collect()
}

fn reasoning(chunks: &[Chunk]) -> String {
    chunks.iter().filter_map(|it| if let Chunk::Reasoning(text) = it { Some(text.as_str()) } else { None }).collect()
}

#[test]
fn what_is_said_on_the_way_is_what_the_answer_holds() {
    let (chunks, answer) = read(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"content": "Hel"})),
        delta(json!({"content": "lo"})),
        finish("stop"),
        json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}}}),
    ])
    .unwrap();
    assert_eq!((text(&chunks).as_str(), answer.message.text.as_str()), ("Hello", "Hello"));
    assert_eq!(answer.usage, Usage { input_tokens: 9, output_tokens: 2, cached_input_tokens: 4, reasoning_tokens: 1 });
    assert_eq!((answer.stop, answer.message.opaque), (Stop::Done, None));
}

#[test]
fn reasoning_comes_in_three_ways() {
    for deltas in [
        [json!({"reasoning_content": "h"}), json!({"reasoning_content": "m"}), json!({"content": "hi"})],
        [json!({"reasoning": "h"}), json!({"reasoning": "m", "reasoning_content": null}), json!({"content": "hi"})],
        [json!({"content": "<thi"}), json!({"content": "nk>hm</th"}), json!({"content": "ink>\nhi"})],
        [
            json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
            json!({"content": [{"type": "text", "text": "h"}]}),
            json!({"content": "i"}),
        ],
    ] {
        let events: Vec<_> = deltas.iter().cloned().map(delta).chain([finish("stop")]).collect();
        let (chunks, answer) = read(&events).unwrap();
        assert_eq!((reasoning(&chunks).as_str(), text(&chunks).as_str()), ("hm", "hi"), "{deltas:?}");
        assert_eq!(answer.message.text, "hi");
    }
}

#[test]
fn what_has_to_go_back_is_kept_with_the_message() {
    let call = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]});
    let (_, answer) =
        read(&[delta(json!({"reasoning_content": "hm"})), delta(call.clone()), finish("tool_calls")]).unwrap();
    assert_eq!(answer.message.opaque.unwrap()["openai"]["message"], json!({"reasoning_content": "hm"}));

    let detail = |text: &str| json!({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": text, "signature": null}]});
    let signed = json!({"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]});
    let (_, answer) =
        read(&[delta(detail("h")), delta(detail("m")), delta(signed), delta(call), finish("stop")]).unwrap();
    let kept = json!({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "hm", "signature": "s"}]});
    assert_eq!(answer.message.opaque.unwrap()["openai"]["message"], kept);

    let google = json!({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"google": {"thought_signature": "x"}}}]});
    let (_, answer) = read(&[delta(google), finish("stop")]).unwrap();
    assert_eq!(answer.message.opaque.unwrap()["openai"]["calls"]["a"]["google"]["thought_signature"], "x");
}

#[test]
fn every_end_has_its_name() {
    for (reason, stop) in [
        ("stop", Stop::Done),
        ("tool_calls", Stop::Done),
        ("function_call", Stop::Done),
        ("length", Stop::Length),
        ("content_filter", Stop::Filtered),
        ("eos", Stop::Done),
    ] {
        assert_eq!(read(&[finish(reason)]).unwrap().1.stop, stop, "{reason}");
    }
    // and: an end without a reason is one, as is a reason without an end
    assert_eq!(read(&[delta(json!({"content": "x"}))]).unwrap().1.stop, Stop::Done);
    let last = finish("stop").to_string();
    assert_eq!(read_data([last.as_str()]).unwrap().1.stop, Stop::Done);
}

#[test]
fn an_answer_that_is_cut_off_or_none_is_broken() {
    let cut = delta(json!({"content": "x"})).to_string();
    for data in
        [vec![cut.as_str()], vec![], vec!["[DONE]"], vec!["{\"choices\":[]}", "[DONE]"], vec!["{\"choices\": [oops"]]
    {
        assert!(matches!(read_data(data.clone()), Err(Trouble::Broken(_))), "{data:?}");
    }
}

#[test]
fn an_error_inside_the_stream_is_the_servers_own_words() {
    for event in [
        json!({"error": {"code": 502, "message": "lost"}}),
        json!({"error": {"code": 502, "message": "lost"}, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "lost"}}]}),
        json!({"object": "error", "message": "lost", "code": 502}),
        json!({"error": "lost"}),
    ] {
        match read(std::slice::from_ref(&event)) {
            Err(Trouble::Said(said)) => assert_eq!(said.message, "lost"),
            other => panic!("{event}: {other:?}"),
        }
    }
    assert!(Failure::Server.is_passing());
}

#[test]
fn a_whole_answer_is_read_like_a_streamed_one() {
    let whole = json!({
        "object": "chat.completion", "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
        ]}}],
    });
    let (_, answer) = read_data([whole.to_string().as_str()]).unwrap();
    assert_eq!(answer.message.calls, [ToolCall { id: "a".into(), name: "f".into(), arguments: "{\"x\":1}".into() }]);
    assert_eq!(answer.usage.output_tokens, 2);
}

proptest! {
    #[test]
    fn no_event_makes_it_panic(events in prop::collection::vec(json_like(), 0..6)) {
        let _ = read(&events);
    }
}

/// JSON that has the format's names in odd places.
fn json_like() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "choices",
        "delta",
        "message",
        "content",
        "tool_calls",
        "index",
        "id",
        "function",
        "name",
        "arguments",
        "usage",
        "finish_reason",
        "error",
        "reasoning_details",
        "reasoning",
        "type",
        "text",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[a-z<>]{0,9}".prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}
