//! Anthropic's format.
use kernelbox_gateway::model::{CallResult, Endpoint, Failure, Message, Part, Prompt, Provider, Stop};
use kernelbox_tests::model_server::{ModelServer, Reply, StopReason};
use serde_json::{Value, json};

use super::support::{KEY, ask, ask_with, calls, endpoint, fail, model, models, question, user};

fn claude(server: &ModelServer) -> std::sync::Arc<dyn kernelbox_gateway::model::ChatModel> {
    models(Endpoint { model: Some("claude-sonnet-5-5".into()), ..endpoint(server, Provider::Anthropic) })
        .get("")
        .unwrap()
}

/// The conversation after the model's first answer and its results.
async fn after_a_call(model: &std::sync::Arc<dyn kernelbox_gateway::model::ChatModel>) -> Prompt {
    let message = ask(model).await.unwrap().answer.message;
    let result = CallResult { call: message.calls[0].id.clone(), parts: vec![Part::Text("391".into())], failed: false };
    Prompt { messages: vec![user("x"), Message::Assistant(message), Message::Results(vec![result])], ..question() }
}

#[tokio::test]
async fn text_reasoning_parallel_calls_and_usage_come_through_in_any_pieces() {
    // https://platform.claude.com/docs/en/build-with-claude/streaming
    let reply = || {
        Reply::text("Let me see. ä€😀")
            .reasoning("hm")
            .and_call("python", json!({"code": "print(17*23)"}))
            .and_call("lookup", json!({"name": "Ä"}))
            .usage(120, 30)
            .pieces_of(3)
    };
    let server = ModelServer::start([reply(), reply().by_the_byte()]).await;
    let model = model(&server, Provider::Anthropic);
    for _ in 0..2 {
        let heard = ask(&model).await.unwrap();
        assert_eq!((heard.text.as_str(), heard.reasoning.as_str()), ("Let me see. ä€😀", "hm"));
        assert_eq!(calls(&heard), ["python {\"code\":\"print(17*23)\"}", "lookup {\"name\":\"Ä\"}"]);
        assert_eq!((heard.answer.usage.input_tokens, heard.answer.usage.output_tokens), (120, 30));
    }
    let seen = &server.requests()[0];
    assert_eq!(seen.path, "/v1/messages");
    assert_eq!((seen.header("x-api-key"), seen.header("anthropic-version")), (Some(KEY), Some("2023-06-01")));
    assert_eq!((seen.system().as_str(), seen.header("authorization")), ("be good", None));
    assert!(seen.body["max_tokens"].is_u64() && seen.body.get("temperature").is_none());
}

#[tokio::test]
async fn signed_thinking_goes_back_unchanged() {
    // https://platform.claude.com/docs/en/build-with-claude/thinking
    let server = ModelServer::start([Reply::python("print(17*23)").reasoning("hm"), Reply::text("391")]).await;
    let model = claude(&server);
    let prompt = after_a_call(&model).await;
    // It was stored in between.
    let stored: Vec<Message> = serde_json::from_str(&serde_json::to_string(&prompt.messages).unwrap()).unwrap();
    ask_with(&model, &Prompt { messages: stored, ..prompt }).await.unwrap();
    let seen = &server.requests()[1];
    assert_eq!(seen.body["thinking"], json!({"type": "adaptive", "display": "summarized"}));
    let content = &seen.messages()[1]["content"];
    assert_eq!((&content[0]["type"], &content[0]["thinking"]), (&json!("thinking"), &json!("hm")));
    assert!(content[0]["signature"].as_str().is_some_and(|signature| signature.len() > 10), "{content}");
    assert_eq!(content[1]["input"], json!({"code": "print(17*23)"}));
    assert_eq!(seen.messages()[2]["content"][0]["type"], "tool_result");
}

#[tokio::test]
async fn thinking_that_is_bound_to_another_history_is_left_out() {
    // https://platform.claude.com/docs/en/build-with-claude/preserved-thinking/fix-bound-to-a-different-conversation
    let message = "messages.1.content.0: Invalid `signature` in `thinking` block. The block is bound to a different conversation.";
    let server = ModelServer::start([
        Reply::python("1").reasoning("hm"),
        Reply::error(400, "invalid_request_error", message),
        Reply::text("391"),
    ])
    .await;
    let model = claude(&server);
    let prompt = after_a_call(&model).await;
    assert_eq!(ask_with(&model, &prompt).await.unwrap().text, "391");
    let kinds = |n: usize| -> Vec<Value> {
        let content = server.requests()[n].messages()[1]["content"].clone();
        content.as_array().unwrap().iter().map(|block| block["type"].clone()).collect()
    };
    assert_eq!((kinds(1), kinds(2)), (vec![json!("thinking"), json!("tool_use")], vec![json!("tool_use")]));
}

#[tokio::test]
async fn a_server_that_knows_no_adaptive_thinking_is_not_asked_for_it_again() {
    // https://platform.claude.com/docs/en/build-with-claude/thinking: older models, and other servers of this format.
    let message = "adaptive thinking is not supported on this model";
    let server =
        ModelServer::start([Reply::error(400, "invalid_request_error", message), Reply::text("a"), Reply::text("b")])
            .await;
    let model = claude(&server);
    assert_eq!((ask(&model).await.unwrap().text, ask(&model).await.unwrap().text), ("a".into(), "b".into()));
    let sent: Vec<_> = server.requests().iter().map(|seen| seen.body.get("thinking").is_some()).collect();
    assert_eq!(sent, [true, false, false]);
}

#[tokio::test]
async fn overload_comes_as_a_status_and_inside_a_200() {
    // https://platform.claude.com/docs/en/api/errors
    let server = ModelServer::start([
        Reply::overloaded().header("retry-after", "4"),
        Reply::text("Hel").then_error("overloaded_error", "Overloaded"),
        Reply::text("Hel").then_error("api_error", "Internal server error"),
    ])
    .await;
    let model = model(&server, Provider::Anthropic);
    let error = fail(&model).await;
    assert_eq!((error.kind, error.retry_after.map(|it| it.as_secs())), (Failure::Overloaded, Some(4)));
    assert_eq!(fail(&model).await.kind, Failure::Overloaded);
    assert_eq!(fail(&model).await.kind, Failure::Server);
}

#[tokio::test]
async fn a_limit_in_the_middle_of_a_call_is_told() {
    // https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
    let cut = Reply::empty().and_raw_call("python", "{\"code\": \"impo").stop(StopReason::Length);
    let server = ModelServer::start([cut, Reply::text("ok")]).await;
    let model = model(&server, Provider::Anthropic);
    let prompt = {
        let heard = ask(&model).await.unwrap();
        assert_eq!((heard.answer.stop, calls(&heard)), (Stop::Length, vec!["python {\"code\": \"impo".to_owned()]));
        let call = heard.answer.message.calls[0].id.clone();
        let result = CallResult { call, parts: vec![], failed: true };
        Prompt {
            messages: vec![user("x"), Message::Assistant(heard.answer.message), Message::Results(vec![result])],
            ..question()
        }
    };
    // and: it goes back as an object all the same
    ask_with(&model, &prompt).await.unwrap();
    assert_eq!(server.requests()[1].messages()[1]["content"][0]["input"], json!({"arguments": "{\"code\": \"impo"}));
}

#[tokio::test]
async fn what_is_stable_is_marked_for_the_cache() {
    // https://platform.claude.com/docs/en/build-with-claude/prompt-caching
    let server = ModelServer::start([Reply::text("hi")]).await;
    ask(&model(&server, Provider::Anthropic)).await.unwrap();
    let body = &server.requests()[0].body;
    let ephemeral = json!({"type": "ephemeral"});
    assert_eq!(
        (&body["system"][0]["cache_control"], &body["messages"][0]["content"][0]["cache_control"]),
        (&ephemeral, &ephemeral)
    );
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_apart() {
    // https://platform.claude.com/docs/en/api/errors
    let server = ModelServer::start([
        Reply::error(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        Reply::error(413, "request_too_large", "Request exceeds the maximum size"),
    ])
    .await;
    let model = model(&server, Provider::Anthropic);
    assert_eq!((fail(&model).await.kind, fail(&model).await.kind), (Failure::TooLong, Failure::TooLong));
}
