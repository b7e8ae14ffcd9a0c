//! A sandbox is somebody's, tells what changed in it, ends hogs, and is retired between two calls, never during one.
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::*;
use kernelbox_proto::{
    Error,
    sandbox::v1::{BindRequest, GetStatusRequest, Lifecycle, RetireRequest},
    v1::{ArtifactChange, ErrorCode, ExecutionStatus, WatchSessionRequest, execution_event::Kind, session_event},
};

#[tokio::test]
async fn env_arrives_at_a_kernel_that_runs_and_at_those_to_come() {
    let sandbox = Sandbox::start().await;
    sandbox.run("x = 1").await;
    let env = [("SECRET".to_owned(), "s3".to_owned())].into();
    let request = BindRequest { session: SESSION.into(), generation: 2, env, ..Default::default() };
    sandbox.client.clone().bind(request.clone()).await.unwrap();
    let code = "import os\nprint(os.environ['SECRET'], 'x' in globals())";
    assert_eq!(stdout(&sandbox.run(code).await), "s3 True\n");
    assert_eq!(stdout(&sandbox.run(Run::from(code).context("later")).await), "s3 False\n");

    let other = BindRequest { session: "sessions/s2".into(), generation: 9, ..Default::default() };
    let older = BindRequest { generation: 1, ..request };
    for refused in [other, older] {
        let status = sandbox.client.clone().bind(refused).await.unwrap_err();
        assert_eq!(Error::from_status(&status).code, ErrorCode::SandboxBound);
    }
    let foreign = Run::from("1").with(|request| request.session = "sessions/s2".into());
    assert_eq!(sandbox.stream(foreign.0).await.err().unwrap().code, ErrorCode::SandboxBound);
    let status = sandbox.client.clone().get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.lifecycle(), status.generation, status.session.as_str()), (Lifecycle::Bound, 2, SESSION));
    assert!(status.memory_bytes > 1 << 20 && status.processes >= 2, "{status:?}");
}

#[tokio::test]
async fn files_that_code_made_and_changed_are_told() {
    let sandbox = Sandbox::start().await;
    sandbox.run("open('old', 'w').write('1')").await;
    let events = sandbox.run("open('old', 'a').write('2')\nopen('new.csv', 'w').write('a,b')").await;
    let artifacts: Vec<_> = kinds(events)
        .into_iter()
        .filter_map(|kind| if let Kind::Artifact(artifact) = kind { Some(artifact) } else { None })
        .collect();
    let told: Vec<_> =
        artifacts.iter().map(|artifact| (artifact.path.as_str(), artifact.change(), artifact.size)).collect();
    assert_eq!(told, [("new.csv", ArtifactChange::Created, 3), ("old", ArtifactChange::Modified, 2)]);
    assert_eq!(artifacts[0].media_type, "text/csv");
    assert_eq!(artifacts[0].sha256.len(), 64);
}

#[tokio::test]
async fn a_hog_is_ended_with_figures_and_the_session_goes_on() {
    let dir = tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap();
    let sandbox = Sandbox::start_in(dir, &["--memory-limit", "600000000"]).await;
    let code = "import time\nhoard = []\nwhile True:\n    hoard.append(bytearray(20_000_000))\n    time.sleep(0.02)";
    let events = sandbox.run(code).await;
    let finished = finished(&events);
    assert_eq!((finished.status(), finished.code()), (ExecutionStatus::Limit, ErrorCode::MemoryLimit), "{finished:?}");
    assert!(finished.message.chars().any(|c| c.is_ascii_digit()), "{}", finished.message);
    assert!(finished.message.contains("variables are gone"), "{}", finished.message);
    // The next code, at once, does not pay for it.
    assert_eq!(stdout(&sandbox.run("print('on')").await), "on\n");
}

#[tokio::test]
async fn too_many_processes_end_the_code_or_the_kernel_that_runs_none() {
    let dir = tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap();
    let sandbox = Sandbox::start_in(dir, &["--process-limit", "30"]).await;
    let watch = WatchSessionRequest { name: SESSION.into() };
    let mut watched = sandbox.client.clone().watch_session(watch).await.unwrap().into_inner();
    let code =
        "import subprocess, time\nall = [subprocess.Popen(['sleep', '600']) for _ in range(60)]\ntime.sleep(600)";
    let finished = finished(&sandbox.run(code).await);
    assert_eq!((finished.status(), finished.code()), (ExecutionStatus::Limit, ErrorCode::ProcessLimit), "{finished:?}");
    assert!(finished.message.contains("the sandbox may have 30"), "{}", finished.message);
    let later = "import subprocess, threading
def many(): all = [subprocess.Popen(['sleep', '600']) for _ in range(60)]
threading.Timer(1, many).start()
print('started')";
    assert_eq!(stdout(&sandbox.run(later).await), "started\n");
    loop {
        let event =
            tokio::time::timeout(LIMIT, watched.message()).await.unwrap().unwrap().expect("the kernel is ended");
        if let Some(session_event::Kind::KernelDied(died)) = event.kind {
            assert!(died.message.contains("processes"), "{}", died.message);
            break;
        }
    }
    assert_eq!(stdout(&sandbox.run("print('on')").await), "on\n");
    let status = sandbox.client.clone().get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.processes < 30, "{} processes stayed", status.processes);
}

#[tokio::test]
async fn a_full_disk_ends_the_code_and_can_be_tidied_up() {
    let dir = tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap();
    let sandbox = Sandbox::start_in(dir, &["--disk-limit", "50000000"]).await;
    let code = "import time\nwith open('big', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))\n        file.flush()\n        time.sleep(0.01)";
    let finished = finished(&sandbox.run(code).await);
    assert_eq!((finished.status(), finished.code()), (ExecutionStatus::Limit, ErrorCode::DiskLimit), "{finished:?}");
    assert!(finished.message.contains("delete some"), "{}", finished.message);
    // The watchdog looks more than once meanwhile.
    let tidied = sandbox.run("import os\ntime.sleep(3)\nos.remove('big')\nprint(os.path.exists('big'))").await;
    assert_eq!((stdout(&tidied).as_str(), status(&tidied)), ("False\n", ExecutionStatus::Ok));
}

#[tokio::test]
async fn calls_that_race_retirement_run_exactly_once() {
    const CALLS: usize = 1_000;
    let first = Sandbox::start().await;
    let code = |n: usize| format!("with open('ran', 'a') as f: print({n}, file=f)");
    let request = |n: usize| Run::from(code(n).as_str()).id(&format!("e{n}")).0;
    let done = Arc::new(AtomicUsize::new(0));
    let calls = futures::future::join_all((0..CALLS).map(|n| {
        let (first, done) = (&first, Arc::clone(&done));
        async move {
            // They come one after another, so that retirement falls between some of them.
            while done.load(Ordering::Relaxed) + 100 < n {
                tokio::task::yield_now().await;
            }
            let refused = match first.stream(request(n)).await {
                Ok(mut events) => {
                    assert_eq!(status(&events.rest().await), ExecutionStatus::Ok);
                    None
                }
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::SandboxRetired, "{error}");
                    Some(n)
                }
            };
            if refused.is_some() {
                done.store(usize::MAX / 2, Ordering::Relaxed);
            } else {
                done.fetch_add(1, Ordering::Relaxed);
            }
            refused
        }
    }));
    let retired = async {
        while done.load(Ordering::Relaxed) < CALLS / 4 {
            tokio::task::yield_now().await;
        }
        first.client.clone().retire(RetireRequest { idle_for: None }).await.unwrap().into_inner()
    };
    let (refused, retired) = futures::join!(calls, retired);
    assert!(retired.retired && retired.unsaved);
    let refused: Vec<_> = refused.into_iter().flatten().collect();
    assert!(!refused.is_empty() && refused.len() < CALLS, "{} were refused", refused.len());

    let workspace = first.workspace();
    let next = Sandbox::start_in(first.end(), &[]).await;
    let again = refused.into_iter().map(|n| next.run(request(n)));
    for events in futures::future::join_all(again).await {
        assert_eq!(status(&events), ExecutionStatus::Ok);
    }
    let text = std::fs::read_to_string(workspace.join("ran")).unwrap();
    let mut ran: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..CALLS).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lost_zygote_takes_its_kernels_along_and_the_session_goes_on() {
    let sandbox = Sandbox::start().await;
    std::fs::write(sandbox.workspace().join("file"), "stays").unwrap();
    let events = sandbox.run("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)").await;
    assert_eq!(status(&events), ExecutionStatus::KernelDied);
    assert_eq!(stdout(&sandbox.run("print(open('file').read())").await), "stays\n");
}

#[tokio::test]
async fn a_killed_supervisor_leaves_no_process() {
    let mut sandbox = Sandbox::start().await;
    let events =
        sandbox.run("import subprocess\nprint(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid)").await;
    let child = std::path::PathBuf::from(format!("/proc/{}", stdout(&events).trim()));
    assert!(child.exists());
    sandbox.kill();
    let began = std::time::Instant::now();
    while child.exists() {
        assert!(began.elapsed() < LIMIT, "a process is left");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
