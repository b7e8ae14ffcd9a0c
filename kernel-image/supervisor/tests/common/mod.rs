//! A real supervisor with real kernels, for tests. Everything goes with the value: the process, its kernels, its folder.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use kernelbox_proto::{
    Error,
    sandbox::v1::{
        BindRequest, CheckpointDone, CheckpointRequest, RestoreHeader, RestoreRequest, RestoreResponse, RetireRequest,
        checkpoint_response, restore_request, sandbox_service_client::SandboxServiceClient,
    },
    v1::{
        ExecuteRequest, ExecutionEvent, ExecutionFinished, ExecutionStatus, MimeBundle, ResumeExecutionRequest,
        execution_event::Kind, mime_part::Content,
    },
};
use tokio::net::UnixStream;
use tonic::{
    Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

pub const SESSION: &str = "sessions/s1";
/// Nothing in a test takes longer, however slow the machine.
pub const LIMIT: Duration = Duration::from_secs(120);

pub const SUPERVISOR: &str = env!("CARGO_BIN_EXE_kernelbox-supervisor");
const SOCKET: &str = "s.sock";

/// What stands before the 32 bytes of an Ed25519 key in SubjectPublicKeyInfo.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

pub type Client = SandboxServiceClient<InterceptedService<Channel, Token>>;

pub struct Sandbox {
    pub client: Client,
    pub dir: tempfile::TempDir,
    child: Child,
}

impl Sandbox {
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("kb").tempdir_in("/tmp").unwrap();
        Self::start_in(dir, &[]).await
    }

    /// A sandbox in a folder that an earlier one may have used.
    pub async fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let mut command = serve(Path::new(SUPERVISOR), dir.path());
        command.args(["--warm-up", ""]).arg("--python").arg(python()).args(args);
        Self::start_by(command, dir).await
    }

    /// By a command that [`serve`] made.
    pub async fn start_by(mut command: Command, dir: tempfile::TempDir) -> Self {
        let at = |name: &str| dir.path().join(name);
        let spec = at("jupyter/kernels/bash");
        std::fs::create_dir_all(&spec).unwrap();
        let json = r#"{"argv":["python","-m","bash_kernel","-f","{connection_file}"],"display_name":"Bash","language":"bash"}"#;
        std::fs::write(spec.join("kernel.json"), json).unwrap();
        std::fs::create_dir_all(at("keys")).unwrap();
        let key = Ed25519KeyPair::generate().unwrap();
        let public = [&SPKI, key.public_key().as_ref()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(public));
        std::fs::write(at("keys/k1.pem"), pem).unwrap();
        let socket = at(SOCKET);
        let child = command.env("JUPYTER_PATH", at("jupyter")).spawn().unwrap();
        let began = Instant::now();
        let channel = loop {
            assert!(began.elapsed() < LIMIT, "the supervisor does not listen");
            let path = socket.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            match Endpoint::from_static("http://sandbox").connect_with_connector(connector).await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let signer = Signer { key };
        let token = signer.sign("session lifecycle");
        let client = SandboxServiceClient::with_interceptor(channel, token);
        let mut sandbox = Self { client, dir, child };
        let request = BindRequest { session: SESSION.into(), generation: 1, ..Default::default() };
        while let Err(status) = sandbox.client.bind(request.clone()).await {
            assert_eq!(Error::from_status(&status).reason(), "SANDBOX_START_FAILED", "{status}");
            assert!(began.elapsed() < LIMIT, "no kernel answers");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sandbox
    }

    pub fn workspace(&self) -> PathBuf {
        self.dir.path().join("w")
    }

    /// Resident memory of the supervisor, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub async fn stream(&self, request: ExecuteRequest) -> Result<Events, Error> {
        let stream = self.client.clone().execute(request).await.map_err(|status| Error::from_status(&status))?;
        Ok(Events(stream.into_inner()))
    }

    /// Runs to the end.
    pub async fn run(&self, request: impl Into<Run>) -> Vec<ExecutionEvent> {
        self.stream(request.into().0).await.unwrap().rest().await
    }

    pub async fn resume(&self, id: &str, after_sequence: i64) -> Vec<ExecutionEvent> {
        let name = format!("{SESSION}/executions/{id}");
        let request = ResumeExecutionRequest { name, after_sequence };
        Events(self.client.clone().resume_execution(request).await.unwrap().into_inner()).rest().await
    }

    /// The session's files, unless their mark is this one.
    pub async fn checkpoint(&self, unless_mark: &str) -> (Vec<u8>, CheckpointDone) {
        let request = CheckpointRequest { unless_mark: unless_mark.into() };
        let mut parts = self.client.clone().checkpoint(request).await.unwrap().into_inner();
        let mut stream = Vec::new();
        loop {
            match parts.message().await.unwrap().unwrap().part.unwrap() {
                checkpoint_response::Part::Chunk(chunk) => stream.extend(chunk),
                checkpoint_response::Part::Done(done) => return (stream, done),
            }
        }
    }

    pub async fn restore(&self, stream: &[u8]) -> Result<RestoreResponse, Error> {
        let header = RestoreHeader { session: SESSION.into(), generation: 1 };
        let chunks = stream.chunks(100_000).map(|chunk| restore_request::Part::Chunk(chunk.to_vec().into()));
        let parts: Vec<_> = [restore_request::Part::Header(header)].into_iter().chain(chunks).collect();
        let parts = parts.into_iter().map(|part| RestoreRequest { part: Some(part) });
        let restored = self.client.clone().restore(futures::stream::iter(parts)).await;
        restored.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
    }

    pub async fn unsaved(&self) -> bool {
        let long = Duration::from_secs(3600).try_into().unwrap();
        let answer = self.client.clone().retire(RetireRequest { idle_for: Some(long) }).await.unwrap().into_inner();
        assert!(!answer.retired);
        answer.unsaved
    }

    /// Tells the supervisor to end.
    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Waits until the supervisor has ended by itself.
    pub async fn ended(&mut self) {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < LIMIT, "the supervisor does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the supervisor and gives its folder back.
    pub fn end(mut self) -> tempfile::TempDir {
        self.stop();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// Ends the supervisor the hard way.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    fn stop(&mut self) {
        drop(self.child.stdin.take());
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(20) {
                self.child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Signer {
    key: Ed25519KeyPair,
}

impl Signer {
    fn sign(&self, scope: &str) -> Token {
        let expiry = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 3600;
        let claims = serde_json::json!({ "aud": "u1", "scope": scope, "sub": SESSION, "exp": expiry });
        let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_der(self.key.to_pkcs8().unwrap().as_ref());
        Token(format!("Bearer {}", encode(&header, &claims, &key).unwrap()).parse().unwrap())
    }
}

/// Sends a sandbox's token with every call.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The command of a supervisor whose folders are in this one. It says neither which interpreter nor what warms up.
pub fn serve(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--uid", "u1", "--exit-with-stdin"]).stdin(Stdio::piped());
    command.arg("--listen").arg(format!("unix:{}", dir.join(SOCKET).display()));
    for (flag, name) in
        [("workspace", "w"), ("packages", "p"), ("state-dir", "st"), ("run-dir", "r"), ("public-keys", "keys")]
    {
        command.arg(format!("--{flag}")).arg(dir.join(name));
    }
    command
}

pub fn python() -> PathBuf {
    let fallback = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    std::env::var_os("KERNELBOX_TEST_PYTHON").map_or_else(fallback, PathBuf::from)
}

/// The events of an execution as they come.
pub struct Events(Streaming<ExecutionEvent>);

impl Events {
    pub async fn next(&mut self) -> Option<ExecutionEvent> {
        tokio::time::timeout(LIMIT, self.0.next()).await.expect("no event for a long time").map(Result::unwrap)
    }

    /// The next event of a kind; those before it are passed over.
    pub async fn until<T>(&mut self, mut is: impl FnMut(Kind) -> Option<T>) -> T {
        loop {
            let event = self.next().await.expect("the stream ended before");
            if let Some(found) = event.kind.and_then(&mut is) {
                return found;
            }
        }
    }

    pub async fn rest(&mut self) -> Vec<ExecutionEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Code to run, from a string or built up.
pub struct Run(pub ExecuteRequest);

impl From<&str> for Run {
    fn from(code: &str) -> Self {
        Self(ExecuteRequest { session: SESSION.into(), code: code.into(), ..Default::default() })
    }
}

impl From<ExecuteRequest> for Run {
    fn from(request: ExecuteRequest) -> Self {
        Self(request)
    }
}

impl Run {
    pub fn id(mut self, id: &str) -> Self {
        self.0.request_id = id.into();
        self
    }

    pub fn context(mut self, context: &str) -> Self {
        self.0.context = context.into();
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = Some(timeout.try_into().unwrap());
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut ExecuteRequest)) -> Self {
        change(&mut self.0);
        self
    }
}

pub fn kinds(events: Vec<ExecutionEvent>) -> Vec<Kind> {
    events.into_iter().filter_map(|event| event.kind).collect()
}

pub fn finished(events: &[ExecutionEvent]) -> ExecutionFinished {
    match events.last().and_then(|event| event.kind.clone()) {
        Some(Kind::Finished(finished)) => finished,
        other => panic!("the last event is {other:?}"),
    }
}

pub fn status(events: &[ExecutionEvent]) -> ExecutionStatus {
    finished(events).status()
}

pub fn stdout(events: &[ExecutionEvent]) -> String {
    let text = |event: &ExecutionEvent| match &event.kind {
        Some(Kind::Stdout(text)) => text.text.clone(),
        _ => String::new(),
    };
    events.iter().map(text).collect()
}

pub fn part<'a>(bundle: &'a MimeBundle, media_type: &str) -> &'a Content {
    let part = bundle.parts.iter().find(|part| part.media_type == media_type);
    part.and_then(|part| part.content.as_ref()).unwrap_or_else(|| panic!("no {media_type} in {bundle:?}"))
}

pub fn text(bundle: &MimeBundle) -> &str {
    match part(bundle, "text/plain") {
        Content::Text(text) => text,
        other => panic!("{other:?}"),
    }
}
