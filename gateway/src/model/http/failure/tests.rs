//! Providers' errors, in words and kinds.
use proptest::prelude::*;

use super::{
    super::{
        Provider,
        words::{advice, presentable},
    },
    *,
};

fn judged(status: u16, body: &str) -> (Failure, String) {
    let said = Said::read(body);
    (judge(Some(status), &said), said.message)
}

#[test]
fn every_providers_error_body_is_understood() {
    for (what, status, body, failure, message) in [
        (
            "https://platform.openai.com/docs/guides/error-codes",
            401,
            r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
            Failure::Denied,
            "Incorrect API key provided",
        ),
        (
            "https://platform.openai.com/docs/guides/error-codes: spent credit is a 429 that does not pass",
            429,
            r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            Failure::Refused,
            "You exceeded your current quota",
        ),
        (
            "https://platform.openai.com/docs/guides/error-codes",
            400,
            r#"{"error":{"message":"This model's maximum context length is 128000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            Failure::TooLong,
            "This model's maximum context length is 128000 tokens.",
        ),
        (
            "https://platform.claude.com/docs/en/api/errors",
            529,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#,
            Failure::Overloaded,
            "Overloaded",
        ),
        (
            "https://platform.claude.com/docs/en/api/errors",
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            Failure::TooLong,
            "prompt is too long: 210000 tokens > 200000 maximum",
        ),
        (
            "https://platform.claude.com/docs/en/api/errors",
            413,
            r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#,
            Failure::TooLong,
            "Request exceeds the maximum size",
        ),
        (
            "https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter",
            400,
            r#"{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{}}}}"#,
            Failure::Filtered,
            "The response was filtered",
        ),
        (
            "https://openrouter.ai/docs/api/reference/errors-and-debugging",
            402,
            r#"{"error":{"code":402,"message":"Insufficient credits"}}"#,
            Failure::Refused,
            "Insufficient credits",
        ),
        (
            "https://openrouter.ai/docs/api/reference/errors-and-debugging: the provider's own words are inside",
            502,
            r#"{"error":{"code":502,"message":"Provider returned error","metadata":{"provider_name":"X","raw":"{\"error\":{\"message\":\"out of memory\"}}"}}}"#,
            Failure::Server,
            "Provider returned error: out of memory",
        ),
        (
            "https://docs.vllm.ai/en/latest/features/tool_calling.html",
            400,
            r#"{"object":"error","message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set","type":"BadRequestError","param":null,"code":400}"#,
            Failure::Refused,
            "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set",
        ),
        (
            "https://github.com/ggml-org/llama.cpp/pull/15780",
            400,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":1407,"n_ctx":256}}"#,
            Failure::TooLong,
            "the request exceeds the available context size",
        ),
        (
            "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md: a 500 that does not pass",
            500,
            r#"{"error":{"code":500,"message":"tools param requires --jinja flag","type":"server_error"}}"#,
            Failure::Refused,
            "tools param requires --jinja flag",
        ),
        (
            "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md: while it loads",
            503,
            r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
            Failure::Server,
            "Loading model",
        ),
        (
            "https://docs.ollama.com/api/errors",
            404,
            r#"{"error":"model 'x' not found"}"#,
            Failure::Refused,
            "model 'x' not found",
        ),
        (
            "https://fastapi.tiangolo.com/tutorial/handling-errors/",
            422,
            r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
            Failure::Refused,
            "body.stream_options: Extra inputs are not permitted",
        ),
        (
            "https://ai.google.dev/gemini-api/docs/openai: an array",
            429,
            r#"[{"error":{"code":429,"message":"Resource exhausted","status":"RESOURCE_EXHAUSTED"}}]"#,
            Failure::Overloaded,
            "Resource exhausted",
        ),
        ("a proxy's page", 502, "<html><body>Bad Gateway</body></html>", Failure::Server, ""),
        ("plain text", 500, "boom\n", Failure::Server, "boom"),
        ("nothing", 418, "", Failure::Refused, ""),
    ] {
        assert_eq!(judged(status, body), (failure, message.to_owned()), "{what}: {body}");
    }
}

#[test]
fn an_error_inside_an_answer_is_judged_by_its_own_words() {
    for (error, failure) in [
        (r#"{"error":{"code":429,"message":"slow down"}}"#, Failure::Overloaded),
        (r#"{"error":{"code":502,"message":"Provider disconnected"}}"#, Failure::Server),
        (r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, Failure::Overloaded),
        (r#"{"type":"error","error":{"type":"api_error","message":"Internal server error"}}"#, Failure::Server),
        (r#"{"error":{"type":"server_error","message":"The server had an error"}}"#, Failure::Server),
        (r#"{"error":{"message":"context length exceeded","code":"context_length_exceeded"}}"#, Failure::TooLong),
        (r#"{"error":{"type":"invalid_request_error","message":"no"}}"#, Failure::Refused),
    ] {
        assert_eq!(judge(None, &Said::read(error)), failure, "{error}");
    }
}

#[test]
fn retry_after_comes_in_seconds_as_a_date_and_in_milliseconds() {
    let now = httpdate::parse_http_date("Tue, 24 Nov 2026 06:00:00 GMT").unwrap();
    let read = |name: &'static str, value: &str| {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        retry_after(&headers, now)
    };
    assert_eq!(read("retry-after", "7"), Some(Duration::from_secs(7)));
    assert_eq!(read("retry-after", " 1.5 "), Some(Duration::from_millis(1500)));
    assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
    assert_eq!(read("retry-after", "Tue, 24 Nov 2026 06:00:30 GMT"), Some(Duration::from_secs(30)));
    assert_eq!(read("retry-after", "Tue, 24 Nov 2026 05:00:00 GMT"), Some(Duration::ZERO));
    for nonsense in ["-1", "1e300", "NaN", "soon", ""] {
        assert_eq!(read("retry-after", nonsense), None, "{nonsense}");
    }
}

#[test]
fn no_key_and_no_page_of_text_gets_into_a_message() {
    let key = "secret-0123456789";
    let said = presentable(&format!("wrong key {key} or sk-proj-12\nand ab****yz\u{7}"), Some(key));
    assert_eq!(said, "wrong key [key] or [key] and [key]");
    assert!(presentable(&"word ".repeat(1000), None).len() < 700);
}

#[test]
fn where_it_can_be_told_what_to_do_it_is() {
    let told = |provider, failure, message: &str, has_key| {
        let said = Said { message: message.to_owned(), ..Said::default() };
        advice(provider, failure, &said, has_key).unwrap_or_default()
    };
    let vllm = "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set";
    assert!(told(Provider::OpenAi, Failure::Refused, vllm, false).contains("start vLLM with"));
    assert!(
        told(Provider::Local, Failure::Refused, "requires --jinja flag", false).contains("llama-server with --jinja")
    );
    assert!(told(Provider::Ollama, Failure::Refused, "model 'x' not found", false).contains("ollama pull"));
    assert!(told(Provider::OpenAi, Failure::Denied, "", true).contains("OPENAI_API_KEY"));
    assert!(told(Provider::Anthropic, Failure::Denied, "", false).contains("set ANTHROPIC_API_KEY"));
    assert_eq!(told(Provider::OpenAi, Failure::Server, "boom", true), "");
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in ".{0,200}", status in 300u16..700) {
        let said = Said::read(&body);
        judge(Some(status), &said);
        judge(None, &said);
        presentable(&said.message, Some("k"));
    }
}
