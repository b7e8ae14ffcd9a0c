//! One turn is one trace, and its log lines name it; neither has anything secret, or anything of a user's.
use kernelbox_proto::v1::{ErrorCode, ExecuteRequest, turn_event::Kind};
use kernelbox_tests::{
    Client, Collector, ModelServer, Reply, Stack, StackBuilder, Turned, ask, code_of, documented_trace, eventually,
    mentions,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tonic::Request;

/// Whose call it is, as W3C's Trace Context has it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn stack(model: &ModelServer, collector: &Collector) -> StackBuilder {
    Stack::with_model(model)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("KERNELBOX_LOG_FORMAT", "json")
}

/// A call that its caller traces.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-01").parse().unwrap());
    request
}

async fn turn(client: &mut Client, session: &str, message: &str) -> Turned {
    Turned::read(client.turns.start_turn(traced(ask(session, message))).await.unwrap().into_inner()).await.unwrap()
}

/// Every line of the server's log.
fn lines(stack: &Stack) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    stack.log().lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_is_one_trace_of_its_caller() {
    let model = ModelServer::start([Reply::python("print(6 * 7)").usage(100, 20), Reply::text("42.")]).await;
    let collector = Collector::start().await;
    let stack = stack(&model, &collector).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let nobody = reqwest::get(format!("{}/v1/{session}/files/a.txt", stack.endpoint)).await.unwrap();
    assert_eq!(nobody.status(), 401);

    let turned = turn(&mut client, &session, "How much is 6 * 7?").await;

    // then: the tree is the documented one
    let in_cluster = ["kernelbox.controller.v1.AllocatorService/Acquire", "claim"];
    collector.trace(TRACE, &documented_trace(|name| !in_cluster.contains(&name))).await;

    // and: it says whose it is, and how it went
    let spans = collector.spans();
    let of = |name: &str| spans.iter().find(|it| it.trace == TRACE && it.name == name).unwrap();
    let call = of("kernelbox.v1.TurnService/StartTurn");
    assert_eq!((call.parent.as_str(), call.service.as_str()), (CALLER, "kernelbox-gateway"));
    assert_eq!((call.attributes["session"].as_str(), call.attributes["code"].as_str()), (session_id(&session), "OK"));
    assert!(turned.name().ends_with(&of("turn").attributes["turn"]));
    assert_eq!(of("turn").attributes["status"], "TURN_STATUS_COMPLETED");
    assert_eq!(of("execution").attributes["status"], "EXECUTION_STATUS_OK");
    assert!(spans.iter().all(|it| !it.name.contains('/') || it.attributes.contains_key("tenant")), "{spans:?}");
    let chats = spans.iter().filter(|it| it.trace == TRACE && it.name == "chat");
    let tokens: Vec<_> = chats.map(|it| it.attributes["gen_ai.usage.input_tokens"].as_str()).collect();
    assert!(tokens.contains(&"100"), "{tokens:?}");
    let (execution, kernel) = (of("execution").nanos, of("kernel").nanos);
    assert!(execution.0 <= kernel.0 && kernel.1 <= execution.1, "{execution:?} {kernel:?}");

    // and: log lines are in it
    let end = lines(&stack).into_iter().find(|line| line["message"] == "turn ended").unwrap();
    assert_eq!((&end["trace_id"], &end["session"]), (&TRACE.into(), &session_id(&session).into()));
    assert!(end["turn"].is_string() && end["request_id"].is_string() && end["tenant"].is_string(), "{end}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_marked_and_a_collector_that_is_away_holds_nothing_up() {
    let model = ModelServer::start([]).await;
    let collector = Collector::start().await;
    let stack = stack(&model, &collector).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;

    // when: the model refuses
    let turned = turn(&mut client, &session, "Hello").await;
    assert!(turned.has(|kind| matches!(kind, Kind::Failed(it) if it.code() == ErrorCode::ModelFailed)), "{turned:?}");

    // then
    let marked = || collector.spans().into_iter().find(|it| it.name == "chat" && it.trace == TRACE);
    eventually("the failure is told", || marked().ok_or_else(|| "no span of the model's call".to_owned())).await;
    assert_eq!(marked().unwrap().attributes["error.type"], "Refused");

    // and: what is lost with its sandbox
    let code = "open('on', 'w').close()\nimport time; time.sleep(60)";
    let request = ExecuteRequest { session: session.clone(), code: code.into(), ..Default::default() };
    let (mut running, on) = (client.clone(), stack.workspace(&session).join("on"));
    let call = tokio::spawn(async move { running.try_run(request).await });
    eventually("the code runs", || if on.exists() { Ok(()) } else { Err("not yet".to_owned()) }).await;
    for process in mentions(stack.mark()).iter().filter(|it| it.contains("kernelbox-supervisor serve")) {
        kill(Pid::from_raw(process.split(' ').next().unwrap().parse().unwrap()), Signal::SIGKILL).unwrap();
    }
    assert_eq!(code_of(&call.await.unwrap().unwrap_err()), ErrorCode::SandboxLost);
    let told = || collector.spans().iter().any(|it| it.attributes.get("status").is_some_and(|it| it == "SANDBOX_LOST"));
    eventually("the loss is told", || if told() { Ok(()) } else { Err("not yet".to_owned()) }).await;

    // and
    drop(collector);
    let request = ExecuteRequest { session: session.clone(), code: "print(1)".into(), ..Default::default() };
    assert_eq!(client.try_run(request).await.unwrap().ok(), "1\n");
    stack.stop().await;
}

/// Words that stand for what a user has and says, in all places where there are any.
const SECRETS: [&str; 8] = ["xqmessage", "xqcode", "xqoutput", "xqfile", "xqenv", "xqanswer", "xqerror", "xqpackage"];

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_spans_have_nothing_of_a_users() {
    let code = "import os, xqpackage_of_nobody\n";
    let failing = "xqcode = 1\nprint('xqoutput')\nopen('xqfile2.txt', 'w').write('x')\nraise ValueError('xqerror')";
    let replies = [
        Reply::python(failing),
        Reply::python(code),
        Reply::error(400, "invalid_request_error", "the words xqmessage were refused"),
    ];
    let model = ModelServer::start(replies).await;
    let collector = Collector::start().await;
    let stack = stack(&model, &collector).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.upload(&session, "xqfile.txt", b"xqmessage").await.unwrap();
    let request = ExecuteRequest {
        session: session.clone(),
        code: "print('xqoutput')".into(),
        env: [("XQ".to_owned(), "xqenv".to_owned())].into(),
        ..Default::default()
    };
    client.try_run(request).await.unwrap().ok();
    let http = reqwest::Client::new();
    let file = format!("{}/v1/{session}/files/xqfile.txt", stack.endpoint);
    http.get(&file).bearer_auth(&stack.key).send().await.unwrap().error_for_status().unwrap();

    let turned = turn(&mut client, &session, "xqmessage").await;
    assert!(turned.has(|kind| matches!(kind, Kind::Failed(it) if it.code() == ErrorCode::ModelFailed)), "{turned:?}");
    client.delete(&session).await;

    let ended = || collector.spans().iter().any(|it| it.name == "turn");
    eventually("the turn's span is there", || if ended() { Ok(()) } else { Err("not yet".to_owned()) }).await;
    let key = stack.key.clone();
    let told = format!("{}\n{:?}", stack.log(), collector.spans());
    for secret in SECRETS.iter().copied().chain([key.as_str(), "kbx_"]) {
        let at = told.find(secret);
        assert!(at.is_none(), "{secret}: {}", at.map(|at| &told[at.saturating_sub(300)..at + 40]).unwrap_or_default());
    }
    stack.stop().await;
}

fn session_id(name: &str) -> &str {
    name.strip_prefix("sessions/").unwrap()
}
