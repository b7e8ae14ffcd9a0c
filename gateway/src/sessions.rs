//! The router of sessions: which sandbox a session has now, and how it comes to the next.
//!
//! A call meets a session in four steps: [`SessionRouter::find`] (does the tenant have it), [`SessionRouter::sandbox`] (its live one,
//! or a new one, made once however many wait), the call itself, and [`SessionRouter::verdict`] on what went wrong.
mod acquire;
mod checkpoint;
mod found;
mod keeper;
mod news;
mod saver;
mod slot;
mod verdict;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use kernelbox_metrics::Label as _;
use kernelbox_proto::{
    Error, SessionId,
    v1::{ErrorCode, SandboxState},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Status};

pub(crate) use self::{
    news::ready,
    slot::{Live, Slot},
    verdict::{Verdict, broken},
};
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    config::ServeConfig,
    metrics::{Has, Metrics},
    objects::Objects,
    sandbox::{SandboxClient, SandboxProvider, Scope},
    store::{Record, Store},
};
use checkpoint::Checkpoints;
use slot::State;

/// How many sandboxes a call may meet that retire before it.
const TRIES: usize = 6;

#[derive(Clone)]
pub(crate) struct SessionRouter(Arc<Inner>);

struct Inner {
    store: Store,
    provider: Arc<dyn SandboxProvider>,
    /// For sandboxes that do not keep their sessions' files.
    checkpoints: Option<Checkpoints>,
    /// A session is saved after so long without use.
    quiet: Duration,
    slots: Mutex<HashMap<SessionId, Arc<Slot>>>,
    capacity: Arc<Semaphore>,
    max_sandboxes: u32,
    idle_timeout: Duration,
    tasks: TaskTracker,
    stopping: CancellationToken,
    metrics: Arc<Metrics>,
}

impl SessionRouter {
    /// `objects` is where files are saved that the provider's sandboxes do not keep.
    pub(crate) fn new(
        store: Store,
        provider: Arc<dyn SandboxProvider>,
        objects: Option<Objects>,
        config: &ServeConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let max_sandboxes = config.limits.sandboxes;
        metrics.sandbox_limit.set(max_sandboxes.into());
        let counts = metrics.sandboxes.clone();
        Self(Arc::new(Inner {
            checkpoints: objects.map(|objects| Checkpoints { objects, store: store.clone(), metrics: counts }),
            store,
            provider,
            quiet: config.quiet,
            slots: Mutex::default(),
            capacity: Arc::new(Semaphore::new(max_sandboxes as usize)),
            max_sandboxes,
            idle_timeout: config.idle_timeout,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            metrics,
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The same, for what outlives this.
    pub(crate) fn shared_metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.0.metrics)
    }

    /// Counts the sessions that are in memory.
    pub(crate) fn count(&self) {
        let mut counts = [0; 3];
        for slot in self.lock().values() {
            counts[slot.has().at()] += 1;
        }
        for has in [Has::None, Has::Starting, Has::Ready] {
            self.0.metrics.sessions.of(has).set(counts[has.at()]);
        }
    }

    /// The id of a session that is to be made and may have any.
    pub(crate) fn new_id(&self) -> Result<SessionId, Error> {
        self.0.provider.warm_session().map_or_else(|| uuid::Uuid::now_v7().to_string().parse(), Ok)
    }

    /// Tasks that outlive their call; a shutdown waits for them.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Cancelled when the server ends what still runs.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// The tenant's session. Another tenant's is not found.
    pub(crate) async fn find(&self, tenant: &str, id: &SessionId) -> Result<Arc<Slot>, Error> {
        Span::current().record("session", id.as_str());
        let known = self.lock().get(id).cloned();
        let slot = match known {
            Some(slot) if slot.record().tenant == tenant => slot,
            Some(_) => return Err(not_found(id)),
            None => self.slot(self.read(tenant, id).await?),
        };
        if slot.record().deleting || slot.is_deleted() {
            return Err(being_deleted(id));
        }
        Ok(slot)
    }

    /// The tenant's session as its row says, also one that is being deleted.
    pub(crate) async fn read(&self, tenant: &str, id: &SessionId) -> Result<Record, Error> {
        self.0.store.get(id).await?.filter(|it| it.tenant == tenant).ok_or_else(|| not_found(id))
    }

    /// The slot of a session that was just read from the store.
    pub(crate) fn slot(&self, record: Record) -> Arc<Slot> {
        let mut slots = self.lock();
        Arc::clone(slots.entry(record.id.clone()).or_insert_with(|| Arc::new(Slot::new(record))))
    }

    /// What a listing shows of a session besides its row.
    pub(crate) fn public(&self, record: &Record) -> kernelbox_proto::v1::Session {
        let slot = self.lock().get(&record.id).cloned();
        match slot {
            Some(slot) => record.public(slot.sandbox_state(), Some(slot.last_activity())),
            None => record.public(SandboxState::None, None),
        }
    }

    /// Whether sessions may have this template, as far as it can be said without making a sandbox.
    pub(crate) fn check_template(&self, template: &str) -> Result<(), Error> {
        match template.is_empty() || self.0.provider.has_templates() {
            true => Ok(()),
            false => {
                let problem = "this server has the default template alone; leave it empty";
                Err(Error::invalid("session.template", problem))
            }
        }
    }

    /// The session's sandbox; a new one if it has none. Who waits for it may go away: it is made nevertheless.
    pub(crate) async fn sandbox(&self, slot: &Arc<Slot>) -> Result<Arc<Live>, Error> {
        let acquiring = {
            let mut state = slot.state();
            match &*state {
                State::Ready(live) => return Ok(Arc::clone(live)),
                State::Deleted => return Err(being_deleted(&slot.id)),
                State::Starting(acquiring) => acquiring.clone(),
                State::Empty => {
                    let (router, to) = (self.clone(), Arc::clone(slot));
                    let span = tracing::info_span!("acquire", session = %slot.id, generation = Empty, sandbox = Empty);
                    let task = self.0.tasks.spawn(async move { router.acquire(&to).await }.instrument(span));
                    let acquiring = async move {
                        task.await.unwrap_or_else(|_| {
                            Err(Error::new(ErrorCode::Internal, "the start of the sandbox was broken off"))
                        })
                    };
                    let acquiring = acquiring.boxed().shared();
                    *state = State::Starting(acquiring.clone());
                    acquiring
                }
            }
        };
        acquiring.await
    }

    /// Sends a call to the session's sandbox. A sandbox that was retired has certainly not run it: it goes to the next.
    pub(crate) async fn call<T, F, Fut>(&self, slot: &Arc<Slot>, mut send: F) -> Result<(T, Arc<Live>), Error>
    where
        F: FnMut(SandboxClient) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_live(slot, |live| send(live.sandbox.client(Scope::Session))).await
    }

    /// The same for calls that are not made with a client.
    pub(crate) async fn call_live<T, F, Fut>(&self, slot: &Arc<Slot>, mut send: F) -> Result<(T, Arc<Live>), Error>
    where
        F: FnMut(&Live) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        for _ in 0..TRIES {
            let live = self.sandbox(slot).await?;
            slot.touch();
            let Some(call) = live.begin_call() else {
                slot.leave(&live);
                continue;
            };
            let sent = send(&live).await;
            drop(call);
            match sent {
                Ok(answer) => return Ok((answer.into_inner(), live)),
                Err(status) => match self.verdict(slot, &live, &status, false).await {
                    Verdict::NotRun => {}
                    Verdict::Broken => return Err(broken()),
                    Verdict::Lost(error) | Verdict::Refused(error) => return Err(error),
                },
            }
        }
        Err(always_retired())
    }

    /// Ends the session: its sandbox, its files, its row.
    pub(crate) async fn delete(&self, slot: &Arc<Slot>) -> Result<(), Error> {
        self.0.store.begin_delete(&slot.id).await?;
        let gone = slot.delete().await;
        if let Some(gone) = gone {
            gone.cancelled().await;
        }
        self.forget(&slot.id).await?;
        self.lock().remove(&slot.id);
        self.0.metrics.sessions_deleted.inc();
        Ok(())
    }

    /// Finishes the ends of sessions that an earlier server began.
    pub(crate) async fn finish_deletes(&self) -> Result<(), Error> {
        for id in self.0.store.half_deleted().await? {
            // What cannot be reached now is tried again at the next start, or when the session is deleted again.
            if let Err(error) = self.forget(&id).await {
                tracing::error!(session = %id, "the end of a session cannot be finished: {error}");
            }
        }
        Ok(())
    }

    async fn forget(&self, id: &SessionId) -> Result<(), Error> {
        self.0.provider.forget(id).await?;
        if let Some(checkpoints) = &self.0.checkpoints {
            checkpoints.forget(id).await?;
        }
        Ok(self.0.store.delete(id).await?)
    }

    /// Ends all sandboxes and waits until they are gone.
    pub(crate) async fn shutdown(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Forgets a session that nobody uses; its row stays.
    fn tidy(&self, slot: Arc<Slot>) {
        let mut slots = self.lock();
        // The map's own and this one.
        if slot.is_empty() && Arc::strong_count(&slot) <= 2 {
            slots.remove(&slot.id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(id: &SessionId) -> Error {
    Error::new(ErrorCode::SessionNotFound, format!("there is no session {id}"))
}

fn being_deleted(id: &SessionId) -> Error {
    Error::new(ErrorCode::Conflict, format!("session {id} is being deleted"))
}

pub(crate) fn always_retired() -> Error {
    Error::new(ErrorCode::SandboxRetired, "the session's sandboxes were retired before the call; try again")
        .retry_after(Duration::from_secs(1))
}
