//! Prompts, as Anthropic wants them.
use bytes::Bytes;

use super::*;
use crate::model::ToolSpec;

const MANNER: Manner = Manner { thinking: false, thoughts: true };

fn image() -> Part {
    Part::Image { media_type: "image/png".into(), data: Bytes::from_static(b"png") }
}

fn text(text: &str) -> Part {
    Part::Text(text.into())
}

fn call(id: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "python".into(), arguments: arguments.into() }
}

fn tool() -> ToolSpec {
    ToolSpec { name: "python".into(), description: "runs".into(), parameters: json!({"type": "object"}) }
}

#[test]
fn results_come_first_in_the_users_message_with_their_images() {
    let prompt = Prompt {
        messages: vec![
            Message::User(vec![text("plot")]),
            Message::Assistant(AssistantMessage {
                text: " ".into(),
                calls: vec![call("fn:1", "{}"), call("b", "x")],
                opaque: None,
            }),
            Message::Results(vec![
                CallResult { call: "fn:1".into(), parts: vec![text("done"), image()], failed: false },
                CallResult { call: "b".into(), parts: vec![text("")], failed: true },
            ]),
            Message::User(vec![text("and now?")]),
        ],
        tools: vec![tool()],
        ..Prompt::default()
    };
    let all = body("claude-sonnet-5-5", &prompt, MANNER);
    let ephemeral = json!({"type": "ephemeral"});
    assert_eq!(
        all["messages"],
        json!([
            {"role": "user", "content": [{"type": "text", "text": "plot"}]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "fn_1", "name": "python", "input": {}},
                {"type": "tool_use", "id": "b", "name": "python", "input": {"arguments": "x"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "fn_1", "content": [
                    {"type": "text", "text": "done"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "cG5n"}},
                ]},
                {"type": "tool_result", "tool_use_id": "b", "is_error": true},
                {"type": "text", "text": "and now?", "cache_control": ephemeral},
            ]},
        ])
    );
    assert_eq!(all["tools"][0]["cache_control"], ephemeral, "without a system prompt the tools are what is stable");
    assert!(["temperature", "thinking", "tool_choice"].iter().all(|field| all.get(field).is_none()));
    let all = body("m", &Prompt { words_only: true, ..prompt }, MANNER);
    assert_eq!((all["tools"].as_array().unwrap().len(), &all["tool_choice"]), (1, &json!({"type": "none"})));
}

#[test]
fn the_system_prompt_ends_what_is_stable() {
    let prompt = Prompt { system: "be good".into(), tools: vec![tool()], ..Prompt::default() };
    let all = body("claude-sonnet-5-5", &prompt, Manner { thinking: true, ..MANNER });
    assert_eq!(all["system"], json!([{"type": "text", "text": "be good", "cache_control": {"type": "ephemeral"}}]));
    assert!(all["tools"][0].get("cache_control").is_none());
    assert_eq!(all["tools"][0]["input_schema"], json!({"type": "object"}));
    assert_eq!(all["thinking"], json!({"type": "adaptive", "display": "summarized"}));
}

#[test]
fn an_answer_has_a_limit_in_any_case() {
    let limit = |model: &str, tokens| {
        body(model, &Prompt { max_output_tokens: tokens, ..Prompt::default() }, MANNER)["max_tokens"].clone()
    };
    assert_eq!(limit("claude-sonnet-5-5", Some(10)), 10);
    assert_eq!(
        (limit("claude-sonnet-5-5", None), limit("claude-3-haiku-20240307", None)),
        (json!(32_000), json!(4_096))
    );
    assert_eq!(limit("deepseek-chat", None), 8_192);
}

#[test]
fn thinking_goes_back_unchanged_to_the_model_that_thought_it() {
    let content = json!([
        {"type": "thinking", "thinking": "", "signature": "sig"},
        {"type": "text", "text": "Look."},
        {"type": "tool_use", "id": "a", "name": "python", "input": {"code": "1"}},
    ]);
    let opaque = json!({"anthropic": {"model": "m", "content": content}});
    let said =
        AssistantMessage { text: "Look.".into(), calls: vec![call("a", "{\"code\":\"1\"}")], opaque: Some(opaque) };
    let sent = |model: &str, said: &AssistantMessage, manner| {
        let prompt = Prompt { messages: vec![Message::Assistant(said.clone())], ..Prompt::default() };
        body(model, &prompt, manner)["messages"][0]["content"].clone()
    };
    assert_eq!(sent("m", &said, MANNER), content);
    let without = json!([content[1], content[2]]);
    assert_eq!(sent("n", &said, MANNER), without, "another model");
    assert_eq!(sent("m", &said, Manner { thoughts: false, ..MANNER }), without, "on request");
    let changed = AssistantMessage { calls: vec![], ..said };
    assert_eq!(sent("m", &changed, MANNER), json!([content[1]]), "a message that was changed");
}

#[test]
fn calls_without_tools_get_their_tools_declared_and_forbidden() {
    let said = AssistantMessage { calls: vec![call("a", "{}"), call("b", "{}")], ..AssistantMessage::default() };
    let prompt = Prompt { messages: vec![Message::Assistant(said)], ..Prompt::default() };
    let all = body("m", &prompt, MANNER);
    assert_eq!((all["tools"].as_array().unwrap().len(), &all["tool_choice"]), (1, &json!({"type": "none"})));
}
