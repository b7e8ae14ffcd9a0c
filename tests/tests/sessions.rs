//! Sessions come and go, many of them, and leave nothing: no process, no socket, no file, no memory.
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use kernelbox_proto::v1::{ExecuteRequest, ListSessionsRequest};
use kernelbox_tests::{Client, Stack, eventually, memory_of, mentions, python};
use nix::sys::signal::Signal;

const MIB: u64 = 1 << 20;

/// Opens a session, works in it, and leaves it.
async fn use_one(mut client: Client, number: usize) {
    let session = client.session().await;
    client.upload(&session, "in.txt", format!("{number}").as_bytes()).await.unwrap();
    let said = client.run(&session, "n = int(open('in.txt').read()); print(n * 2)").await;
    assert_eq!(said.ok(), format!("{}\n", number * 2));
    client.delete(&session).await;
}

/// Processes and sockets of the stack, and files of its sessions.
fn there(stack: &Stack) -> (usize, usize, usize) {
    let sessions = fs::read_dir(stack.data().join("sessions")).into_iter().flatten().count();
    (mentions(stack.mark()).len(), stack.sockets().len(), sessions)
}

/// Memory of all processes of the stack.
fn memory(stack: &Stack) -> u64 {
    let pids = mentions(stack.mark()).into_iter().map(|process| process.split(' ').next().unwrap().parse().unwrap());
    pids.map(memory_of).sum()
}

async fn as_before(stack: &Stack, before: (usize, usize, usize)) {
    eventually("all is as before", || match there(stack) {
        now if now == before => Ok(()),
        now => Err(format!("{before:?} before, {now:?} now: {:#?} {:#?}", mentions(stack.mark()), stack.sockets())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_one_after_another_leave_nothing() {
    let stack = Stack::builder().flag("--warm-sandboxes=0").start().await;
    let client = stack.client().await;
    // given: the first ones, so that what is kept for all is there
    for number in 0..3 {
        use_one(client.clone(), number).await;
    }
    let before = there(&stack);
    assert!(before.0 >= 2, "the server and its zygote are not seen");
    assert_eq!(before.2, 0, "files of a deleted session are left");
    let memory = memory(&stack);

    // when
    for number in 0..50 {
        use_one(client.clone(), number).await;
    }

    // then
    as_before(&stack, before).await;
    let grown = self::memory(&stack).saturating_sub(memory);
    assert!(grown < 24 * MIB, "the server and its zygote grew by {} MiB", grown / MIB);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sessions_at_once_leave_nothing() {
    let stack = Stack::builder().flag("--warm-sandboxes=0").start().await;
    let client = stack.client().await;
    use_one(client.clone(), 0).await;
    let before = there(&stack);

    let all: Vec<_> = (0..20).map(|number| tokio::spawn(use_one(client.clone(), number))).collect();
    for one in all {
        one.await.unwrap();
    }

    as_before(&stack, before).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_code_starts_end_with_the_session() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    // given: a process in the background, one in a session of its own, and one whose parent is gone
    let code = "import os, subprocess
children = [subprocess.Popen(['sleep', '1000']), subprocess.Popen(['sleep', '1000'], start_new_session=True)]
pid = os.fork()
if pid == 0:
    if os.fork() == 0:
        os.setsid()
        os.execvp('env', ['env', '-i', 'sleep', '1000'])
    os._exit(0)
os.waitpid(pid, 0)
print(sum('sleep' in line for line in os.popen('ps -o args --ppid %d' % os.getpid())))";
    assert_eq!(client.run(&session, code).await.ok(), "2\n");

    // when
    client.delete(&session).await;

    // then: the one with an empty environment is found by its working directory
    eventually("the processes ended", || {
        let left: Vec<_> = mentions(stack.mark()).into_iter().filter(|process| process.contains("sleep")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_nothing_after_its_next_start() {
    let mut stack = Stack::builder().flag("--warm-sandboxes=0").start().await;
    let mut kept = Vec::new();
    for moment in 0..4 {
        let mut client = stack.client().await;
        let session = client.session().await;
        client.run(&session, "open('kept.txt', 'w').write('kept')").await.ok();
        // given: work of different kinds under way, and a sandbox that is being made
        let mut running = client.clone();
        let busy = session.clone();
        let code = ["while True: pass", "import time; time.sleep(100)", "input()", "print('x' * 10**8)"][moment];
        let at_work = tokio::spawn(async move { running.run(&busy, code).await });
        let mut starting = client.clone();
        let started = tokio::spawn(async move {
            let session = starting.session().await;
            starting.run(&session, "1").await
        });
        if moment % 2 == 0 {
            eventually("a sandbox runs", || {
                if stack.sockets().is_empty() { Err("no sockets".to_owned()) } else { Ok(()) }
            })
            .await;
        }

        // when
        stack.kill();
        at_work.abort();
        started.abort();

        // then: no process outlives it, and the next start removes the rest
        stack.nothing_runs().await;
        stack.restart().await;
        let sandboxes: Vec<_> =
            stack.sockets().into_iter().filter(|path| path.parent() != Some(&stack.run_dir())).collect();
        assert!(sandboxes.len() <= 1, "left of the killed server: {sandboxes:#?}");
        kept.push(session);
    }
    // and the sessions go on with their files
    let mut client = stack.client().await;
    for session in &kept {
        assert_eq!(client.download(session, "kept.txt").await.unwrap(), b"kept");
    }
    let listed = client.sessions.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    assert!(kept.iter().all(|name| listed.sessions.iter().any(|session| &session.name == name)));
    stack.signal(Signal::SIGTERM);
    stack.ended().await;
    stack.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_while_a_sandbox_starts_leaves_nothing() {
    for _ in 0..5 {
        let stack = Stack::builder().flag("--drain-timeout=0s").flag("--warm-sandboxes=0").start().await;
        let mut client = stack.client().await;
        let session = client.session().await;
        let start = tokio::spawn(async move {
            let request = ExecuteRequest { session, code: "1".into(), ..Default::default() };
            client.try_run(request).await
        });
        // given: its folder is there, and its process about to be
        let begun = Instant::now();
        while !stack.sockets().iter().any(|path| path.ends_with("sandbox.json")) {
            assert!(begun.elapsed() < Duration::from_secs(60), "no sandbox is started: {}", stack.log());
            tokio::task::yield_now().await;
        }

        // then: stop sees to it that nothing is left
        stack.stop().await;
        start.await.unwrap().unwrap_err();
    }
}

/// What a newer version's first start leaves: a migration that this one does not know, and what it added.
const NEWER: &str = "import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute('ALTER TABLE sessions ADD COLUMN newer TEXT')
database.execute('''INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
    VALUES (9999, 'newer', 1, x'00', 0)''')
database.commit()";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_with_the_database_of_a_newer_one() {
    let mut stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.upload(&session, "a.txt", b"kept").await.unwrap();
    stack.signal(Signal::SIGTERM);
    stack.ended().await;

    // when
    let database = stack.data().join("kernelbox.db");
    let added = Command::new(python()).args(["-c", NEWER]).arg(database).status().unwrap();
    assert!(added.success());
    stack.restart().await;

    // then
    let mut client = stack.client().await;
    assert_eq!(client.run(&session, "print(open('a.txt').read())").await.ok(), "kept\n");
    let other = client.session().await;
    assert_eq!(client.run(&other, "print(1)").await.ok(), "1\n");
    stack.stop().await;
}
