//! One kernel: its process, its channels, its files. It is ready when it answered an execution, and dead when its process is.
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jupyter_protocol::{ConnectionInfo, connection_info::Transport};
use kernelbox_proto::v1::KernelDied;
use nix::sys::signal::Signal;
use tokio::{net::UnixStream, time::timeout};

use crate::{
    jupyter::{self, Client, Incoming, Message, Request},
    sandbox::Sandbox,
    spec::Spec,
    zygote::{self, Exit, Process, Program},
};

/// How long a kernel may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The sockets in the order in which their numbers are written to the connection file: shell, iopub, stdin, control, heartbeat.
const PORTS: [u16; 5] = [1, 2, 3, 4, 5];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the connection file: {0}")]
    File(#[from] io::Error),
    #[error(transparent)]
    Zygote(#[from] zygote::Error),
    #[error(transparent)]
    Channel(#[from] jupyter::Error),
    #[error("the kernel {}{}", describe(*.exit), if .words.is_empty() { String::new() } else { format!(": {}", .words) })]
    Died { exit: Exit, words: String },
    #[error("its start was given up")]
    Abandoned,
    #[error("the kernel did not answer within {} s{}", START_LIMIT.as_secs(), if .0.is_empty() { String::new() } else { format!(": {}", .0) })]
    Slow(String),
}

/// How a kernel is to be started.
#[derive(Debug, Clone)]
pub struct Start {
    pub spec: Spec,
    /// A whole new interpreter rather than a fork.
    pub fresh: bool,
    pub cwd: PathBuf,
    pub env: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Kernel {
    pub client: Client,
    process: Process,
    by_message: bool,
    _files: Files,
}

impl Kernel {
    /// Starts a kernel and waits until it answers.
    pub async fn start(
        sandbox: &Sandbox,
        start: Start,
        on_iopub: impl FnMut(&Message) + Send + 'static,
    ) -> Result<Self, Error> {
        let number = sandbox.next_kernel();
        let files = Files { prefix: sandbox.run_dir.join(format!("k{number}")) };
        let info = files.write(&start.spec.name)?;
        let log = sandbox.state_dir.join(format!("kernel-{number}.log"));
        let by_message = start.spec.interrupt_by_message;
        let mut process = launch(sandbox, start, files.connection_file(), &log).await?;
        let ready = tokio::select! {
            exit = process.exited() => Err(Error::Died { exit, words: last_words(&log) }),
            ready = timeout(START_LIMIT, connect(&files, &info, on_iopub)) => {
                ready.unwrap_or_else(|_| Err(Error::Slow(last_words(&log))))
            }
        };
        fs::remove_file(&log).ok();
        match ready {
            Ok(client) => Ok(Self { client, process, by_message, _files: files }),
            Err(error) => {
                kill(&mut process).await;
                Err(error)
            }
        }
    }

    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Waits for the end of its process, letting go what it says meanwhile.
    pub async fn dead(&mut self) -> Exit {
        loop {
            if let Err(exit) = self.next().await {
                return exit;
            }
        }
    }

    /// The end of the process, or the next thing that the kernel says.
    pub async fn next(&mut self) -> Result<Incoming, Exit> {
        tokio::select! {
            incoming = self.client.incoming() => Ok(incoming),
            exit = self.process.exited() => Err(exit),
        }
    }

    /// Asks it to stop what it runs.
    pub async fn interrupt(&self) {
        if self.by_message {
            let control = self.client.control().clone();
            let request = Request::new("interrupt_request", serde_json::json!({}));
            tokio::spawn(async move { control.ask(request, KILL_LIMIT).await.ok() });
        } else {
            self.process.signal(Signal::SIGINT, true).await;
        }
    }

    /// Kills it with its process group, and reads what it left on its channels.
    pub async fn kill(mut self) {
        kill(&mut self.process).await;
        self.client.close().await;
    }

    /// Reads what is left on the channels of a kernel that is dead.
    pub async fn bury(mut self) {
        // Its children have its process group.
        self.process.signal(Signal::SIGKILL, true).await;
        self.client.close().await;
    }
}

/// The end of a kernel as an event.
pub fn died(exit: Exit) -> KernelDied {
    let (exit_code, signal) = match exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Lost => (None, None),
    };
    let hint = if signal == Some(9) { ", maybe out of memory" } else { "" };
    KernelDied { exit_code, signal, message: format!("the kernel {}{hint}; variables are gone", describe(exit)) }
}

fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(number) => {
            let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned());
            format!("was killed by {name}")
        }
        Exit::Lost => "was lost with the process that kept it".to_owned(),
    }
}

async fn kill(process: &mut Process) {
    process.signal(Signal::SIGKILL, true).await;
    if timeout(KILL_LIMIT, process.exited()).await.is_err() {
        tracing::error!(pid = process.pid, "a killed kernel does not end");
    }
}

async fn launch(sandbox: &Sandbox, start: Start, file: PathBuf, log: &Path) -> Result<Process, zygote::Error> {
    let Start { spec, fresh, cwd, mut env } = start;
    if spec.is_ours() && !fresh {
        return sandbox.zygote.fork(file, env, cwd).await;
    }
    let file = file.to_string_lossy().into_owned();
    let argv = if spec.is_ours() {
        let program = sandbox.program.to_string_lossy().into_owned();
        vec![sandbox.python.to_string_lossy().into_owned(), program, "kernel".to_owned(), file]
    } else {
        spec.argv.iter().map(|arg| arg.replace("{connection_file}", &file)).collect()
    };
    env.extend(spec.env);
    let log = Some(log.to_owned());
    sandbox.zygote.exec(Program { argv, env, cwd, stdout: log.clone(), stderr: log }).await
}

async fn connect(
    files: &Files,
    info: &ConnectionInfo,
    on_iopub: impl FnMut(&Message) + Send + 'static,
) -> Result<Client, Error> {
    // The transport retries with a doubling wait, so it is not asked before there is somebody to answer.
    for port in PORTS.iter().take(4) {
        while UnixStream::connect(files.socket(*port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut client = Client::connect(info, on_iopub).await?;
    let request = |code: &str| {
        Request::new(
            "execute_request",
            serde_json::json!({
                "code": code, "silent": true, "store_history": false, "user_expressions": {}, "allow_stdin": false,
                "stop_on_error": false,
            }),
        )
    };
    // Output that is sent before the subscription is known to the kernel is lost, so a kernel is ready when some arrived.
    loop {
        client.request("ready", request("")).await?;
        while !matches!(client.incoming().await, Incoming::Reply(reply) if reply.parent == "ready") {}
        if client.iopub_live(Duration::from_millis(100)).await {
            return Ok(client);
        }
    }
}

/// What a kernel that did not come up wrote.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(2000)..];
    String::from_utf8_lossy(tail).trim().to_owned()
}

/// The connection file and the sockets, removed with the kernel.
#[derive(Debug)]
struct Files {
    prefix: PathBuf,
}

impl Files {
    fn connection_file(&self) -> PathBuf {
        self.prefix.with_extension("json")
    }

    fn socket(&self, port: u16) -> PathBuf {
        PathBuf::from(format!("{}-{port}", self.prefix.display()))
    }

    fn write(&self, kernel: &str) -> io::Result<ConnectionInfo> {
        self.remove();
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let [shell_port, iopub_port, stdin_port, control_port, hb_port] = PORTS;
        let info = ConnectionInfo {
            ip: self.prefix.to_string_lossy().into_owned(),
            transport: Transport::IPC,
            shell_port,
            iopub_port,
            stdin_port,
            control_port,
            hb_port,
            key: hex::encode(key),
            signature_scheme: "hmac-sha256".to_owned(),
            kernel_name: Some(kernel.to_owned()),
        };
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(self.connection_file())?;
        serde_json::to_writer(file, &info)?;
        Ok(info)
    }

    fn remove(&self) {
        fs::remove_file(self.connection_file()).ok();
        for port in PORTS {
            fs::remove_file(self.socket(port)).ok();
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.remove();
    }
}
