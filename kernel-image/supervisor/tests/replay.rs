//! An execution outlives the streams that show it: cut off anywhere, a caller gets exactly the rest; the same id runs once.
mod common;

use common::*;
use kernelbox_proto::v1::{ExecutionStatus, GetExecutionRequest, ListExecutionsRequest, execution_event::Kind};

#[tokio::test]
async fn a_caller_cut_off_at_any_event_gets_exactly_the_rest() {
    let sandbox = Sandbox::start().await;
    let code = "for n in range(20): print(n, flush=True)\n'end'";
    let all = sandbox.run(Run::from(code).id("e1")).await;
    assert!(all.len() >= 4);
    for after in 0..=all.len() {
        let rest = sandbox.resume("e1", i64::try_from(after).unwrap()).await;
        assert_eq!(rest, all[after..], "after {after}");
    }
}

#[tokio::test]
async fn a_caller_who_left_finds_the_work_done() {
    let sandbox = Sandbox::start().await;
    let code =
        "open('began', 'w').close()\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('done')";
    let mut events = sandbox.stream(Run::from(code).id("e1").0).await.unwrap();
    events.until(|kind| matches!(kind, Kind::Started(_)).then_some(())).await;
    drop(events);
    std::fs::write(sandbox.workspace().join("go"), "").unwrap();
    let events = sandbox.resume("e1", 1).await;
    assert_eq!((stdout(&events).as_str(), status(&events)), ("done\n", ExecutionStatus::Ok));
}

#[tokio::test]
async fn a_caller_who_wanted_it_cancelled_gets_that() {
    let sandbox = Sandbox::start().await;
    let run = Run::from("while True: pass").id("e1").with(|request| request.cancel_on_disconnect = true);
    let mut events = sandbox.stream(run.0).await.unwrap();
    events.until(|kind| matches!(kind, Kind::Started(_)).then_some(())).await;
    drop(events);
    assert_eq!(status(&sandbox.resume("e1", 0).await), ExecutionStatus::Interrupted);
}

#[tokio::test]
async fn the_same_id_never_runs_twice_not_even_in_the_next_sandbox() {
    let sandbox = Sandbox::start().await;
    let code = "with open('count', 'a') as f: f.write('x')";
    let runs = (0..8).map(|_| sandbox.run(Run::from(code).id("e1")));
    let all = futures::future::join_all(runs).await;
    for events in &all {
        assert_eq!(events, &all[0]);
    }
    let count = || std::fs::read_to_string(sandbox.workspace().join("count")).unwrap();
    assert_eq!(count(), "x");
    let other = sandbox.stream(Run::from("2").id("e1").0).await;
    assert_eq!(other.err().unwrap().reason(), "REQUEST_ID_REUSED");

    let workspace = sandbox.workspace();
    let next = Sandbox::start_in(sandbox.end(), &[]).await;
    assert_eq!(next.stream(Run::from(code).id("e1").0).await.err().unwrap().reason(), "REQUEST_ID_REUSED");
    assert_eq!(status(&next.run(Run::from(code).id("e2")).await), ExecutionStatus::Ok);
    assert_eq!(std::fs::read_to_string(workspace.join("count")).unwrap(), "xx");
}

#[tokio::test]
async fn executions_are_listed_newest_first() {
    let sandbox = Sandbox::start().await;
    for id in ["e1", "e2", "e3"] {
        sandbox.run(Run::from("1").id(id)).await;
    }
    let mut client = sandbox.client.clone();
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListExecutionsRequest { parent: SESSION.into(), page_size: 2, page_token };
        let page = client.list_executions(request).await.unwrap().into_inner();
        names.extend(page.executions.into_iter().map(|execution| execution.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["e3", "e2", "e1"].map(|id| format!("{SESSION}/executions/{id}")));
    let name = format!("{SESSION}/executions/e1");
    let execution = client.get_execution(GetExecutionRequest { name }).await.unwrap().into_inner();
    assert_eq!((execution.status(), execution.code.as_str(), execution.last_sequence), (ExecutionStatus::Ok, "1", 3));
    let name = format!("{SESSION}/executions/none");
    assert!(client.get_execution(GetExecutionRequest { name }).await.is_err());
}
