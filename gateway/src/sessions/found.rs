//! A sandbox that an earlier gateway, or another one, had: the session goes on with it.
use std::sync::Arc;

use kernelbox_proto::{Error, v1::ErrorCode};

use super::{
    Live, SessionRouter,
    acquire::{bind, claim, unbound},
    checkpoint::Owner,
};
use crate::{sandbox::Sandbox, store::Record};

impl SessionRouter {
    /// The session's sandbox, if it lives. One that is retired is saved first, if need be, and ended.
    pub(super) async fn take_up(&self, record: &Record) -> Result<Option<Arc<Live>>, Error> {
        // One that was never ready may lack its files.
        if record.generation == 0 || record.bound_generation != record.generation {
            return Ok(None);
        }
        let Some(sandbox) = self.0.provider.find(&claim(record)).await? else { return Ok(None) };
        match bind(sandbox.as_ref(), record).await {
            Ok(()) => {
                tracing::info!(session = %record.id, generation = record.generation, sandbox = sandbox.name(), "sandbox found");
                return Ok(Some(Arc::new(Live::new(sandbox, record, None))));
            }
            Err(error) if error.code == ErrorCode::SandboxRetired => {
                self.save_retired(sandbox.as_ref(), record).await?;
            }
            Err(error) => {
                tracing::warn!(session = %record.id, sandbox = sandbox.name(), "a sandbox that was found is given up: {error}");
            }
        }
        sandbox.destroy().await;
        Ok(None)
    }

    async fn save_retired(&self, sandbox: &dyn Sandbox, record: &Record) -> Result<(), Error> {
        let Some(checkpoints) = &self.0.checkpoints else { return Ok(()) };
        let owner = Owner { session: &record.id, generation: record.generation };
        let saved = tokio::select! {
            saved = checkpoints.save_if_unsaved(sandbox, owner) => saved,
            // It is lost, and what it had with it.
            _ = sandbox.ended() => Ok(()),
        };
        saved.map_err(|error| {
            tracing::error!(session = %record.id, error = &error as &dyn std::error::Error, "a retired sandbox could not be saved");
            unbound("the files of the session's last sandbox could not be saved; try again")
        })
    }
}
