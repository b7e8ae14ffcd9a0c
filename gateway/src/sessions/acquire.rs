//! How a session comes to a sandbox: a place, a generation, the provider, Bind.
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use kernelbox_proto::{
    Error,
    sandbox::v1::BindRequest,
    v1::{ErrorCode, SandboxStage, Stage},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Live, SessionRouter, Slot, being_deleted, slot::State};
use crate::{
    sandbox::{Claim, Sandbox, Scope},
    store::Record,
};

/// Bind moves environment variables into running kernels; it is not slow.
const BIND: Duration = Duration::from_secs(60);
/// How long the sandbox of before may take to be gone.
const BEFORE: Duration = Duration::from_secs(60);

impl SessionRouter {
    /// Makes the session a sandbox and leaves its state Ready, or Empty if it fails.
    pub(super) async fn acquire(&self, slot: &Arc<Slot>) -> Result<Arc<Live>, Error> {
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
                self.tasks().spawn(self.clone().keep(Arc::clone(slot), Arc::clone(&live), place));
                Ok(live)
            }
            Err(error) => {
                *slot.state() = State::Empty;
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
                Error::new(ErrorCode::SandboxStartFailed, "the session's last sandbox does not end; try again")
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
        let record = self.next_generation(slot).await?;
        let claim = Claim {
            session: slot.id.clone(),
            generation: record.generation,
            tenant: record.tenant.clone(),
            template: record.secret_settings().template.clone(),
        };
        let (stages, mut told) = mpsc::channel(16);
        let forward = async {
            while let Some(stage) = told.recv().await {
                slot.tell_stage(stage);
            }
        };
        let (sandbox, ()) = tokio::join!(self.0.provider.acquire(claim, stages), forward);
        let sandbox = sandbox?;
        let bound = async {
            bind(sandbox.as_ref(), &record).await?;
            Ok::<_, Error>(self.0.store.bound(&slot.id, record.generation).await?)
        };
        if let Err(error) = bound.await {
            sandbox.destroy().await;
            return Err(error);
        }
        let had_earlier = record.bound_generation > 0;
        tracing::info!(session = %slot.id, generation = record.generation, sandbox = sandbox.uid(), "sandbox ready");
        slot.tell_stage(ready(had_earlier));
        Ok((Arc::new(Live::new(sandbox, had_earlier)), place))
    }

    /// Raises the generation, so that whatever is left of an earlier sandbox is out of date.
    async fn next_generation(&self, slot: &Slot) -> Result<Record, Error> {
        loop {
            let mut record = self.0.store.get(&slot.id).await?.ok_or_else(|| being_deleted(&slot.id))?;
            if record.deleting {
                return Err(being_deleted(&slot.id));
            }
            if let Some(generation) = self.0.store.raise_generation(&slot.id, record.generation).await? {
                record.generation = generation;
                slot.renew(record.clone());
                return Ok(record);
            }
        }
    }
}

async fn bind(sandbox: &dyn Sandbox, record: &Record) -> Result<(), Error> {
    let settings = record.secret_settings();
    let request = BindRequest {
        session: record.id.name(),
        generation: record.generation,
        env: settings.env.clone(),
        // They are in the session's own folder still.
        packages: Vec::new(),
        auto_install: settings.auto_install,
    };
    let mut client = sandbox.client(Scope::Lifecycle);
    match tokio::time::timeout(BIND, client.bind(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            let error = Error::from_status(&status);
            tracing::error!(session = %record.id, error = &status as &dyn std::error::Error, "a new sandbox refuses its session");
            Err(Error::new(
                ErrorCode::SandboxStartFailed,
                format!("the sandbox could not be given to the session: {error}"),
            )
            .retry_after(Duration::from_secs(1)))
        }
        Err(_) => Err(Error::new(ErrorCode::SandboxStartFailed, "the sandbox does not answer")
            .retry_after(Duration::from_secs(1))),
    }
}

/// The last stage.
pub(crate) fn ready(variables_gone: bool) -> SandboxStage {
    let message = if variables_gone {
        "a new sandbox is ready; the files are there, the variables of the earlier sandbox are gone"
    } else {
        ""
    };
    SandboxStage { stage: Stage::Ready.into(), position: 0, message: message.to_owned() }
}
