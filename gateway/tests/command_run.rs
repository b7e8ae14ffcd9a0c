//! `kernelbox run` as its users see it: what is on stdout, what on stderr, which exit code, and what the server was asked.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests are tests, too")]
mod fake;

use std::process::Stdio;

use fake::{Fake, Pty, Step, TurnStep, ended, files, signal};
use kernelbox_proto::{
    Error,
    v1::{
        Artifact, ArtifactChange, ContextSummarised, ErrorCode, LimitReached, PackageInstalled, Retry,
        ToolCallRequested, ToolResult, turn_event::Kind,
    },
};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

/// A turn of two model calls, with code between them.
fn multiply() -> Vec<TurnStep> {
    vec![
        TurnStep::started(),
        TurnStep::reasoning("m1", "Better to compute it."),
        TurnStep::text("m1", 0, "Let me "),
        TurnStep::text("m1", 7, "compute that."),
        TurnStep::code("c1", "x = 17\nprint(x * 23)"),
        TurnStep::execution(Step::stdout("391\n")),
        TurnStep::execution(Step::ok()),
        TurnStep::text("m2", 0, "It is "),
        TurnStep::text("m2", 6, "391."),
        TurnStep::completed("It is 391."),
    ]
}

fn retried(attempt: i32) -> TurnStep {
    TurnStep::Event(Kind::Retry(Retry {
        reason: "429 Too Many Requests".into(),
        attempt,
        delay: Some(prost_types::Duration { seconds: 2, nanos: 500_000_000 }),
    }))
}

fn limit() -> TurnStep {
    TurnStep::Event(Kind::LimitReached(LimitReached { limit: "iterations".into(), message: "12 model calls".into() }))
}

#[tokio::test]
async fn on_a_pipe_stdout_holds_the_answer_alone_and_the_session_ends_with_the_command() {
    let fake = Fake::start().await;
    fake.on_question("17*23?", multiply());
    let ran = fake.run(&["run", "17*23?"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "It is 391.\n"), "{ran:?}");
    assert_eq!(ran.stderr, "Let me compute that.\n\n>>> x = 17\n... print(x * 23)\n391\n");
    let session = "sessions/made-by-server";
    assert_eq!(
        fake.calls(),
        [format!("CreateSession {session}"), format!("StartTurn {session} 17*23?"), format!("DeleteSession {session}")]
    );
}

#[tokio::test]
async fn a_named_session_is_made_when_missing_and_stays() {
    let fake = Fake::start().await;
    for _ in 0..2 {
        assert_eq!(fake.run(&["run", "--session", "s1", "hi"]).await.code, 0);
    }
    assert_eq!(fake.calls(), ["CreateSession sessions/s1", "StartTurn sessions/s1 hi", "StartTurn sessions/s1 hi"]);
}

#[tokio::test]
async fn what_is_asked_for_reaches_the_server_and_files_go_first() {
    let fake = Fake::start().await;
    std::fs::create_dir(fake.home.path().join("data")).unwrap();
    std::fs::write(fake.home.path().join("data/a.csv"), "a,b\n1,2\n").unwrap();
    std::fs::write(fake.home.path().join("b.txt"), "b").unwrap();
    let args = ["run", "-", "--file", "data/a.csv", "-f", "b.txt", "--model", "big", "--timeout", "90s"];
    let ran = fake.run_with(&args, b"sum the\ncolumns").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "re: sum the\ncolumns\n"), "{ran:?}");
    assert_eq!(fake.state.files.lock().unwrap()["a.csv"], b"a,b\n1,2\n");
    let requests = fake.state.turn_requests.lock().unwrap();
    assert_eq!(requests[0].attachments, ["a.csv", "b.txt"]);
    let options = requests[0].options.clone().unwrap();
    assert_eq!((options.model.as_str(), options.timeout.unwrap().seconds), ("big", 90));
    assert!(!options.cancel_on_disconnect && !requests[0].request_id.is_empty());
    assert_eq!(fake.state.session_facts.lock().unwrap().model, "big");
}

#[tokio::test]
async fn what_cannot_be_asked_starts_nothing() {
    let fake = Fake::start().await;
    for name in ["a/x", "b/x"] {
        let path = fake.home.path().join(name);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    for (args, says) in [
        (&["run", "hi", "--file", "nowhere.csv"][..], "nowhere.csv: No such file"),
        (&["run", "hi", "--file", "a"], "a is a folder"),
        (&["run", "hi", "--file", "a/x", "--file", "b/x"], "b/x: another attached file has this name"),
        (&["run", "  "], "the question is empty"),
        (&["run", "hi", "--session", "Not An Id"], "session"),
        (&["run", "hi", "--timeout", "soon"], "--timeout"),
        (&["run"], "QUESTION"),
    ] {
        let ran = fake.run(args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:?}");
        assert!(ran.stderr.contains(says), "{ran:?}");
    }
    assert_eq!(fake.calls(), [""; 0]);
}

#[tokio::test]
async fn each_way_to_end_has_its_exit_code() {
    let fake = Fake::start().await;
    let no_model = "no model is configured: set OPENAI_API_KEY, or run deploy/local-model";
    fake.on_question("limit", vec![limit(), TurnStep::completed("Stopped after 12 steps.")]);
    fake.on_question("cancelled", vec![TurnStep::cancelled("by another client")]);
    fake.on_question("failed", vec![TurnStep::failed(ErrorCode::ModelFailed, "the provider says 500")]);
    fake.on_question("lost", vec![TurnStep::failed(ErrorCode::SandboxLost, "")]);
    fake.on_question("full", vec![TurnStep::failed(ErrorCode::NoCapacity, "no sandbox is free")]);
    fake.on_question("quota", vec![Step::fail(ErrorCode::QuotaExceeded, "too many turns")]);
    fake.on_question("no model", vec![Step::fail(ErrorCode::ModelUnavailable, no_model)]);
    for (question, exit, says) in [
        ("limit", 5, "a limit was reached (iterations): 12 model calls"),
        ("cancelled", 1, "cancelled: by another client"),
        ("failed", 1, "the provider says 500"),
        ("lost", 1, "the turn failed (SANDBOX_LOST)"),
        ("full", 5, "no sandbox is free"),
        ("quota", 5, "too many turns"),
        ("no model", 1, no_model),
    ] {
        let ran = fake.run(&["run", question]).await;
        assert_eq!(ran.code, exit, "{question}: {ran:?}");
        assert_eq!(ran.stderr, format!("kernelbox: {says}\n"));
        assert_eq!(ran.stdout, if question == "limit" { "Stopped after 12 steps.\n" } else { "" });
    }
    assert!(fake.state.sessions.lock().unwrap().is_empty(), "the sessions of failed turns end, too");
    assert_eq!(fake.run(&["run", "--api-key", "wrong", "hi"]).await.code, 4);
    let nowhere = fake.run(&["run", "--endpoint", "http://127.0.0.1:1", "hi"]).await;
    assert_eq!(nowhere.code, 3, "{nowhere:?}");
}

#[tokio::test]
async fn a_turn_that_runs_already_is_told_with_what_to_do() {
    let fake = Fake::start().await;
    let running =
        Error::new(ErrorCode::TurnRunning, "a turn runs in this session").with("turn", "sessions/s1/turns/t7");
    fake.on_question("hi", vec![Step::Fail(running)]);
    let ran = fake.run(&["run", "--session", "s1", "hi"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("`kernelbox turns resume s1 t7` shows it"), "{ran:?}");
}

#[tokio::test]
async fn text_that_was_taken_back_is_never_on_stdout() {
    let fake = Fake::start().await;
    fake.on_question(
        "q",
        vec![
            TurnStep::started(),
            TurnStep::text("m1", 0, "It is 40"),
            TurnStep::restarted("m1", "the connection broke"),
            retried(2),
            TurnStep::text("m2", 0, "It is 42, see sandbox:/plot.png"),
            TurnStep::completed("It is 42."),
        ],
    );
    let ran = fake.run(&["run", "q"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "It is 42.\n"));
    assert_eq!(ran.stderr, "kernelbox: the model is asked again in 2.5 s (try 2): 429 Too Many Requests\n");
    // What stands when a turn breaks off is no answer.
    fake.on_question(
        "broken",
        vec![TurnStep::text("m1", 0, "It is"), TurnStep::failed(ErrorCode::ModelFailed, "gone")],
    );
    let ran = fake.run(&["run", "broken"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "It is\nkernelbox: gone\n"));
}

#[tokio::test]
async fn what_happens_beside_the_answer_is_a_short_note_each() {
    let fake = Fake::start().await;
    let package = || PackageInstalled { distribution: "humanize".into(), version: "4.1".into(), ..Default::default() };
    let call = ToolCallRequested { tool_call: "t1".into(), tool: "salaries".into(), arguments: None };
    let result = |call: &str, failed| ToolResult {
        tool_call: call.into(),
        tool: "weather".into(),
        content: "cold\nand wet".into(),
        failed,
    };
    fake.on_question(
        "q",
        vec![
            TurnStep::Event(Kind::ContextSummarised(ContextSummarised { turns: 7 })),
            TurnStep::code("c1", "import humanize"),
            TurnStep::execution(Step::Event(kernelbox_proto::v1::execution_event::Kind::PackageInstalled(package()))),
            TurnStep::Event(Kind::PackageInstalled(package())),
            TurnStep::execution(Step::error()),
            TurnStep::execution(Step::finished(kernelbox_proto::v1::ExecutionStatus::TimedOut)),
            TurnStep::Event(Kind::ToolResult(result("c1", false))),
            TurnStep::Event(Kind::ToolCallRequested(call)),
            TurnStep::Event(Kind::ToolResult(result("t2", true))),
            TurnStep::completed("done"),
        ],
    );
    let ran = fake.run(&["run", "q"]).await;
    assert_eq!(ran.stdout, "done\n");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "kernelbox: 7 older turns were summarised, so that the rest fits the model",
            "",
            ">>> import humanize",
            "kernelbox: installed humanize 4.1",
            "ZeroDivisionError: division by zero",
            "kernelbox: timed out",
            "kernelbox: the model calls salaries, a tool of another client's: the turn waits for its answer (call t1)",
            "kernelbox: the tool weather failed: cold and wet",
        ]
    );
}

#[tokio::test]
async fn json_is_one_event_a_line_and_nothing_else() {
    let fake = Fake::start().await;
    fake.on_question("17*23?", multiply());
    let ran = fake.run(&["run", "--json", "17*23?"]).await;
    let events: Vec<serde_json::Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code, ran.stderr.as_str(), events.len()), (0, "", multiply().len()));
    assert_eq!(events[2]["text"]["message"], "m1");
    assert_eq!(events[5]["execution"]["stdout"]["text"], "391\n");
    assert_eq!(events.last().unwrap()["completed"]["answer"], "It is 391.");
    let numbers: Vec<usize> = events.iter().map(|event| event["sequence"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=events.len()).collect::<Vec<_>>());
}

#[tokio::test]
async fn files_that_the_turn_made_are_saved_at_the_end_and_it_is_said_where() {
    let fake = Fake::start().await;
    let made = |path: &str, change: ArtifactChange| {
        let artifact = Artifact { path: path.into(), size: 3, change: change.into(), ..Artifact::default() };
        TurnStep::Event(Kind::Artifact(artifact))
    };
    for path in ["a.xlsx", "scratch.txt", "partial.csv"] {
        fake.state.files.lock().unwrap().insert(path.into(), b"abc".to_vec());
    }
    let plot = TurnStep::execution(Step::display("", &[("image/png", "PNG")]));
    fake.on_question(
        "q",
        vec![
            plot,
            made("scratch.txt", ArtifactChange::Created),
            TurnStep::execution(Step::made("a.xlsx")),
            TurnStep::completed_with("made", &["a.xlsx", "../evil", ".kernelbox/log"]),
        ],
    );
    let ran = fake.run(&["run", "q", "-o", "out"]).await;
    assert_eq!(
        ran.stderr,
        "kernelbox: saved out/image-1.png\nkernelbox: saved out/a.xlsx\nkernelbox: made ../evil (3 B)\n"
    );
    let out = fake.home.path().join("out");
    assert_eq!(files(&out).into_keys().collect::<Vec<_>>(), ["a.xlsx", "image-1.png"]);
    // Half a file helps nobody.
    fake.state.files.lock().unwrap().insert("broken".into(), vec![1; 5000]);
    fake.on_question("lost", vec![TurnStep::completed_with("made", &["broken"])]);
    let ran = fake.run(&["run", "lost", "-o", "lost"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "made\n"));
    assert!(ran.stderr.starts_with("kernelbox: broken was not saved: the sandbox is gone\n"), "{ran:?}");
    assert!(files(&fake.home.path().join("lost")).is_empty());
    // A turn that broke off has made files, too.
    fake.on_question(
        "broken",
        vec![
            made("scratch.txt", ArtifactChange::Created),
            made("partial.csv", ArtifactChange::Created),
            made("scratch.txt", ArtifactChange::Deleted),
            TurnStep::cancelled(""),
        ],
    );
    let ran = fake.run(&["run", "broken"]).await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (1, "kernelbox: cancelled\nkernelbox: saved kernelbox-output/partial.csv\n")
    );
}

#[tokio::test]
async fn a_stream_cut_before_any_event_loses_nothing_and_says_nothing_twice() {
    let fake = Fake::start().await;
    let uncut = multiply();
    fake.on_question("q", uncut.clone());
    let whole = fake.run(&["run", "--json", "q"]).await.stdout;
    let events = |text: &str| -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).map(without_turn).collect()
    };
    for place in 0..uncut.len() {
        let mut cut = uncut.clone();
        cut.splice(place..place, [Step::WaitForTest, Step::Cut]);
        fake.on_question("q", cut);
        fake.state.calls.lock().unwrap().clear();
        let mut child = fake.command(&["run", "--json", "q"]).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut seen = String::new();
        for _ in 0..place {
            stdout.read_line(&mut seen).await.unwrap();
        }
        let again = match place {
            0 => "StartTurn sessions/made-by-server q".to_owned(),
            seen => format!("ResumeTurn after {seen}"),
        };
        fake.until("StartTurn").await;
        // Once for the stream that is cut, once for the one that goes on.
        fake.state.go_on.notify_one();
        fake.until_calls(3).await;
        fake.state.go_on.notify_one();
        stdout.read_to_string(&mut seen).await.unwrap();
        let ran = ended(child).await;
        assert_eq!((ran.code, events(&seen)), (0, events(&whole)), "cut at {place}: {ran:?}");
        assert_eq!(fake.calls()[2], again);
    }
    let requests = fake.state.turn_requests.lock().unwrap();
    assert_eq!(requests[1].request_id, requests[2].request_id, "the turn is not started twice");
}

fn without_turn(mut event: serde_json::Value) -> serde_json::Value {
    event.as_object_mut().unwrap().remove("turn").unwrap();
    event
}

#[tokio::test]
async fn ctrl_c_cancels_the_turn_and_a_second_leaves() {
    let fake = Fake::start().await;
    fake.on_question("polite", vec![TurnStep::started(), Step::WaitForInterrupt, TurnStep::cancelled("by the client")]);
    let child = fake.command(&["run", "polite"]).spawn().unwrap();
    fake.until("StartTurn").await;
    signal(&child, Signal::SIGINT);
    let ran = ended(child).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("cancelling the turn (Ctrl-C again leaves)\nkernelbox: cancelled: by the client"),
        "{ran:?}"
    );

    fake.on_question("stubborn", vec![TurnStep::started(), Step::WaitForInterrupt, Step::WaitForTest]);
    fake.state.calls.lock().unwrap().clear();
    let child = fake.command(&["run", "stubborn"]).spawn().unwrap();
    fake.until("StartTurn").await;
    signal(&child, Signal::SIGINT);
    fake.until("CancelTurn").await;
    signal(&child, Signal::SIGINT);
    let ran = ended(child).await;
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(fake.calls().contains(&"DeleteSession sessions/made-by-server".to_owned()), "{:?}", fake.calls());
}

#[tokio::test]
async fn a_reader_that_is_gone_ends_the_turn() {
    let fake = Fake::start().await;
    let mut steps = vec![TurnStep::started(), Step::WaitForTest];
    steps.extend((0..10).map(|_| TurnStep::text("m1", 0, "more")));
    fake.on_question("q", steps);
    let mut child = fake.command(&["run", "--json", "q"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 5]).await.unwrap();
    drop(stdout);
    fake.state.go_on.notify_one();
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    assert!(fake.calls().contains(&"CancelTurn".to_owned()));
}

#[tokio::test]
async fn a_terminal_shows_everything_as_it_comes() {
    let fake = Fake::start().await;
    let mut steps = multiply();
    steps.insert(3, Step::WaitForTest);
    fake.on_question("17*23?", steps);
    let mut pty = Pty::start(&fake.command(&["run", "17*23?"]));
    pty.until("\x1b[2mBetter to compute it.\x1b[0m\r\n\r\nLet me ").await;
    fake.state.go_on.notify_one();
    pty.until("compute that.\r\n\r\n\x1b[2m>>> \x1b[0m\x1b[36mx = 17\r\n").await;
    pty.until("\x1b[2m391\r\n\x1b[0m\r\nIt is 391.\r\n").await;
    assert_eq!(pty.ended().await, (0, String::new()));
}

#[tokio::test]
async fn a_terminal_is_told_that_a_message_begins_again_and_what_the_final_words_are() {
    let fake = Fake::start().await;
    fake.on_question(
        "q",
        vec![
            TurnStep::text("m1", 0, "It is\x1b[2J 40"),
            TurnStep::restarted("m1", "the connection broke"),
            TurnStep::Event(Kind::Retry(Retry { reason: "the connection broke".into(), attempt: 2, delay: None })),
            TurnStep::text("m2", 0, "It is 42, see sandbox:/plot.png"),
            TurnStep::completed("It is 42."),
        ],
    );
    let mut pty = Pty::start(&fake.command(&["run", "q"]));
    pty.until("It is[2J 40\r\n").await;
    pty.until("kernelbox: that broke off (the connection broke) and does not count; the model begins again").await;
    pty.until("kernelbox: the model is asked again now (try 2)\r\n").await;
    pty.until("It is 42, see sandbox:/plot.png\r\n").await;
    pty.until("kernelbox: the answer in its final words:").await;
    pty.until("It is 42.\r\n").await;
    assert_eq!(pty.ended().await.0, 0);
}

#[tokio::test]
async fn a_terminal_that_can_shows_pictures_and_one_that_cannot_gets_files() {
    let fake = Fake::start().await;
    let plot = TurnStep::execution(Step::display("", &[("image/png", "PNG"), ("text/plain", "<Figure>")]));
    fake.on_question("plot", vec![plot, TurnStep::completed("There it is.")]);
    let mut pty = Pty::start(&fake.command(&["run", "plot"]));
    pty.until("\x1b[c").await;
    pty.send("\x1b_Gi=31;OK\x1b\\\x1b[?62;c");
    pty.until("\x1b_Ga=T,f=100,q=2,m=0;UE5H\x1b\\").await;
    assert_eq!(pty.ended().await.0, 0);
    assert!(!fake.home.path().join("kernelbox-output").exists());

    let mut pty = Pty::start(&fake.command(&["run", "plot"]));
    pty.until("\x1b[c").await;
    pty.send("\x1b[?62;c");
    pty.until("saved kernelbox-output/image-1.png").await;
    assert_eq!(pty.ended().await.0, 0);
}

#[tokio::test]
async fn a_terminal_shows_what_is_waited_for() {
    let fake = Fake::start().await;
    fake.on_question("slow", vec![TurnStep::started(), Step::WaitForTest, TurnStep::completed("at last")]);
    let mut pty = Pty::start(&fake.command(&["run", "slow"]));
    pty.until("waiting for the model").await;
    fake.state.go_on.notify_one();
    pty.until("at last\r\n").await;
    assert_eq!(pty.ended().await.0, 0);
}
