//! What holds for everything that models and their servers send: for fuzzers, and for the property tests below. No part of the program.
use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use crate::{
    agent::readers,
    model::{Answer, Chunk, wires},
};

type Read = Option<(VecDeque<Chunk>, Answer)>;

/// The chat-completions format.
pub fn openai(bytes: &[u8]) {
    stream(bytes, wires::openai);
}

/// The messages format.
pub fn anthropic(bytes: &[u8]) {
    stream(bytes, wires::anthropic);
}

/// What a stream says depends on no cut between its pieces; its text is what was streamed, and each call has a name and an id of its own.
fn stream(bytes: &[u8], read: fn(Vec<Bytes>) -> Read) {
    let Some((&size, rest)) = bytes.split_first() else { return };
    let whole = read(vec![Bytes::copy_from_slice(rest)]);
    let pieces = read(rest.chunks(usize::from(size).max(1)).map(Bytes::copy_from_slice).collect());
    assert_eq!(whole.as_ref().map(said), pieces.as_ref().map(said));
    let Some((chunks, answer)) = whole else { return };
    let (text, reasoning) = streamed(&chunks);
    assert_eq!(text, answer.message.text);
    let calls = &answer.message.calls;
    assert!(calls.iter().all(|call| !call.id.is_empty() && !call.name.is_empty()), "{calls:?}");
    assert_eq!(calls.iter().map(|call| &call.id).collect::<HashSet<_>>().len(), calls.len(), "{calls:?}");
    let arguments: usize = calls.iter().map(|call| call.arguments.len()).sum();
    assert!(text.len() + reasoning.len() + arguments <= most(rest.len()));
}

/// Everything but ids, which may be made up.
fn said((chunks, answer): &(VecDeque<Chunk>, Answer)) -> impl PartialEq + std::fmt::Debug + use<> {
    let calls: Vec<_> = answer.message.calls.iter().map(|call| (call.name.clone(), call.arguments.clone())).collect();
    (streamed(chunks), calls, answer.usage, answer.stop)
}

fn streamed(chunks: &VecDeque<Chunk>) -> (String, String) {
    let (mut text, mut reasoning) = (String::new(), String::new());
    for chunk in chunks {
        match chunk {
            Chunk::Text(piece) => text.push_str(piece),
            Chunk::Reasoning(piece) => reasoning.push_str(piece),
            Chunk::Answer(_) => {}
        }
    }
    (text, reasoning)
}

/// What may become of so many bytes: JSON writes some in more.
fn most(bytes: usize) -> usize {
    bytes * 8 + 64
}

/// An answer that is cleaned is about as long as before, and the same where it speaks of no files.
pub fn answer(text: &str) {
    let clean = readers::clean(text, &["plot.png".to_owned(), "a/x.csv".to_owned(), "b/x.csv".to_owned()]);
    assert!(clean.len() <= most(text.len()));
    if !text.contains(['[', '<']) && !text.contains("sandbox:") {
        assert_eq!(clean, text.trim_end());
    }
}

/// An answer is taken for calls only of tools that there are.
pub fn calls(text: &str) {
    let calls = readers::calls(text, |name| name == "python");
    for (at, call) in calls.iter().enumerate() {
        assert_eq!((call.name.as_str(), call.id.as_str()), ("python", format!("call_{}", at + 1).as_str()));
    }
    assert!(calls.iter().map(|call| call.arguments.len()).sum::<usize>() <= most(text.len()));
}

/// The code of a call is never empty, nor much more than was written.
pub fn arguments(text: &str) {
    if let Ok(code) = readers::code(text) {
        assert!(!code.trim().is_empty() && code.len() <= most(text.len()));
    }
    let _ = readers::object(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Events with the formats' own words, in any order and in odd places.
    fn stream(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
        let event = prop::sample::select(words);
        (1..40_u8, prop::collection::vec(event, 0..12)).prop_map(|(size, events)| {
            let events = events.iter().map(|event| format!("data: {event}\n\n"));
            [vec![size], events.collect::<String>().into_bytes()].concat()
        })
    }

    const OPENAI: &[&str] = &[
        r#"{"choices":[{"index":0,"delta":{"content":"Hé<think>"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"<think>why</think> so"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"python","arguments":"{"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"x","arguments":{"n":1e9}}}]}}]}"#,
        r#"{"choices":[{"delta":{"function_call":{"name":"python","arguments":"1"}}}]}"#,
        r#"{"choices":[{"message":{"content":"whole","tool_calls":[{"function":{"name":"y"}}]}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
        r#"{"error":{"message":"no"}}"#,
        "[DONE]",
        "{}",
    ];

    const ANTHROPIC: &[&str] = &[
        r#"{"type":"message_start","message":{"usage":{"input_tokens":3}}}"#,
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"é"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#,
        r#"{"type":"content_block_start","index":1,"content_block":{"type":"thinking","thinking":7}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"a","name":"python","input":{}}}"#,
        r#"{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"a","name":"x"}}"#,
        r#"{"type":"content_block_start","index":4,"content_block":{"type":"tool_use"}}"#,
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"n\":"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":4}}"#,
        r#"{"type":"error","error":{"message":"no"}}"#,
        r#"{"type":"message_stop"}"#,
        "{}",
    ];

    const CALLS: &[&str] = &[
        r#"{"name": "python", "arguments": {"code": "1"}}"#,
        r#"{"name": "unknown", "arguments": {}}"#,
        r#"{"function": {"name": "python", "arguments": "{}"}}"#,
        "```json\n",
        "```",
        "<tool_call>",
        "</tool_call>",
        "[",
        ",",
        "]",
        "\n",
        "words",
    ];

    proptest! {
        #[test]
        fn every_openai_stream_keeps_its_promises(bytes in stream(OPENAI)) {
            openai(&bytes);
        }

        #[test]
        fn every_anthropic_stream_keeps_its_promises(bytes in stream(ANTHROPIC)) {
            anthropic(&bytes);
        }

        #[test]
        fn no_bytes_break_a_stream(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            openai(&bytes);
            anthropic(&bytes);
        }

        #[test]
        fn every_answer_of_calls_keeps_its_promises(pieces in prop::collection::vec(prop::sample::select(CALLS), 0..5)) {
            calls(&pieces.concat());
        }

        #[test]
        fn every_text_keeps_its_promises(
            text in "(\\{|\\}|\\[|\\]\\(|\\)|!|<|>|\"name\":|\"python\"|\"arguments\":|,|`{3}|<tool_call>|sandbox:/|\n|\\PC){0,40}"
        ) {
            answer(&text);
            calls(&text);
            arguments(&text);
        }
    }
}
