//! Prompts, as servers of the OpenAI format want them.
use bytes::Bytes;

use super::*;
use crate::model::ToolSpec;

const MANNER: Manner = Manner { usage: true, completion_tokens: true, no_effort: false };

fn image() -> Part {
    Part::Image { media_type: "image/png".into(), data: Bytes::from_static(b"png") }
}

fn text(text: &str) -> Part {
    Part::Text(text.into())
}

fn call(id: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "python".into(), arguments: arguments.into() }
}

fn said(text: &str, calls: Vec<ToolCall>) -> Message {
    Message::Assistant(AssistantMessage { text: text.into(), calls, opaque: None })
}

fn result(call: &str, parts: Vec<Part>) -> CallResult {
    CallResult { call: call.into(), parts, failed: false }
}

fn messages_of(messages: Vec<Message>) -> Value {
    body("m", &Prompt { messages, ..Prompt::default() }, MANNER)["messages"].clone()
}

#[test]
fn a_prompt_has_its_parts_in_their_places_and_no_temperature() {
    let tools =
        vec![ToolSpec { name: "python".into(), description: "runs".into(), parameters: json!({"type": "object"}) }];
    let prompt = Prompt {
        system: "be good".into(),
        messages: vec![Message::User(vec![text("hi")])],
        tools,
        max_output_tokens: Some(100),
        ..Prompt::default()
    };
    let all = body("m", &prompt, MANNER);
    assert_eq!(all["messages"], json!([{"role": "system", "content": "be good"}, {"role": "user", "content": "hi"}]));
    assert_eq!(all["tools"][0]["function"]["parameters"], json!({"type": "object"}));
    assert_eq!((&all["stream_options"], &all["max_completion_tokens"]), (&json!({"include_usage": true}), &json!(100)));
    let unset = ["temperature", "reasoning_effort", "tool_choice"];
    assert!(unset.iter().all(|field| all.get(field).is_none()));
    let all = body("m", &Prompt { words_only: true, ..prompt.clone() }, MANNER);
    assert_eq!((all["tools"].as_array().unwrap().len(), &all["tool_choice"]), (1, &json!("none")));
    let other = body("m", &prompt, Manner { usage: false, completion_tokens: false, no_effort: true });
    assert_eq!((&other["max_tokens"], &other["reasoning_effort"]), (&json!(100), &json!("none")));
    assert!(other.get("stream_options").is_none());
}

#[test]
fn images_of_results_follow_as_the_users_before_the_user_says_more() {
    let messages = messages_of(vec![
        Message::User(vec![text("plot")]),
        said("", vec![call("a", "{}"), call("b", "{}")]),
        Message::Results(vec![result("a", vec![text("done"), image()]), result("b", vec![image()])]),
        Message::User(vec![text("and now?")]),
    ]);
    let roles: Vec<_> = messages.as_array().unwrap().iter().map(|it| it["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool", "user"]);
    assert_eq!(messages[1]["content"], Value::Null);
    assert_eq!(messages[2], json!({"role": "tool", "tool_call_id": "a", "content": "done"}));
    assert_eq!(messages[3]["content"], "(see the images that follow)");
    let parts = messages[4]["content"].as_array().unwrap();
    assert_eq!(parts.len(), 4);
    assert_eq!(parts[1]["image_url"]["url"], "data:image/png;base64,cG5n");
    assert_eq!(parts[3]["text"], "and now?");
}

#[test]
fn messages_of_one_role_are_one_and_empty_ones_none() {
    let messages = messages_of(vec![Message::User(vec![text("a")]), said("", vec![]), Message::User(vec![text("b")])]);
    assert_eq!(messages, json!([{"role": "user", "content": "a\n\nb"}]));
}

#[test]
fn arguments_that_are_no_object_become_one() {
    let messages = messages_of(vec![said("", vec![call("a", "print(1)"), call("b", ""), call("c", "{\"x\": 1}")])]);
    let arguments = |n: usize| messages[0]["tool_calls"][n]["function"]["arguments"].as_str().unwrap().to_owned();
    assert_eq!(arguments(0), "{\"arguments\":\"print(1)\"}");
    assert_eq!((arguments(1).as_str(), arguments(2).as_str()), ("{}", "{\"x\":1}"));
}

#[test]
fn only_the_model_that_gave_it_gets_its_reasoning_back() {
    let opaque =
        json!({"openai": {"model": "m", "message": {"reasoning_content": "hm"}, "calls": {"a": {"google": 1}}}});
    let message = AssistantMessage { text: "x".into(), calls: vec![call("a", "{}")], opaque: Some(opaque) };
    let prompt = Prompt { messages: vec![Message::Assistant(message)], ..Prompt::default() };
    let own = &body("m", &prompt, MANNER)["messages"][0];
    assert_eq!(
        (&own["reasoning_content"], &own["tool_calls"][0]["extra_content"]),
        (&json!("hm"), &json!({"google": 1}))
    );
    let other = body("n", &prompt, MANNER)["messages"][0].clone();
    assert!(other.get("reasoning_content").is_none() && other["tool_calls"][0].get("extra_content").is_none());
}
