//! What a session has in one sandbox comes back in the next, and a sandbox that somebody can save waits for that before it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]
mod common;

use std::{fs, os::unix::fs::PermissionsExt as _};

use common::*;
use kernelbox_proto::{
    Error,
    sandbox::v1::{ConfirmCheckpointRequest, Lifecycle, RetireRequest, SandboxNotice, WatchSandboxRequest},
    v1::{ErrorCode, ExecutionStatus, execution_event::Kind},
};
use tonic::Streaming;

async fn start_with(args: &[&str]) -> Sandbox {
    Sandbox::start_in(tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap(), args).await
}

async fn confirm(sandbox: &Sandbox, number: i64) {
    sandbox.client.clone().confirm_checkpoint(ConfirmCheckpointRequest { number }).await.unwrap();
}

async fn watch(sandbox: &Sandbox) -> Streaming<SandboxNotice> {
    sandbox.client.clone().watch_sandbox(WatchSandboxRequest {}).await.unwrap().into_inner()
}

/// The first notice for which it holds.
async fn until(notices: &mut Streaming<SandboxNotice>, holds: impl Fn(&SandboxNotice) -> bool) -> SandboxNotice {
    loop {
        let notice = tokio::time::timeout(LIMIT, notices.message()).await.expect("no notice for a long time");
        let notice = notice.unwrap().expect("the stream ended before");
        if holds(&notice) {
            return notice;
        }
    }
}

#[tokio::test]
async fn files_packages_and_modes_come_back_in_the_next_sandbox() {
    let first = Sandbox::start().await;
    fs::write(first.dir.path().join("p/kb_package.py"), "VALUE = 7").unwrap();
    let code =
        "import os\nos.makedirs('a/b')\nopen('a/b/data', 'w').write('x' * 1_000_000)\nos.chmod('a/b/data', 0o640)
os.symlink('b/data', 'a/link')\nos.mkfifo('fifo')\nos.symlink('/etc/passwd', 'out')";
    assert_eq!(status(&first.run(code).await), ExecutionStatus::Ok);
    first.client.clone().retire(RetireRequest { idle_for: None }).await.unwrap();
    let (stream, done) = first.checkpoint("").await;
    assert!(done.files >= 2 && done.bytes > 1_000_000 && !done.unchanged, "{done:?}");
    assert_eq!(done.skipped.len(), 2, "{done:?}");
    let (nothing, same) = first.checkpoint(&done.mark).await;
    assert!(nothing.is_empty() && same.unchanged && same.mark == done.mark, "{same:?}");

    let next = Sandbox::start().await;
    let restored = next.restore(&stream).await.unwrap();
    assert_eq!((restored.files, restored.skipped.len()), (done.files, 0));
    assert!(!next.unsaved().await);
    let code = "import kb_package, os\nprint(kb_package.VALUE, len(open('a/link').read()), os.path.lexists('fifo'))";
    let events = next.run(code).await;
    assert_eq!(stdout(&events), "7 1000000 False\n");
    assert!(!kinds(events).iter().any(|kind| matches!(kind, Kind::Artifact(_))), "code did not make these files");
    let mode = fs::metadata(next.workspace().join("a/b/data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(next.restore(&stream).await.unwrap_err().code, ErrorCode::SandboxBound, "it was used");
}

#[tokio::test]
async fn a_checkpoint_that_is_no_good_is_refused_and_one_that_is_too_large() {
    let first = Sandbox::start().await;
    first.run("open('big', 'wb').write(os.urandom(2_000_000)) if (os := __import__('os')) else 0").await;
    let (stream, _) = first.checkpoint("").await;
    let next = start_with(&["--disk-limit", "1000000"]).await;
    assert_eq!(next.restore(&stream[..stream.len() / 2]).await.unwrap_err().code, ErrorCode::DiskLimit);
    assert_eq!(next.restore(b"garbage").await.unwrap_err().code, ErrorCode::InvalidArgument);
    let other = Sandbox::start().await;
    assert_eq!(other.restore(&stream[..stream.len() / 2]).await.unwrap_err().code, ErrorCode::InvalidArgument);
    other.restore(&stream).await.unwrap();
    assert_eq!(fs::metadata(other.workspace().join("big")).unwrap().len(), 2_000_000);
}

#[tokio::test]
async fn what_is_confirmed_is_saved_unless_it_changed_meanwhile() {
    let sandbox = Sandbox::start().await;
    let mut notices = watch(&sandbox).await;
    let notice = until(&mut notices, |_| true).await;
    assert_eq!((notice.lifecycle(), notice.unsaved, notice.terminating), (Lifecycle::Bound, false, false));
    sandbox.run("open('a', 'w').write('1')").await;
    until(&mut notices, |notice| notice.unsaved).await;
    let (_, done) = sandbox.checkpoint("").await;
    sandbox.run("open('a', 'w').write('2')").await;
    confirm(&sandbox, done.number).await;
    assert!(sandbox.unsaved().await, "it was written to after that checkpoint");
    let (_, done) = sandbox.checkpoint(&done.mark).await;
    assert!(!done.unchanged);
    confirm(&sandbox, done.number).await;
    assert!(!sandbox.unsaved().await);
    until(&mut notices, |notice| !notice.unsaved).await;
}

#[tokio::test]
async fn code_goes_on_while_its_files_are_saved() {
    let sandbox = Sandbox::start().await;
    let code = "import itertools, os
with open('log', 'wb', buffering=0) as log:
    for n in itertools.count():
        log.write(b'x' * 10_000)
        if n == 100: print('writes', flush=True)
        if os.path.exists('stop') or n > 100_000: break
        if n % 100 == 99: log.truncate(0); log.seek(0)";
    let mut events = sandbox.stream(Run::from(code).0).await.unwrap();
    events.until(|kind| if let Kind::Stdout(_) = kind { Some(()) } else { None }).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let (stream, done) = sandbox.checkpoint("").await;
        confirm(&sandbox, done.number).await;
        assert!(sandbox.unsaved().await, "it still writes");
        streams.push(stream);
    }
    fs::write(sandbox.workspace().join("stop"), "").unwrap();
    assert_eq!(status(&events.rest().await), ExecutionStatus::Ok);
    let next = Sandbox::start().await;
    for stream in streams {
        assert!(next.restore(&stream).await.unwrap().files >= 1);
    }
}

#[tokio::test]
async fn a_sandbox_that_is_told_to_end_waits_until_it_is_saved() {
    let mut sandbox = start_with(&["--termination-grace", "1h"]).await;
    let mut notices = watch(&sandbox).await;
    sandbox.run("open('a', 'w').write('1')").await;
    let mut running = sandbox.stream(Run::from("print('on')\nimport time\ntime.sleep(3600)").0).await.unwrap();
    running.until(|kind| if let Kind::Stdout(_) = kind { Some(()) } else { None }).await;
    sandbox.terminate();
    let notice = until(&mut notices, |notice| notice.terminating).await;
    assert_eq!((notice.lifecycle(), notice.unsaved), (Lifecycle::Retired, true));
    let refused = sandbox.stream(Run::from("1").0).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::SandboxRetired);
    let (stream, done) = sandbox.checkpoint("").await;
    assert!(!stream.is_empty());
    confirm(&sandbox, done.number).await;
    sandbox.ended().await;
    while notices.message().await.is_ok_and(|notice| notice.is_some()) {}
}

#[tokio::test]
async fn a_second_signal_ends_the_wait_and_so_does_the_limit() {
    let mut sandbox = start_with(&["--termination-grace", "1h"]).await;
    let mut notices = watch(&sandbox).await;
    sandbox.run("open('a', 'w').write('1')").await;
    sandbox.terminate();
    until(&mut notices, |notice| notice.terminating).await;
    sandbox.terminate();
    sandbox.ended().await;

    let mut sandbox = start_with(&["--termination-grace", "10ms"]).await;
    let _notices = watch(&sandbox).await;
    sandbox.run("open('a', 'w').write('1')").await;
    sandbox.terminate();
    sandbox.ended().await;
}

#[tokio::test]
async fn a_sandbox_that_nobody_watches_or_that_is_clean_ends_at_once() {
    let mut alone = start_with(&["--termination-grace", "1h"]).await;
    alone.run("open('a', 'w').write('1')").await;
    alone.terminate();
    alone.ended().await;

    let mut clean = start_with(&["--termination-grace", "1h"]).await;
    let mut notices = watch(&clean).await;
    clean.terminate();
    clean.ended().await;
    // It said so, or was gone before it could.
    while let Ok(Some(notice)) = notices.message().await {
        assert!(!notice.unsaved);
    }
    let status = clean.client.clone().watch_sandbox(WatchSandboxRequest {}).await.unwrap_err();
    assert_eq!(Error::from_status(&status).code, ErrorCode::SandboxLost);
}
