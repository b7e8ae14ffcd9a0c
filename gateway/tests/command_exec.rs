//! `kernelbox exec` as its users see it: what is on stdout, what on stderr, which exit code, and what the server was asked.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests are tests, too")]
mod fake;

use std::{collections::BTreeMap, process::Stdio};

use fake::{Fake, Step, StreamEnd, ended, files, signal};
use kernelbox_proto::v1::{
    CodeError, DisplayUpdate, ErrorCode, ExecutionFinished, ExecutionStatus, execution_event::Kind,
};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;

#[tokio::test]
async fn streams_stay_apart_and_the_session_ends_with_the_command() {
    let fake = Fake::start().await;
    fake.on(
        "code",
        vec![
            Step::stdout("out\n"),
            Step::stderr("err\n"),
            Step::result(&[("text/html", "<b>"), ("text/plain", "42")]),
            Step::ok(),
        ],
    );
    let ran = fake.run(&["exec", "code"]).await;
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "out\n42\n", "err\n"));
    let session = "sessions/made-by-server";
    assert_eq!(
        fake.calls(),
        [format!("CreateSession {session}"), format!("Execute {session} code"), format!("DeleteSession {session}")]
    );
}

#[tokio::test]
async fn a_stream_is_read_to_its_end() {
    let fake = Fake::start().await;
    fake.on("code", vec![Step::ok(), Step::EndLate]);
    assert_eq!(fake.run(&["exec", "code"]).await.code, 0);
    let streams = fake.streams(1).await;
    assert!(streams.iter().all(|(_, end)| *end == StreamEnd::Whole), "{streams:?}");
}

#[tokio::test]
async fn output_is_there_before_the_code_ends() {
    let fake = Fake::start().await;
    fake.on("code", vec![Step::stdout("first"), Step::WaitForTest, Step::stdout(" second"), Step::ok()]);
    let mut child = fake.command(&["exec", "code"]).spawn().unwrap();
    let mut first = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"first");
    fake.state.go_on.notify_one();
    assert_eq!(ended(child).await.stdout, " second");
}

#[tokio::test]
async fn an_exception_is_1_with_a_plain_traceback_on_stderr() {
    let fake = Fake::start().await;
    fake.on("1/0", vec![Step::error(), Step::finished(ExecutionStatus::Error)]);
    let ran = fake.run(&["exec", "1/0"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr, "ZeroDivisionError: division by zero\n");
}

#[tokio::test]
async fn a_shells_exit_code_is_told_in_words() {
    let fake = Fake::start().await;
    let failed = CodeError { value: "7".into(), ..CodeError::default() };
    fake.on("exit 7", vec![Step::Event(Kind::Error(failed)), Step::finished(ExecutionStatus::Error)]);
    let ran = fake.run(&["exec", "--kernel", "bash", "exit 7"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "exit code 7\n"));
}

#[tokio::test]
async fn each_way_to_end_has_its_exit_code() {
    let fake = Fake::start().await;
    let limit = ExecutionFinished {
        status: ExecutionStatus::Limit.into(),
        code: ErrorCode::MemoryLimit.into(),
        message: "used 2 GB of 1 GB".into(),
        ..ExecutionFinished::default()
    };
    fake.on("late", vec![Step::finished(ExecutionStatus::TimedOut)]);
    fake.on("died", vec![Step::finished(ExecutionStatus::KernelDied)]);
    fake.on("hog", vec![Step::Event(Kind::Finished(limit))]);
    fake.on("full", vec![Step::fail(ErrorCode::NoCapacity, "no sandbox is free")]);
    fake.on("bad", vec![Step::fail(ErrorCode::InvalidArgument, "context: bad")]);
    for (code, exit, says) in [
        ("late", 1, "timed out"),
        ("died", 1, "the kernel died"),
        ("hog", 5, "used 2 GB of 1 GB"),
        ("full", 5, "no sandbox is free"),
        ("bad", 2, "context: bad"),
    ] {
        let ran = fake.run(&["exec", code]).await;
        assert_eq!(ran.code, exit, "{code}: {ran:?}");
        assert!(ran.stderr.contains(says), "{ran:?}");
    }
    let ran = fake.run(&["exec", "--api-key", "wrong", "1"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (4, "kernelbox: this key is not known\n"));
    for session in [&[][..], &["--session", "s1"]] {
        let nowhere = fake.run(&[&["exec", "--endpoint", "http://127.0.0.1:1", "1"], session].concat()).await;
        assert_eq!(nowhere.code, 3, "{nowhere:?}");
        assert!(nowhere.stderr.contains("does not answer: Connection refused"), "{nowhere:?}");
    }
    assert_eq!(fake.run(&["exec"]).await.code, 2);
    assert_eq!(fake.run(&["exec", "--timeout", "soon", "1"]).await.code, 2);
    assert_eq!(fake.run(&["exec", "--session", "Not An Id", "1"]).await.code, 2);
}

#[tokio::test]
async fn json_is_one_event_a_line_and_nothing_else() {
    let fake = Fake::start().await;
    let html = [("text/html", "<table>\n"), ("text/plain", "   a")];
    fake.on(
        "df",
        vec![Step::stdout("x\n"), Step::result(&html), Step::display("", &[("image/png", "PNG")]), Step::ok()],
    );
    let ran = fake.run(&["exec", "--json", "df"]).await;
    let events: Vec<serde_json::Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0]["stdout"]["text"], "x\n");
    assert_eq!(events[1]["result"]["bundle"]["parts"][0]["text"], "<table>\n");
    assert_eq!(events[2]["display"]["parts"][0]["data"], "UE5H");
    assert_eq!(events[3]["finished"]["status"], "EXECUTION_STATUS_OK");
    assert_eq!(events.iter().map(|e| e["sequence"].as_str().unwrap()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert!(!fake.home.path().join("kernelbox-output").exists(), "JSON has the image already");
}

#[tokio::test]
async fn one_image_is_one_file_and_an_update_takes_its_place() {
    let fake = Fake::start().await;
    let update = DisplayUpdate { bundle: Some(Step::bundle("d1", &[("image/png", "second")])), origin: String::new() };
    let figure = [("image/png", "first"), ("text/plain", "<Figure size 640x480>")];
    fake.on("plot", vec![Step::display("d1", &figure), Step::Event(Kind::DisplayUpdate(update)), Step::ok()]);
    fake.on("again", vec![Step::display("", &figure), Step::ok()]);
    let ran = fake.run(&["exec", "plot", "--output-dir", "out"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert!(ran.stderr.contains("kernelbox: saved out/image-1.png"), "{ran:?}");
    let out = fake.home.path().join("out");
    assert_eq!(files(&out), BTreeMap::from([("image-1.png".into(), "second".into())]));
    // A later command writes over nothing.
    fake.run(&["exec", "again", "--output-dir", "out"]).await;
    assert_eq!(files(&out)["image-2.png"], "first");
    // Without a folder there is still somewhere to look.
    let ran = fake.run(&["exec", "again"]).await;
    assert!(ran.stderr.contains("saved kernelbox-output/image-1.png"), "{ran:?}");
}

#[tokio::test]
async fn files_that_the_code_made_are_saved_below_the_folder_only() {
    let fake = Fake::start().await;
    for path in ["data/a.csv", "../evil", "/tmp/evil"] {
        fake.state.files.lock().unwrap().insert(path.into(), b"a,b".to_vec());
    }
    let steps = ["data/a.csv", "../evil", "/tmp/evil", ".kernelbox/log"].map(Step::made);
    fake.on("make", steps.into_iter().chain([Step::ok()]).collect());
    let ran = fake.run(&["exec", "make", "-o", "out"]).await;
    assert_eq!(std::fs::read_to_string(fake.home.path().join("out/data/a.csv")).unwrap(), "a,b");
    assert!(ran.stderr.contains("saved out/data/a.csv"), "{ran:?}");
    assert!(!fake.home.path().join("evil").exists() && !ran.stderr.contains("saved /tmp"), "{ran:?}");
    let without = fake.run(&["exec", "make"]).await;
    assert!(without.stderr.contains("made data/a.csv (3 B)"), "{without:?}");
    assert!(without.stderr.contains("--output-dir saves them"), "{without:?}");
    assert!(!without.stderr.contains(".kernelbox"), "{without:?}");
}

#[tokio::test]
async fn a_cut_stream_is_resumed_and_nothing_is_lost_or_said_twice() {
    let fake = Fake::start().await;
    let text: Vec<_> = (1..=300).map(|n| format!("{n}\n")).collect();
    let mut steps: Vec<_> = text.iter().map(|line| Step::stdout(line)).collect();
    steps.splice(200..200, [Step::WaitForTest, Step::Cut]);
    steps.push(Step::ok());
    fake.on("count", steps);
    let mut child = fake.command(&["exec", "count"]).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
    fake.state.go_on.notify_one();
    // Once for the stream that is cut, once for the one that goes on.
    fake.until("ResumeExecution").await;
    fake.state.go_on.notify_one();
    let ran = ended(child).await;
    assert_eq!(format!("1\n{}", ran.stdout), text.concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let calls = fake.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("Execute ")).count(), 1, "{calls:?}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("ResumeExecution")).count(), 1, "{calls:?}");
}

#[tokio::test]
async fn a_stream_that_is_cut_before_its_first_event_asks_again_under_the_same_id() {
    let fake = Fake::start().await;
    fake.on("code", vec![Step::Cut, Step::stdout("once\n"), Step::ok()]);
    let ran = fake.run(&["exec", "code"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "once\n"));
    let requests = fake.state.requests.lock().unwrap();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].request_id, requests[1].request_id);
}

#[tokio::test]
async fn a_named_session_is_made_when_missing_and_stays() {
    let fake = Fake::start().await;
    assert_eq!(fake.run(&["exec", "--session", "s1", "x = 1"]).await.code, 0);
    assert_eq!(fake.run(&["exec", "--session", "s1", "x"]).await.code, 0);
    let calls = fake.calls();
    assert_eq!(
        calls,
        [
            "Execute sessions/s1 x = 1",
            "CreateSession sessions/s1",
            "Execute sessions/s1 x = 1",
            "Execute sessions/s1 x"
        ]
    );
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_server() {
    let fake = Fake::start().await;
    let script = fake.home.path().join("code.sh");
    std::fs::write(&script, "echo hi").unwrap();
    fake.run(&[
        "exec",
        "--file",
        "code.sh",
        "--kernel",
        "bash",
        "--context",
        "c1",
        "--timeout",
        "1m 30s",
        "--env",
        "A=b=c",
        "--cwd",
        "d",
        "--auto-install",
        "off",
        "--rerun",
    ])
    .await;
    let requests = fake.state.requests.lock().unwrap();
    let request = &requests[0];
    assert_eq!((request.code.as_str(), request.kernel.as_str(), request.context.as_str()), ("echo hi", "bash", "c1"));
    assert_eq!(request.timeout.unwrap().seconds, 90);
    assert_eq!((request.env["A"].as_str(), request.working_directory.as_str()), ("b=c", "d"));
    assert_eq!(request.auto_install, 3);
    assert!(request.rerun_after_install && request.allow_input && !request.cancel_on_disconnect);
}

#[tokio::test]
async fn input_is_answered_from_stdin() {
    let fake = Fake::start().await;
    let steps =
        [Step::ask("q1"), Step::WaitForInput, Step::ask("q2"), Step::WaitForInput, Step::stdout("hi\n"), Step::ok()];
    fake.on("input()", steps.to_vec());
    let ran = fake.run_with(&["exec", "input()"], "Ada\r\nLovelace\n".as_bytes()).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "name? name? hi\n"));
    let answers: Vec<_> = fake.calls().into_iter().filter(|call| call.starts_with("SendInput")).collect();
    assert_eq!(answers, [r#"SendInput q1 "Ada""#, r#"SendInput q2 "Lovelace""#]);
}

#[tokio::test]
async fn input_from_nowhere_interrupts_and_code_from_stdin_may_not_ask() {
    let fake = Fake::start().await;
    let interrupted = Step::finished(ExecutionStatus::Interrupted);
    fake.on("input()", vec![Step::ask("q1"), Step::WaitForInterrupt, interrupted]);
    let ran = fake.run(&["exec", "input()"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("stdin has ended"), "{ran:?}");
    assert_eq!(fake.run_with(&["exec", "-"], b"print(1)").await.code, 0);
    let requests = fake.state.requests.lock().unwrap();
    assert_eq!((requests[1].code.as_str(), requests[1].allow_input), ("print(1)", false));
}

#[tokio::test]
async fn ctrl_c_interrupts_and_a_second_leaves() {
    let fake = Fake::start().await;
    fake.on("stubborn", vec![Step::stdout("on\n"), Step::WaitForInterrupt, Step::WaitForTest]);
    let child = fake.command(&["exec", "stubborn"]).spawn().unwrap();
    fake.until("Execute").await;
    signal(&child, Signal::SIGINT);
    fake.until("Interrupt").await;
    signal(&child, Signal::SIGINT);
    let ran = ended(child).await;
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(fake.calls().contains(&"DeleteSession sessions/made-by-server".to_owned()), "{:?}", fake.calls());

    fake.on("polite", vec![Step::WaitForInterrupt, Step::finished(ExecutionStatus::Interrupted)]);
    fake.state.calls.lock().unwrap().clear();
    let child = fake.command(&["exec", "--session", "s", "polite"]).spawn().unwrap();
    fake.until("CreateSession").await;
    fake.until("Execute").await;
    signal(&child, Signal::SIGINT);
    let ran = ended(child).await;
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[tokio::test]
async fn a_reader_that_is_gone_stops_the_code() {
    let fake = Fake::start().await;
    let mut steps = vec![Step::stdout("line\n"), Step::WaitForTest];
    steps.extend(std::iter::repeat_n(Step::stdout("line\n"), 10));
    steps.extend([Step::WaitForInterrupt, Step::finished(ExecutionStatus::Interrupted)]);
    fake.on("yes", steps);
    let mut child = fake.command(&["exec", "yes"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 5]).await.unwrap();
    drop(stdout);
    fake.state.go_on.notify_one();
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    assert!(fake.calls().contains(&"Interrupt".to_owned()));
}
