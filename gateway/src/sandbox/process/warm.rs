//! Sandboxes made ahead, so that a session starts in milliseconds.
//!
//! A sandbox works in the folders of its session from its first moment. So each is made for a session that does not exist yet: its id is
//! chosen here, and given to the next one that is created without an id of its own.
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kernelbox_proto::{Error, SessionId};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    child::ProcessSandbox,
    dirs::{self, DirsError, SessionDirs},
    maker::Maker,
};
use crate::sandbox::Sandbox as _;

/// Sandboxes held for sessions that have not used them yet, at most.
const MAX_HELD: usize = 8;
/// After a sandbox that could not be made.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Warm {
    maker: Arc<Maker>,
    /// A session that does not use its sandbox within this time is made another when it does.
    idle_timeout: Duration,
    ready: Mutex<mpsc::Receiver<(SessionId, ProcessSandbox)>>,
    held: Mutex<HashMap<SessionId, Held>>,
}

enum Held {
    Ready {
        sandbox: ProcessSandbox,
        /// Its time is counted for as long as it is held.
        _timer: DropGuard,
    },
    /// Cancelled when nothing of it is left.
    Ending(CancellationToken),
}

impl Warm {
    /// Keeps `count` of them ahead until the maker stops.
    pub(super) fn start(maker: Arc<Maker>, count: u32, idle_timeout: Duration) -> Arc<Self> {
        // A channel must have room for one, also where nothing is sent.
        let (sender, ready) = mpsc::channel(count.max(1) as usize);
        if count > 0 {
            maker.tasks.spawn(fill(Arc::clone(&maker), sender));
        }
        Arc::new(Self { maker, idle_timeout, ready: Mutex::new(ready), held: Mutex::default() })
    }

    /// The id of a session that nobody has yet; its sandbox is held for it.
    pub(super) fn session(self: &Arc<Self>) -> Option<SessionId> {
        let mut held = self.held();
        if held.len() >= MAX_HELD {
            return None;
        }
        let (session, sandbox) = self.ready.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()?;
        // Where everything ends, it ends by itself.
        let taken = self.maker.stopping.child_token();
        held.insert(session.clone(), Held::Ready { sandbox, _timer: taken.clone().drop_guard() });
        let (warm, of) = (Arc::clone(self), session.clone());
        self.maker.tasks.spawn(async move {
            tokio::select! { () = sleep(warm.idle_timeout) => warm.end(&of).await, () = taken.cancelled() => {} }
        });
        Some(session)
    }

    /// The session's sandbox, if one is held for it and lives.
    pub(super) async fn take(&self, session: &SessionId) -> Option<ProcessSandbox> {
        let ending = {
            let mut held = self.held();
            match held.get(session)? {
                Held::Ending(ended) => ended.clone(),
                Held::Ready { .. } => {
                    let Some(Held::Ready { sandbox, .. }) = held.remove(session) else { return None };
                    unmark(&self.maker.data_dir, session);
                    return Some(sandbox).filter(ProcessSandbox::lives);
                }
            }
        };
        ending.cancelled().await;
        None
    }

    /// Ends what is held for the session and was never used. Returns when nothing of it is left.
    pub(super) async fn end(&self, session: &SessionId) {
        let ended = CancellationToken::new();
        let before = {
            let mut held = self.held();
            match held.get_mut(session) {
                None => return,
                Some(Held::Ending(ended)) => Held::Ending(ended.clone()),
                Some(ready) => std::mem::replace(ready, Held::Ending(ended.clone())),
            }
        };
        match before {
            Held::Ending(ended) => ended.cancelled().await,
            Held::Ready { sandbox, .. } => {
                sandbox.destroy().await;
                discard(&self.maker, session).await;
                self.held().remove(session);
                ended.cancel();
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<SessionId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when the maker stops, and never in the middle of making one.
async fn fill(maker: Arc<Maker>, sender: mpsc::Sender<(SessionId, ProcessSandbox)>) {
    loop {
        let place = tokio::select! {
            Ok(place) = sender.reserve() => place,
            () = maker.stopping.cancelled() => return,
        };
        match make(&maker).await {
            Ok(made) => place.send(made),
            Err(error) => {
                tracing::warn!("no sandbox could be made ahead: {error}");
                tokio::select! { () = sleep(PAUSE) => {}, () = maker.stopping.cancelled() => return }
            }
        }
    }
}

async fn make(maker: &Arc<Maker>) -> Result<(SessionId, ProcessSandbox), Error> {
    let session: SessionId = uuid::Uuid::now_v7().to_string().parse()?;
    let marker = marker(&maker.data_dir, &session);
    fs::write(&marker, "").map_err(|error| crate::services::internal("a sandbox made ahead", &error))?;
    match maker.make(&session, |_| {}).await {
        Ok(sandbox) => Ok((session, sandbox)),
        Err(error) => {
            discard(maker, &session).await;
            Err(error)
        }
    }
}

/// Removes the folders of a session that never was.
async fn discard(maker: &Maker, session: &SessionId) {
    let (data_dir, of) = (maker.data_dir.clone(), session.clone());
    let removed = tokio::task::spawn_blocking(move || remove(&data_dir, &of)).await;
    // The next start tries again.
    if let Err(error) = removed.map_err(io::Error::other).flatten() {
        tracing::warn!(%session, "the folders of a sandbox that nobody used stay for now: {error}");
    }
}

/// A file for each session that has folders and may not exist.
fn marker(data_dir: &Path, session: &SessionId) -> PathBuf {
    data_dir.join("warm").join(session.as_str())
}

fn unmark(data_dir: &Path, session: &SessionId) {
    let path = marker(data_dir, session);
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Where there are files, somebody had the session, whatever became of its marker.
fn remove(data_dir: &Path, session: &SessionId) -> io::Result<()> {
    let dirs = SessionDirs::of(data_dir, session);
    let untouched = fs::read_dir(&dirs.workspace).map_or(true, |mut files| files.next().is_none());
    if untouched {
        dirs::remove(&dirs.root)?;
    }
    fs::remove_file(marker(data_dir, session))
}

/// Removes what an earlier server had made ahead.
pub(super) fn sweep(data_dir: &Path) -> Result<(), DirsError> {
    let path = data_dir.join("warm");
    dirs::private_dir(&path)?;
    let io = |source: io::Error| DirsError::Io { path: path.clone(), source };
    for entry in fs::read_dir(&path).map_err(io)? {
        if let Some(session) = entry.map_err(io)?.file_name().to_str().and_then(|it| it.parse().ok()) {
            remove(data_dir, &session).map_err(io)?;
        }
    }
    Ok(())
}
