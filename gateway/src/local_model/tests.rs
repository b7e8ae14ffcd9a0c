//! The installed model's life, with a script in the place of llama.cpp's server: a real process on a real port.
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{handle::Settings, *};

/// A data directory with an installed model whose server does what the script says.
struct Home(tempfile::TempDir);

impl Home {
    fn new(script: &Value) -> Self {
        crate::install_crypto();
        let home = Self(tempfile::tempdir().unwrap());
        let dir = home.dir();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("model.gguf"), script.to_string()).unwrap();
        fs::write(dir.join("chat-template.jinja"), "").unwrap();
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llama-server");
        home.describe(&json!({
            "version": 1,
            "name": "small-coder",
            "server": server,
            "model": "model.gguf",
            "sha256": "00",
            "chat_template": "chat-template.jinja",
            "context_tokens": 8192,
        }));
        home
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("local-model")
    }

    fn describe(&self, manifest: &Value) {
        fs::write(self.dir().join("manifest.json"), manifest.to_string()).unwrap();
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("local-model.log")
    }

    fn start(&self) -> Installed {
        self.start_with(quick())
    }

    fn start_with(&self, settings: Settings) -> Installed {
        let model = LocalModel::find(self.0.path()).unwrap().unwrap();
        Installed::new(model.manifest, self.log(), settings)
    }

    /// What each start was given.
    fn starts(&self) -> Vec<Value> {
        let lines = fs::read_to_string(self.dir().join("model.gguf.starts")).unwrap_or_default();
        // The last one may be half written.
        lines.split_inclusive('\n').filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn pid(&self) -> Pid {
        let pid = self.starts().last().unwrap()["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap())
    }
}

fn quick() -> Settings {
    Settings { pause: Duration::from_millis(10), ..Settings::default() }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Whether it is there and no zombie.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn health(base_url: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(format!("{base_url}/health")).send().await.unwrap().status().as_u16()
}

async fn ask_to_end(base_url: &str, code: u8) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    // It ends without an answer.
    assert!(client.get(format!("{base_url}/end?{code}")).send().await.is_err());
}

#[tokio::test]
async fn the_model_is_started_by_the_first_who_needs_it_and_ready_when_it_says_so() {
    let home = Home::new(&json!([{ "loads": 3 }]));
    let model = home.start();
    assert_eq!((model.name(), model.context_tokens()), ("small-coder", 8192));
    tokio::task::yield_now().await;
    assert!(home.starts().is_empty(), "it was started though nobody asked");

    let (one, two) = tokio::join!(model.base_url(), model.server());
    let base_url = one.unwrap();
    let server = two.unwrap();
    assert_eq!(health(&base_url).await, 200);
    assert_eq!(server, LocalServer { base_url, model: "small-coder".into(), provider: Provider::Installed });

    let starts = home.starts();
    assert_eq!(starts.len(), 1);
    let arguments: Vec<_> = starts[0]["arguments"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let template = home.dir().join("chat-template.jinja");
    for wanted in [
        &["--host", "127.0.0.1"][..],
        &["--jinja", "--chat-template-file", template.to_str().unwrap()],
        &["-c", "8192", "-np", "1"],
        &["--temp", "0.2"],
        &["--alias", "small-coder"],
    ] {
        assert!(arguments.windows(wanted.len()).any(|it| it == wanted), "{wanted:?} in {arguments:?}");
    }
    // Cargo's own are there in every test.
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO_")));
    assert!(!starts[0]["environment"].to_string().contains("CARGO_"), "{}", starts[0]);
    model.stop().await;
    assert!(!runs(home.pid()));
    assert_eq!(model.base_url().await, Err(StartError::Stopped));
}

#[tokio::test]
async fn a_server_that_crashes_is_started_again_and_its_words_are_in_the_log() {
    let home = Home::new(&json!([{ "loads": 0 }]));
    let model = home.start();
    let first = model.base_url().await.unwrap();
    ask_to_end(&first, 7).await;
    until("a second start", || home.starts().len() == 2).await;
    let second = model.base_url().await.unwrap();
    assert_eq!(health(&second).await, 200);
    kill(home.pid(), Signal::SIGKILL).unwrap();
    until("a third start", || home.starts().len() == 3).await;
    assert_eq!(health(&model.base_url().await.unwrap()).await, 200);
    assert!(fs::read_to_string(home.log()).unwrap().contains("the end was asked for"));
    model.stop().await;
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_given_up_in_words_and_tried_again_when_asked() {
    let home = Home::new(&json!([{ "dies": 3 }, { "dies": 3 }, { "dies": 3 }, { "dies": 3 }, {}]));
    let model = home.start();
    let error = model.base_url().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the local model's server exited with code 3 4 times in a row; its last words: not enough memory for the model"
    );
    assert_eq!(home.starts().len(), 4);
    assert_eq!(health(&model.base_url().await.unwrap()).await, 200);
    model.stop().await;
}

#[tokio::test]
async fn lives_that_were_long_enough_are_not_counted_as_failures() {
    let home = Home::new(&json!([{}]));
    let model = home.start_with(Settings { tries: 2, steady: Duration::ZERO, ..quick() });
    for lives in 1..=4 {
        ask_to_end(&model.base_url().await.unwrap(), 1).await;
        until("the next start", || home.starts().len() == lives + 1).await;
    }
    assert!(model.base_url().await.is_ok());
    model.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_run_or_is_never_ready_is_told() {
    let home = Home::new(&json!([{ "hangs": true }]));
    let model = home.start_with(Settings { start_limit: Duration::from_millis(300), ..quick() });
    assert_eq!(model.base_url().await, Err(StartError::Slow(Duration::from_millis(300))));
    until("its end", || home.starts().is_empty() || !runs(home.pid())).await;
    model.stop().await;

    let mut found = LocalModel::find(home.0.path()).unwrap().unwrap();
    found.manifest.server = home.dir().join("model.gguf");
    let model = found.start(home.log());
    let error = model.base_url().await.unwrap_err().to_string();
    assert!(error.contains("model.gguf: Permission denied"), "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_meanwhile_is_left_for_another() {
    static TAKEN: LazyLock<TcpListener> = LazyLock::new(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fn first_taken() -> std::io::Result<u16> {
        match CALLS.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(TAKEN.local_addr()?.port()),
            _ => child::free_port(),
        }
    }
    let home = Home::new(&json!([{}]));
    let model = home.start_with(Settings { port: first_taken, ..quick() });
    let base_url = model.base_url().await.unwrap();
    assert_eq!(health(&base_url).await, 200);
    assert!(!base_url.ends_with(&format!(":{}", TAKEN.local_addr().unwrap().port())));
    assert!(fs::read_to_string(home.log()).unwrap().contains("Address already in use"));
    model.stop().await;
}

#[tokio::test]
async fn a_server_that_does_not_listen_to_reason_ends_too() {
    let home = Home::new(&json!([{ "deaf": true }]));
    let model = home.start();
    model.base_url().await.unwrap();
    let pid = home.pid();
    let began = std::time::Instant::now();
    model.stop().await;
    assert!(!runs(pid));
    assert!(began.elapsed() >= Duration::from_secs(4), "it was not given the time to end by itself");
}

#[tokio::test]
async fn a_handle_that_is_dropped_takes_the_server_with_it() {
    let home = Home::new(&json!([{}]));
    let model = home.start();
    model.base_url().await.unwrap();
    let pid = home.pid();
    drop(model);
    until("its end", || !runs(pid)).await;
}

/// Set in the process that plays a gateway to be killed: its data directory.
const PARENT: &str = "KERNELBOX_TEST_LOCAL_MODEL_PARENT";

#[tokio::test]
async fn the_server_ends_with_a_gateway_that_is_killed() {
    if let Some(dir) = std::env::var_os(PARENT) {
        crate::install_crypto();
        let model = LocalModel::find(Path::new(&dir)).unwrap().unwrap().start(Path::new(&dir).join("local-model.log"));
        model.base_url().await.unwrap();
        fs::write(Path::new(&dir).join("ready"), "").unwrap();
        return std::future::pending().await;
    }
    let home = Home::new(&json!([{}]));
    let this = "local_model::tests::the_server_ends_with_a_gateway_that_is_killed";
    let mut parent = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this])
        .env(PARENT, home.0.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("the gateway is ready", || home.0.path().join("ready").exists()).await;
    let pid = home.pid();
    assert!(runs(pid));
    parent.start_kill().unwrap();
    parent.wait().await.unwrap();
    until("the server's end", || !runs(pid)).await;
}

#[test]
fn what_was_installed_is_found_whole_or_said_to_be_broken() {
    let home = Home::new(&json!([{}]));
    assert!(LocalModel::find(&home.dir()).unwrap().is_none(), "nothing is installed there");
    assert_eq!(LocalModel::find(home.0.path()).unwrap().unwrap().name(), "small-coder");

    fs::remove_file(home.dir().join("chat-template.jinja")).unwrap();
    let error = LocalModel::find(home.0.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("the local model lacks ") && error.ends_with("run deploy/local-model/get again"),
        "{error}"
    );

    let manifest: Value = serde_json::from_slice(&fs::read(home.dir().join("manifest.json")).unwrap()).unwrap();
    let newer = manifest.as_object().unwrap().iter().map(|(key, value)| (key.clone(), value.clone()));
    let newer: serde_json::Map<_, _> = newer.chain([("version".to_owned(), json!(2))]).collect();
    home.describe(&Value::Object(newer));
    assert!(LocalModel::find(home.0.path()).unwrap_err().to_string().contains("is of version 2"));

    fs::write(home.dir().join("manifest.json"), "{").unwrap();
    assert!(matches!(LocalModel::find(home.0.path()), Err(ManifestError::Parse { .. })));
}
