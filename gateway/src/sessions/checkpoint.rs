//! Moves a session's files between its sandbox and the objects, a chunk at a time. When that happens is the saver's matter.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _};
use kernelbox_proto::{
    Error, SessionId,
    sandbox::v1::{
        CheckpointDone, CheckpointRequest, CheckpointResponse, ConfirmCheckpointRequest, RestoreHeader, RestoreRequest,
        SandboxNotice, WatchSandboxRequest, checkpoint_response, restore_request,
    },
    v1::ErrorCode,
};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::verdict::is_of_connection;
use crate::{
    metrics::{CheckpointOutcome, Operation, Sandboxes},
    objects::{Objects, ObjectsError, Writer},
    sandbox::{Sandbox, Scope},
    store::{Checkpoint, Micros, Put, Store, StoreError},
};

/// How long a sandbox may take to its next word.
const STEP: Duration = Duration::from_secs(60);
/// How long a checkpoint may take in all.
const WHOLE: Duration = Duration::from_mins(15);
/// Bytes of a chunk that is sent; supervisors take 1 MiB.
const CHUNK: usize = 512 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    #[error("the sandbox did not give its files")]
    Sandbox(#[source] Box<Status>),
    #[error("the sandbox's files ended too early")]
    Cut,
    #[error("it took too long")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the files could not be written")]
    Objects(#[from] ObjectsError),
    #[error("the session's row could not be written")]
    Store(#[from] StoreError),
    /// Whoever has the session now must not be written over.
    #[error("the session has a later sandbox or checkpoint, or is ending")]
    Fenced,
}

impl From<Status> for SaveError {
    fn from(status: Status) -> Self {
        Self::Sandbox(Box::new(status))
    }
}

/// Where checkpoints go.
#[derive(Debug, Clone)]
pub(super) struct Checkpoints {
    pub(super) objects: Objects,
    pub(super) store: Store,
    pub(super) metrics: Sandboxes,
}

/// Whose checkpoint it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) session: &'a SessionId,
    pub(super) generation: i64,
}

/// All objects of a session have keys below this.
fn folder(session: &SessionId) -> String {
    format!("sessions/{session}")
}

impl Checkpoints {
    /// Saves the sandbox's files unless their mark is this one; answers the mark that is saved now. The older checkpoint is there until
    /// the session has the new one.
    pub(super) async fn save(
        &self,
        sandbox: &dyn Sandbox,
        owner: Owner<'_>,
        unless_mark: &str,
    ) -> Result<String, SaveError> {
        let begun = Instant::now();
        let saved = match timeout(WHOLE, self.try_save(sandbox, owner, unless_mark)).await {
            Ok(saved) => saved,
            Err(slow) => Err(slow.into()),
        };
        let (outcome, bytes) = match &saved {
            Ok(done) if done.unchanged => (CheckpointOutcome::Unchanged, None),
            Ok(done) => (CheckpointOutcome::Ok, Some(done.bytes)),
            Err(SaveError::Fenced) => (CheckpointOutcome::Fenced, None),
            Err(SaveError::Cut) => (CheckpointOutcome::Unreachable, None),
            Err(SaveError::Sandbox(status)) if is_of_connection(status) => (CheckpointOutcome::Unreachable, None),
            Err(_) => (CheckpointOutcome::Failed, None),
        };
        self.metrics.moved(Operation::Save, outcome, bytes, begun.elapsed());
        saved.map(|done| done.mark)
    }

    pub(super) async fn save_if_unsaved(&self, sandbox: &dyn Sandbox, owner: Owner<'_>) -> Result<(), SaveError> {
        if notice(sandbox).await?.unsaved {
            self.save(sandbox, owner, "").await?;
        }
        Ok(())
    }

    async fn try_save(
        &self,
        sandbox: &dyn Sandbox,
        owner: Owner<'_>,
        unless_mark: &str,
    ) -> Result<CheckpointDone, SaveError> {
        let began = Instant::now();
        let mut client = sandbox.client(Scope::Lifecycle);
        let request = CheckpointRequest { unless_mark: unless_mark.to_owned() };
        let mut parts = timeout(STEP, client.checkpoint(request)).await??.into_inner();
        let key = format!("{}/{:010}-{}.tar.zst", folder(owner.session), owner.generation, uuid::Uuid::now_v7());
        let mut object = self.objects.put(&key);
        let done = match fill(&mut object, &mut parts).await {
            Ok(done) => done,
            Err(error) => {
                object.abort().await;
                return Err(error);
            }
        };
        if !done.unchanged {
            object.finish().await?;
            let checkpoint = Checkpoint {
                object: key,
                generation: owner.generation,
                number: done.number,
                mark: done.mark.clone(),
                bytes: done.bytes,
                skipped: done.skipped.clone(),
                create_time: Micros::now(),
            };
            match self.store.put_checkpoint(owner.session, &checkpoint).await? {
                Put::Done { older } => {
                    let (bytes, files, took) = (done.bytes, done.files, began.elapsed());
                    tracing::info!(session = %owner.session, generation = owner.generation, files, bytes, ?took, "session saved");
                    self.remove(older).await;
                }
                Put::Fenced => {
                    self.remove(Some(checkpoint.object)).await;
                    return Err(SaveError::Fenced);
                }
            }
        }
        timeout(STEP, client.confirm_checkpoint(ConfirmCheckpointRequest { number: done.number })).await??;
        Ok(done)
    }

    /// Removes all that is kept of a session.
    pub(super) async fn forget(&self, session: &SessionId) -> Result<(), Error> {
        let removed = self.objects.delete_all(&folder(session)).await;
        removed.map_err(|error| crate::services::internal("the removal of a session's checkpoints", &error))
    }

    /// What is left over goes with the session at the latest.
    async fn remove(&self, object: Option<String>) {
        let Some(object) = object else { return };
        if let Err(error) = self.objects.delete(&object).await {
            tracing::warn!(error = &error as &dyn std::error::Error, object, "an object of before cannot be removed");
        }
    }

    /// Puts a checkpoint into a new sandbox; answers what of it did not come back.
    pub(super) async fn restore(
        &self,
        sandbox: &dyn Sandbox,
        owner: Owner<'_>,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<String>, Error> {
        let begun = Instant::now();
        let restored = self.try_restore(sandbox, owner, checkpoint).await;
        let outcome = if restored.is_ok() { CheckpointOutcome::Ok } else { CheckpointOutcome::Failed };
        let bytes = restored.is_ok().then_some(checkpoint.bytes);
        self.metrics.moved(Operation::Restore, outcome, bytes, begun.elapsed());
        restored
    }

    async fn try_restore(
        &self,
        sandbox: &dyn Sandbox,
        owner: Owner<'_>,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<String>, Error> {
        let unreached = |error: ObjectsError| unrestored(owner, &error, "where they are saved cannot be reached");
        let mut object = self.objects.get(&checkpoint.object).await.map_err(unreached)?;
        let header = RestoreHeader { session: owner.session.name(), generation: owner.generation };
        // The sandbox only sees that the stream ends; what ended it is kept for us.
        let broken = Arc::new(Mutex::new(None::<ObjectsError>));
        let breaks = Arc::clone(&broken);
        let parts = async_stream::stream! {
            yield RestoreRequest { part: Some(restore_request::Part::Header(header)) };
            while let Some(read) = object.next().await {
                let mut bytes = match read {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        *lock(&breaks) = Some(error);
                        return;
                    }
                };
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    yield RestoreRequest { part: Some(restore_request::Part::Chunk(chunk)) };
                }
            }
        };
        // Boxed: the compiler cannot tell by itself that this may move between threads.
        let restored = timeout(WHOLE, sandbox.client(Scope::Lifecycle).restore(parts).boxed()).await;
        if let Some(error) = lock(&broken).take() {
            return Err(unreached(error));
        }
        match restored {
            Ok(Ok(answer)) => Ok(answer.into_inner().skipped),
            Ok(Err(status)) => {
                let Error { code, message, .. } = Error::from_status(&status);
                let mut error = unrestored(owner, &status, &message);
                if matches!(code, ErrorCode::DiskLimit | ErrorCode::TooLarge) {
                    // It is too large for every sandbox of this template.
                    (error.code, error.retry_after) = (code, None);
                }
                Err(error)
            }
            Err(slow) => Err(unrestored(owner, &slow, "it took too long")),
        }
    }
}

/// Writes a checkpoint's chunks; answers its last word.
async fn fill(object: &mut Writer, parts: &mut Streaming<CheckpointResponse>) -> Result<CheckpointDone, SaveError> {
    loop {
        match timeout(STEP, parts.message()).await??.and_then(|it| it.part) {
            Some(checkpoint_response::Part::Chunk(chunk)) => object.write(&chunk).await?,
            Some(checkpoint_response::Part::Done(done)) => return Ok(done),
            None => return Err(SaveError::Cut),
        }
    }
}

/// How the sandbox stands now.
pub(super) async fn notice(sandbox: &dyn Sandbox) -> Result<SandboxNotice, SaveError> {
    let ask = async {
        let mut notices = sandbox.client(Scope::Lifecycle).watch_sandbox(WatchSandboxRequest {}).await?.into_inner();
        notices.message().await?.ok_or(SaveError::Cut)
    };
    timeout(STEP, ask).await?
}

fn unrestored(owner: Owner<'_>, error: &(dyn std::error::Error + 'static), why: &str) -> Error {
    tracing::error!(session = %owner.session, error, "a checkpoint cannot be restored");
    Error::new(ErrorCode::SandboxStartFailed, format!("the session's files could not be restored: {why}"))
        .retry_after(Duration::from_secs(5))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
