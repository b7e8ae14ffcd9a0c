//! Who may do what, how much of it, and how a server ends.
use std::time::{Duration, Instant};

use kernelbox_proto::v1::{
    CreateSessionRequest, ErrorCode, ExecuteRequest, ExecutionStatus, GetExecutionRequest, GetSessionRequest,
    ListSessionsRequest, execution_event::Kind,
};
use kernelbox_tests::{Client, Run, Stack, code_of};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

fn key_entry(id: &str, tenant: &str, key: &str, limits: &str) -> String {
    format!("- {{id: {id}, tenant: {tenant}, sha256: {}, limits: {{{limits}}}}}\n", hex::encode(Sha256::digest(key)))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_known_key_nothing_is_answered() {
    let stack = Stack::start().await;
    for key in ["", "wrong", &format!("{}x", stack.key), &stack.key[1..]] {
        let mut client = Client::connect(&stack.endpoint, key).await;
        let create = client.sessions.create_session(CreateSessionRequest::default()).await.unwrap_err();
        assert_eq!(code_of(&create), ErrorCode::Unauthenticated, "{key:?}");
        let list = client.sessions.list_sessions(ListSessionsRequest::default()).await.unwrap_err();
        assert_eq!(code_of(&list), ErrorCode::Unauthenticated);
        let execute = client.code.execute(ExecuteRequest::default()).await.unwrap_err();
        assert_eq!(code_of(&execute), ErrorCode::Unauthenticated);
        let upload = client.upload("sessions/x", "x", b"x").await.unwrap_err();
        assert_eq!(code_of(&upload), ErrorCode::Unauthenticated);
    }
    // and: the key is in no log
    assert!(!stack.log().contains(&stack.key));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_session_is_not_found() {
    let stack = Stack::builder()
        .key(&key_entry("first", "one", "first-key", ""))
        .key(&key_entry("second", "two", "second-key", ""))
        .start()
        .await;
    let mut owner = Client::connect(&stack.endpoint, "first-key").await;
    let mut other = Client::connect(&stack.endpoint, "second-key").await;
    let session = owner.session().await;
    let run = owner.run(&session, "open('secret.txt', 'w').write('x')").await;
    run.ok();

    let get = other.sessions.get_session(GetSessionRequest { name: session.clone() }).await.unwrap_err();
    let execute = other.try_run(ExecuteRequest { session: session.clone(), code: "1".into(), ..Default::default() });
    let execute = execute.await.unwrap_err();
    let download = other.download(&session, "secret.txt").await.unwrap_err();
    let upload = other.upload(&session, "x", b"x").await.unwrap_err();
    let told = other.code.get_execution(GetExecutionRequest { name: run.name().into() }).await.unwrap_err();
    for refused in [&get, &execute, &download, &upload, &told] {
        assert_eq!(code_of(refused), ErrorCode::SessionNotFound, "{refused}");
    }
    // and: just as for a session that never was
    let never = other.sessions.get_session(GetSessionRequest { name: "sessions/never".into() }).await.unwrap_err();
    let id = session.trim_start_matches("sessions/");
    assert_eq!(get.message().replace(id, "never"), never.message());
    let list = other.sessions.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    assert!(list.sessions.is_empty(), "{list:?}");
    // nor can its id be taken
    let taken = CreateSessionRequest { session_id: id.into(), ..Default::default() };
    assert_eq!(code_of(&other.sessions.create_session(taken).await.unwrap_err()), ErrorCode::AlreadyExists);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_and_no_more_is_taken() {
    let stack = Stack::builder()
        .flag("--max-sandboxes=1")
        .key(&key_entry("small", "small", "small-key", "sessions: 2, executions: 1"))
        .start()
        .await;
    let mut client = Client::connect(&stack.endpoint, "small-key").await;
    let (first, second) = (client.session().await, client.session().await);

    let third = client.sessions.create_session(CreateSessionRequest::default()).await.unwrap_err();
    assert_eq!(code_of(&third), ErrorCode::QuotaExceeded);
    assert!(third.message().contains("2"), "{third}");

    let begin = ExecuteRequest {
        session: first.clone(),
        code: "import time; print('on', flush=True); time.sleep(100)".into(),
        request_id: "long".into(),
        cancel_on_disconnect: true,
        ..Default::default()
    };
    let mut running = client.code.execute(begin).await.unwrap().into_inner();
    while !matches!(running.message().await.unwrap().unwrap().kind, Some(Kind::Stdout(_))) {}
    let more = ExecuteRequest { session: first.clone(), code: "1".into(), ..Default::default() };
    assert_eq!(code_of(&client.try_run(more).await.unwrap_err()), ErrorCode::QuotaExceeded);

    // and: no capacity for another sandbox, while the only one is busy
    let mut local = stack.client().await;
    let session = local.session().await;
    let none = local.try_run(ExecuteRequest { session, code: "1".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(code_of(&none), ErrorCode::NoCapacity);

    drop(running);
    client.delete(&first).await;
    client.run(&second, "1").await.ok();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_over_the_limit_are_refused() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let long = "#".repeat((1 << 20) + 1);
    let refused = client.try_run(ExecuteRequest { session: session.clone(), code: long, ..Default::default() }).await;
    assert!(matches!(code_of(&refused.unwrap_err()), ErrorCode::TooLarge | ErrorCode::InvalidArgument));
    let huge = "#".repeat(8 << 20);
    let refused = client.try_run(ExecuteRequest { session: session.clone(), code: huge, ..Default::default() }).await;
    refused.unwrap_err();
    // and: the connection goes on
    assert_eq!(client.run(&session, "print(1)").await.ok(), "1\n");
    stack.stop().await;
}

/// Waits until the server takes no new work.
async fn refused(client: &mut Client, session: &str) {
    let begin = Instant::now();
    loop {
        let more =
            ExecuteRequest { session: session.into(), code: "1".into(), context: "other".into(), ..Default::default() };
        match client.try_run(more).await {
            Err(status) => return assert_eq!(code_of(&status), ErrorCode::ShuttingDown, "{status:?}"),
            Ok(_) => assert!(begin.elapsed() < Duration::from_secs(10), "work is still taken"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_running_code_end_and_takes_nothing_new() {
    let mut stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let request = ExecuteRequest {
        session: session.clone(),
        code: "import time\nprint('on', flush=True)\ntime.sleep(3)\nprint('to the end')".into(),
        ..Default::default()
    };
    let mut running = client.code.execute(request).await.unwrap().into_inner();
    while !matches!(running.message().await.unwrap().unwrap().kind, Some(Kind::Stdout(_))) {}

    // when
    stack.signal(Signal::SIGTERM);

    // then
    refused(&mut client, &session).await;
    let rest = Run::read(running).await.unwrap();
    assert_eq!(rest.status(), ExecutionStatus::Ok);
    assert_eq!(rest.stdout(), "to the end\n");
    assert_eq!(stack.ended().await, Some(0));
    stack.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_server_at_once() {
    let mut stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let request = ExecuteRequest {
        session: session.clone(),
        code: "import time\nprint('on', flush=True)\ntime.sleep(1000)".into(),
        ..Default::default()
    };
    let mut running = client.code.execute(request).await.unwrap().into_inner();
    while !matches!(running.message().await.unwrap().unwrap().kind, Some(Kind::Stdout(_))) {}

    stack.signal(Signal::SIGTERM);
    refused(&mut client, &session).await;
    let begin = Instant::now();
    stack.signal(Signal::SIGTERM);

    stack.ended().await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    stack.nothing_runs().await;
}
