//! Each test begins with a cluster in which Kernelbox is ready and idle.
use kernelbox_api::Phase;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};

use serde_json::json;

use super::{Cluster, OWN, SANDBOXES, kubectl, phase};

/// How many warm ones the default pool has between tests.
const WARM: u32 = 2;

/// The control plane runs, with as many replicas as it should.
pub(super) fn ready() {
    kubectl(&["scale", "--namespace", OWN, "deploy/kernelbox-controller", "--replicas=2"]);
    kubectl(&["scale", "--namespace", OWN, "deploy/kernelbox-gateway", "--replicas=1"]);
    for name in ["deploy/kernelbox-controller", "deploy/kernelbox-gateway"] {
        kubectl(&["rollout", "status", "--namespace", OWN, "--timeout=120s", name]);
    }
}

impl Cluster {
    /// Ends what is left of earlier tests, and waits for the pool.
    pub(super) async fn settle(&self) {
        let templates: Api<kernelbox_api::SandboxTemplate> = Api::namespaced(self.kube.clone(), SANDBOXES);
        for template in templates.list(&ListParams::default()).await.unwrap() {
            if template.name_any() != "default" {
                self.remove_template(&template.name_any()).await;
            }
        }
        self.change_pool("default", json!({"min": WARM, "max": WARM, "limit": null})).await;
        for sandbox in self.sandboxes().await {
            if sandbox.spec.session.is_some() || phase(&sandbox) == Some(Phase::Ended) {
                // Its pod goes with it.
                let _ = self.sandboxes_api().delete(&sandbox.name_any(), &DeleteParams::default()).await;
            }
        }
        self.until("nothing is there but the pool", async || {
            self.warm("default").await == WARM as usize && self.pods().await.len() == WARM as usize
        })
        .await;
    }
}
