//! Where a sandbox is in its life, and the one lock under which calls are admitted or refused.
//!
//! A call that was admitted holds an [`ActivityGuard`] while it runs; one that was refused has certainly not run. It also knows whether
//! the files are saved, as each change and each checkpoint has its place in one order. It knows nothing of kernels or files.
pub mod calls;
mod changes;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use kernelbox_proto::{Error, Result, SessionId, sandbox::v1::Lifecycle as LifecycleName, v1::ErrorCode};
use tokio::sync::{Notify, watch};

use self::changes::Changes;
pub use self::changes::WritingGuard;
use crate::sync::lock;

/// Where a sandbox is in its life; it only moves down this list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Warm,
    Bound { session: SessionId, generation: i64 },
    Retired,
}

impl Phase {
    pub fn name(&self) -> LifecycleName {
        match self {
            Self::Starting => LifecycleName::Starting,
            Self::Warm => LifecycleName::Warm,
            Self::Bound { .. } => LifecycleName::Bound,
            Self::Retired => LifecycleName::Retired,
        }
    }
}

/// What [`Lifecycle::retire`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retirement {
    /// It is retired now, by this call or an earlier one.
    pub retired: bool,
    /// Since the last activity ended; zero while something runs.
    pub idle: Duration,
    /// Something changed since it was last saved.
    pub unsaved: bool,
}

/// How a sandbox stands, for those who look after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    pub phase: LifecycleName,
    /// It was told to end.
    pub terminating: bool,
    pub unsaved: bool,
}

/// What [`Lifecycle::bind`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// The sandbox was nobody's, or an older generation's: env and packages are to be applied.
    New,
    /// It was this session's and generation's already.
    Same,
}

/// A sandbox's life. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// None once the sandbox ends. Its receivers are those who look after the sandbox, and nobody else.
    notices: watch::Sender<Option<Notice>>,
    confirmed: Notify,
}

#[derive(Debug)]
struct State {
    /// Kept after retirement, too, so that its owner can be told.
    owner: Option<(SessionId, i64)>,
    ready: bool,
    retired: bool,
    /// A call of the session came.
    used: bool,
    terminating: bool,
    active: usize,
    last_activity: Instant,
    changes: Changes,
}

impl State {
    fn phase(&self) -> Phase {
        match &self.owner {
            _ if self.retired => Phase::Retired,
            Some((session, generation)) => Phase::Bound { session: session.clone(), generation: *generation },
            None if self.ready => Phase::Warm,
            None => Phase::Starting,
        }
    }

    fn idle(&self) -> Duration {
        if self.active == 0 { self.last_activity.elapsed() } else { Duration::ZERO }
    }

    fn admits(&self, session: &SessionId) -> Result<()> {
        if self.retired {
            return Err(retired());
        }
        match &self.owner {
            Some((owner, _)) if owner == session => Ok(()),
            Some(_) => Err(bound("it belongs to another session")),
            None => Err(bound("it belongs to no session yet; bind it first")),
        }
    }

    fn notice(&self) -> Notice {
        Notice { phase: self.phase().name(), terminating: self.terminating, unsaved: self.changes.unsaved() }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// A sandbox that is starting.
    pub fn new() -> Self {
        let state = State {
            owner: None,
            ready: false,
            retired: false,
            used: false,
            terminating: false,
            active: 0,
            last_activity: Instant::now(),
            changes: Changes::default(),
        };
        let notices = watch::Sender::new(Some(state.notice()));
        Self(Arc::new(Shared { state: Mutex::new(state), notices, confirmed: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Tells those who watch; called with the lock held, so that they see all in order.
    fn publish(&self, state: &State) {
        let notice = state.notice();
        // Nothing comes after the end.
        self.0.notices.send_if_modified(|told| match told {
            Some(before) if *before != notice => {
                *before = notice;
                true
            }
            _ => false,
        });
    }

    /// The first kernel has answered.
    pub fn ready(&self) {
        let mut state = self.lock();
        state.ready = true;
        self.publish(&state);
    }

    /// Makes the sandbox the session's. The same session and generation again is no error; a higher generation of the same session
    /// takes over. `SandboxBound` for another session or a lower generation, `SandboxRetired` after its end, `SandboxStartFailed`
    /// (which is retriable) before it is ready.
    pub fn bind(&self, session: &SessionId, generation: i64) -> Result<Binding> {
        if generation < 1 {
            return Err(Error::invalid("generation", "must be at least 1"));
        }
        let mut state = self.lock();
        if state.retired {
            return Err(retired());
        }
        if !state.ready {
            return Err(Error::new(
                ErrorCode::SandboxStartFailed,
                "the sandbox is still starting; bind it once its health check says SERVING",
            ));
        }
        let binding = match &state.owner {
            Some((owner, _)) if owner != session => return Err(bound("it belongs to another session")),
            Some((_, held)) if *held > generation => {
                let held = *held;
                return Err(bound(&format!("it is bound with generation {held}, later than {generation}")));
            }
            Some((_, held)) if *held == generation => Binding::Same,
            _ => Binding::New,
        };
        state.owner = Some((session.clone(), generation));
        state.last_activity = Instant::now();
        self.publish(&state);
        Ok(binding)
    }

    /// Lets a call of the session in. While the guard lives the sandbox is not idle.
    pub fn admit(&self, session: &SessionId) -> Result<ActivityGuard> {
        let mut state = self.lock();
        state.admits(session)?;
        state.used = true;
        Ok(self.guard(&mut state))
    }

    /// Lets in what prepares the sandbox for the session's calls.
    pub(crate) fn prepare(&self, session: &SessionId) -> Result<ActivityGuard> {
        let mut state = self.lock();
        state.admits(session)?;
        Ok(self.guard(&mut state))
    }

    /// The same for files that come back: only to this generation, and only before the session's first call.
    pub(crate) fn restore(&self, session: &SessionId, generation: i64) -> Result<ActivityGuard> {
        let mut state = self.lock();
        state.admits(session)?;
        match &state.owner {
            Some((_, held)) if *held != generation => {
                Err(bound(&format!("it is bound with generation {held}, not {generation}")))
            }
            _ if state.used => Err(bound("the session has used it already, and a checkpoint must come before that")),
            _ => Ok(self.guard(&mut state)),
        }
    }

    fn guard(&self, state: &mut State) -> ActivityGuard {
        state.active += 1;
        ActivityGuard { lifecycle: self.clone() }
    }

    /// Retires the sandbox if it was idle for at least `idle_for`; with zero at once, whatever runs.
    pub fn retire(&self, idle_for: Duration) -> Retirement {
        let mut state = self.lock();
        let idle = state.idle();
        if !state.retired && (idle_for.is_zero() || (state.active == 0 && idle >= idle_for)) {
            state.retired = true;
            self.publish(&state);
        }
        Retirement { retired: state.retired, idle, unsaved: state.changes.unsaved() }
    }

    pub fn phase(&self) -> Phase {
        self.lock().phase()
    }

    /// The session that has the sandbox, or had it until it was retired.
    pub fn session(&self) -> Option<SessionId> {
        self.lock().owner.as_ref().map(|(session, _)| session.clone())
    }

    /// The generation it was bound with last; 0 before.
    pub fn generation(&self) -> i64 {
        self.lock().owner.as_ref().map_or(0, |(_, generation)| *generation)
    }
}

/// A call that runs. The time of its end is the sandbox's last activity.
#[derive(Debug)]
pub struct ActivityGuard {
    lifecycle: Lifecycle,
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let mut state = self.lifecycle.lock();
        state.active -= 1;
        state.last_activity = Instant::now();
    }
}

fn retired() -> Error {
    Error::new(
        ErrorCode::SandboxRetired,
        "the sandbox was retired before the call began, and the call has not run; send it again",
    )
}

fn bound(why: &str) -> Error {
    Error::new(ErrorCode::SandboxBound, format!("this sandbox is not the call's to use: {why}"))
}

#[cfg(test)]
mod tests;
