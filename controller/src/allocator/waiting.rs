//! What a sandbox that is not ready waits for, in words for whoever waits for it.
use kernelbox_api::Sandbox;
use kernelbox_proto::v1::{SandboxStage, Stage};
use kube::ResourceExt as _;

use crate::{
    cluster::Cluster,
    plan,
    pod::observe::{Observed, observe},
};

pub(super) fn stage(cluster: &Cluster, sandbox: &Sandbox) -> SandboxStage {
    let (stage, position, message) = match cluster.pods.get(&sandbox.name_any()).map(|pod| observe(&pod)) {
        None => {
            let place = plan::place(&cluster.world(), sandbox).unwrap_or(1);
            let words = sandbox.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
            (Stage::Queued, i32::try_from(place).unwrap_or(i32::MAX), words)
        }
        Some(Observed::Scheduling(words)) => (Stage::Scheduling, 0, words),
        Some(Observed::Pulling(words)) if words.is_empty() => (Stage::Pulling, 0, "pulling image".to_owned()),
        Some(Observed::Pulling(words)) => (Stage::Pulling, 0, words),
        Some(Observed::Starting | Observed::Ready { .. }) => (Stage::Starting, 0, "starting kernel".to_owned()),
        Some(Observed::Ended(reason, words)) => (Stage::Starting, 0, format!("it did not start ({reason}): {words}")),
    };
    SandboxStage { stage: stage.into(), position, message }
}
