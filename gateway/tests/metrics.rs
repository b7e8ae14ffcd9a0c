//! What operators see of a gateway: its admin port tells what happened, and tells of no session by name.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test and its helpers fail by panicking"
)]
mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use kernelbox_gateway::model::{Endpoint, Key, Provider};
use kernelbox_proto::v1::{DownloadRequest, ExecuteRequest, ResumeExecutionRequest, StartTurnRequest, turn_event};
use support::{Gateway, World, collect};

/// A model that is overloaded at first, then calls for code, then answers.
async fn model() -> Endpoint {
    let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::new(AtomicUsize::new(0)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Endpoint { key: Key::new("sk-none"), model: Some("m".into()), ..Endpoint::new(Provider::OpenAi, url) }
}

async fn answer(State(asked): State<Arc<AtomicUsize>>) -> impl IntoResponse {
    let delta = match asked.fetch_add(1, Ordering::SeqCst) {
        0 => return (StatusCode::TOO_MANY_REQUESTS, [("content-type", "text/plain")], "busy".to_owned()),
        1 => {
            let call = r#"{"code": "work"}"#;
            let function = serde_json::json!({"name": "python", "arguments": call});
            serde_json::json!({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]})
        }
        _ => serde_json::json!({"content": "done"}),
    };
    let reason = if delta["content"].is_null() { "tool_calls" } else { "stop" };
    let chunks = [
        serde_json::json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]}),
        serde_json::json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
        serde_json::json!({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 7}}),
    ];
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    (StatusCode::OK, [("content-type", "text/event-stream")], events + "data: [DONE]\n\n")
}

#[tokio::test]
async fn executions_and_calls_are_told_once_each() {
    let gateway = Gateway::start().await;
    let before = gateway.metrics().await;
    assert_eq!(before.of("kernelbox_executions_total{status=\"ok\"}"), 0.0, "it is there before it is counted");
    gateway.open("s").await;
    for code in ["work", "raise", "eat"] {
        gateway.run("s", code).await.unwrap();
    }
    // The same call again, and its events once more.
    let request = ExecuteRequest {
        session: "sessions/s".into(),
        code: "work".into(),
        request_id: "again".into(),
        ..Default::default()
    };
    for _ in 0..2 {
        collect(gateway.code().execute(request.clone()).await.unwrap().into_inner()).await.unwrap();
    }
    let resume = ResumeExecutionRequest { name: "sessions/s/executions/again".into(), after_sequence: 0 };
    collect(gateway.code().resume_execution(resume).await.unwrap().into_inner()).await.unwrap();
    gateway
        .sessions()
        .get_session(kernelbox_proto::v1::GetSessionRequest { name: "sessions/none".into() })
        .await
        .unwrap_err();
    gateway.upload("s", "a.txt", "0123456789").await;
    gateway.download("s", "a.txt").await.unwrap();
    let download =
        DownloadRequest { session: "sessions/s".into(), path: "a.txt".into(), length: 4, ..Default::default() };
    collect(gateway.files().download(download).await.unwrap().into_inner()).await.unwrap();

    let expected = [
        ("kernelbox_executions_total{status=\"ok\"}", 2.0),
        ("kernelbox_executions_total{status=\"error\"}", 1.0),
        ("kernelbox_executions_total{status=\"limit\"}", 1.0),
        ("kernelbox_execution_limits_total{limit=\"memory\"}", 1.0),
        ("kernelbox_kernels_died_total", 1.0),
        ("kernelbox_execution_seconds_sum", 2.0),
        ("kernelbox_execution_seconds_count", 4.0),
        ("kernelbox_execution_stage_seconds_count{stage=\"kernel\"}", 4.0),
        ("kernelbox_execution_stage_seconds_count{stage=\"install\"}", 0.0),
        ("kernelbox_execution_wait_seconds_count{sandbox=\"new\"}", 1.0),
        ("kernelbox_execution_wait_seconds_count{sandbox=\"had\"}", 3.0),
        ("kernelbox_packages_installed_total{outcome=\"ok\"}", 2.0),
        ("kernelbox_sandbox_wait_seconds_count", 1.0),
        ("kernelbox_supervisor_start_seconds_sum{step=\"zygote\"}", 1.0),
        ("kernelbox_supervisor_start_seconds_count{step=\"kernel\"}", 0.0),
        ("kernelbox_sessions{sandbox=\"ready\"}", 1.0),
        ("kernelbox_sessions_created_total", 1.0),
        ("kernelbox_file_bytes_total{direction=\"in\"}", 10.0),
        ("kernelbox_requests_total{code=\"OK\",method=\"Execute\",service=\"kernelbox.v1.CodeService\"}", 5.0),
        (
            "kernelbox_requests_total{code=\"NOT_FOUND\",method=\"GetSession\",service=\"kernelbox.v1.SessionService\"}",
            1.0,
        ),
        ("kernelbox_requests_total{code=\"200\",method=\"PUT\",service=\"http\"}", 1.0),
        ("kernelbox_requests_open{method=\"Execute\",service=\"kernelbox.v1.CodeService\"}", 0.0),
        ("kernelbox_executions_running", 0.0),
        ("kernelbox_store_errors_total{operation=\"read\"}", 0.0),
    ];
    let told = gateway.told(&expected).await;
    assert!(told.of("kernelbox_file_bytes_total{direction=\"out\"}") >= 14.0);
    assert!(told.of("kernelbox_store_seconds_count{operation=\"write\"}") > 0.0);
    assert!(told.of("process_resident_memory_bytes") > 1e6);
    gateway.stop().await;
}

#[tokio::test]
async fn a_turn_is_told_with_its_model_and_tools() {
    let endpoint = model().await;
    let gateway = Gateway::start_with(|config| config.models.endpoints.push(endpoint)).await;
    gateway.open("s").await;
    let request = StartTurnRequest { session: "sessions/s".into(), message: "go".into(), ..Default::default() };
    let events = collect(gateway.turns().start_turn(request).await.unwrap().into_inner()).await.unwrap();
    assert!(matches!(events.last().unwrap().kind, Some(turn_event::Kind::Completed(_))), "{events:?}");

    let expected = [
        ("kernelbox_turn_seconds_count{outcome=\"completed\"}", 1.0),
        ("kernelbox_turn_seconds_count{outcome=\"failed\"}", 0.0),
        ("kernelbox_model_errors_total{kind=\"overloaded\"}", 1.0),
        ("kernelbox_model_retries_total{kind=\"overloaded\"}", 1.0),
        ("kernelbox_model_call_seconds_count", 2.0),
        ("kernelbox_model_first_token_seconds_count", 2.0),
        ("kernelbox_model_tokens_total{kind=\"input\"}", 200.0),
        ("kernelbox_model_tokens_total{kind=\"output\"}", 14.0),
        ("kernelbox_tool_calls_total{outcome=\"ok\",tool=\"python\"}", 1.0),
        ("kernelbox_tool_calls_total{outcome=\"failed\",tool=\"mcp\"}", 0.0),
        ("kernelbox_executions_total{status=\"ok\"}", 1.0),
    ];
    let told = gateway.told(&expected).await;
    assert!(told.of("kernelbox_store_seconds_count{operation=\"journal\"}") > 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn checkpoints_and_lost_sandboxes_are_told() {
    let world = World::new();
    world.volatile.store(true, Ordering::SeqCst);
    let change = |config: &mut kernelbox_gateway::ServeConfig| config.quiet = Duration::from_millis(20);
    let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), world, change).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "kept").await;
    let life = Arc::clone(&gateway.world.newest().life);
    support::until("it is saved", || !life.lock().unwrap().unsaved()).await;
    gateway.world.newest().crash();
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("kept"));

    let told = gateway.metrics().await;
    assert!(told.of("kernelbox_checkpoint_seconds_count{operation=\"save\",outcome=\"ok\"}") >= 1.0);
    assert_eq!(told.of("kernelbox_checkpoint_seconds_count{operation=\"restore\",outcome=\"ok\"}"), 1.0);
    assert_eq!(told.of("kernelbox_checkpoint_bytes_count{operation=\"restore\"}"), 1.0);
    assert_eq!(told.of("kernelbox_checkpoint_seconds_count{operation=\"save\",outcome=\"failed\"}"), 0.0);
    assert_eq!(told.of("kernelbox_sandboxes_left_total{reason=\"OOMKilled\"}"), 1.0);
    assert_eq!(told.of("kernelbox_sandbox_wait_seconds_count"), 2.0);
    let (_dir, world) = gateway.leave().await;
    drop(world);
}

#[tokio::test]
async fn a_sandbox_that_is_reclaimed_is_told_with_what_it_held() {
    let gateway = Gateway::start_with(|config| config.idle_timeout = Duration::from_millis(30)).await;
    gateway.open("s").await;
    gateway.run("s", "work").await.unwrap();
    let expected = [
        ("kernelbox_sandboxes_left_total{reason=\"IdleTimeout\"}", 1.0),
        ("kernelbox_sandbox_memory_bytes_sum", 5000.0),
        ("kernelbox_sessions{sandbox=\"ready\"}", 0.0),
    ];
    gateway.told(&expected).await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_told_does_not_grow_with_sessions_and_is_all_in_the_docs() {
    let gateway = Gateway::start_with(|config| config.limits.sandboxes = 250).await;
    let open = |n: usize| {
        let gateway = &gateway;
        async move {
            let name = format!("session-{n}");
            gateway.open(&name).await;
            gateway.run(&name, "work").await.unwrap();
        }
    };
    open(0).await;
    let one = gateway.metrics().await;
    for n in 1..200 {
        open(n).await;
    }
    let many = gateway.metrics().await;
    assert_eq!(many.of("kernelbox_sessions_created_total"), 200.0);
    assert_eq!(many.series().difference(&one.series()).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(!many.series().iter().any(|it| it.contains("session-") || it.contains("kbx_")));

    let docs = include_str!("../../docs/metrics.md");
    let of_gateway = docs.split("<!-- gateway: ").nth(1).unwrap();
    let documented: BTreeSet<_> =
        of_gateway.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    assert_eq!(many.families(), documented);
    gateway.stop().await;
}
