//! The provider of a cluster: the controller gives pods, and the gateway speaks to their supervisors. It needs no rights in the cluster but
//! a token that says which gateway it is.
mod controller;
mod losses;
mod pod;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{ConstantBuilder, Retryable as _};
use kernelbox_proto::{
    Error, SessionId,
    controller::v1::{AcquireRequest, AcquiredSandbox, acquire_event::Kind},
    v1::{ErrorCode, SandboxStage},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{controller::Controller, losses::Losses, pod::PodSandbox};
use super::{Claim, NoSandbox, Sandbox, SandboxProvider};

pub use self::controller::ControllerError;

/// The template of sessions that name none.
const DEFAULT: &str = "default";
/// A question that was not answered is put so often, with a pause.
const TRIES: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// How the controller is reached.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// `--controller`: http://host:port.
    pub controller: String,
    /// `--controller-token`: a file with a service account's token for the audience kernelbox-controller. It is read again when it changes.
    pub token: PathBuf,
}

/// Sandboxes as pods.
pub struct ClusterProvider {
    controller: Controller,
    losses: Arc<Losses>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl ClusterProvider {
    /// Begins to listen for losses. The controller may come later.
    pub fn start(config: &ClusterConfig) -> Result<Self, ControllerError> {
        let controller = Controller::new(config)?;
        let (losses, tasks, stop) = (Arc::<Losses>::default(), TaskTracker::new(), CancellationToken::new());
        let listening = Arc::clone(&losses).listen(controller.clone());
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = listening => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Self { controller, losses, tasks, stop })
    }

    async fn ask(
        &self,
        claim: &Claim,
        existing_only: bool,
        stages: Option<mpsc::Sender<SandboxStage>>,
    ) -> Result<Option<Arc<dyn Sandbox>>, NoSandbox> {
        let request = AcquireRequest {
            session: claim.session.name(),
            generation: claim.generation,
            tenant: claim.tenant.clone(),
            template: if claim.template.is_empty() { DEFAULT.to_owned() } else { claim.template.clone() },
            existing_only,
            idle_timeout: claim.idle_timeout.and_then(|it| it.try_into().ok()),
            unanswered_generation: claim.unanswered.unwrap_or_default(),
        };
        let mut events = self.controller.acquire(request).await?;
        while let Some(event) = events.message().await.map_err(|status| controller::refusal(&status))? {
            match event.kind {
                Some(Kind::Acquired(acquired)) => return Ok(Some(self.sandbox(acquired)?)),
                Some(Kind::Stage(stage)) => {
                    if let Some(stages) = &stages {
                        // A stage that nobody takes is of no use later.
                        let _ = stages.try_send(stage);
                    }
                }
                None => {}
            }
        }
        Ok(None)
    }

    fn sandbox(&self, acquired: AcquiredSandbox) -> Result<Arc<dyn Sandbox>, Error> {
        let ended = self.losses.follow(&acquired.uid);
        let sandbox = PodSandbox::new(acquired, self.controller.clone(), ended, &self.tasks, &self.stop)?;
        Ok(Arc::new(sandbox))
    }
}

#[async_trait]
impl SandboxProvider for ClusterProvider {
    fn has_templates(&self) -> bool {
        true
    }

    async fn acquire(&self, claim: Claim, stages: mpsc::Sender<SandboxStage>) -> Result<Arc<dyn Sandbox>, NoSandbox> {
        self.ask(&claim, false, Some(stages)).await?.ok_or_else(|| {
            Error::new(ErrorCode::SandboxStartFailed, "the controller gave no sandbox; try again")
                .retry_after(Duration::from_secs(1))
                .into()
        })
    }

    fn keeps_workspaces(&self) -> bool {
        false
    }

    fn reclaims_idle(&self) -> bool {
        true
    }

    async fn find(&self, claim: &Claim) -> Result<Option<Arc<dyn Sandbox>>, Error> {
        // Nothing is done by that, so that it can be asked as often as need be.
        let ask = || self.ask(claim, true, None);
        let backoff = ConstantBuilder::default().with_delay(PAUSE).with_max_times(TRIES);
        let found = ask.retry(backoff).when(|none| matches!(none, NoSandbox::Unanswered(_))).await;
        Ok(found?)
    }

    fn isolation(&self) -> String {
        "code runs in pods of the cluster, confined as their templates say".to_owned()
    }

    async fn forget(&self, _: &SessionId) -> Result<(), Error> {
        Ok(())
    }

    /// Sandboxes go on: the next gateway finds them.
    async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
