//! Sessions and their sandboxes, from outside: a real gateway on a real port, sandboxes played on real sockets.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test and its helpers fail by panicking"
)]
mod support;

use std::{collections::HashMap, time::Duration};

use futures::StreamExt as _;
use kernelbox_proto::v1::{
    CreateSessionRequest, DeleteSessionRequest, ExecuteRequest, GetSessionRequest, KeepAliveRequest,
    ListKernelsRequest, ListSessionsRequest, ResumeExecutionRequest, SandboxState, Session, StartTurnRequest,
    UpdateSessionRequest, WatchSessionRequest, execution_event, session_event::Kind,
    turn_service_client::TurnServiceClient,
};
use support::{Gateway, collect, own, ready, reason, until};

fn named(id: &str) -> GetSessionRequest {
    GetSessionRequest { name: format!("sessions/{id}") }
}

#[tokio::test]
async fn a_session_is_its_tenants_alone() {
    let gateway = Gateway::start().await;
    let env = HashMap::from([("SECRET".to_owned(), "hush".to_owned())]);
    let opened = gateway.open_with("mine", Session { env, ..Default::default() }).await;
    assert_eq!((opened.name.as_str(), opened.env["SECRET"].as_str()), ("sessions/mine", ""));
    assert_eq!(opened.sandbox_state(), SandboxState::None);

    gateway.run("mine", "x").await.unwrap();
    let seen = gateway.sessions().get_session(named("mine")).await.unwrap().into_inner();
    assert_eq!((seen.sandbox_state(), seen.generation), (SandboxState::Ready, 1));
    assert_eq!(gateway.world.binds.lock().unwrap()[0].env["SECRET"], "hush");

    let mut other = gateway.sessions_of("kbx_two");
    let status = other.get_session(named("mine")).await.unwrap_err();
    assert_eq!(reason(&status), "SESSION_NOT_FOUND");
    let status = other.delete_session(DeleteSessionRequest { name: "sessions/mine".into() }).await.unwrap_err();
    assert_eq!(reason(&status), "SESSION_NOT_FOUND");
    assert!(other.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner().sessions.is_empty());
    let status = gateway.sessions_of("kbx_three").get_session(named("mine")).await.unwrap_err();
    assert_eq!(reason(&status), "UNAUTHENTICATED");
    let error = kernelbox_proto::Error::from_status(&status);
    assert!(!error.metadata["request_id"].is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn a_session_is_made_changed_and_deleted() {
    let gateway = Gateway::start().await;
    let mut sessions = gateway.sessions();
    let request = CreateSessionRequest { request_id: "r1".into(), ..Default::default() };
    let first = sessions.create_session(request.clone()).await.unwrap().into_inner();
    let again = sessions.create_session(request).await.unwrap().into_inner();
    assert_eq!(first, again);
    let reused = CreateSessionRequest { request_id: "r1".into(), session_id: "x".into(), ..Default::default() };
    assert_eq!(reason(&sessions.create_session(reused).await.unwrap_err()), "REQUEST_ID_REUSED");

    let change = |display_name: &str, etag: &str| UpdateSessionRequest {
        session: Some(Session {
            name: first.name.clone(),
            display_name: display_name.into(),
            etag: etag.into(),
            ..Default::default()
        }),
        update_mask: None,
    };
    let changed = sessions.update_session(change("new", &first.etag)).await.unwrap().into_inner();
    assert_eq!(changed.display_name, "new");
    assert_ne!(changed.etag, first.etag);
    let stale = sessions.update_session(change("newer", &first.etag)).await.unwrap_err();
    assert_eq!(reason(&stale), "CONFLICT");

    let id = first.name.strip_prefix("sessions/").unwrap().to_owned();
    gateway.run(&id, "x").await.unwrap();
    sessions.delete_session(DeleteSessionRequest { name: first.name.clone() }).await.unwrap();
    assert_eq!(gateway.world.living(), 0);
    assert_eq!(gateway.world.forgotten.lock().unwrap().len(), 1);
    assert_eq!(reason(&sessions.get_session(named(&id)).await.unwrap_err()), "SESSION_NOT_FOUND");
    assert_eq!(reason(&gateway.run(&id, "x").await.unwrap_err()), "SESSION_NOT_FOUND");
    gateway.stop().await;
}

#[tokio::test]
async fn an_idle_sandbox_is_reclaimed_and_the_next_execution_is_told_once() {
    let gateway = Gateway::start_with(|config| config.idle_timeout = Duration::from_millis(200)).await;
    gateway.open("s").await;
    let events = gateway.run("s", "one").await.unwrap();
    assert_eq!(own(&events), [1, 2, 3, 4, 5]);
    assert_eq!(ready(&events), Vec::<String>::new());
    assert!(events.iter().any(|it| it.sequence == 0), "the start of the sandbox was not told");

    until("the sandbox is reclaimed", || gateway.world.living() == 0).await;
    // A call that is no execution brings the next sandbox; the execution after it is still told.
    let kernels = ListKernelsRequest { parent: "sessions/s".into() };
    gateway.code().list_kernels(kernels).await.unwrap();
    let events = gateway.run("s", "two").await.unwrap();
    assert_eq!(ready(&events).len(), 1, "{events:?}");
    assert!(ready(&events)[0].contains("variables of the earlier sandbox are gone"));
    assert_eq!(ready(&gateway.run("s", "three").await.unwrap()).len(), 0);
    let generations: Vec<_> = gateway.world.acquired.lock().unwrap().iter().map(|it| it.generation).collect();
    assert_eq!(generations, [1, 2]);
    gateway.stop().await;
}

#[tokio::test]
async fn activity_keeps_a_sandbox() {
    let gateway = Gateway::start_with(|config| config.idle_timeout = Duration::from_millis(400)).await;
    gateway.open("s").await;
    gateway.run("s", "one").await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        gateway.sessions().keep_alive(KeepAliveRequest { name: "sessions/s".into() }).await.unwrap();
    }
    assert_eq!((gateway.world.living(), gateway.world.acquisitions()), (1, 1));
    until("the sandbox is reclaimed", || gateway.world.living() == 0).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_race_retirement_each_run_exactly_once() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let world = std::sync::Arc::clone(&gateway.world);
    let retire = tokio::spawn(async move {
        let (mut retired, mut before) = (0, 0);
        loop {
            // One that ran nothing has not been left idle: a call gets through between two retirements.
            let runs = world.runs.lock().unwrap().len();
            let newest = world.now.lock().unwrap().clone().filter(|_| runs > before);
            if newest.is_some_and(|it| it.life.lock().unwrap().retire_between_calls()) {
                (retired, before) = (retired + 1, runs);
            }
            if runs == 1000 {
                return retired;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let calls = futures::stream::iter(0..1000).map(|n| {
        let mut code = gateway.code();
        async move {
            let request_id = format!("call-{n}");
            let request =
                ExecuteRequest { session: "sessions/s".into(), code: "x".into(), request_id, ..Default::default() };
            loop {
                let stream = code.execute(request.clone()).await.unwrap().into_inner();
                match collect(stream).await {
                    Ok(events) => return own(&events),
                    // Six retirements in a row: it has certainly not run, and the client is told to try again.
                    Err(status) => assert_eq!(reason(&status), "SANDBOX_RETIRED", "{status:?}"),
                }
            }
        }
    });
    let seen: Vec<_> = calls.buffer_unordered(4).collect().await;
    assert!(seen.iter().all(|it| *it == [1, 2, 3, 4, 5]));
    let retired = retire.await.unwrap();
    assert!(retired > 20, "only {retired} sandboxes retired: nothing raced");
    let runs = gateway.world.runs.lock().unwrap().clone();
    assert_eq!(runs.len(), 1000);
    assert!(runs.values().all(|it| *it == 1), "an execution ran twice");
    gateway.stop().await;
}

#[tokio::test]
async fn many_callers_get_one_sandbox_and_a_failed_start_is_tried_again() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    gateway.world.fail.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(reason(&gateway.run("s", "x").await.unwrap_err()), "SANDBOX_START_FAILED");
    let all = futures::future::join_all((0..20).map(|_| gateway.run("s", "x"))).await;
    // A sandbox that never was ready had no variables to lose.
    assert!(all.into_iter().all(|it| ready(&it.unwrap()).is_empty()));
    assert_eq!(gateway.world.acquisitions(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_was_asked_for_without_an_answer_is_asked_for_again_as_a_later_one() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    gateway.world.ignore.store(2, std::sync::atomic::Ordering::SeqCst);

    let events = gateway.run("s", "1").await.unwrap();

    let told = |kind: &execution_event::Kind| matches!(kind, execution_event::Kind::Stage(stage) if stage.message.contains("no answer"));
    assert_eq!(
        events.iter().filter_map(|event| event.kind.as_ref()).filter(|kind| told(kind)).count(),
        2,
        "{events:?}"
    );
    let asked: Vec<_> =
        gateway.world.acquired.lock().unwrap().iter().map(|claim| (claim.generation, claim.unanswered)).collect();
    assert_eq!(asked, [(1, None), (2, Some(1)), (3, Some(1))]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let events = gateway.run("s", "break").await.unwrap();
    assert_eq!(own(&events), [1, 2, 3, 4, 5]);
    let name = events.last().unwrap().execution.clone();
    let resumed = gateway.code().resume_execution(ResumeExecutionRequest { name, after_sequence: 3 }).await.unwrap();
    assert_eq!(own(&collect(resumed.into_inner()).await.unwrap()), [4, 5]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_dies_under_a_call_is_told_with_its_reason_and_replaced() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let request = ExecuteRequest { session: "sessions/s".into(), code: "hang".into(), ..Default::default() };
    let mut stream = gateway.code().execute(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().unwrap().sequence < 2 {}
    gateway.world.newest().crash();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status), "SANDBOX_LOST");
    assert!(status.message().contains("OOMKilled"), "{status}");
    assert_eq!(ready(&gateway.run("s", "x").await.unwrap()).len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_watch_outlives_sandboxes() {
    let gateway = Gateway::start_with(|config| config.idle_timeout = Duration::from_millis(100)).await;
    gateway.open("s").await;
    let request = WatchSessionRequest { name: "sessions/s".into() };
    let mut events = gateway.sessions().watch_session(request).await.unwrap().into_inner();
    for _ in 0..2 {
        gateway.run("s", "x").await.unwrap();
        let mut seen = Vec::new();
        while !seen.contains(&"ended") {
            seen.push(match events.message().await.unwrap().unwrap().kind.unwrap() {
                Kind::Stage(_) => "stage",
                Kind::LateOutput(_) => "late",
                Kind::SandboxEnded(ended) if ended.reason == "IdleTimeout" => "ended",
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, ["stage", "stage", "late", "ended"]);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn there_is_no_room_beyond_the_limit_and_there_is_again_after_a_delete() {
    let gateway = Gateway::start_with(|config| config.limits.sandboxes = 1).await;
    for id in ["a", "b"] {
        gateway.open(id).await;
    }
    gateway.run("a", "x").await.unwrap();
    let status = gateway.run("b", "x").await.unwrap_err();
    assert_eq!(reason(&status), "NO_CAPACITY");
    assert!(status.message().contains("--max-sandboxes"), "{status}");
    assert!(kernelbox_proto::Error::from_status(&status).retry_after.is_some());
    gateway.sessions().delete_session(DeleteSessionRequest { name: "sessions/a".into() }).await.unwrap();
    gateway.run("b", "x").await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn without_a_model_a_turn_says_what_to_do() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let channel = tonic::service::interceptor::InterceptedService::new(
        gateway.channel.clone(),
        support::ApiKey("kbx_one".into()),
    );
    let request = StartTurnRequest { session: "sessions/s".into(), message: "hi".into(), ..Default::default() };
    let status = TurnServiceClient::new(channel).start_turn(request).await.unwrap_err();
    assert_eq!(reason(&status), "MODEL_UNAVAILABLE");
    assert!(status.message().contains("OPENAI_API_KEY"), "{status}");
    gateway.stop().await;
}
