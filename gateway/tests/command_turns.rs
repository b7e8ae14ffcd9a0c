//! `kernelbox turns`, and what `sessions` says of the agent, as their users see them.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests are tests, too")]
mod fake;

use fake::{Fake, Step, TurnStep, ended, files, signal};
use kernelbox_proto::v1::{
    Artifact, ErrorCode, McpServer, ModelUsage, Session, StartTurnRequest, Tool, Turn, TurnStatus,
};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;

fn turn(id: &str, status: TurnStatus, message: &str) -> Turn {
    Turn {
        name: format!("sessions/s1/turns/{id}"),
        status: status.into(),
        message: message.into(),
        create_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ..Turn::default()
    }
}

/// A session with two turns: one under way, one answered.
async fn asked() -> Fake {
    let fake = Fake::start().await;
    fake.state.sessions.lock().unwrap().insert("sessions/s1".into());
    let answered = Turn {
        answer: "It is\n\x1b[2J391.\n".into(),
        artifacts: vec![Artifact { path: "a.csv".into(), size: 1500, ..Artifact::default() }],
        usage: Some(ModelUsage { input_tokens: 1200, output_tokens: 34, ..ModelUsage::default() }),
        end_time: Some(prost_types::Timestamp { seconds: 1_700_000_012, nanos: 500_000_000 }),
        last_sequence: 9,
        ..turn("t1", TurnStatus::Completed, "What is\n17*23?")
    };
    let long = "x".repeat(100);
    *fake.state.turns.lock().unwrap() = vec![turn("t2", TurnStatus::WaitingForTool, &long), answered];
    fake
}

/// A turn that another command started.
fn under_way(fake: &Fake, steps: Vec<TurnStep>) {
    fake.on_question("q", steps);
    let request = StartTurnRequest {
        session: "sessions/s1".into(),
        message: "q".into(),
        request_id: "t1".into(),
        ..StartTurnRequest::default()
    };
    fake.state.turn_requests.lock().unwrap().push(request);
}

#[tokio::test]
async fn turns_are_listed_page_by_page() {
    let fake = asked().await;
    let listed = fake.run(&["turns", "list", "s1"]).await;
    let rows: Vec<Vec<&str>> =
        listed.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
    assert_eq!(rows[0], ["TURN", "STATUS", "BEGAN", "TOOK", "TOKENS", "QUESTION"]);
    assert_eq!((rows[1][0], rows[1][1], rows[1][3], rows[1][4]), ("t2", "waiting for tool", "-", "-"));
    assert_eq!(rows[1][5], format!("{}...", "x".repeat(60)));
    assert_eq!((rows[2][0], rows[2][1], rows[2][3]), ("t1", "completed", "12.5 s"));
    assert_eq!((rows[2][4], rows[2][5]), ("1200 in, 34 out", "What is 17*23?"));
    let json = fake.run(&["turns", "list", "--json", "s1"]).await;
    let names: Vec<_> = json
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].clone())
        .collect();
    assert_eq!(names, ["sessions/s1/turns/t2", "sessions/s1/turns/t1"]);
    let none = fake.run(&["turns", "list", "other"]).await;
    assert_eq!((none.code, none.stderr.as_str()), (1, "kernelbox: no session sessions/other\n"));
}

#[tokio::test]
async fn a_turn_is_shown_with_its_answer() {
    let fake = asked().await;
    for id in ["t1", "sessions/s1/turns/t1"] {
        let got = fake.run(&["turns", "get", "s1", id]).await;
        assert_eq!(
            got.stdout,
            "TURN        t1\n\
             status      completed\n\
             began       2023-11-14 22:13:20\n\
             took        12.5 s\n\
             tokens      1200 in, 34 out\n\
             last event  9\n\
             file        a.csv (1.50 kB)\n\
             \nQUESTION\nWhat is\n17*23?\n\
             \nANSWER\nIt is\n\\u{1b}[2J391.\n"
        );
    }
    let json = fake.run(&["turns", "get", "--json", "s1", "t1"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json.stdout).unwrap()["usage"]["inputTokens"], "1200");
    assert_eq!(fake.run(&["turns", "get", "s1", "gone"]).await.code, 1);
    let bad = fake.run(&["turns", "get", "s1", "sessions/s2/turns/t1"]).await;
    assert_eq!((bad.code, bad.stderr.as_str()), (2, "kernelbox: not the id of a turn: sessions/s2/turns/t1\n"));
}

#[tokio::test]
async fn a_turn_is_resumed_after_any_event() {
    let fake = asked().await;
    let steps = vec![
        TurnStep::started(),
        TurnStep::code("c1", "1"),
        Step::WaitForTest,
        Step::Cut,
        TurnStep::execution(Step::stdout("one\n")),
        TurnStep::completed_with("It is 1.", &["a.csv"]),
    ];
    under_way(&fake, steps);
    let mut child = fake.command(&["turns", "resume", "s1", "t1"]).spawn().unwrap();
    let mut code = [0; 6];
    child.stderr.as_mut().unwrap().read_exact(&mut code).await.unwrap();
    assert_eq!(&code, b">>> 1\n");
    // Once for the stream that is cut, once for the one that goes on.
    fake.state.go_on.notify_one();
    fake.until_calls(2).await;
    fake.state.go_on.notify_one();
    let ran = ended(child).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "It is 1.\n"));
    assert_eq!(ran.stderr, "one\nkernelbox: made a.csv (3 B): kernelbox files get s1:a.csv\n");
    assert_eq!(fake.calls(), ["ResumeTurn after 0", "ResumeTurn after 2"]);
    fake.state.files.lock().unwrap().insert("a.csv".into(), b"abc".to_vec());
    // The script waits where the stream was cut, though what came before is not sent again.
    fake.state.go_on.notify_one();
    let rest = fake.run(&["turns", "resume", "s1", "t1", "--after", "3", "-o", "out", "--json"]).await;
    assert_eq!((rest.code, rest.stdout.lines().count(), rest.stderr.as_str()), (0, 1, "kernelbox: saved out/a.csv\n"));
    assert_eq!(files(&fake.home.path().join("out"))["a.csv"], "abc");
    assert_eq!(fake.run(&["turns", "resume", "s1", "t1", "--after", "-1"]).await.code, 2);
    let nothing = fake.run(&["turns", "resume", "s1", "t1", "--after", "9"]).await;
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, ""));
    assert_eq!(nothing.stderr, "kernelbox: nothing came after that; the turn has ended: completed\n");
    let gone = fake.run(&["turns", "resume", "s1", "t9"]).await;
    assert_eq!(gone.code, 1, "{gone:?}");
    let nowhere = fake.run(&["turns", "resume", "s1", "t1", "--endpoint", "http://127.0.0.1:1"]).await;
    assert_eq!(nowhere.code, 3, "{nowhere:?}");
}

#[tokio::test]
async fn ctrl_c_leaves_a_resumed_turn_running() {
    let fake = asked().await;
    under_way(&fake, vec![TurnStep::started(), Step::WaitForTest, TurnStep::failed(ErrorCode::ModelFailed, "")]);
    let child = fake.command(&["turns", "resume", "s1", "t1"]).spawn().unwrap();
    fake.until("ResumeTurn").await;
    signal(&child, Signal::SIGINT);
    let ran = ended(child).await;
    assert_eq!(ran.code, 130);
    assert_eq!(ran.stderr, "kernelbox: left; the turn goes on. `kernelbox turns cancel s1 t1` ends it\n");
    assert!(!fake.calls().contains(&"CancelTurn".to_owned()));
}

#[tokio::test]
async fn a_turn_is_cancelled() {
    let fake = asked().await;
    let ran = fake.run(&["turns", "cancel", "s1", "t2"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "cancelled\n"));
    let json = fake.run(&["turns", "cancel", "--json", "s1", "t2"]).await;
    assert!(json.stdout.contains("TURN_STATUS_CANCELLED"), "{json:?}");
}

#[tokio::test]
async fn a_session_shows_what_its_agent_is_told() {
    let fake = asked().await;
    *fake.state.session_facts.lock().unwrap() = Session {
        model: "big".into(),
        tools: vec![Tool { name: "salaries".into(), description: "Looks up\nsalaries".into(), ..Tool::default() }],
        mcp_servers: vec![McpServer {
            name: "docs".into(),
            url: "https://docs.example/mcp".into(),
            ..McpServer::default()
        }],
        effective_system_prompt: "You write Python.\n\nBe brief.".into(),
        ..Session::default()
    };
    let got = fake.run(&["sessions", "get", "s1"]).await;
    for line in [
        "model             big",
        "tool              salaries: Looks up",
        "MCP server        docs: https://docs.example/mcp",
    ] {
        assert!(got.stdout.contains(&format!("{line}\n")), "{line}: {got:?}");
    }
    assert!(got.stdout.ends_with("\nSYSTEM PROMPT\nYou write Python.\n\nBe brief.\n"), "{got:?}");
    let json = fake.run(&["sessions", "get", "--json", "s1"]).await;
    let session: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(session["effectiveSystemPrompt"], "You write Python.\n\nBe brief.");
}

#[tokio::test]
async fn a_session_is_opened_with_a_model_and_a_prompt() {
    let fake = Fake::start().await;
    std::fs::write(fake.home.path().join("prompt.txt"), "From a file.").unwrap();
    let told = ["--model", "big", "--system-prompt", "Be a pirate.", "--system-prompt-suffix", "In English."];
    assert_eq!(fake.run(&[&["sessions", "create", "s1"][..], &told].concat()).await.code, 0);
    {
        let session = fake.state.session_facts.lock().unwrap();
        assert_eq!((session.model.as_str(), session.system_prompt.as_str()), ("big", "Be a pirate."));
        assert_eq!(session.system_prompt_suffix, "In English.");
    }
    assert_eq!(fake.run(&["sessions", "create", "s2", "--system-prompt-file", "prompt.txt"]).await.code, 0);
    assert_eq!(fake.state.session_facts.lock().unwrap().system_prompt, "From a file.");
    let both = fake.run(&["sessions", "create", "--system-prompt", "a", "--system-prompt-file", "prompt.txt"]).await;
    assert_eq!(both.code, 2);
    assert_eq!(fake.run(&["sessions", "create", "--system-prompt-file", "nowhere"]).await.code, 2);
}

#[tokio::test]
async fn help_has_examples_of_what_it_lists() {
    let fake = Fake::start().await;
    let help = fake.run(&["help"]).await;
    assert_eq!(help.code, 0);
    for example in ["kernelbox run 'What is 17*23?'", "kernelbox chat --session s1", "kernelbox turns list s1"] {
        assert!(help.stdout.contains(example), "{help:?}");
    }
    let completions = fake.run(&["completions", "bash"]).await;
    assert!(completions.stdout.contains("system-prompt-file") && completions.stdout.contains("kernelbox,turns)"));
}
