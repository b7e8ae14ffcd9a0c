//! Tells gateways which sandboxes ended, as soon as the API server says that nothing of them runs any more. One that is told to end says
//! so itself, and is saved before.
use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use kernelbox_api::{EndReason, Phase, Sandbox};
use kernelbox_proto::controller::v1::SandboxGone;
use kube::ResourceExt as _;
use tonic::Status;

use super::Parts;
use crate::{
    clock,
    cluster::Cluster,
    pod::observe::{Observed, may_run, observe},
};

/// All is looked at so often, at least.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn stream(parts: Arc<Parts>) -> BoxStream<'static, Result<SandboxGone, Status>> {
    let stop = parts.stop.clone();
    let all = async_stream::stream! {
        let mut changes = parts.cluster.changes.subscribe();
        let mut told = HashSet::new();
        loop {
            changes.borrow_and_update();
            let sandboxes = parts.cluster.sandboxes.all();
            let mut there = HashSet::with_capacity(told.len());
            for sandbox in sandboxes.iter().filter(|it| it.spec.session.is_some()) {
                let Some(gone) = gone(&parts.cluster, sandbox) else { continue };
                if !told.contains(&gone.uid) {
                    yield Ok(gone.clone());
                }
                there.insert(gone.uid);
            }
            told = there;
            // A pod whose node is silent does not change when its time is over.
            if let Ok(Err(_)) = tokio::time::timeout(LOOK, changes.changed()).await {
                return;
            }
        }
    };
    all.take_until(stop.cancelled_owned()).boxed()
}

/// If it has ended, or its pod has, and nothing of it runs any more.
fn gone(cluster: &Cluster, sandbox: &Sandbox) -> Option<SandboxGone> {
    let status = sandbox.status.as_ref()?;
    let uid = status.pod_uid.clone()?;
    let pod = cluster.pods.get(&sandbox.name_any());
    if pod.as_ref().is_some_and(|pod| may_run(pod, clock::now())) {
        return None;
    }
    let (reason, message) = if status.phase == Some(Phase::Ended) {
        (status.end_reason?, status.message.clone().unwrap_or_default())
    } else {
        match pod {
            None => (EndReason::Deleted, "the pod is gone".to_owned()),
            Some(pod) => match observe(&pod) {
                Observed::Ended(reason, words) => (reason, words),
                _ => return None,
            },
        }
    };
    Some(SandboxGone { sandbox: sandbox.name_any(), uid, reason: reason.to_string(), message })
}
