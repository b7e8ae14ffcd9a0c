//! A session in memory: its row, its sandbox now, and who watches.
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, Shared};
use kernelbox_proto::{
    Error, SessionId,
    v1::{SandboxEnded, SandboxStage, SandboxState, SessionEvent, session_event::Kind},
};
use tokio::sync::{Notify, broadcast};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    metrics::{Counted, Has},
    sandbox::{Ended, Sandbox},
    store::{Micros, Record},
};

/// Events kept for a watcher that is slow; then it misses some.
const EVENTS: usize = 256;

pub(super) type Acquiring = Shared<BoxFuture<'static, Result<Arc<Live>, Error>>>;

pub(super) enum State {
    Empty,
    Starting(Acquiring),
    Ready(Arc<Live>),
    /// For good.
    Deleted,
}

/// A session's sandbox.
pub(crate) struct Live {
    pub sandbox: Arc<dyn Sandbox>,
    pub(super) generation: i64,
    /// What it was made from.
    template: String,
    /// The first execution is told what became of an earlier sandbox's files and variables.
    news: Mutex<Option<String>>,
    /// The events of its executions that were counted.
    pub(crate) counted: Counted,
    /// Calls that it has not answered yet.
    pub(super) calls: TaskTracker,
    /// Ends it, and says why.
    pub(super) end: CancellationToken,
    pub(super) why: Mutex<Option<Ended>>,
    /// Cancelled when nothing of it runs any more.
    pub(super) gone: CancellationToken,
}

impl Live {
    pub(super) fn new(sandbox: Arc<dyn Sandbox>, record: &Record, news: Option<String>) -> Self {
        Self {
            sandbox,
            generation: record.generation,
            template: record.secret_settings().template.clone(),
            news: Mutex::new(news),
            counted: Counted::default(),
            calls: TaskTracker::new(),
            end: CancellationToken::new(),
            why: Mutex::new(None),
            gone: CancellationToken::new(),
        }
    }

    /// Held until a call is answered; none once the sandbox is retired.
    pub(crate) fn begin_call(&self) -> Option<TaskTrackerToken> {
        // In this order, so that whoever closes it either waits for this call or is seen by it.
        let call = self.calls.token();
        (!self.calls.is_closed()).then_some(call)
    }

    /// For one caller, if there was an earlier sandbox.
    pub(crate) fn take_news(&self) -> Option<String> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The session is to have another template than this sandbox was made from.
    pub(crate) fn is_outdated(&self, slot: &Slot) -> bool {
        slot.record().secret_settings().template != self.template
    }

    /// Has it ended by its keeper. The first reason counts.
    pub(super) fn end(&self, reason: &str, message: &str) {
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.get_or_insert_with(|| Ended::new(reason, message));
        self.end.cancel();
    }
}

pub(crate) struct Slot {
    pub id: SessionId,
    record: Mutex<Arc<Record>>,
    state: Mutex<State>,
    /// What the session's last sandbox must have come to before there is another.
    pub(super) before: Mutex<Option<CancellationToken>>,
    events: broadcast::Sender<SessionEvent>,
    /// Micros of the last call.
    last_activity: AtomicI64,
    /// Turns that run; while one does, the session is in use, whatever its sandbox knows.
    turns: TaskTracker,
    /// The settings changed.
    pub(super) changed: Notify,
    /// The session ends, and its files with it.
    pub(super) deleted: CancellationToken,
}

impl Slot {
    pub(super) fn new(record: Record) -> Self {
        Self {
            id: record.id.clone(),
            last_activity: AtomicI64::new(record.last_activity.0),
            turns: TaskTracker::new(),
            record: Mutex::new(Arc::new(record)),
            state: Mutex::new(State::Empty),
            before: Mutex::new(None),
            events: broadcast::Sender::new(EVENTS),
            changed: Notify::new(),
            deleted: CancellationToken::new(),
        }
    }

    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a newer row; an older one changes nothing.
    pub(crate) fn renew(&self, record: Record) {
        let mut now = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if (record.revision, record.generation) >= (now.revision, now.generation) {
            *now = Arc::new(record);
        }
        drop(now);
        self.changed.notify_one();
    }

    /// Counts a call.
    pub(crate) fn touch(&self) {
        self.last_activity.fetch_max(Micros::now().0, Ordering::Relaxed);
    }

    pub(crate) fn last_activity(&self) -> Micros {
        Micros(self.last_activity.load(Ordering::Relaxed))
    }

    /// Held while a turn runs.
    pub(crate) fn in_use(self: &Arc<Self>) -> InUse {
        InUse { slot: Arc::clone(self), _turn: self.turns.token() }
    }

    pub(super) fn idle(&self) -> Duration {
        if !self.turns.is_empty() {
            return Duration::ZERO;
        }
        Duration::from_micros(u64::try_from(Micros::now().0 - self.last_activity().0).unwrap_or(0))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(*self.state(), State::Empty)
    }

    pub(super) fn is_deleted(&self) -> bool {
        matches!(*self.state(), State::Deleted)
    }

    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        match &*self.state() {
            State::Ready(live) => Some(Arc::clone(live)),
            _ => None,
        }
    }

    pub(super) fn has(&self) -> Has {
        match self.sandbox_state() {
            SandboxState::Starting => Has::Starting,
            SandboxState::Ready => Has::Ready,
            _ => Has::None,
        }
    }

    pub(crate) fn sandbox_state(&self) -> SandboxState {
        match *self.state() {
            State::Starting(_) => SandboxState::Starting,
            State::Ready(_) => SandboxState::Ready,
            State::Empty | State::Deleted => SandboxState::None,
        }
    }

    /// This sandbox takes no calls any more; the next call gets another.
    pub(crate) fn leave(&self, live: &Arc<Live>) {
        let mut state = self.state();
        if matches!(&*state, State::Ready(now) if Arc::ptr_eq(now, live)) {
            *state = State::Empty;
        }
    }

    /// Lets no sandbox be made any more and ends the one that is. What is returned is cancelled when it is gone.
    pub(super) async fn delete(&self) -> Option<CancellationToken> {
        self.deleted.cancel();
        loop {
            let acquiring = {
                let mut state = self.state();
                match &*state {
                    State::Starting(acquiring) => acquiring.clone(),
                    State::Ready(live) => {
                        live.end("Deleted", "the session was deleted");
                        *state = State::Deleted;
                        break;
                    }
                    State::Empty | State::Deleted => {
                        *state = State::Deleted;
                        break;
                    }
                }
            };
            // Either outcome is looked at again.
            let _ = acquiring.await;
        }
        self.before.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<SessionEvent> {
        self.events.subscribe()
    }

    pub(super) fn tell_stage(&self, stage: SandboxStage) {
        self.tell(Kind::Stage(stage));
    }

    pub(super) fn tell_ended(&self, ended: Ended) {
        self.tell(Kind::SandboxEnded(SandboxEnded { reason: ended.reason, message: ended.message }));
    }

    fn tell(&self, kind: Kind) {
        // Nobody need be watching.
        let _ = self.events.send(SessionEvent { time: Some(Micros::now().timestamp()), kind: Some(kind) });
    }
}

/// A session in use; its end counts as a call.
pub(crate) struct InUse {
    slot: Arc<Slot>,
    _turn: TaskTrackerToken,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.slot.touch();
    }
}
