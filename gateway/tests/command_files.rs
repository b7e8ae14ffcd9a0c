//! `kernelbox files`, `sessions`, `variables` and `completions` as their users see them.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "helpers of tests are tests, too")]
mod fake;

use fake::Fake;

#[tokio::test]
async fn a_file_goes_in_and_comes_out_as_it_was() {
    let fake = Fake::start().await;
    let data: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    std::fs::write(fake.home.path().join("in.bin"), &data).unwrap();
    let put = fake.run(&["files", "put", "in.bin", "s1:data/"]).await;
    assert_eq!((put.code, put.stdout.as_str(), put.stderr.as_str()), (0, "data/in.bin\n", ""));
    assert_eq!(fake.run(&["files", "get", "s1:data/in.bin", "sub/out.bin"]).await.code, 0);
    assert!(std::fs::read(fake.home.path().join("sub/out.bin")).unwrap() == data);
    let again = fake.run(&["files", "put", "--no-overwrite", "in.bin", "s1:data/in.bin"]).await;
    assert_eq!((again.code, again.stderr.as_str()), (1, "kernelbox: the file exists\n"));
}

#[tokio::test]
async fn a_dash_is_stdin_and_stdout() {
    let fake = Fake::start().await;
    assert_eq!(fake.run_with(&["files", "put", "-", "s1:a.txt"], b"hello").await.code, 0);
    let got = fake.run(&["files", "get", "s1:a.txt", "-"]).await;
    assert_eq!((got.code, got.stdout.as_str()), (0, "hello"));
    assert_eq!(fake.run(&["files", "put", "-", "s1:"]).await.code, 2);
}

#[tokio::test]
async fn a_download_that_fails_leaves_what_was_there() {
    let fake = Fake::start().await;
    fake.state.files.lock().unwrap().insert("broken".into(), vec![1; 5000]);
    std::fs::write(fake.home.path().join("broken"), "old").unwrap();
    let got = fake.run(&["files", "get", "s1:broken"]).await;
    assert_eq!((got.code, got.stderr.as_str()), (1, "kernelbox: the sandbox is gone\n"));
    assert_eq!(std::fs::read_to_string(fake.home.path().join("broken")).unwrap(), "old");
    assert_eq!(std::fs::read_dir(fake.home.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test]
async fn tables_are_aligned_and_names_cannot_break_them() {
    let fake = Fake::start().await;
    fake.state.files.lock().unwrap().insert("a\n\x1b[31mb".into(), vec![0; 1500]);
    let listed = fake.run(&["files", "list", "s1:"]).await;
    assert_eq!(listed.stdout, "SIZE     CHANGED  TYPE  PATH\n1.50 kB  -        file  a\\n\\u{1b}[31mb\n");
    let json = fake.run(&["files", "list", "--json", "s1:"]).await;
    let file: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(file["path"], "a\n\x1b[31mb");

    let variables = fake.run(&["variables", "s1"]).await;
    assert_eq!(
        variables.stdout,
        "NAME  TYPE              SHAPE  SIZE     VALUE\n\
         df    pandas.DataFrame  3x2    2.05 kB  a: int64, b: object\n\
         x     int               -      -        1\n"
    );
    assert_eq!(fake.calls(), ["ListVariables sessions/s1/contexts/python3"]);
}

#[tokio::test]
async fn sessions_are_opened_listed_and_ended() {
    let fake = Fake::start().await;
    let made = fake.run(&["sessions", "create", "s1"]).await;
    assert_eq!((made.code, made.stdout.as_str()), (0, "s1\n"));
    let listed = fake.run(&["sessions", "list"]).await;
    assert!(listed.stdout.lines().nth(1).unwrap().starts_with("s1 "), "{listed:?}");
    let ended = fake.run(&["sessions", "delete", "gone", "s1"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (1, "kernelbox: no such session: gone\n"));
    assert!(fake.state.sessions.lock().unwrap().is_empty());
    let none = fake.run(&["sessions", "list", "--json"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
}

#[tokio::test]
async fn completions_know_the_commands() {
    let fake = Fake::start().await;
    for (shell, word) in [("bash", "complete"), ("zsh", "#compdef kernelbox"), ("fish", "complete -c kernelbox")] {
        let ran = fake.run(&["completions", shell]).await;
        assert!(ran.code == 0 && ran.stdout.contains(word) && ran.stdout.contains("output-dir"), "{shell}");
    }
}
