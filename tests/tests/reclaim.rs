//! Idle sandboxes are reclaimed and made again: files come back, variables are told gone, and no call is lost or run twice.
use std::{collections::HashMap, time::Duration};

use futures::{StreamExt as _, stream};
use kernelbox_proto::v1::{
    ExecuteRequest, GetSessionRequest, SandboxState, Session, Stage, WatchSessionRequest, execution_event::Kind,
    session_event,
};
use kernelbox_tests::{Client, Stack};

async fn state(client: &mut Client, session: &str) -> Session {
    client.sessions.get_session(GetSessionRequest { name: session.into() }).await.unwrap().into_inner()
}

/// Waits until the session has no sandbox.
async fn reclaimed(client: &mut Client, session: &str) {
    for _ in 0..1000 {
        if state(client, session).await.sandbox_state() == SandboxState::None {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{session} was not reclaimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_returns_with_its_files_and_is_told_that_its_variables_are_gone() {
    let stack = Stack::builder().flag("--idle-timeout=1s").start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let mut watched =
        client.sessions.watch_session(WatchSessionRequest { name: session.clone() }).await.unwrap().into_inner();
    client.run(&session, "x = 1; open('kept.txt', 'w').write('kept')").await.ok();
    assert_eq!(state(&mut client, &session).await.generation, 1);

    // when: nobody uses it; watching is no use
    reclaimed(&mut client, &session).await;

    // then
    let again = client.run(&session, "print(open('kept.txt').read(), 'x' in globals())").await;
    assert_eq!(again.ok(), "kept False\n");
    let ready = again.kinds().find_map(|kind| match kind {
        Kind::Stage(stage) if stage.stage() == Stage::Ready => Some(stage.message.clone()),
        _ => None,
    });
    assert!(ready.as_ref().is_some_and(|message| message.contains("variables")), "{:#?}", again.events);
    assert_eq!(state(&mut client, &session).await.generation, 2);
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(event) = watched.message().await.unwrap() {
            if let Some(session_event::Kind::SandboxEnded(ended)) = event.kind {
                return Some(ended.reason);
            }
        }
        None
    });
    assert_eq!(ended.await.unwrap().as_deref(), Some("IdleTimeout"));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_execution_keeps_its_sandbox() {
    let stack = Stack::builder().flag("--idle-timeout=300ms").start().await;
    let mut client = stack.client().await;
    let session = client.session().await;

    let said = client.run(&session, "import time\nx = 5\ntime.sleep(2)\nprint(x)").await;

    assert_eq!(said.ok(), "5\n");
    assert_eq!(state(&mut client, &session).await.generation, 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_racing_retirement_each_run_exactly_once() {
    const CALLS: usize = 1_000;
    const SESSIONS: usize = 4;
    // given: sandboxes that retire as soon as they have nothing to do for a moment
    let stack = Stack::builder().flag("--idle-timeout=50ms").start().await;
    let mut client = stack.client().await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(client.session().await);
    }

    // when: calls arrive one after another, and now and then at a moment near to the retirement
    let call = |number: usize| {
        let session = sessions[number % SESSIONS].clone();
        let mut client = client.clone();
        async move {
            if (number / SESSIONS).is_multiple_of(5) {
                tokio::time::sleep(Duration::from_millis((number * 37 % 140) as u64)).await;
            }
            let code = format!("with open('log.txt', 'a') as file: file.write('{number}\\n')");
            client.run(&session, &code).await.ok();
        }
    };
    stream::iter(0..CALLS).for_each_concurrent(SESSIONS, call).await;

    // then
    let mut ran = HashMap::<usize, usize>::new();
    let mut generations = 0;
    for session in &sessions {
        let log = String::from_utf8(client.download(session, "log.txt").await.unwrap()).unwrap();
        for number in log.lines() {
            *ran.entry(number.parse().unwrap()).or_default() += 1;
        }
        generations += state(&mut client, session).await.generation;
    }
    let wrong: Vec<_> = (0..CALLS).filter(|number| ran.get(number) != Some(&1)).collect();
    assert!(wrong.is_empty(), "not run exactly once: {wrong:?}");
    assert!(generations > 5 * SESSIONS as i64, "only {generations} sandboxes: nothing was raced");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_never_runs_twice_not_even_in_the_next_sandbox() {
    let stack = Stack::builder().flag("--idle-timeout=200ms").start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let request = ExecuteRequest {
        session: session.clone(),
        code: "open('n.txt', 'a').write('x')".into(),
        request_id: "once".into(),
        ..Default::default()
    };
    let first = client.try_run(request.clone()).await.unwrap();
    assert_eq!(client.try_run(request.clone()).await.unwrap().events, first.numbered());

    reclaimed(&mut client, &session).await;
    // then: it is replayed or refused, but not run
    let _ = client.try_run(request).await;

    assert_eq!(client.download(&session, "n.txt").await.unwrap(), b"x");
    stack.stop().await;
}
