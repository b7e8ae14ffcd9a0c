//! A server that follows a script, behind a connection that can be cut; and the command, run as a user runs it.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of it")]

mod pty;
mod script;
mod services;
mod turns;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kernelbox_proto::v1::{
    code_service_server::CodeServiceServer, file_service_server::FileServiceServer,
    session_service_server::SessionServiceServer, turn_service_server::TurnServiceServer,
};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Status, transport::Server};

pub use pty::Pty;
pub use script::{Step, TurnStep};
pub use services::{Served, State, StreamEnd};

/// The key that the fake server wants.
pub const KEY: &str = "kb_test";
/// Longer than anything here takes, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Fake {
    pub endpoint: String,
    pub state: Arc<State>,
    pub home: tempfile::TempDir,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Fake {
    pub async fn start() -> Self {
        let state = Arc::new(State::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = listener.local_addr().unwrap();
        let key = |request: Request<()>| match request.metadata().get("authorization") {
            Some(value) if value == &format!("Bearer {KEY}") => Ok(request),
            _ => Err(Status::from(kernelbox_proto::Error::new(
                kernelbox_proto::v1::ErrorCode::Unauthenticated,
                "this key is not known",
            ))),
        };
        let served = Served(Arc::clone(&state));
        let (health, healthy) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let server = Server::builder()
            .add_service(healthy)
            .add_service(CodeServiceServer::with_interceptor(served.clone(), key))
            .add_service(SessionServiceServer::with_interceptor(served.clone(), key))
            .add_service(FileServiceServer::with_interceptor(served.clone(), key))
            .add_service(TurnServiceServer::with_interceptor(served.clone(), key))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serve = tokio::spawn(async move { server.await.unwrap() });
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", front.local_addr().unwrap());
        let proxy = tokio::spawn(forward(front, behind, Arc::clone(&state)));
        Self { endpoint, state, home: tempfile::tempdir().unwrap(), tasks: vec![serve, proxy] }
    }

    /// What the fake does when this code is run.
    pub fn on(&self, code: &str, steps: Vec<Step>) {
        self.state.scripts.lock().unwrap().insert(code.to_owned(), steps);
    }

    /// What the fake does when this is asked.
    pub fn on_question(&self, question: &str, steps: Vec<TurnStep>) {
        self.state.turn_scripts.lock().unwrap().insert(question.to_owned(), steps);
    }

    /// Waits for a call that begins like this.
    pub async fn until(&self, call: &str) {
        self.until_called(call, |calls| calls.iter().any(|c| c.starts_with(call))).await;
    }

    /// Waits for so many calls in all.
    pub async fn until_calls(&self, count: usize) {
        self.until_called(&format!("{count} calls"), |calls| calls.len() >= count).await;
    }

    pub async fn until_called(&self, what: &str, enough: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !enough(&self.calls()) {
            assert!(Instant::now() < deadline, "no {what}: {:?}", self.calls());
            tokio::task::yield_now().await;
        }
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.calls.lock().unwrap().clone()
    }

    /// How so many streams of events ended.
    pub async fn streams(&self, count: usize) -> Vec<(String, StreamEnd)> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let streams = self.state.streams.lock().unwrap().clone();
            if streams.len() >= count {
                return streams;
            }
            assert!(Instant::now() < deadline, "streams go on: {streams:?}");
            tokio::task::yield_now().await;
        }
    }

    /// The command with these arguments, pointed at the fake, in its home.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = kernelbox(self.home.path(), args);
        command.env("KERNELBOX_ENDPOINT", &self.endpoint).env("KERNELBOX_API_KEY", KEY);
        command
    }

    /// Runs the command to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"").await
    }

    /// Runs the command with this on its stdin.
    pub async fn run_with(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).await.unwrap();
        ended(child).await
    }
}

/// The command in an environment of its own.
pub fn kernelbox(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernelbox"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KERNELBOX_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .env("HOME", home)
        .env_remove("XDG_DATA_HOME")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn ended(child: Child) -> Ran {
    Ran::from(tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("the command hangs").unwrap())
}

/// Sends a signal to a command that runs.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(Pid::from_raw(pid), signal).unwrap();
}

/// The files in a folder, with their text.
pub fn files(dir: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeMap::new() };
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), text(&entry.path())))
        .collect()
}

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Passes bytes on until the script cuts all connections of that moment.
async fn forward(front: TcpListener, behind: std::net::SocketAddr, state: Arc<State>) {
    loop {
        let (mut client, _) = front.accept().await.unwrap();
        let cut = Arc::clone(&state);
        tokio::spawn(async move {
            let mut server = TcpStream::connect(behind).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                () = cut.cut.notified() => {}
            }
        });
    }
}
