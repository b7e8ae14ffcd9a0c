//! The host zygote: one warmed-up Python that every session is forked from. Kept running while the provider lives.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kernelbox_proto::{Error, v1::ErrorCode};
use tokio::{net::UnixStream, sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    leftovers::{Process, Record},
    spawn::{self, Tail},
};
use crate::config::ProcessConfig;

/// How long what was forked from it may take to end.
const GRACE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq)]
enum State {
    Starting,
    Ready,
    /// It could not be started; the next try follows.
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Zygote {
    state: watch::Receiver<State>,
    stop: CancellationToken,
    keeper: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What the zygote is started with.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub supervisor: PathBuf,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub record: PathBuf,
    pub config: ProcessConfig,
}

impl Zygote {
    pub(super) fn start(recipe: Recipe) -> Self {
        let (tell, state) = watch::channel(State::Starting);
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(recipe, tell, stop.clone()));
        Self { state, stop, keeper: std::sync::Mutex::new(Some(keeper)) }
    }

    /// Waits until sessions can be forked.
    pub(super) async fn ready(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        let state = state.wait_for(|state| *state != State::Starting).await;
        match state.as_deref() {
            Ok(State::Failed(why)) => Err(Error::new(
                ErrorCode::SandboxStartFailed,
                format!("the Python that kernels are forked from does not start{why}"),
            )
            .retry_after(Duration::from_secs(1))),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorCode::ShuttingDown, "the server is shutting down")),
        }
    }

    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        let keeper = self.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It was not cancelled and does not panic; there is nothing else to learn.
            let _ = keeper.await;
        }
    }
}

/// Starts it again whenever it ends, until told to stop.
async fn keep(recipe: Recipe, tell: watch::Sender<State>, stop: CancellationToken) {
    let mut pause = Duration::from_millis(100);
    while !stop.is_cancelled() {
        let (was_ready, why) = match run(&recipe, &tell, &stop).await {
            Ok((was_ready, tail)) => (was_ready, tail.suffix()),
            Err(error) => (false, format!(": {}: {error}", recipe.supervisor.display())),
        };
        if stop.is_cancelled() {
            break;
        }
        tracing::warn!(pause_ms = pause.as_millis(), "the host zygote ended; starting it again{why}");
        if was_ready {
            pause = Duration::from_millis(100);
        } else {
            tell.send_replace(State::Failed(why));
        }
        tokio::select! { () = sleep(pause) => {}, () = stop.cancelled() => break }
        pause = (pause * 2).min(LONGEST_PAUSE);
        tell.send_replace(State::Starting);
    }
}

/// One life of the zygote; says whether it ever was ready, and its last words.
async fn run(recipe: &Recipe, tell: &watch::Sender<State>, stop: &CancellationToken) -> std::io::Result<(bool, Tail)> {
    // Left over from an earlier life, or not there.
    let _ = std::fs::remove_file(&recipe.socket);
    let uid = format!("zygote-{}", uuid::Uuid::new_v4().simple());
    let mut command = spawn::command(&recipe.supervisor);
    command.arg("zygote").arg("--python").arg(&recipe.config.python);
    command.arg("--listen").arg(&recipe.socket).arg("--state-dir").arg(&recipe.state_dir);
    if !recipe.config.warm_up.is_empty() {
        command.arg("--warm-up").arg(recipe.config.warm_up.join(","));
    }
    // What is forked from it shows this in /proc, too: a later server finds what a kill left.
    command.env("KERNELBOX_SANDBOX", &uid);
    let (mut child, tail) = spawn::spawn(command, "zygote".to_owned()).await?;
    let pids = child.id().and_then(Process::of).into_iter().collect();
    let record = Record { uid, pids };
    record.write(&recipe.record)?;

    let ready = tokio::select! {
        () = listening(&recipe.socket) => true,
        _ = child.wait() => false,
        () = stop.cancelled() => false,
    };
    if ready {
        tell.send_replace(State::Ready);
        tokio::select! { _ = child.wait() => {}, () = stop.cancelled() => {} }
        tell.send_replace(State::Starting);
    }
    child.end().await;
    // What it had forked ends by itself; this makes sure of it.
    let ended = tokio::task::spawn_blocking(move || super::leftovers::end_all(&record, GRACE)).await;
    if ended.is_ok() {
        // Nothing of it is left that a later server would have to look for.
        let _ = std::fs::remove_file(&recipe.record);
        let _ = std::fs::remove_file(&recipe.socket);
    }
    Ok((ready, tail))
}

async fn listening(socket: &Path) {
    while UnixStream::connect(socket).await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
}
