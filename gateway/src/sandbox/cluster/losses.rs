//! Which sandboxes are gone, and why: the controller says so as soon as it knows.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kernelbox_proto::controller::v1::SandboxGone;
use tokio::sync::watch;

use super::controller::Controller;
use crate::sandbox::Ended;

/// Between two tries to listen.
const PAUSE: Duration = Duration::from_secs(1);

/// By uid. Those that nobody follows any more are forgotten.
#[derive(Default)]
pub(super) struct Losses(Mutex<HashMap<String, watch::Sender<Option<Ended>>>>);

impl Losses {
    /// Tells when this sandbox is gone.
    pub(super) fn follow(&self, uid: &str) -> watch::Receiver<Option<Ended>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, tell| tell.receiver_count() > 0);
        known.entry(uid.to_owned()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Listens for ever. Each time it begins anew it hears of all that ended lately.
    pub(super) async fn listen(self: Arc<Self>, controller: Controller) {
        loop {
            match controller.watch().await {
                Ok(mut gone) => loop {
                    match gone.message().await {
                        Ok(Some(gone)) => self.tell(gone),
                        Ok(None) => break,
                        Err(status) => {
                            tracing::debug!(error = &status as &dyn std::error::Error, "the watch for losses broke");
                            break;
                        }
                    }
                },
                Err(error) => tracing::warn!("losses of sandboxes are not heard of: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn tell(&self, gone: SandboxGone) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = known.remove(&gone.uid) {
            tell.send_replace(Some(Ended { reason: gone.reason, message: gone.message }));
        }
    }
}
