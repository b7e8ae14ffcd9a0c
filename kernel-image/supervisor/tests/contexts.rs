//! Contexts: one cell at a time, in order; stopped when asked, replaced when dead.
mod common;

use std::time::{Duration, Instant};

use common::*;
use futures::StreamExt as _;
use kernelbox_proto::v1::{
    CreateContextRequest, DeleteContextRequest, ErrorCode, ExecutionStatus, InterruptQueue, InterruptRequest,
    KernelDied, ListContextsRequest, ListVariablesRequest, RestartKernelRequest, WatchSessionRequest,
    execution_event::Kind, late_output::Output, session_event,
};

const BLOCK: &str = "import os, time\nopen('began', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)";

fn died(kind: Kind) -> Option<KernelDied> {
    if let Kind::KernelDied(died) = kind { Some(died) } else { None }
}

#[tokio::test]
async fn those_that_wait_are_told_their_place_and_run_in_order() {
    let sandbox = Sandbox::start().await;
    let mut first = sandbox.stream(Run::from(BLOCK).0).await.unwrap();
    first.until(|kind| matches!(kind, Kind::Started(_)).then_some(())).await;
    let mut waiting = Vec::new();
    for n in 1..=3 {
        let code = format!("with open('order', 'a') as f: f.write('{n}')");
        let mut events = sandbox.stream(Run::from(code.as_str()).0).await.unwrap();
        let place =
            events.until(|kind| if let Kind::Queued(queued) = kind { Some(queued.position) } else { None }).await;
        assert_eq!(place, n);
        waiting.push(events);
    }
    std::fs::write(sandbox.workspace().join("go"), "").unwrap();
    assert_eq!(status(&first.rest().await), ExecutionStatus::Ok);
    let last = waiting.pop().unwrap().rest().await;
    let places: Vec<_> = last
        .iter()
        .filter_map(|event| if let Some(Kind::Queued(q)) = &event.kind { Some(q.position) } else { None })
        .collect();
    assert_eq!(places, [2, 1]);
    assert_eq!(status(&last), ExecutionStatus::Ok);
    assert_eq!(std::fs::read_to_string(sandbox.workspace().join("order")).unwrap(), "123");
}

#[tokio::test]
async fn what_waits_can_be_taken_out_and_an_error_does_not_stop_the_queue() {
    let sandbox = Sandbox::start().await;
    let mut first =
        sandbox.stream(Run::from("raise_at_the_end").with(|r| r.code = format!("{BLOCK}\n1/0")).0).await.unwrap();
    first.until(|kind| matches!(kind, Kind::Started(_)).then_some(())).await;
    let mut second = sandbox.stream(Run::from("print('never')").id("second").0).await.unwrap();
    let mut third = sandbox.stream(Run::from("print('third')").id("third").0).await.unwrap();
    third.until(|kind| matches!(kind, Kind::Queued(_)).then_some(())).await;
    let name = format!("{SESSION}/executions/second");
    let request = InterruptRequest { name: name.clone(), ..Default::default() };
    let ended = sandbox.client.clone().interrupt(request).await.unwrap().into_inner().executions;
    assert_eq!(ended, [name]);
    let second = second.rest().await;
    assert_eq!((stdout(&second).as_str(), status(&second)), ("", ExecutionStatus::Interrupted));
    std::fs::write(sandbox.workspace().join("go"), "").unwrap();
    assert_eq!(status(&first.rest().await), ExecutionStatus::Error);
    assert_eq!(stdout(&third.rest().await), "third\n");
}

#[tokio::test]
async fn a_context_is_interrupted_with_its_queue() {
    let sandbox = Sandbox::start().await;
    sandbox.run("x = 1").await;
    let mut first = sandbox.stream(Run::from("print('on', flush=True)\nwhile True: pass").0).await.unwrap();
    first.until(|kind| matches!(kind, Kind::Stdout(_)).then_some(())).await;
    let mut second = sandbox.stream(Run::from("1").0).await.unwrap();
    second.until(|kind| matches!(kind, Kind::Queued(_)).then_some(())).await;
    let name = format!("{SESSION}/contexts/python3");
    let request = InterruptRequest { name, queue: InterruptQueue::Clear.into() };
    let ended = sandbox.client.clone().interrupt(request).await.unwrap().into_inner().executions;
    assert_eq!(ended.len(), 2);
    let first = first.rest().await;
    assert_eq!(status(&first), ExecutionStatus::Interrupted);
    assert!(
        first.iter().any(|event| matches!(&event.kind, Some(Kind::Error(error)) if error.name == "KeyboardInterrupt")),
        "{first:?}"
    );
    assert_eq!(status(&second.rest().await), ExecutionStatus::Interrupted);
    assert_eq!(stdout(&sandbox.run("print(x)").await), "1\n");
}

#[tokio::test]
async fn an_execution_whose_reply_is_lost_ends_and_says_so() {
    let sandbox = Sandbox::start().await;
    let code = "session = get_ipython().kernel.session
send = session.send
def lose_one_reply(stream, kind, *arguments, **options):
    if kind != 'execute_reply':
        return send(stream, kind, *arguments, **options)
    session.send = send
session.send = lose_one_reply
print('said')";
    let events = sandbox.run(code).await;
    let finished = finished(&events);
    assert_eq!((finished.status(), finished.code()), (ExecutionStatus::Failed, ErrorCode::KernelUnavailable));
    assert!(finished.message.contains("without a reply"), "{}", finished.message);
    assert_eq!(stdout(&events), "said\n");
    let events = sandbox.run(format!("{code}\n1/0").as_str()).await;
    assert_eq!(status(&events), ExecutionStatus::Error, "what iopub told is known");
    assert_eq!(stdout(&sandbox.run("print('on')").await), "on\n");
}

#[tokio::test]
async fn code_ends_at_its_timeout_and_variables_stay() {
    let sandbox = Sandbox::start().await;
    sandbox.run("kept = 7").await;
    let began = Instant::now();
    let events = sandbox.run(Run::from("while True: pass").timeout(Duration::from_millis(500))).await;
    assert_eq!(status(&events), ExecutionStatus::TimedOut);
    assert!(finished(&events).message.contains("500ms"), "{:?}", finished(&events));
    assert!(began.elapsed() < Duration::from_secs(5), "it was killed rather than interrupted");
    assert_eq!(stdout(&sandbox.run("print(kept)").await), "7\n");
}

#[tokio::test]
async fn code_that_ignores_interrupts_is_killed_after_the_grace() {
    let sandbox = Sandbox::start().await;
    sandbox.run("kept = 7").await;
    let code = "import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: print('no')";
    let events = sandbox.run(Run::from(code).timeout(Duration::from_millis(200))).await;
    assert_eq!(status(&events), ExecutionStatus::TimedOut);
    assert!(stdout(&events).starts_with("no\n"));
    let died = kinds(events).into_iter().find_map(died).unwrap();
    assert_eq!(died.signal, Some(9));
    assert_eq!(status(&sandbox.run("kept").await), ExecutionStatus::Error, "a new kernel knows nothing");
}

#[tokio::test]
async fn a_dead_kernel_is_told_with_its_cause_and_replaced() {
    let sandbox = Sandbox::start().await;
    std::fs::write(sandbox.workspace().join("file"), "stays").unwrap();
    let events = sandbox.run("print('before', flush=True)\nimport os, time\ntime.sleep(0.3)\nos._exit(3)").await;
    assert_eq!((stdout(&events).as_str(), status(&events)), ("before\n", ExecutionStatus::KernelDied));
    let told = kinds(events).into_iter().find_map(died).unwrap();
    assert_eq!((told.exit_code, told.signal), (Some(3), None));

    let mut doomed =
        sandbox.stream(Run::from("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)").0).await.unwrap();
    let after = sandbox.run("print(open('file').read())").await;
    assert_eq!(stdout(&after), "stays\n", "what waits runs in the new kernel");
    let told = kinds(doomed.rest().await).into_iter().find_map(died).unwrap();
    assert_eq!(told.signal, Some(9));
    assert!(told.message.contains("SIGKILL") && told.message.contains("out of memory"), "{}", told.message);
    let contexts = sandbox.client.clone().list_contexts(ListContextsRequest { parent: SESSION.into() }).await.unwrap();
    assert_eq!(contexts.into_inner().contexts[0].starts, 3);
}

#[tokio::test]
async fn a_kernel_that_dies_idle_is_told_to_those_who_watch() {
    let sandbox = Sandbox::start().await;
    let request = WatchSessionRequest { name: SESSION.into() };
    let mut watch = sandbox.client.clone().watch_session(request).await.unwrap().into_inner();
    sandbox.run("import os, threading\nthreading.Timer(0.2, os._exit, [4]).start()").await;
    let died = loop {
        let event = tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap();
        if let Some(session_event::Kind::KernelDied(died)) = event.kind {
            break died;
        }
    };
    assert_eq!(died.exit_code, Some(4));
    assert_eq!(stdout(&sandbox.run("print(1)").await), "1\n");
}

#[tokio::test]
async fn late_output_is_told_with_its_owner_and_never_to_another_execution() {
    let sandbox = Sandbox::start().await;
    let request = WatchSessionRequest { name: SESSION.into() };
    let mut watch = sandbox.client.clone().watch_session(request).await.unwrap().into_inner();
    let code = "import os, threading, time\ndef late():\n    while not os.path.exists('go'): time.sleep(0.01)\n    print('late', flush=True)\nthreading.Thread(target=late).start()";
    let events = sandbox.run(Run::from(code).id("maker")).await;
    assert_eq!(status(&events), ExecutionStatus::Ok);
    std::fs::write(sandbox.workspace().join("go"), "").unwrap();
    let late = loop {
        let event = tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap();
        if let Some(session_event::Kind::LateOutput(late)) = event.kind {
            break late;
        }
    };
    assert_eq!((late.context.as_str(), late.execution.as_str()), ("python3", "sessions/s1/executions/maker"));
    assert!(matches!(late.output, Some(Output::Stdout(text)) if text.text == "late\n"));
    assert_eq!(sandbox.resume("maker", 0).await, events);
}

#[tokio::test]
async fn contexts_are_apart_and_restarted_and_deleted_one_by_one() {
    let sandbox = Sandbox::start().await;
    let mut client = sandbox.client.clone();
    let request = CreateContextRequest { parent: SESSION.into(), context_id: "other".into(), ..Default::default() };
    client.create_context(request).await.unwrap();
    sandbox.run("x = 'first'").await;
    assert_eq!(status(&sandbox.run(Run::from("x").context("other")).await), ExecutionStatus::Error);
    sandbox.run(Run::from("x = 'other'").context("other")).await;
    let name = format!("{SESSION}/contexts/other");
    let restarted = client.restart_kernel(RestartKernelRequest { name: name.clone(), fresh: true }).await.unwrap();
    assert_eq!(restarted.into_inner().starts, 2);
    assert_eq!(status(&sandbox.run(Run::from("x").context("other")).await), ExecutionStatus::Error);
    assert_eq!(stdout(&sandbox.run("print(x)").await), "first\n");
    client.delete_context(DeleteContextRequest { name: name.clone() }).await.unwrap();
    assert!(client.restart_kernel(RestartKernelRequest { name, fresh: false }).await.is_err());
    let contexts =
        client.list_contexts(ListContextsRequest { parent: SESSION.into() }).await.unwrap().into_inner().contexts;
    assert_eq!(contexts.len(), 1);
}

#[tokio::test]
async fn variables_are_told_while_a_cell_runs() {
    let sandbox = Sandbox::start().await;
    sandbox.run("answer = 42\nimport numpy as np\na = np.zeros((2, 3))").await;
    let mut running = sandbox.stream(Run::from(BLOCK).0).await.unwrap();
    running.until(|kind| matches!(kind, Kind::Started(_)).then_some(())).await;
    let request = ListVariablesRequest { parent: format!("{SESSION}/contexts/python3") };
    let variables = sandbox.client.clone().list_variables(request).await.unwrap().into_inner().variables;
    std::fs::write(sandbox.workspace().join("go"), "").unwrap();
    running.rest().await;
    let names: Vec<_> = variables.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(names, ["a", "answer"]);
    assert_eq!((variables[0].shape.as_slice(), variables[1].repr.as_str()), ([2, 3].as_slice(), "42"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kernels_have_what_is_named_of_the_supervisors_environment_and_no_more() {
    let code = "import os; print('JUPYTER_PATH' in os.environ, 'KERNELBOX_UID' in os.environ)";
    let seen = async |args: &[&str]| {
        let dir = tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap();
        stdout(&Sandbox::start_in(dir, args).await.run(code).await)
    };
    assert_eq!(seen(&[]).await, "False False\n");
    assert_eq!(seen(&["--kernel-env", "JUPYTER_PATH,KERNELBOX_UID,NONE_SUCH"]).await, "True False\n");
}
