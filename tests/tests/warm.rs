//! Sandboxes that are made ahead: who gets them, who does not, and what becomes of those that nobody uses.
use std::{collections::HashMap, fs};

use kernelbox_proto::v1::{CreateSessionRequest, Session};
use kernelbox_tests::{Client, Stack, eventually, mentions};
use nix::sys::signal::Signal;

/// The most sandboxes held for sessions that do not use them.
const MAX_HELD: usize = 8;

fn pids(stack: &Stack) -> Vec<String> {
    mentions(stack.mark()).into_iter().map(|process| process.split(' ').next().unwrap().to_owned()).collect()
}

fn folders(stack: &Stack, of: &str) -> usize {
    fs::read_dir(stack.data().join(of)).into_iter().flatten().count()
}

/// Supervisors with their sockets.
fn sandboxes(stack: &Stack) -> usize {
    stack.sockets().iter().filter(|path| path.ends_with("supervisor.sock")).count()
}

async fn until_sandboxes(stack: &Stack, count: usize) {
    eventually("so many sandboxes", || match sandboxes(stack) {
        now if now == count => Ok(()),
        now => Err(format!("{now}, not {count}")),
    })
    .await;
}

async fn create(client: &mut Client, id: &str) -> String {
    let env = HashMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let session = Some(Session { env, ..Default::default() });
    let request = CreateSessionRequest { session_id: id.to_owned(), session, ..Default::default() };
    client.sessions.create_session(request).await.unwrap().into_inner().name
}

/// Whether a new session's kernel was there before the session was.
async fn is_warm(stack: &Stack, client: &mut Client, id: &str) -> bool {
    let before = pids(stack);
    let session = create(client, id).await;
    let said = client.run(&session, "import os; print(os.getpid(), os.environ['GREETING'])").await.ok();
    client.delete(&session).await;
    let (pid, greeting) = said.trim().split_once(' ').unwrap();
    assert_eq!(greeting, "hello");
    before.iter().any(|it| it == pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_has_a_kernel_that_was_there_before_it() {
    let mut stack = Stack::start().await;
    let mut client = stack.client().await;
    until_sandboxes(&stack, 1).await;
    let mut warm = 0;
    for _ in 0..30 {
        warm += usize::from(is_warm(&stack, &mut client, "").await);
    }
    assert!(warm >= 10, "{warm} of 30");
    assert!(!is_warm(&stack, &mut client, "of-my-own").await, "it was made for this id before anybody asked for it");

    // and what is left is the next one alone
    until_sandboxes(&stack, 1).await;
    assert_eq!((folders(&stack, "sessions"), folders(&stack, "warm")), (1, 1));
    stack.signal(Signal::SIGTERM);
    stack.ended().await;
    assert_eq!(folders(&stack, "sessions"), 0, "folders of nobody are left");
}

/// A session that a sandbox is held for.
async fn create_held(stack: &Stack, client: &mut Client) -> String {
    for _ in 0..10_000 {
        let session = create(client, "").await;
        // Its folders are there already: it is one of those that were made ahead.
        if stack.workspace(&session).exists() {
            return session;
        }
        client.delete(&session).await;
    }
    panic!("no session gets a sandbox that was made ahead");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_not_used_hold_few_sandboxes() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let mut sessions = Vec::new();
    for _ in 0..MAX_HELD {
        sessions.push(create_held(&stack, &mut client).await);
    }
    until_sandboxes(&stack, MAX_HELD + 1).await;

    let one_more = create(&mut client, "").await;

    assert!(!stack.workspace(&one_more).exists(), "one more is held for a session that does not use it");
    for session in &sessions {
        client.delete(session).await;
    }
    until_sandboxes(&stack, 1).await;
    assert_eq!(client.run(&one_more, "print(6 * 7)").await.ok(), "42\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_used_holds_its_sandbox_no_longer_than_the_idle_timeout() {
    let stack = Stack::builder().flag("--idle-timeout=2s").start().await;
    let mut client = stack.client().await;
    let session = create_held(&stack, &mut client).await;
    eventually("its sandbox ends", || {
        if stack.workspace(&session).exists() { Err("its folders are there".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(client.run(&session, "print(6 * 7)").await.ok(), "42\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_no_folders_of_nobody_and_all_of_somebody() {
    let mut stack = Stack::start().await;
    let mut client = stack.client().await;
    until_sandboxes(&stack, 1).await;
    let session = create(&mut client, "").await;
    client.run(&session, "open('kept.txt', 'w').write('kept')").await.ok();
    until_sandboxes(&stack, 2).await;
    // given: a marker that came back, as it may after a power failure
    let id = session.strip_prefix("sessions/").unwrap();
    fs::write(stack.data().join("warm").join(id), "").unwrap();

    stack.kill();
    stack.nothing_runs().await;
    stack.restart().await;

    until_sandboxes(&stack, 1).await;
    assert_eq!((folders(&stack, "sessions"), folders(&stack, "warm")), (2, 1));
    let mut client = stack.client().await;
    assert_eq!(client.download(&session, "kept.txt").await.unwrap(), b"kept");
    stack.stop().await;
}
