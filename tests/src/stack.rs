//! A server of this checkout, with folders of its own, on a free port. Its end is checked: nothing of it may be left.
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{Client, eventually, mentions};

const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(40);

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A program of this checkout, of the same profile as the test that runs.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(path.exists(), "{} is missing; build it with: cargo build --workspace --bins", path.display());
    path
}

/// The interpreter of the kernels.
pub fn python() -> PathBuf {
    std::env::var_os("KERNELBOX_TEST_PYTHON").map_or_else(|| root().join(".venv/bin/python"), PathBuf::from)
}

/// How to start a server.
#[derive(Debug)]
pub struct StackBuilder {
    folder: TempDir,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    keys: String,
}

impl StackBuilder {
    fn new() -> Self {
        // Short, as paths of Unix sockets are limited.
        let folder = tempfile::Builder::new().prefix("kbt-").tempdir_in("/tmp").unwrap();
        Self { folder, flags: Vec::new(), environment: Vec::new(), keys: String::new() }
    }

    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more key, as an entry of keys.yaml.
    #[must_use]
    pub fn key(mut self, entry: &str) -> Self {
        self.keys.push_str(entry);
        self
    }

    pub async fn start(self) -> Stack {
        if !self.keys.is_empty() {
            let data = self.folder.path().join("data");
            fs::create_dir_all(&data).unwrap();
            fs::write(data.join("keys.yaml"), &self.keys).unwrap();
        }
        let mut stack = Stack {
            folder: self.folder,
            flags: self.flags,
            environment: self.environment,
            child: None,
            endpoint: String::new(),
            key: String::new(),
        };
        stack.restart().await;
        stack
    }
}

/// A running server and its folders.
#[derive(Debug)]
pub struct Stack {
    folder: TempDir,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    pub endpoint: String,
    pub key: String,
}

impl Stack {
    pub fn builder() -> StackBuilder {
        StackBuilder::new()
    }

    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The workspace of `sessions/{id}` on this machine.
    pub fn workspace(&self, session: &str) -> PathBuf {
        self.data().join(session).join("workspace")
    }

    /// What every process, socket and file of this stack has in its environment, command line or path.
    pub fn mark(&self) -> &Path {
        self.folder.path()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("the server runs").id()).unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Starts the server (again), on the same folders.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        // A server that was killed leaves it.
        let _ = fs::remove_file(self.data().join("server.json"));
        let log = File::options().create(true).append(true).open(self.folder.path().join("server.log")).unwrap();
        let child = Command::new(program("kernelbox"))
            .args(["serve", "--listen=127.0.0.1:0"])
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--run-dir={}", self.run_dir().display()))
            .arg(format!("--python={}", python().display()))
            .arg(format!("--uv={}", root().join(".tools/bin/uv").display()))
            // Another version's, where what runs of it is to go on under this gateway.
            .args(std::env::var("KERNELBOX_TEST_SUPERVISOR").map(|path| format!("--supervisor={path}")))
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let begin = Instant::now();
        loop {
            let said = fs::read(self.data().join("server.json")).ok();
            if let Some(said) = said.and_then(|said| serde_json::from_slice::<serde_json::Value>(&said).ok()) {
                self.endpoint = said["endpoint"].as_str().unwrap().to_owned();
                break;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended at its start: {}", self.log());
            assert!(begin.elapsed() < START, "no server after {START:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.key = fs::read_to_string(self.data().join("key")).unwrap().trim().to_owned();
    }

    /// Waits for the server's end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return status.code();
            }
            assert!(begin.elapsed() < STOP, "the server runs on: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL, as an out-of-memory kill would be.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the server in order; then nothing of it may be left but what is durable.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let code = self.ended().await;
        assert_eq!(code, Some(0), "{}", self.log());
        self.nothing_runs().await;
        assert_eq!(self.sockets(), Vec::<PathBuf>::new(), "sockets are left");
    }

    /// Waits until no process of this stack is left.
    pub async fn nothing_runs(&self) {
        eventually("no process is left", || match mentions(self.mark()) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:#?}")),
        })
        .await;
    }

    /// Sockets and everything else below the run directory, but for the lock file that stays.
    pub fn sockets(&self) -> Vec<PathBuf> {
        files_below(&self.run_dir()).into_iter().filter(|path| !path.ends_with("lock")).collect()
    }

    /// A client with this machine's own key.
    pub async fn client(&self) -> Client {
        Client::connect(&self.endpoint, &self.key).await
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
