//! Turns: which of them run here, how they begin, are followed, answered and ended. What happens within one is the agent's.
mod follow;
mod recorder;
mod running;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::stream::BoxStream;
use kernelbox_proto::{
    Error, SessionId, TurnName,
    v1::{self, ErrorCode, TurnCancelled, TurnEvent, TurnFailed, TurnStatus, turn_event::Kind},
};
use tracing::{Instrument as _, Span, field::Empty};

pub(crate) use self::{
    recorder::Recorder,
    running::{Running, ToolAnswer, not_waiting},
};
use crate::{
    agent::{Agent, Connector, Ended, Task},
    limits::Permit,
    metrics::{Held, Outcome},
    model::ChatModel,
    sessions::{SessionRouter, Slot},
    store::{Begun, Entry, Journal, JournalError, Micros, NewTurn, Store},
};

/// Events kept for those who follow a turn; who is slower reads them from the database.
const LIVE_EVENTS: usize = 64;
/// How long a cancelled turn may take to say so.
const CANCEL: Duration = Duration::from_secs(10);
/// How often events that are too old are removed: as often as they get old, within these bounds.
const SWEEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Which turns run here.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Inner>);

struct Inner {
    router: SessionRouter,
    store: Store,
    journal: Journal,
    connector: Arc<Connector>,
    /// Names this gateway in the database.
    lease: String,
    running: Mutex<HashMap<TurnName, Arc<Running>>>,
}

/// A turn to be started.
pub(crate) struct Start {
    pub name: TurnName,
    /// Of all that the call asked for.
    pub digest: String,
    pub slot: Arc<Slot>,
    pub model: Arc<dyn ChatModel>,
    pub task: Task,
    pub permit: Permit,
}

impl Turns {
    pub(crate) fn new(router: SessionRouter, journal: Journal, connector: Connector) -> Self {
        let store = router.store().clone();
        let lease = uuid::Uuid::now_v7().to_string();
        let connector = Arc::new(connector);
        Self(Arc::new(Inner { router, store, journal, connector, lease, running: Mutex::default() }))
    }

    /// Ends the turns that an earlier server left, with an event that says so.
    pub(crate) async fn finish_earlier(&self) -> Result<(), Error> {
        for (mut turn, lease) in self.0.store.unfinished_turns().await? {
            let name: TurnName = turn.name.parse()?;
            turn.last_sequence += 1;
            turn.status = TurnStatus::Failed.into();
            turn.end_time = Some(Micros::now().timestamp());
            let failed = failed(&Error::new(
                ErrorCode::ShuttingDown,
                "the server ended while the turn ran; what the turn did until then is kept: send the message again, or go on",
            ));
            let event = TurnEvent {
                turn: turn.name.clone(),
                sequence: turn.last_sequence,
                step: 0,
                time: turn.end_time,
                kind: Some(failed),
            };
            let entry = Entry { name, lease, events: vec![event], messages: Vec::new(), turn, ends: true };
            self.0.journal.append(entry).await.map_err(|error| crate::services::internal("the database", &error))?;
        }
        Ok(())
    }

    /// Removes the events of turns that ended longer ago than `retention`, now and then until the server stops.
    pub(crate) async fn sweep(self, retention: Duration) {
        let age = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        loop {
            match self.0.store.forget_events(Micros(Micros::now().0.saturating_sub(age))).await {
                Ok(0) => {}
                Ok(events) => tracing::info!(events, "removed events of old turns"),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove old events"),
            }
            tokio::select! {
                () = tokio::time::sleep(retention.clamp(SWEEP.0, SWEEP.1)) => {}
                () = self.0.router.stopping().cancelled() => return,
            }
        }
    }

    /// Begins a turn, or finds the one that the same call began. Another one of the session that runs is an error.
    pub(crate) async fn start(&self, start: Start) -> Result<(), Error> {
        let Start { name, digest, slot, model, task, permit } = start;
        let new = NewTurn { name: name.clone(), digest, lease: self.0.lease.clone(), message: task.message.clone() };
        let (number, turn) = match self.0.store.begin_turn(&new).await? {
            Begun::New(number, turn) => (number, *turn),
            Begun::Before => return Ok(()),
            Begun::RequestReused => {
                return Err(Error::new(
                    ErrorCode::RequestIdReused,
                    "request_id was used before for another turn of this session",
                ));
            }
            Begun::Running(running) => {
                return Err(Error::new(
                    ErrorCode::TurnRunning,
                    format!("{running} runs in this session; wait for it, or cancel it with CancelTurn"),
                )
                .with("turn", running.to_string()));
            }
        };
        let recorder = Recorder::new(turn, name.clone(), self.0.lease.clone(), self.0.journal.clone());
        let running = Arc::new(Running::new(recorder));
        self.lock().insert(name.clone(), Arc::clone(&running));
        let agent = Agent::new(
            self.0.router.clone(),
            slot,
            model,
            Arc::clone(&running),
            Arc::clone(&self.0.connector),
            task,
            number,
        );
        let turns = self.clone();
        let span = tracing::info_span!(
            "turn",
            session = %name.session,
            turn = %name.turn,
            status = Empty,
            otel.status_code = Empty
        );
        let running_too = Held::new(&self.0.router.metrics().turns.running);
        let run = async move {
            let begun = Instant::now();
            // In a task of its own, so that a defect ends the turn and not its bookkeeping.
            let in_use = agent.slot().in_use();
            let ended = tokio::spawn(agent.run().in_current_span()).await;
            let ended = ended.unwrap_or_else(|error| Ended::Failed(crate::services::internal("the agent", &error)));
            turns.count(&ended, begun.elapsed());
            turns.end(&name, &running, ended).await;
            drop((in_use, permit, running_too));
        };
        self.0.router.tasks().spawn(run.instrument(span));
        Ok(())
    }

    fn count(&self, ended: &Ended, took: Duration) {
        let metrics = &self.0.router.metrics().turns;
        let outcome = match ended {
            Ended::Completed(_) => Outcome::Completed,
            Ended::Cancelled(_) => Outcome::Cancelled,
            Ended::Failed(error) => {
                metrics.failed(error.code);
                Outcome::Failed
            }
        };
        metrics.times.took(outcome, took);
    }

    async fn end(&self, name: &TurnName, running: &Running, ended: Ended) {
        let recorder = &running.recorder;
        let (status, kind) = match ended {
            Ended::Completed(completed) => {
                let (answer, artifacts) = (completed.answer.clone(), completed.artifacts.clone());
                recorder.change(|turn| (turn.answer, turn.artifacts) = (answer, artifacts)).await;
                (TurnStatus::Completed, Kind::Completed(completed))
            }
            Ended::Cancelled(reason) => (TurnStatus::Cancelled, Kind::Cancelled(TurnCancelled { reason })),
            Ended::Failed(error) => (TurnStatus::Failed, failed(&error)),
        };
        recorder.change(|turn| turn.status = status.into()).await;
        Span::current().record("status", status.as_str_name());
        if status == TurnStatus::Failed {
            Span::current().record("otel.status_code", "ERROR");
        }
        match recorder.end(kind).await {
            Ok(()) => tracing::info!("turn ended"),
            // Its session was deleted, or another gateway has it.
            Err(JournalError::Fenced) => tracing::info!("a turn ended that is not ours any more"),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot write the end of a turn");
            }
        }
        self.lock().remove(name);
        running.set_over();
    }

    /// Events after any sequence number, to the last.
    pub(crate) fn follow(&self, name: TurnName, after: i64) -> BoxStream<'static, Result<TurnEvent, Error>> {
        let running = self.running(&name);
        follow::events(self.0.store.clone(), running, name, after)
    }

    /// Asks a turn to end and waits until it has. One that has ended stays as it is.
    pub(crate) async fn cancel(&self, name: &TurnName, reason: &str) -> Result<v1::Turn, Error> {
        if let Some(running) = self.running(name) {
            running.cancel(reason);
            if tokio::time::timeout(CANCEL, running.over()).await.is_err() {
                tracing::warn!(session = %name.session, turn = %name.turn, "a cancelled turn does not end");
            }
        }
        self.get(name).await
    }

    /// Asks the turn of a session to end, if one runs here.
    pub(crate) async fn cancel_of(&self, session: &SessionId, reason: &str) {
        let name = self.lock().keys().find(|name| name.session == *session).cloned();
        if let Some(name) = name {
            // It may have ended by itself.
            let _ = self.cancel(&name, reason).await;
        }
    }

    pub(crate) async fn get(&self, name: &TurnName) -> Result<v1::Turn, Error> {
        self.0.store.turn(name).await?.ok_or_else(|| not_found(name))
    }

    pub(crate) fn running(&self, name: &TurnName) -> Option<Arc<Running>> {
        self.lock().get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnName, Arc<Running>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: &Error) -> Kind {
    Kind::Failed(TurnFailed { code: error.code.into(), message: error.message.clone() })
}

fn not_found(name: &TurnName) -> Error {
    Error::new(ErrorCode::TurnNotFound, format!("there is no turn {name}"))
}
