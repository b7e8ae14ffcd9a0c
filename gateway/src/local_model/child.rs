//! One life of the model's server: its start on a free port, its health, its end.
//!
//! The kernel kills it when this process ends, whatever ends that. It has none of this process's secrets in its environment.
use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, getpid, getppid},
};
use reqwest::Client;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{log, manifest::Manifest};
use crate::spawner;

/// Between two questions whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// How long one such question may take.
const PROBE: Duration = Duration::from_secs(2);
/// How long it may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);
/// More threads than this do not make it faster: it waits for memory, not for cores.
const MAX_THREADS: usize = 8;

/// A server that was started.
#[derive(Debug)]
pub(super) struct ServerChild {
    child: Child,
    /// Gives its last words when all it wrote has been read.
    words: Option<JoinHandle<String>>,
    pub base_url: String,
}

impl ServerChild {
    pub(super) async fn start(manifest: &Manifest, port: u16, log: &Path) -> io::Result<Self> {
        let mut command = Command::new(&manifest.server);
        command.arg("-m").arg(&manifest.model).args(["--alias", &manifest.name]);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        // With the model's own template its tool calls arrive as text.
        command.arg("--jinja").arg("--chat-template-file").arg(&manifest.chat_template);
        command.args(["-c", &manifest.context_tokens.to_string(), "-np", "1", "-t", &threads().to_string()]);
        // By default it draws so freely that every third calculation is made up instead of run.
        command.args(["--temp", "0.2"]);
        // Threads that wait for each other by turning round hold up all else and one another: on two busy cores it was ten times slower,
        // on two quiet ones a third faster.
        command.env_clear().env("OMP_WAIT_POLICY", "passive");
        command.envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)));
        command.current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        end_with_us(&mut command);
        let mut child = spawner::spawn(command).await?;
        let words = child.stderr.take().map(|stderr| log::follow(stderr, log.to_owned()));
        Ok(Self { child, words, base_url: format!("http://127.0.0.1:{port}") })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// What it said last, once it has ended.
    pub(super) async fn last_words(&mut self) -> String {
        match self.words.take() {
            // An heir that holds the stream open is not waited for.
            Some(words) => timeout(GRACE, words).await.ok().and_then(Result::ok).unwrap_or_default(),
            None => String::new(),
        }
    }

    /// Asks it to end, and kills it if that is not enough.
    pub(super) async fn end(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It fails only for a child that is gone.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(GRACE, self.child.wait()).await.is_err() {
            tracing::warn!(pid = self.child.id(), "the local model's server did not end when asked and is killed");
            let _ = self.child.kill().await;
        }
    }
}

/// Waits until the model is loaded and answers. The caller watches for the child's end and for the limit.
pub(super) async fn healthy(base_url: &str, client: &Client) {
    let health = format!("{base_url}/health");
    // It answers 503 while it loads.
    while !client.get(&health).timeout(PROBE).send().await.is_ok_and(|answer| answer.status().is_success()) {
        sleep(POLL).await;
    }
}

/// A port of the loopback interface that was free a moment ago. Whoever uses it must be ready to find it taken.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS)
}

/// What it needs to find its libraries and graphics cards; not keys, nor `LLAMA_ARG_*`, which would change what is asked of it here.
fn is_passed_on(name: &OsString) -> bool {
    const NAMES: [&str; 7] = ["PATH", "HOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"];
    const PREFIXES: [&str; 9] = ["LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "VK_", "GGML_", "OMP_"];
    let Some(name) = name.to_str() else { return false };
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Has the kernel kill it when the thread that starts it ends: the spawner's, which ends with this process alone.
#[expect(unsafe_code, reason = "only the child itself can ask for this, between fork and exec")]
fn end_with_us(command: &mut Command) {
    let this = getpid();
    let ask = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // This process may have ended before it was asked for.
        if getppid() == this { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: it makes two system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}
