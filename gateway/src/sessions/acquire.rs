//! How a session comes to a sandbox: a place, a generation, the provider, Bind.
use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use kernelbox_metrics::Observe as _;
use kernelbox_proto::{
    Error,
    sandbox::v1::{BindRequest, GetStatusRequest, GetStatusResponse},
    v1::{ErrorCode, SandboxStage, Stage},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{Instrument as _, Span};

use super::{
    Live, SessionRouter, Slot, being_deleted,
    checkpoint::Owner,
    news::{self, Files, ready},
    slot::State,
};
use crate::{
    sandbox::{Claim, NoSandbox, Sandbox, Scope},
    store::Record,
};

/// Bind moves environment variables into running kernels; it is not slow.
const BIND: Duration = Duration::from_secs(60);
/// Who gets no answer asks again for so long: longer than it takes to find that one who could give it is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two asks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a supervisor may take to say how it is.
const STATUS: Duration = Duration::from_secs(2);
/// How long the sandbox of before may take to be gone.
const BEFORE: Duration = Duration::from_secs(60);

impl SessionRouter {
    /// Makes the session a sandbox and leaves its state Ready, or Empty if it fails.
    pub(super) async fn acquire(&self, slot: &Arc<Slot>) -> Result<Arc<Live>, Error> {
        let begun = Instant::now();
        let acquired = tokio::select! {
            acquired = self.try_acquire(slot) => acquired,
            () = self.stopping().cancelled() => {
                Err(Error::new(ErrorCode::ShuttingDown, "the server is shutting down"))
            }
        };
        match acquired {
            Ok((live, place)) => {
                *slot.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(live.gone.clone());
                *slot.state() = State::Ready(Arc::clone(&live));
                slot.touch();
                self.metrics().sandboxes.waits.took(begun.elapsed());
                self.tasks().spawn(self.clone().keep(Arc::clone(slot), Arc::clone(&live), place));
                Ok(live)
            }
            Err(error) => {
                *slot.state() = State::Empty;
                self.metrics().sandboxes.refused(error.code);
                tracing::warn!(session = %slot.id, reason = error.reason(), "no sandbox: {error}");
                Err(error)
            }
        }
    }

    async fn try_acquire(&self, slot: &Arc<Slot>) -> Result<(Arc<Live>, OwnedSemaphorePermit), Error> {
        // Two sandboxes never write to the same workspace.
        let before = slot.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(before) = before {
            tokio::time::timeout(BEFORE, before.cancelled()).await.map_err(|_| {
                Error::new(
                    ErrorCode::SandboxStartFailed,
                    "the session's last sandbox does not end, or cannot be saved; try again",
                )
                .retry_after(BEFORE)
            })?;
        }
        let place = Arc::clone(&self.0.capacity).try_acquire_owned().map_err(|_| {
            let max = self.0.max_sandboxes;
            Error::new(
                ErrorCode::NoCapacity,
                format!("{max} sandboxes are live, which is the limit (--max-sandboxes); try again when one is idle"),
            )
            .retry_after(Duration::from_secs(5))
            .with("limit", "max-sandboxes")
        })?;
        let record = self.0.store.get(&slot.id).await?.ok_or_else(|| being_deleted(&slot.id))?;
        if let Some(live) = self.take_up(&record).await? {
            slot.tell_stage(ready(""));
            return Ok((live, place));
        }
        let (sandbox, record) = self.ask(slot, record).await?;
        let news = match self.prepare(slot, sandbox.as_ref(), &record).await {
            Ok(news) => news,
            Err(error) => {
                sandbox.destroy().await;
                return Err(error);
            }
        };
        Span::current().record("generation", record.generation).record("sandbox", sandbox.name());
        tracing::info!("sandbox ready");
        slot.tell_stage(ready(news.as_deref().unwrap_or_default()));
        let (metrics, asked) = (self.shared_metrics(), Arc::clone(&sandbox));
        // Nobody waits for it.
        self.tasks().spawn(async move {
            let status = status(asked.as_ref()).await;
            status.iter().for_each(|status| metrics.sandboxes.started(status));
        });
        Ok((Arc::new(Live::new(sandbox, &record, news)), place))
    }

    /// A new sandbox from the provider. It is asked again, as a later generation, when no answer comes: so whatever else may come of an
    /// earlier ask is out of date.
    async fn ask(&self, slot: &Slot, mut record: Record) -> Result<(Arc<dyn Sandbox>, Record), Error> {
        let (mut unanswered, mut heard) = (None, Instant::now());
        loop {
            record = self.next_generation(slot, record).await?;
            let claim = Claim { unanswered, ..claim(&record) };
            let (stages, mut told) = mpsc::channel(16);
            let forward = async {
                while let Some(stage) = told.recv().await {
                    heard = Instant::now();
                    slot.tell_stage(stage);
                }
            };
            let (acquired, ()) = tokio::join!(self.0.provider.acquire(claim, stages), forward);
            match acquired {
                Ok(sandbox) => return Ok((sandbox, record)),
                Err(NoSandbox::Unanswered(error)) if heard.elapsed() < PATIENCE => {
                    tracing::warn!(session = %slot.id, generation = record.generation, "no answer: {error}");
                    unanswered.get_or_insert(record.generation);
                    let message = "no answer came; a sandbox is asked for again".to_owned();
                    slot.tell_stage(SandboxStage { stage: Stage::Queued.into(), position: 0, message });
                    tokio::time::sleep(PAUSE).await;
                }
                Err(none) => return Err(none.into()),
            }
        }
    }

    /// Makes a new sandbox the session's, with its files. What is there to be told of it, if there was an earlier one.
    async fn prepare(&self, slot: &Slot, sandbox: &dyn Sandbox, record: &Record) -> Result<Option<String>, Error> {
        bind(sandbox, record).instrument(tracing::info_span!("bind")).await.map_err(|error| {
            tracing::error!(session = %slot.id, sandbox = sandbox.name(), "a new sandbox refuses its session: {error}");
            unbound(&format!("the sandbox could not be given to the session: {error}"))
        })?;
        let news = self.restore(slot, sandbox, record).await?;
        self.0.store.bound(&slot.id, record.generation).await?;
        Ok(news)
    }

    /// Brings the files back that an earlier sandbox had.
    async fn restore(&self, slot: &Slot, sandbox: &dyn Sandbox, record: &Record) -> Result<Option<String>, Error> {
        let had_earlier = record.bound_generation > 0;
        let Some(checkpoints) = &self.0.checkpoints else { return Ok(had_earlier.then(news::files_kept)) };
        let mut files = Files { lost: record.unsaved_generation > 0, ..Files::default() };
        if let Some(checkpoint) = self.0.store.checkpoint(&slot.id).await? {
            slot.tell_stage(SandboxStage { stage: Stage::Restoring.into(), position: 0, message: String::new() });
            let owner = Owner { session: &slot.id, generation: record.generation };
            let restore = checkpoints.restore(sandbox, owner, &checkpoint);
            let missing = restore.instrument(tracing::info_span!("restore")).await?;
            files.saved = Some(checkpoint.create_time);
            files.missing = checkpoint.skipped.into_iter().chain(missing).collect();
        }
        Ok(had_earlier.then(|| files.news()))
    }

    /// Raises the generation, so that whatever is left of an earlier sandbox is out of date.
    async fn next_generation(&self, slot: &Slot, mut record: Record) -> Result<Record, Error> {
        loop {
            if record.deleting {
                return Err(being_deleted(&slot.id));
            }
            if let Some(generation) = self.0.store.raise_generation(&slot.id, record.generation).await? {
                record.generation = generation;
                slot.renew(record.clone());
                return Ok(record);
            }
            record = self.0.store.get(&slot.id).await?.ok_or_else(|| being_deleted(&slot.id))?;
        }
    }
}

/// Who needs a sandbox.
pub(super) fn claim(record: &Record) -> Claim {
    Claim {
        session: record.id.clone(),
        generation: record.generation,
        tenant: record.tenant.clone(),
        template: record.secret_settings().template.clone(),
        idle_timeout: record.idle_timeout(),
        unanswered: None,
    }
}

/// Makes the sandbox the session's. Again is no error.
pub(super) async fn bind(sandbox: &dyn Sandbox, record: &Record) -> Result<(), Error> {
    let settings = record.secret_settings();
    let request = BindRequest {
        session: record.id.name(),
        generation: record.generation,
        env: settings.env.clone(),
        // They are with the session's files.
        packages: Vec::new(),
        auto_install: settings.auto_install,
    };
    let mut client = sandbox.client(Scope::Lifecycle);
    match tokio::time::timeout(BIND, client.bind(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            tracing::debug!(session = %record.id, error = &status as &dyn std::error::Error, "a sandbox refuses its session");
            Err(Error::from_status(&status))
        }
        Err(_) => Err(Error::new(ErrorCode::DeadlineExceeded, "the sandbox does not answer")),
    }
}

/// What a supervisor says of its sandbox, for metrics: one that does not say it at once is not waited for.
pub(super) async fn status(sandbox: &dyn Sandbox) -> Option<GetStatusResponse> {
    let mut client = sandbox.client(Scope::Lifecycle);
    let answer = tokio::time::timeout(STATUS, client.get_status(GetStatusRequest {})).await;
    answer.ok()?.ok().map(tonic::Response::into_inner)
}

/// The session has no sandbox yet; the next try may bring one.
pub(super) fn unbound(why: &str) -> Error {
    Error::new(ErrorCode::SandboxStartFailed, why).retry_after(Duration::from_secs(1))
}
