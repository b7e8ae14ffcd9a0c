//! What a client sees of executions through the gateway: resuming, queueing, timeouts, deaths, input, floods.
use std::time::{Duration, Instant};

use futures::future;
use kernelbox_proto::v1::{
    ErrorCode, ExecuteRequest, ExecutionEvent, ExecutionStatus, GetExecutionRequest, InterruptRequest,
    ResumeExecutionRequest, SendInputRequest, execution_event::Kind,
};
use kernelbox_tests::{Client, Run, Stack, code_of, memory_of, mentions};

fn request(session: &str, code: &str) -> ExecuteRequest {
    ExecuteRequest { session: session.into(), code: code.into(), ..Default::default() }
}

async fn resume(client: &mut Client, name: &str, after: i64) -> Vec<ExecutionEvent> {
    let request = ResumeExecutionRequest { name: name.into(), after_sequence: after };
    Run::read(client.code.resume_execution(request).await.unwrap().into_inner()).await.unwrap().events
}

/// Reads the stream up to the first event of which `what` is true.
async fn until(stream: &mut tonic::Streaming<ExecutionEvent>, what: impl Fn(&Kind) -> bool) -> ExecutionEvent {
    while let Some(event) = stream.message().await.unwrap() {
        if event.kind.as_ref().is_some_and(&what) {
            return event;
        }
    }
    panic!("the stream ended before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_resumes_after_every_event() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let code = "import time, sys
from IPython.display import display, HTML
for n in range(5):
    print('out', n, flush=True)
    print('err', n, file=sys.stderr, flush=True)
    handle = display(HTML(f'<b>{n}</b>'), display_id=True)
    handle.update(HTML('later'))
    time.sleep(0.05)
open('made.txt', 'w').write('x')
1 / 0";
    let whole = client.run(&session, code).await;
    let events = whole.numbered();
    assert!(events.len() > 20, "{events:#?}");
    let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=events.len() as i64).collect::<Vec<_>>());

    for after in 0..events.len() {
        let rest = resume(&mut client, whole.name(), after as i64).await;
        assert_eq!(rest, events[after..], "after event {after}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_cut_off_finds_the_rest_while_the_code_runs_on() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let code = "import time\nfor n in range(20):\n    print(n, flush=True)\n    time.sleep(0.1)";
    let mut first = client.code.execute(request(&session, code)).await.unwrap().into_inner();
    let seen = until(&mut first, |kind| matches!(kind, Kind::Stdout(_))).await;

    // when: the stream is lost
    drop(first);

    // then
    let rest = Run { events: resume(&mut client, &seen.execution, seen.sequence).await };
    assert_eq!(rest.events[0].sequence, seen.sequence + 1);
    assert_eq!(rest.status(), ExecutionStatus::Ok);
    let Some(Kind::Stdout(text)) = seen.kind else { unreachable!() };
    let all: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(text.text + &rest.stdout(), all.join("\n") + "\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_on_disconnect_interrupts_the_code() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let code = "import time\nprint('running', flush=True)\ntime.sleep(100)";
    let request = ExecuteRequest { cancel_on_disconnect: true, ..request(&session, code) };
    let mut first = client.code.execute(request).await.unwrap().into_inner();
    let seen = until(&mut first, |kind| matches!(kind, Kind::Stdout(_))).await;

    drop(first);

    let rest = Run { events: resume(&mut client, &seen.execution, seen.sequence).await };
    assert_eq!(rest.status(), ExecutionStatus::Interrupted);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_of_one_context_queue_in_order_and_say_their_place() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.run(&session, "order = []").await.ok();
    let mut running = client
        .code
        .execute(request(&session, "import time\nprint('on', flush=True)\ntime.sleep(1)"))
        .await
        .unwrap()
        .into_inner();
    until(&mut running, |kind| matches!(kind, Kind::Stdout(_))).await;
    let mut streams = Vec::new();
    for number in 1..=3 {
        let mut stream =
            client.code.execute(request(&session, &format!("order.append({number})"))).await.unwrap().into_inner();
        let queued = until(&mut stream, |kind| matches!(kind, Kind::Queued(_))).await;
        let Some(Kind::Queued(queued)) = queued.kind else { unreachable!() };
        assert_eq!(queued.position, number);
        streams.push(stream);
    }

    // meanwhile another context answers at once
    let begin = Instant::now();
    client.try_run(ExecuteRequest { context: "other".into(), ..request(&session, "1") }).await.unwrap().ok();
    assert!(begin.elapsed() < Duration::from_secs(60));

    for ended in future::join_all(streams.into_iter().map(Run::read)).await {
        ended.unwrap().ok();
    }
    assert_eq!(client.run(&session, "print(order)").await.ok(), "[1, 2, 3]\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_the_code_and_keeps_the_variables() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.run(&session, "kept = 7").await.ok();
    let timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });

    let begin = Instant::now();
    let run = client.try_run(ExecuteRequest { timeout, ..request(&session, "while True: pass") }).await.unwrap();

    assert_eq!(run.status(), ExecutionStatus::TimedOut);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(client.run(&session, "print(kept)").await.ok(), "7\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_dies_is_told_and_replaced_at_once_and_files_stay() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.run(&session, "x = 1; open('kept.txt', 'w').write('kept')").await.ok();
    for (code, exit_code, signal) in [
        ("import os; os._exit(7)", Some(7), None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, Some(9)),
        ("import ctypes; ctypes.string_at(0)", None, Some(11)),
    ] {
        let run = client.run(&session, code).await;
        assert_eq!(run.status(), ExecutionStatus::KernelDied, "{code}");
        let died = run.kinds().find_map(|kind| if let Kind::KernelDied(died) = kind { Some(died) } else { None });
        let died = died.expect("an event for it");
        assert_eq!((died.exit_code, died.signal), (exit_code, signal), "{code}");
        let next = client.run(&session, "print('x' in globals(), open('kept.txt').read())").await;
        assert_eq!(next.ok(), "False kept\n");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let asking = ExecuteRequest { allow_input: true, ..request(&session, "print('hello', input('name? '))") };
    let mut stream = client.code.execute(asking).await.unwrap().into_inner();
    let event = until(&mut stream, |kind| matches!(kind, Kind::InputRequested(_))).await;
    let Some(Kind::InputRequested(asked)) = event.kind else { unreachable!() };
    assert_eq!((asked.prompt.as_str(), asked.password), ("name? ", false));
    let answer =
        |input: &str| SendInputRequest { name: event.execution.clone(), input: input.into(), value: "Ada".into() };

    // an answer to a question that is not open is refused
    let refused = client.code.send_input(answer("another")).await.unwrap_err();
    assert_eq!(code_of(&refused), ErrorCode::InputNotRequested);
    client.code.send_input(answer(&asked.input)).await.unwrap();

    assert_eq!(Run::read(stream).await.unwrap().ok(), "hello Ada\n");
    let late = client.code.send_input(answer(&asked.input)).await.unwrap_err();
    assert_eq!(code_of(&late), ErrorCode::InputNotRequested);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_ends_what_runs() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let code = "import time\nprint('on', flush=True)\ntime.sleep(100)";
    let mut stream = client.code.execute(request(&session, code)).await.unwrap().into_inner();
    let seen = until(&mut stream, |kind| matches!(kind, Kind::Stdout(_))).await;

    let request = InterruptRequest { name: seen.execution.clone(), ..Default::default() };
    let answer = client.code.interrupt(request).await.unwrap().into_inner();

    assert_eq!(answer.executions, [seen.execution.as_str()]);
    let run = Run::read(stream).await.unwrap();
    assert_eq!(run.status(), ExecutionStatus::Interrupted);
    assert_eq!(run.error().unwrap().name, "KeyboardInterrupt");
    let told = client.code.get_execution(GetExecutionRequest { name: seen.execution }).await.unwrap().into_inner();
    assert_eq!(told.status(), ExecutionStatus::Interrupted);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_runs_beside_python_in_the_same_workspace() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.run(&session, "open('from_python.txt', 'w').write('hello')").await.ok();
    let bash = |code: &str| ExecuteRequest { kernel: "bash".into(), ..request(&session, code) };

    assert_eq!(client.try_run(bash("x=1; cat from_python.txt")).await.unwrap().ok().trim(), "hello");
    assert_eq!(client.try_run(bash("echo $x")).await.unwrap().ok().trim(), "1");
    let unknown = ExecuteRequest { kernel: "no-such-kernel".into(), ..request(&session, "1") };
    assert_eq!(code_of(&client.try_run(unknown).await.unwrap_err()), ErrorCode::KernelNotFound);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_grows_nobody_and_stalls_nobody() {
    const MIB: u64 = 1 << 20;
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.run(&session, "1").await.ok();
    let programs: Vec<i32> = mentions(stack.mark())
        .iter()
        .filter(|process| process.contains("kernelbox-supervisor serve") || process.contains("kernelbox serve"))
        .map(|process| process.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(programs.len() >= 2, "{:?}", mentions(stack.mark()));
    let code = "line = 'x' * 999 + '\\n'\nfor _ in range(1_000_000):\n    print(line, end='')";
    let mut flood = client.clone();
    let flooded = session.clone();
    let flooding = tokio::spawn(async move { flood.run(&flooded, code).await });

    // when: others ask meanwhile
    let (mut most, mut slowest) = (0, Duration::ZERO);
    while !flooding.is_finished() {
        most = most.max(programs.iter().map(|pid| memory_of(*pid)).max().unwrap());
        let begin = Instant::now();
        client.upload(&session, "meanwhile.txt", b"x").await.unwrap();
        slowest = slowest.max(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // then
    let run = flooding.await.unwrap();
    assert_eq!(run.status(), ExecutionStatus::Ok, "{:?}", run.finished());
    let marked = run.kinds().find_map(|kind| if let Kind::Truncated(cut) = kind { Some(cut) } else { None });
    let marked = marked.expect("a marker where output was left out");
    assert!(!marked.path.is_empty(), "{marked:?}");
    let sent = run.stdout().len() as u64;
    assert!((5 * MIB..=11 * MIB).contains(&sent), "{sent} bytes were sent");
    assert!(most < 64 * MIB, "a program grew to {} MiB", most / MIB);
    assert!(slowest < Duration::from_secs(3), "an upload took {slowest:?}");
    stack.stop().await;
}
