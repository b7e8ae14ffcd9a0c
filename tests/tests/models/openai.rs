//! OpenAI's format, and what its many servers make of it.
use kernelbox_gateway::model::{Endpoint, Failure, Key, Message, Part, Prompt, Provider, Stop};
use kernelbox_tests::model_server::{ModelServer, Reply, StopReason};
use serde_json::json;

use super::support::{KEY, ask, ask_with, calls, endpoint, fail, model, models, question, user};

#[tokio::test]
async fn text_reasoning_parallel_calls_and_usage_come_through_in_any_pieces() {
    // https://platform.openai.com/docs/guides/function-calling: arguments come in fragments, by index.
    let reply = || {
        Reply::text("Let me see. ä€😀")
            .reasoning("hm")
            .and_call("python", json!({"code": "print(17*23)"}))
            .and_call("lookup", json!({"name": "Ä"}))
            .usage(120, 30)
            .pieces_of(3)
    };
    let server = ModelServer::start([reply(), reply().by_the_byte(), reply().pieces_of(1000)]).await;
    let model = model(&server, Provider::OpenAi);
    for _ in 0..3 {
        let heard = ask(&model).await.unwrap();
        assert_eq!((heard.text.as_str(), heard.reasoning.as_str()), ("Let me see. ä€😀", "hm"));
        assert_eq!(calls(&heard), ["python {\"code\":\"print(17*23)\"}", "lookup {\"name\":\"Ä\"}"]);
        assert_eq!((heard.answer.usage.input_tokens, heard.answer.usage.output_tokens), (120, 30));
        assert_eq!(heard.answer.stop, Stop::Done);
    }
    let seen = &server.requests()[0];
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!((seen.system().as_str(), seen.last_text().as_str()), ("be good", "17*23?"));
    assert!(seen.streams() && seen.body.get("temperature").is_none());
}

#[tokio::test]
async fn a_server_that_refuses_stream_options_is_asked_without_them_from_then_on() {
    // https://fastapi.tiangolo.com/tutorial/handling-errors/ (Mistral and others): what is not known is refused.
    let refusal = r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#;
    let server =
        ModelServer::start([Reply::raw(422, "application/json", refusal), Reply::text("a"), Reply::text("b")]).await;
    let model = model(&server, Provider::OpenAi);
    assert_eq!((ask(&model).await.unwrap().text, ask(&model).await.unwrap().text), ("a".into(), "b".into()));
    let sent: Vec<_> = server.requests().iter().map(|seen| seen.body.get("stream_options").is_some()).collect();
    assert_eq!(sent, [true, false, false]);
}

#[tokio::test]
async fn the_limits_name_is_learned() {
    // https://platform.openai.com/docs/api-reference/chat/create: max_tokens is not for reasoning models.
    let message =
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    let server = ModelServer::start([
        Reply::error(400, "invalid_request_error", message),
        Reply::text("a"),
        Reply::error(400, "invalid_request_error", "max_completion_tokens is nothing either"),
    ])
    .await;
    let model = model(&server, Provider::OpenAi);
    let prompt = Prompt { max_output_tokens: Some(9), ..question() };
    assert_eq!(ask_with(&model, &prompt).await.unwrap().text, "a");
    let sent = server.requests();
    assert_eq!((&sent[0].body["max_tokens"], &sent[1].body["max_completion_tokens"]), (&json!(9), &json!(9)));
    // and: it is not asked to and fro for ever
    assert_eq!(ask_with(&model, &prompt).await.err().unwrap().kind, Failure::Refused);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_model_that_takes_tools_only_without_reasoning_gets_them_so() {
    // https://github.com/openai/openai-openapi/issues/541
    let message = "Function tools with reasoning_effort are not supported for gpt-6-luna in /v1/chat/completions. \
                   To use function tools, use /v1/responses or set reasoning_effort to 'none'.";
    let server =
        ModelServer::start([Reply::error(400, "invalid_request_error", message), Reply::text("a"), Reply::text("b")])
            .await;
    let model = model(&server, Provider::OpenAi);
    ask(&model).await.unwrap();
    let without_tools = Prompt { tools: vec![], ..question() };
    ask_with(&model, &without_tools).await.unwrap();
    let sent: Vec<_> = server.requests().iter().map(|seen| seen.body["reasoning_effort"].clone()).collect();
    assert_eq!(sent, [json!(null), json!("none"), json!(null)]);
}

#[tokio::test]
async fn azure_has_its_address_its_header_and_a_first_event_without_a_choice() {
    // https://learn.microsoft.com/azure/ai-services/openai/reference
    let server = ModelServer::start([
        Reply::text("hi"),
        Reply::raw(400, "application/json", include_str!("azure-filtered.json")),
        Reply::text("so").stop(StopReason::Filter),
    ])
    .await;
    let azure = Endpoint {
        model: Some("my prod".into()),
        api_version: Some("2025-01-01".into()),
        ..endpoint(&server, Provider::Azure)
    };
    let model = models(azure).get("").unwrap();
    assert_eq!(ask_with(&model, &Prompt { max_output_tokens: Some(9), ..question() }).await.unwrap().text, "hi");
    let seen = &server.requests()[0];
    assert_eq!(seen.path, "/openai/deployments/my%20prod/chat/completions");
    assert_eq!((seen.query.as_str(), seen.header("api-key")), ("api-version=2025-01-01", Some(KEY)));
    assert_eq!((seen.header("authorization"), &seen.body["max_completion_tokens"]), (None, &json!(9)));
    let filtered = fail(&model).await;
    assert_eq!(filtered.kind, Failure::Filtered);
    assert!(filtered.message.contains("content management policy"), "{filtered}");
    assert_eq!(ask(&model).await.unwrap().answer.stop, Stop::Filtered);
}

#[tokio::test]
async fn ollama_gives_whole_calls_that_all_have_index_0() {
    // https://github.com/ollama/ollama/issues/15457
    let server = ModelServer::start([Reply::events(include_str!("ollama-calls.sse"))]).await;
    let heard = ask(&model(&server, Provider::Ollama)).await.unwrap();
    assert_eq!(calls(&heard), ["python {\"code\":\"1\"}", "python {\"code\":\"2\"}"]);
    assert_ne!(heard.answer.message.calls[0].id, heard.answer.message.calls[1].id);
}

#[tokio::test]
async fn a_model_that_ollama_has_not_is_told_how_to_get() {
    // https://docs.ollama.com/api/errors
    let not_found = r#"{"error":{"message":"model \"m\" not found, try pulling it first","type":"not_found_error","param":null,"code":null}}"#;
    let server = ModelServer::start([Reply::raw(404, "application/json", not_found)]).await;
    let error = fail(&model(&server, Provider::Ollama)).await;
    assert_eq!(error.kind, Failure::Refused);
    assert!(error.message.contains("ollama pull"), "{error}");
}

#[tokio::test]
async fn calls_without_ids_get_their_own() {
    // llama.cpp before https://github.com/ggml-org/llama.cpp/pull/12034 and others: an empty id, or none.
    let server = ModelServer::start([Reply::events(include_str!("no-ids.sse"))]).await;
    let heard = ask(&model(&server, Provider::Local)).await.unwrap();
    let ids: Vec<_> = heard.answer.message.calls.iter().map(|call| call.id.as_str()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1] && ids.iter().all(|id| !id.is_empty()), "{ids:?}");
}

#[tokio::test]
async fn vllm_without_a_tool_parser_says_what_to_do() {
    // https://docs.vllm.ai/en/latest/features/tool_calling.html
    let refusal = r#"{"object":"error","message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set","type":"BadRequestError","param":null,"code":400}"#;
    let server = ModelServer::start([Reply::raw(400, "application/json", refusal)]).await;
    let error = fail(&model(&server, Provider::OpenAi)).await;
    assert_eq!(error.kind, Failure::Refused);
    assert!(error.message.contains("start vLLM with --enable-auto-tool-choice"), "{error}");
}

#[tokio::test]
async fn openrouter_keeps_alive_with_comments_and_fails_inside_a_200() {
    // https://openrouter.ai/docs/api/reference/streaming, https://openrouter.ai/docs/api/reference/errors-and-debugging
    let server = ModelServer::start([
        Reply::events(include_str!("openrouter.sse")),
        Reply::events(include_str!("openrouter-error.sse")),
        Reply::raw(200, "application/json", r#"{"error":{"code":429,"message":"Rate limit exceeded"}}"#),
    ])
    .await;
    let model = model(&server, Provider::OpenAi);
    let heard = ask(&model).await.unwrap();
    assert_eq!((heard.text.as_str(), heard.reasoning.as_str()), ("Hello!", "I greet."));
    let error = fail(&model).await;
    assert_eq!((error.kind, error.message.contains("Provider disconnected")), (Failure::Server, true), "{error}");
    assert_eq!(fail(&model).await.kind, Failure::Overloaded);
}

#[tokio::test]
async fn reasoning_in_the_text_is_taken_out_though_its_tags_are_split() {
    // https://docs.vllm.ai/en/latest/features/reasoning_outputs.html: without a parser, the tags are in the text.
    let server = ModelServer::start([Reply::text("<think>\nhm</think>\n\n391").pieces_of(2)]).await;
    let heard = ask(&model(&server, Provider::OpenAi)).await.unwrap();
    assert_eq!((heard.reasoning.as_str(), heard.text.as_str()), ("\nhm", "391"));
}

#[tokio::test]
async fn reasoning_goes_back_where_it_is_wanted() {
    // https://api-docs.deepseek.com/guides/thinking_mode: without its reasoning, a message with calls is refused.
    let server = ModelServer::start([Reply::python("1").reasoning("hm"), Reply::text("done")]).await;
    let model = model(&server, Provider::OpenAi);
    let message = ask(&model).await.unwrap().answer.message;
    let prompt = Prompt { messages: vec![user("x"), Message::Assistant(message)], ..question() };
    ask_with(&model, &prompt).await.unwrap();
    assert_eq!(server.requests()[1].messages()[2]["reasoning_content"], "hm");
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let whole = r#"{"object":"chat.completion","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hi"}}]}"#;
    let server = ModelServer::start([Reply::raw(200, "application/json; charset=utf-8", whole)]).await;
    assert_eq!(ask(&model(&server, Provider::OpenAi)).await.unwrap().text, "hi");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_told_apart_for_every_provider() {
    for (page, status, body) in [
        (
            "https://platform.openai.com/docs/guides/error-codes",
            400,
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","code":"context_length_exceeded"}}"#,
        ),
        (
            "https://github.com/ggml-org/llama.cpp/pull/15780",
            400,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#,
        ),
        (
            "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
            400,
            r#"{"object":"error","message":"'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 tokens and your request has 10 input tokens","type":"BadRequestError","code":400}"#,
        ),
        (
            "https://openrouter.ai/docs/api/reference/errors-and-debugging",
            400,
            r#"{"error":{"code":400,"message":"This endpoint's maximum context length is 8192 tokens. However, you requested about 9000 tokens"}}"#,
        ),
        (
            "https://lmstudio.ai/docs/developer/openai-compat",
            400,
            r#"{"error":"The number of tokens to keep from the initial prompt is greater than the context length."}"#,
        ),
    ] {
        let server = ModelServer::start([Reply::raw(status, "application/json", body)]).await;
        let model = model(&server, Provider::OpenAi);
        let error = ask_with(&model, &Prompt { max_output_tokens: Some(9000), ..question() }).await.err().unwrap();
        assert_eq!(error.kind, Failure::TooLong, "{page}: {error}");
        assert_eq!(server.requests().len(), 1, "{page}");
    }
}

#[tokio::test]
async fn images_of_results_come_as_the_users() {
    // https://platform.openai.com/docs/guides/images-vision: images are for messages of users.
    let server = ModelServer::start([Reply::python("plot()"), Reply::text("a line")]).await;
    let model = model(&server, Provider::OpenAi);
    let message = ask(&model).await.unwrap().answer.message;
    let image = Part::Image { media_type: "image/png".into(), data: b"png".as_slice().into() };
    let call = message.calls[0].id.clone();
    let result = kernelbox_gateway::model::CallResult {
        call: call.clone(),
        parts: vec![Part::Text("ok".into()), image],
        failed: false,
    };
    let messages = vec![user("x"), Message::Assistant(message), Message::Results(vec![result])];
    ask_with(&model, &Prompt { messages, ..question() }).await.unwrap();
    let sent = &server.requests()[1];
    let sent = sent.messages();
    assert_eq!(sent[3], json!({"role": "tool", "tool_call_id": call, "content": "ok"}));
    assert_eq!((&sent[4]["role"], &sent[4]["content"][1]["type"]), (&json!("user"), &json!("image_url")));
}

#[tokio::test]
async fn without_a_name_the_model_is_the_first_that_the_server_lists() {
    let server = ModelServer::answering(|_| Reply::text("hi")).await;
    server.page("/v1/models", 200, json!({"data": [{"id": "nomic-embed-text"}, {"id": "qwen3:8b"}]}));
    let unnamed = Endpoint { model: None, key: Key::new(KEY), ..Endpoint::new(Provider::Ollama, server.url()) };
    let model = models(unnamed.clone()).get("").unwrap();
    ask(&model).await.unwrap();
    ask(&model).await.unwrap();
    assert_eq!(server.requests()[0].body["model"], "qwen3:8b");
    assert_eq!(server.pages_asked(), ["GET /v1/models"], "it is asked once");
    server.page("/v1/models", 200, json!({"data": []}));
    let none = fail(&models(unnamed).get("").unwrap()).await;
    assert!(none.message.contains("ollama pull"), "{none}");
}
