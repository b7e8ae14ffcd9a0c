//! Everything that can go wrong on the way, in both formats.
use std::time::Duration;

use futures::StreamExt as _;
use kernelbox_gateway::model::{Chunk, Endpoint, Failure, Provider};
use kernelbox_tests::{
    eventually,
    model_server::{ModelServer, Reply, StopReason},
};

use super::support::{KEY, ask, endpoint, fail, model, models, question};

const BOTH: [Provider; 2] = [Provider::OpenAi, Provider::Anthropic];

#[tokio::test]
async fn statuses_become_failures_and_retry_after_is_kept() {
    for provider in BOTH {
        let date = "Wed, 21 Oct 2099 07:28:00 GMT";
        let server = ModelServer::start([
            Reply::too_many("7"),
            Reply::too_many(date),
            Reply::error(500, "api_error", "boom"),
            Reply::error(401, "authentication_error", &format!("wrong key {KEY}")),
            Reply::error(404, "not_found_error", "model m does not exist"),
            Reply::raw(502, "text/html", "<html>Bad Gateway</html>"),
            Reply::raw(307, "text/plain", "").header("location", "https://elsewhere/v1"),
        ])
        .await;
        let model = model(&server, provider);
        let error = fail(&model).await;
        assert_eq!((error.kind, error.retry_after), (Failure::Overloaded, Some(Duration::from_secs(7))));
        assert!(fail(&model).await.retry_after.is_some_and(|wait| wait > Duration::from_secs(1_000_000)));
        let error = fail(&model).await;
        assert_eq!((error.kind, error.message.contains("500: boom")), (Failure::Server, true), "{error}");
        let error = fail(&model).await;
        assert_eq!((error.kind, error.message.contains("_API_KEY")), (Failure::Denied, true), "{error}");
        let error = fail(&model).await;
        assert_eq!((error.kind, error.message.contains("name")), (Failure::Refused, true), "{error}");
        let error = fail(&model).await;
        assert_eq!((error.kind, error.message.contains("html")), (Failure::Server, false), "{error}");
        let error = fail(&model).await;
        assert_eq!((error.kind, error.message.contains("https://elsewhere/v1")), (Failure::Refused, true), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_is_broken_and_never_taken_for_whole() {
    for provider in BOTH {
        let reply = || Reply::text("Hello there").and_call("python", serde_json::json!({"code": "1"}));
        let server = ModelServer::answering(move |_| reply()).await;
        let model = model(&server, provider);
        assert_eq!(ask(&model).await.unwrap().text, "Hello there");
        for bytes in (0..900).step_by(61) {
            server.push(if bytes % 2 == 0 { reply().cut_after(bytes) } else { reply().end_after(bytes) });
            let error = fail(&model).await;
            assert_eq!(error.kind, Failure::Broken, "{provider} after {bytes} bytes: {error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_not_waited_for() {
    for provider in BOTH {
        let server = ModelServer::start([Reply::text("Hello there").stall_after(200)]).await;
        let error = fail(&model(&server, provider)).await;
        assert_eq!((error.kind, error.message.contains("said nothing for 300ms")), (Failure::Silent, true), "{error}");
        eventually("the connection is given up", || match server.open_answers() {
            0 => Ok(()),
            open => Err(open.to_string()),
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_not_waited_for() {
    let server = ModelServer::start([Reply::silent()]).await;
    let config = kernelbox_gateway::model::ModelsConfig {
        endpoints: vec![endpoint(&server, Provider::OpenAi)],
        timing: kernelbox_gateway::model::config::Timing { first: Duration::from_millis(200), ..Default::default() },
        ..Default::default()
    };
    kernelbox_gateway::install_crypto();
    let model = kernelbox_gateway::model::Models::new(config).unwrap().get("").unwrap();
    assert_eq!(fail(&model).await.kind, Failure::Silent);
}

#[tokio::test]
async fn a_connection_that_is_refused_or_hung_up_says_so() {
    let server = ModelServer::start([Reply::hang_up(), Reply::text("back")]).await;
    let model = model(&server, Provider::Ollama);
    assert_eq!(fail(&model).await.kind, Failure::Broken);
    server.refuse();
    eventually("connections are refused", || {
        match std::net::TcpStream::connect(server.url().trim_start_matches("http://")) {
            Err(_) => Ok(()),
            Ok(_) => Err("accepted".into()),
        }
    })
    .await;
    let error = fail(&model).await;
    assert_eq!((error.kind, error.message.contains("ollama serve")), (Failure::Unreachable, true), "{error}");
    server.accept().await;
    assert_eq!(ask(&model).await.unwrap().text, "back");
}

#[tokio::test]
async fn what_is_not_the_format_is_broken() {
    for provider in BOTH {
        let server = ModelServer::start([
            Reply::bad_json(),
            Reply::events("data: {}\n\n"),
            Reply::events(""),
            Reply::events(b"data: \xff\xfe\n\n".as_slice()),
            Reply::raw(200, "text/html", "<html>Log in</html>"),
            Reply::raw(200, "application/json", "{\"ok\": true}"),
        ])
        .await;
        let model = model(&server, provider);
        for _ in 0..6 {
            let error = fail(&model).await;
            assert_eq!(error.kind, Failure::Broken, "{provider}: {error}");
        }
    }
}

#[tokio::test]
async fn empty_and_huge_answers_are_answers() {
    for provider in BOTH {
        let server =
            ModelServer::start([Reply::empty(), Reply::empty().stop(StopReason::Filter), Reply::huge(3 << 20)]).await;
        let model = model(&server, provider);
        let heard = ask(&model).await.unwrap();
        assert!(heard.text.is_empty() && heard.answer.message.calls.is_empty());
        assert_eq!(ask(&model).await.unwrap().answer.stop, kernelbox_gateway::model::Stop::Filtered);
        assert!(ask(&model).await.unwrap().text.len() >= 3 << 20);
    }
}

#[tokio::test]
async fn the_first_words_come_before_the_last_and_whoever_stops_listening_ends_the_answer() {
    for provider in BOTH {
        let server = ModelServer::start([Reply::text("Hello there").pieces_of(2).stall_after(700)]).await;
        let model = model(&server, provider);
        let mut answering = model.ask(&question()).await.unwrap();
        let first = answering.next().await.unwrap().unwrap();
        assert_eq!(first, Chunk::Text("He".into()));
        drop(answering);
        eventually("the answer is given up", || match server.open_answers() {
            0 => Ok(()),
            open => Err(open.to_string()),
        })
        .await;
    }
}

#[tokio::test]
async fn a_key_is_sent_to_nobody_else_and_shown_nowhere() {
    let server = ModelServer::start([Reply::error(403, "permission_error", &format!("{KEY} may not"))]).await;
    let models = models(endpoint(&server, Provider::OpenAi));
    let error = fail(&models.get("").unwrap()).await;
    assert!(error.message.contains("[key] may not"), "{error}");
    let shown = format!("{models:?} {:?} {error:?}", models.describe());
    assert!(!shown.contains(KEY), "{shown}");
    // and: without a key none is sent
    let server = ModelServer::start([Reply::text("hi")]).await;
    let without = Endpoint { key: None, ..endpoint(&server, Provider::OpenAi) };
    ask(&super::support::models(without).get("").unwrap()).await.unwrap();
    assert_eq!(server.requests()[0].header("authorization"), None);
}
