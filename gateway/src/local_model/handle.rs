//! The installed model as the rest of the gateway holds it: started when it is first needed, kept running, ended with the gateway.
//!
//! One task keeps the child. Its state is the only thing that the handle and the task share: a handle that wants a server turns
//! `Asleep` or `Failed` into `Starting`, and all else is the task's to say.
use std::{
    io,
    path::PathBuf,
    process::ExitStatus,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Client;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    LocalServer, Provider,
    child::{self, ServerChild, healthy},
    manifest::Manifest,
};
use crate::spawner;

/// Why the installed model is not to be had, in words for its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("the local model's server cannot be run: {0}")]
    Spawn(String),
    #[error("the local model's server {how} {tries} times in a row{words}")]
    Ended { how: String, tries: u32, words: String },
    #[error("the local model was not ready within {}", humantime::format_duration(*.0))]
    Slow(Duration),
    #[error("the server is shutting down")]
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody has needed it yet.
    Asleep,
    /// Wanted; also between its end and its next start.
    Starting,
    /// At this base URL.
    Ready(String),
    /// Given up until somebody asks again.
    Failed(StartError),
    Stopped,
}

/// How it is kept; tests have less patience.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// How long it may take until it answers: a cold disk reads a gigabyte.
    pub start_limit: Duration,
    /// Starts in a row without a steady life between them, after which it is given up.
    pub tries: u32,
    /// Before the second start in a row; doubled for each further one.
    pub pause: Duration,
    /// A life of this length starts the count anew.
    pub steady: Duration,
    pub port: fn() -> io::Result<u16>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start_limit: Duration::from_secs(120),
            tries: 4,
            pause: Duration::from_millis(200),
            steady: Duration::from_secs(60),
            port: child::free_port,
        }
    }
}

/// The installed model, running or to be run. It ends when this is dropped; [`Installed::stop`] waits for that.
#[derive(Debug)]
pub struct Installed {
    name: String,
    context_tokens: u32,
    state: watch::Sender<State>,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Installed {
    pub(super) fn new(manifest: Manifest, log: PathBuf, settings: Settings) -> Self {
        let state = watch::Sender::new(State::Asleep);
        let stop = CancellationToken::new();
        let (name, context_tokens) = (manifest.name.clone(), manifest.context_tokens);
        let keeper = Keeper { manifest, log, settings, state: state.clone(), stop: stop.clone() };
        let keeper = Mutex::new(Some(tokio::spawn(keeper.keep())));
        Self { name, context_tokens, state, stop, keeper }
    }

    /// `qwen2.5-coder-1.5b-instruct`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens of a prompt and its answer together.
    pub fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// Where it answers; starts it first if need be, which takes seconds. Ask before every use: it moves when it is started again.
    ///
    /// What failed before is tried again: there may be more memory now.
    pub async fn base_url(&self) -> Result<String, StartError> {
        let mut state = self.state.subscribe();
        self.state.send_if_modified(|state| {
            let idle = matches!(state, State::Asleep | State::Failed(_));
            if idle {
                *state = State::Starting;
            }
            idle
        });
        let settled = |state: &State| matches!(state, State::Ready(_) | State::Failed(_) | State::Stopped);
        match state.wait_for(settled).await.as_deref() {
            Ok(State::Ready(base_url)) => Ok(base_url.clone()),
            Ok(State::Failed(error)) => Err(error.clone()),
            _ => Err(StartError::Stopped),
        }
    }

    /// The same, as for the servers that run already.
    pub async fn server(&self) -> Result<LocalServer, StartError> {
        let base_url = self.base_url().await?;
        Ok(LocalServer { base_url, model: self.name.clone(), provider: Provider::Installed })
    }

    /// Ends the child and waits for its end. Whoever waits for it is told.
    pub async fn stop(&self) {
        self.stop.cancel();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It was not cancelled and does not panic; there is nothing else to learn.
            let _ = keeper.await;
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How a life ended.
enum End {
    Stopped,
    /// By itself, after so long of answering.
    Died {
        how: String,
        words: String,
        lived: Duration,
    },
    Slow,
}

struct Keeper {
    manifest: Manifest,
    log: PathBuf,
    settings: Settings,
    state: watch::Sender<State>,
    stop: CancellationToken,
}

impl Keeper {
    async fn keep(self) {
        let mut state = self.state.subscribe();
        loop {
            tokio::select! {
                // The sender is our own, so there is always a state to wait for.
                _ = state.wait_for(|state| *state == State::Starting) => {}
                () = self.stop.cancelled() => break,
            }
            let Some(error) = self.run().await else { break };
            tracing::error!(error = &error as &dyn std::error::Error, log = %self.log.display(), "the local model is given up until it is asked for again");
            self.state.send_replace(State::Failed(error));
        }
        self.state.send_replace(State::Stopped);
    }

    /// Starts it again whenever it ends, until it is given up. None: it was told to stop.
    async fn run(&self) -> Option<StartError> {
        let mut failures = 0;
        let mut pause = self.settings.pause;
        loop {
            let (how, words, lived) = match self.live().await {
                Ok(End::Stopped) => return None,
                Ok(End::Slow) => return Some(StartError::Slow(self.settings.start_limit)),
                Ok(End::Died { how, words, lived }) => (how, words, lived),
                Err(error) => {
                    let server = self.manifest.server.display();
                    return Some(StartError::Spawn(format!("{server}: {error}")));
                }
            };
            if lived >= self.settings.steady {
                (failures, pause) = (0, self.settings.pause);
            }
            failures += 1;
            if failures >= self.settings.tries {
                let words = if words.is_empty() { String::new() } else { format!("; its last words: {words}") };
                return Some(StartError::Ended { how, tries: failures, words });
            }
            self.state.send_replace(State::Starting);
            tracing::warn!(
                failures,
                pause_ms = pause.as_millis(),
                words,
                "the local model's server {how}; starting it again"
            );
            tokio::select! { () = sleep(pause) => {}, () = self.stop.cancelled() => return None }
            pause *= 2;
        }
    }

    /// One life of the child. A port that somebody else took meanwhile ends it early; the next has another.
    async fn live(&self) -> io::Result<End> {
        let port = (self.settings.port)()?;
        let client = Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let mut child = ServerChild::start(&self.manifest, port, &self.log).await?;
        let base_url = child.base_url.clone();
        tracing::info!(pid = child.pid(), model = self.manifest.name, base_url, "starting the local model");
        let began = Instant::now();
        let ready = tokio::select! {
            status = child.wait() => return Ok(died(&mut child, &status, Duration::ZERO).await),
            ready = timeout(self.settings.start_limit, healthy(&base_url, &client)) => ready,
            () = self.stop.cancelled() => {
                child.end().await;
                return Ok(End::Stopped);
            }
        };
        if ready.is_err() {
            child.end().await;
            return Ok(End::Slow);
        }
        tracing::info!(took_ms = began.elapsed().as_millis(), base_url, "the local model is ready");
        let since = Instant::now();
        self.state.send_replace(State::Ready(base_url));
        tokio::select! {
            status = child.wait() => Ok(died(&mut child, &status, since.elapsed()).await),
            () = self.stop.cancelled() => {
                child.end().await;
                Ok(End::Stopped)
            }
        }
    }
}

async fn died(child: &mut ServerChild, status: &io::Result<ExitStatus>, lived: Duration) -> End {
    End::Died { how: spawner::how_ended(status), words: child.last_words().await, lived }
}
