//! `kernelbox chat` as its users see it: a person at a terminal, and a script.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests are tests, too")]
mod fake;

use std::os::unix::fs::PermissionsExt as _;

use fake::{Fake, Pty, Step, TurnStep};
use kernelbox_proto::v1::{ErrorCode, StartTurnRequest};
use nix::{
    sys::{
        signal::{Signal, kill},
        termios::LocalFlags,
    },
    unistd::Pid,
};

fn asked(fake: &Fake) -> Vec<StartTurnRequest> {
    fake.state.turn_requests.lock().unwrap().clone()
}

fn questions(fake: &Fake) -> Vec<String> {
    asked(fake).into_iter().map(|request| request.message).collect()
}

/// A chat at a terminal that waits for the first line.
async fn chat(fake: &Fake, args: &[&str]) -> Pty {
    let mut pty = Pty::start(&fake.command(&[&["chat"], args].concat()));
    pty.until("Ctrl-D ends").await;
    pty.until("> ").await;
    pty
}

#[tokio::test]
async fn a_script_asks_a_line_at_a_time_and_reads_answers_alone() {
    let fake = Fake::start().await;
    let ran = fake.run_with(&["chat"], b"first\n\nsecond \\\nand more\nthird").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "re: first\nre: second \nand more\nre: third\n"), "{ran:?}");
    assert_eq!(
        ran.stderr,
        "kernelbox: session made-by-server; come back to it with `kernelbox chat --session made-by-server`\n\
         kernelbox: session made-by-server stays; `kernelbox sessions delete made-by-server` removes it with its files\n"
    );
    assert_eq!(questions(&fake), ["first", "second \nand more", "third"]);
    assert_eq!(fake.state.sessions.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_that_was_never_used_is_not_kept_and_a_named_one_is() {
    let fake = Fake::start().await;
    assert_eq!(fake.run_with(&["chat"], b"/help\n/quit\nnot asked\n").await.code, 0);
    assert_eq!(fake.calls(), ["CreateSession sessions/made-by-server", "DeleteSession sessions/made-by-server"]);
    fake.state.calls.lock().unwrap().clear();
    for _ in 0..2 {
        assert_eq!(fake.run_with(&["chat", "--session", "s1"], b"").await.code, 0);
    }
    assert_eq!(fake.calls(), ["CreateSession sessions/s1"]);
}

#[tokio::test]
async fn a_script_ends_with_how_its_questions_went() {
    let fake = Fake::start().await;
    fake.on_question("bad", vec![TurnStep::failed(ErrorCode::ModelFailed, "the provider says 500")]);
    fake.on_question("none", vec![Step::fail(ErrorCode::ModelUnavailable, "no model is configured")]);
    let ran = fake.run_with(&["chat"], b"bad\ngood\n").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "re: good\n"), "{ran:?}");
    let ran = fake.run_with(&["chat"], b"none\ngood\n").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    assert!(ran.stderr.contains("no model is configured"), "{ran:?}");
    let ran = fake.run_with(&["chat"], b"/nonsense\n").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("there is no /nonsense; /help lists what there is"), "{ran:?}");
}

#[tokio::test]
async fn files_are_attached_listed_and_saved() {
    let fake = Fake::start().await;
    let home = fake.home.path();
    for name in ["first.csv", "my data.csv", "c.csv"] {
        std::fs::write(home.join(name), "1").unwrap();
    }
    fake.on_question("plot c.csv, please", vec![TurnStep::completed_with("done", &["plot.svg"])]);
    fake.state.files.lock().unwrap().insert("plot.svg".into(), b"<svg>".to_vec());
    let lines = "/file ~/my data.csv\nwhat is it?\nplot @c.csv, please\n/files\n/save plot.svg\nmail me@example.com\n";
    let ran = fake.run_with(&["chat", "--file", "first.csv"], lines.as_bytes()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let attached: Vec<_> = asked(&fake).into_iter().map(|request| request.attachments).collect();
    assert_eq!(attached, [vec!["first.csv", "my data.csv"], vec!["c.csv"], vec![]]);
    assert!(ran.stdout.contains("PATH\n") && ran.stdout.contains("my data.csv\n"), "{ran:?}");
    assert!(ran.stderr.contains("attached my data.csv\n"), "{ran:?}");
    assert!(ran.stderr.contains("made plot.svg (3 B): /save plot.svg\n"), "{ran:?}");
    assert!(ran.stderr.contains("saved kernelbox-output/plot.svg\n"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(home.join("kernelbox-output/plot.svg")).unwrap(), "<svg>");
    let ran = fake.run_with(&["chat"], b"/save nothing.txt\n").await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("nothing.txt was not saved: no file nothing.txt\n"), "{ran:?}");
}

#[tokio::test]
async fn the_model_and_the_session_can_be_changed_on_the_way() {
    let fake = Fake::start().await;
    let lines = b"one\n/model small\ntwo\n/model\nthree\n/new\nfour\n";
    let ran = fake.run_with(&["chat", "--model", "big", "--session", "s1"], lines).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let to: Vec<_> =
        asked(&fake).into_iter().map(|request| (request.session, request.options.unwrap().model)).collect();
    let to: Vec<_> = to.iter().map(|(session, model)| (session.as_str(), model.as_str())).collect();
    let own = "sessions/made-by-server";
    assert_eq!(to, [("sessions/s1", "big"), ("sessions/s1", "small"), ("sessions/s1", ""), (own, "")]);
    assert!(ran.stderr.contains("session s1 stays"), "{ran:?}");
    assert!(ran.stderr.contains("session made-by-server, new; come back"), "{ran:?}");
}

#[tokio::test]
async fn a_line_is_edited_and_history_lasts() {
    let fake = Fake::start().await;
    let mut pty = chat(&fake, &[]).await;
    // Typed, the cursor moved back three and one letter put in.
    pty.send("helo!\x1b[D\x1b[Dl\r");
    pty.until("re: hello!").await;
    pty.until("> ").await;
    pty.send("\x04");
    let (code, rest) = pty.ended().await;
    assert_eq!(code, 0, "{rest}");
    assert!(rest.contains("stays;"), "{rest}");

    let history = fake.home.path().join(".local/share/kernelbox/state/chat-history");
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    let mut pty = chat(&fake, &[]).await;
    pty.send("\x1b[A\r");
    pty.until("re: hello!").await;
    pty.until("> ").await;
    pty.send("/quit\r");
    assert_eq!(pty.ended().await.0, 0);
    assert_eq!(questions(&fake), ["hello!", "hello!"]);
}

#[tokio::test]
async fn lines_that_belong_together_are_one_question() {
    let fake = Fake::start().await;
    let mut pty = chat(&fake, &[]).await;
    pty.send("one\\\rtwo\r");
    pty.until("re: one").await;
    pty.until("> ").await;
    pty.send("\x1b[200~three\rfour\x1b[201~");
    pty.until("four").await;
    pty.send("\r");
    pty.until("re: three").await;
    pty.until("> ").await;
    pty.send("\x04");
    assert_eq!(pty.ended().await.0, 0);
    assert_eq!(questions(&fake), ["one\ntwo", "three\nfour"]);
}

#[tokio::test]
async fn ctrl_c_cancels_the_turn_and_not_the_session() {
    let fake = Fake::start().await;
    let steps = vec![TurnStep::text("m1", 0, "Thinking"), Step::WaitForInterrupt, TurnStep::cancelled("by the client")];
    fake.on_question("long", steps);
    fake.on_question("stubborn", vec![TurnStep::text("m1", 0, "Never"), Step::WaitForInterrupt, Step::WaitForTest]);
    let mut pty = chat(&fake, &[]).await;
    pty.send("\x03");
    pty.until("nothing runs; Ctrl-D ends").await;
    pty.send("long\r");
    pty.until("Thinking").await;
    pty.send("\x03");
    pty.until("cancelling the turn").await;
    pty.until("cancelled: by the client").await;
    pty.until("> ").await;
    pty.send("stubborn\r");
    pty.until("Never").await;
    pty.send("\x03");
    pty.until("cancelling the turn").await;
    fake.until_called("the second CancelTurn", |calls| cancels(calls) == 2).await;
    pty.send("\x03");
    pty.until("left the turn; it may still run").await;
    pty.until("> ").await;
    pty.send("hello\r");
    pty.until("re: hello").await;
    pty.until("> ").await;
    pty.send("\x04");
    let (code, _) = pty.ended().await;
    assert_eq!(code, 0);
    assert_eq!(cancels(&fake.calls()), 2);
}

fn cancels(calls: &[String]) -> usize {
    calls.iter().filter(|call| *call == "CancelTurn").count()
}

#[tokio::test]
async fn a_person_can_go_on_after_what_failed() {
    let fake = Fake::start().await;
    fake.on_question("none", vec![Step::fail(ErrorCode::ModelUnavailable, "no model is configured")]);
    let mut pty = chat(&fake, &[]).await;
    std::fs::write(fake.home.path().join("a.csv"), "1").unwrap();
    for (line, says) in [
        ("/file a.csv", "attached a.csv"),
        ("none", "no model is configured"),
        ("/file nowhere", "nowhere: No such file"),
        ("/nonsense", "there is no /nonsense"),
        ("hello", "re: hello"),
        ("again", "re: again"),
    ] {
        pty.send(&format!("{line}\r"));
        pty.until(says).await;
        pty.until("> ").await;
    }
    pty.send("\x04");
    assert_eq!(pty.ended().await.0, 0);
    let attached: Vec<_> = asked(&fake).into_iter().map(|request| request.attachments).collect();
    assert_eq!(attached, [vec!["a.csv"], vec!["a.csv"], vec![]], "the file is still there for the next try");
}

#[tokio::test]
async fn an_end_from_outside_leaves_the_terminal_as_it_was() {
    let fake = Fake::start().await;
    let mut pty = chat(&fake, &[]).await;
    let raw = pty.settings();
    kill(Pid::from_raw(pty.pid()), Signal::SIGTERM).unwrap();
    pty.until("\x1b[?2004l").await;
    let after = pty.settings();
    assert!(!raw.contains(LocalFlags::ICANON), "the editor reads key by key");
    assert!(after.contains(LocalFlags::ICANON | LocalFlags::ECHO));
    assert_eq!(pty.ended().await.0, 130);
}
