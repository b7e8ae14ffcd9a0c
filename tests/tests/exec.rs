//! `kernelbox exec`, as people type it, through the real program.
use std::{
    fs,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use kernelbox_tests::{Stack, eventually, mentions, program, python};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A command that speaks to this stack's server and to no other.
fn kernelbox(stack: &Stack) -> Command {
    let mut command = Command::new(program("kernelbox"));
    command
        .env_remove("KERNELBOX_ENDPOINT")
        .env_remove("KERNELBOX_API_KEY")
        .env_remove("KERNELBOX_SESSION")
        .env("KERNELBOX_DATA_DIR", stack.data())
        .stdin(Stdio::null());
    command
}

fn run(stack: &Stack, arguments: &[&str]) -> (Option<i32>, String, String) {
    said(kernelbox(stack).args(arguments).output().unwrap())
}

fn said(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_a_data_frame_as_html_and_as_text() {
    let stack = Stack::start().await;
    let code = r#"import pandas as pd; df = pd.DataFrame({"a":[1,2]}); df"#;
    let (exit, out, err) = run(&stack, &["exec", "--json", code]);
    assert_eq!(exit, Some(0), "{err}");
    let events: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let result = events.iter().find_map(|event| event.get("result")).expect("a result");
    let parts = result["bundle"]["parts"].as_array().unwrap();
    let part = |media_type: &str| {
        let part = parts.iter().find(|part| part["mediaType"] == media_type);
        part.map(|part| part["text"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert!(part("text/html").contains("<table"), "{out}");
    assert_eq!(part("text/plain"), "   a\n0  1\n1  2");
    assert!(events.last().unwrap().get("finished").is_some());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plot_leaves_one_png_in_the_output_folder() {
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let code = "import matplotlib.pyplot as plt; plt.plot([1,2]); plt.show()";
    let (exit, out, err) = run(&stack, &["exec", code, "--output-dir", folder.path().to_str().unwrap()]);
    assert_eq!(exit, Some(0), "{out}{err}");
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert!(fs::read(file).unwrap().starts_with(b"\x89PNG\r\n"));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.ends_with(".png") && (out.contains(name) || err.contains(name)), "{name}: {out}{err}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_to_their_own_and_an_exception_exits_1() {
    let stack = Stack::start().await;
    let (exit, out, err) = run(&stack, &["exec", "import sys; print('out'); print('err', file=sys.stderr)"]);
    assert_eq!((exit, out.as_str()), (Some(0), "out\n"));
    assert!(err.contains("err\n"), "{err}");

    let (exit, out, err) = run(&stack, &["exec", "1/0"]);
    assert_eq!((exit, out.as_str()), (Some(1), ""));
    assert!(err.contains("ZeroDivisionError") && err.contains("Traceback"), "{err}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_last_in_a_session_and_survive_a_timeout() {
    let stack = Stack::start().await;
    assert_eq!(run(&stack, &["exec", "--session", "mine", "x = 41"]).0, Some(0));
    let (exit, out, err) = run(&stack, &["exec", "--session", "mine", "print(x + 1)"]);
    assert_eq!((exit, out.as_str()), (Some(0), "42\n"), "{err}");

    let begin = Instant::now();
    let (exit, out, err) = run(&stack, &["exec", "--session", "mine", "--timeout", "2s", "while True: pass"]);
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(exit, Some(1));
    assert!(format!("{out}{err}").contains("2s"), "it says so: {out}{err}");
    assert_eq!(run(&stack, &["exec", "--session", "mine", "print(x)"]).1, "41\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_package_is_installed() {
    let stack = Stack::start().await;
    let (exit, out, err) = run(&stack, &["exec", "import humanize; print(humanize.intcomma(12345))"]);
    assert_eq!((exit, out.as_str()), (Some(0), "12,345\n"), "{err}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_comes_from_a_file_or_stdin_and_bash_runs_too() {
    let stack = Stack::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("code.py");
    fs::write(&file, "print('from a file')").unwrap();
    assert_eq!(run(&stack, &["exec", "--file", file.to_str().unwrap()]).1, "from a file\n");
    let stdin = fs::File::open(&file).unwrap();
    let (exit, out, _) = said(kernelbox(&stack).args(["exec", "-"]).stdin(stdin).output().unwrap());
    assert_eq!((exit, out.as_str()), (Some(0), "from a file\n"));
    let (exit, out, err) = run(&stack, &["exec", "--kernel", "bash", "echo $((6 * 7))"]);
    assert_eq!((exit, out.trim()), (Some(0), "42"), "{err}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_says_what_is_wrong() {
    let stack = Stack::builder().flag("--max-sessions=1").start().await;
    let exit = |arguments: &[&str]| run(&stack, arguments).0;
    assert_eq!(exit(&["exec"]), Some(2), "usage");
    assert_eq!(exit(&["exec", "--timeout", "soon", "1"]), Some(2), "usage");
    assert_eq!(exit(&["exec", "--endpoint", "http://127.0.0.1:1", "1"]), Some(3), "no server");
    assert_eq!(exit(&["exec", "--endpoint", &stack.endpoint, "--api-key", "wrong", "1"]), Some(4), "not allowed");
    assert_eq!(exit(&["exec", "--session", "only", "1"]), Some(0));
    assert_eq!(exit(&["exec", "--session", "more", "1"]), Some(5), "limits");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_server_one_is_started_in_the_background_and_used_again() {
    let folder = tempfile::Builder::new().prefix("kbt-").tempdir_in("/tmp").unwrap();
    let data = folder.path().join("data");
    let exec = |code: &str| {
        let output = Command::new(program("kernelbox"))
            .args(["exec", "--session", "s", code])
            .env_remove("KERNELBOX_ENDPOINT")
            .env("KERNELBOX_DATA_DIR", &data)
            .env("KERNELBOX_PYTHON", python())
            .stdin(Stdio::null())
            .output();
        said(output.unwrap())
    };
    let pid = || {
        let said: serde_json::Value = serde_json::from_slice(&fs::read(data.join("server.json")).unwrap()).unwrap();
        i32::try_from(said["pid"].as_i64().unwrap()).unwrap()
    };

    let (exit, _, err) = exec("x = 1");
    assert_eq!(exit, Some(0), "{err}");
    let first = pid();
    assert_eq!(exec("print(x)").1, "1\n");
    assert_eq!(pid(), first, "a second server was started");

    kill(Pid::from_raw(first), Signal::SIGTERM).unwrap();
    eventually("the server and all of its processes end", || match mentions(folder.path()) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:#?}")),
    })
    .await;
}
