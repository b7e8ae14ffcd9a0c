//! Output beyond the limits is left out visibly and kept, and hurts nobody else.
mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use common::*;
use kernelbox_proto::v1::{
    DeleteContextRequest, ExecutionStatus, OutputLimit, execution_event::Kind, mime_part::Content,
};

fn truncated(kinds: &[Kind]) -> Vec<(OutputLimit, String)> {
    let limit = |kind: &Kind| if let Kind::Truncated(t) = kind { Some((t.limit(), t.path.clone())) } else { None };
    kinds.iter().filter_map(limit).collect()
}

#[tokio::test]
async fn output_beyond_the_limit_is_marked_and_kept_whole() {
    let sandbox = Sandbox::start().await;
    let run =
        Run::from("for n in range(1000): print(n)\n1/0").id("e1").with(|request| request.output_limit_bytes = 100);
    let events = sandbox.run(run).await;
    let whole: String = (0..1000).map(|n| format!("{n}\n")).collect();
    assert_eq!(stdout(&events), whole[..100]);
    assert_eq!(status(&events), ExecutionStatus::Error);
    let kinds = kinds(events);
    assert_eq!(truncated(&kinds), [(OutputLimit::Execution, ".kernelbox/output/e1.txt".to_owned())]);
    assert!(kinds.iter().any(|kind| matches!(kind, Kind::Error(_))), "an error is told whatever was printed");
    assert_eq!(std::fs::read_to_string(sandbox.workspace().join(".kernelbox/output/e1.txt")).unwrap(), whole);
}

#[tokio::test]
async fn a_large_part_of_a_display_is_a_file() {
    let sandbox = Sandbox::start().await;
    let code =
        "from IPython.display import display\ndisplay({'text/html': 'x' * 3_000_000, 'text/plain': 'small'}, raw=True)";
    let kinds = kinds(sandbox.run(code).await);
    let bundle =
        kinds.iter().find_map(|kind| if let Kind::Display(bundle) = kind { Some(bundle) } else { None }).unwrap();
    let Content::Artifact(artifact) = part(bundle, "text/html") else { panic!("{bundle:?}") };
    assert_eq!(artifact.size, 3_000_000);
    assert_eq!(std::fs::read(sandbox.workspace().join(&artifact.path)).unwrap(), vec![b'x'; 3_000_000]);
    assert_eq!(text(bundle), "small");
}

#[tokio::test]
async fn a_cell_that_prints_a_gigabyte_takes_no_memory_and_stalls_nobody() {
    let sandbox = Sandbox::start().await;
    sandbox.run(Run::from("1").context("calm")).await;
    let code = "line = 'x' * 65535\nfor _ in range(1 << 14): print(line)";
    let over = AtomicBool::new(false);
    let hog = async {
        let events = sandbox.run(Run::from(code).id("hog")).await;
        over.store(true, Ordering::Relaxed);
        events
    };
    let others = async {
        let (mut most, mut slowest, mut count) = (0, std::time::Duration::ZERO, 0);
        while !over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let events = sandbox.run(Run::from("1 + 1").context("calm")).await;
            assert_eq!(status(&events), ExecutionStatus::Ok);
            slowest = slowest.max(began.elapsed());
            most = most.max(sandbox.memory());
            count += 1;
        }
        (most, slowest, count)
    };
    let (events, (most, slowest, count)) = futures::join!(hog, others);
    assert_eq!(status(&events), ExecutionStatus::Ok);
    let sent = stdout(&events);
    assert_eq!(sent.len(), 10 << 20);
    let kinds = kinds(events);
    let path = ".kernelbox/output/hog.txt".to_owned();
    assert_eq!(truncated(&kinds), [(OutputLimit::Execution, path.clone()), (OutputLimit::Log, path.clone())]);
    assert_eq!(std::fs::metadata(sandbox.workspace().join(path)).unwrap().len(), 256 << 20);
    assert!(most < 64 << 20, "the supervisor took {} MiB", most >> 20);
    assert!(count > 3 && slowest < std::time::Duration::from_secs(5), "{count} calls, the slowest took {slowest:?}");
    let name = format!("{SESSION}/contexts/calm");
    sandbox.client.clone().delete_context(DeleteContextRequest { name }).await.unwrap();
}
