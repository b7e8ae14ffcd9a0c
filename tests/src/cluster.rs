//! Kernelbox in a real cluster, as `tests/cluster/deploy` puts it there: what the cluster says, what is done to it, and clients from outside.
mod asker;
mod forward;
mod process;
mod settle;

use std::process::Command;

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod, Service},
    networking::v1::NetworkPolicy,
};
use kernelbox_api::{EndReason, Phase, Sandbox, SandboxPool, SandboxTemplate, TEMPLATE_HASH_LABEL};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

pub use self::{
    asker::{Asker, first_answer},
    forward::Forward,
    process::{Process, StandsStill},
};
use crate::Client;

/// Where the control plane is, and where sandboxes are.
pub const OWN: &str = "kernelbox";
pub const SANDBOXES: &str = "kernelbox-sandboxes";
/// The key that `tests/cluster/deploy` gives the gateway; of a cluster that lives as long as its tests.
const KEY: &str = "kernelbox-cluster-tests";
/// The policy by which others than gateways call sandboxes.
const OPEN: &str = "open";
/// Where the gateway expects the scripted model, on the machine that the tests run on.
pub const MODEL_PORT: u16 = 7999;
/// Where both programs send their spans, on the same machine.
pub const COLLECTOR_PORT: u16 = 4317;

pub struct Cluster {
    pub kube: kube::Client,
    gateway: Forward,
}

impl Cluster {
    /// The cluster of KUBECONFIG, once Kernelbox is ready in it and nothing of an earlier test is left.
    pub async fn open() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kube = kube::Client::try_default().await.expect("KUBECONFIG must name a cluster: make test-cluster");
        settle::ready();
        let cluster = Self { kube, gateway: Forward::start(OWN, "svc/kernelbox-gateway", 7070) };
        cluster.settle().await;
        cluster
    }

    /// A client outside the cluster.
    pub async fn client(&self) -> Client {
        Client::connect(&self.gateway.endpoint(), KEY).await
    }

    /// One that needs no API server on its way, where services can be reached from here.
    pub async fn client_past_the_api(&self) -> Client {
        let services: Api<Service> = Api::namespaced(self.kube.clone(), OWN);
        let address = services.get("kernelbox-gateway").await.unwrap().spec.unwrap().cluster_ip.unwrap();
        Client::connect(&format!("http://{address}:7070"), KEY).await
    }

    /// After the gateway's pod is another.
    pub fn forward_anew(&mut self) {
        self.gateway = Forward::start(OWN, "svc/kernelbox-gateway", 7070);
    }

    pub fn sandboxes_api(&self) -> Api<Sandbox> {
        Api::namespaced(self.kube.clone(), SANDBOXES)
    }

    pub fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.kube.clone(), SANDBOXES)
    }

    pub async fn sandboxes(&self) -> Vec<Sandbox> {
        self.sandboxes_api().list(&ListParams::default()).await.unwrap().items
    }

    /// The session's sandboxes, oldest first.
    pub async fn of(&self, session: &str) -> Vec<Sandbox> {
        let mut own = self.sandboxes().await;
        own.retain(|it| it.spec.session.as_deref() == Some(session));
        own.sort_by_key(|it| it.spec.generation);
        own
    }

    /// The session's sandboxes that have not ended.
    pub async fn live_ones(&self, session: &str) -> Vec<Sandbox> {
        self.of(session).await.into_iter().filter(|it| phase(it) != Some(Phase::Ended)).collect()
    }

    /// The last of them.
    pub async fn live(&self, session: &str) -> Option<Sandbox> {
        self.live_ones(session).await.pop()
    }

    pub async fn pods(&self) -> Vec<Pod> {
        self.pods_api().list(&ListParams::default()).await.unwrap().items
    }

    /// The controller's replicas: their pods.
    pub async fn controllers(&self) -> Vec<Pod> {
        let api: Api<Pod> = Api::namespaced(self.kube.clone(), OWN);
        api.list(&ListParams::default().labels("app.kubernetes.io/name=kernelbox-controller")).await.unwrap().items
    }

    /// The name of the controller that leads.
    pub async fn leader(&self) -> String {
        let api: Api<Lease> = Api::namespaced(self.kube.clone(), OWN);
        let lease = api.get("kernelbox-controller").await.unwrap();
        lease.spec.and_then(|it| it.holder_identity).unwrap_or_default()
    }

    pub async fn pool(&self, name: &str) -> SandboxPool {
        Api::namespaced(self.kube.clone(), SANDBOXES).get(name).await.unwrap()
    }

    pub async fn size_pool(&self, name: &str, min: u32, max: u32) {
        self.change_pool(name, json!({"min": min, "max": max})).await;
    }

    pub async fn change_pool(&self, name: &str, spec: Value) {
        let api: Api<SandboxPool> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The default template with changes, and a pool of so many. An earlier one of this name goes first.
    pub async fn template(&self, name: &str, changes: Value, warm: u32) {
        let templates: Api<SandboxTemplate> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let pools: Api<SandboxPool> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let default = templates.get("default").await.unwrap();
        let mut whole = json!({
            "apiVersion": "kernelbox.dev/v1alpha1", "kind": "SandboxTemplate",
            "metadata": {"name": name}, "spec": default.spec,
        });
        merge(&mut whole["spec"], &changes);
        templates.create(&PostParams::default(), &serde_json::from_value(whole).unwrap()).await.unwrap();
        let pool = json!({
            "apiVersion": "kernelbox.dev/v1alpha1", "kind": "SandboxPool",
            "metadata": {"name": name}, "spec": {"templateRef": {"name": name}, "min": warm},
        });
        pools.create(&PostParams::default(), &serde_json::from_value(pool).unwrap()).await.unwrap();
        if warm > 0 {
            self.until(&format!("the pool {name} is filled"), async || self.warm(name).await == warm as usize).await;
        }
    }

    /// Changes a template that is there.
    pub async fn change_template(&self, name: &str, spec: Value) {
        let api: Api<SandboxTemplate> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let patch = Patch::Merge(json!({ "spec": spec }));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Takes both away.
    pub async fn remove_template(&self, name: &str) {
        let templates: Api<SandboxTemplate> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let pools: Api<SandboxPool> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let params = DeleteParams::default();
        let _ = pools.delete(name, &params).await;
        let _ = templates.delete(name, &params).await;
    }

    /// Ready ones of a template that are nobody's.
    pub async fn warm(&self, template: &str) -> usize {
        let is = |it: &&Sandbox| {
            it.spec.template_ref.name == template && it.spec.session.is_none() && phase(it) == Some(Phase::Ready)
        };
        self.sandboxes().await.iter().filter(is).count()
    }

    /// Whether some of a template's warm ones are ready, and none is of an earlier kind.
    pub async fn is_renewed(&self, template: &str) -> bool {
        let templates: Api<SandboxTemplate> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let now = templates.get(template).await.unwrap();
        let status = now.status.filter(|it| it.observed_generation == now.metadata.generation);
        let hash = status.and_then(|it| it.template_hash);
        let warm = self.sandboxes().await.into_iter().filter(|it| {
            it.spec.template_ref.name == template && it.spec.session.is_none() && phase(it) == Some(Phase::Ready)
        });
        let kinds: Vec<_> = warm.map(|it| it.labels().get(TEMPLATE_HASH_LABEL).cloned()).collect();
        hash.is_some() && !kinds.is_empty() && kinds.iter().all(|kind| *kind == hash)
    }

    /// Whoever is not a gateway or a controller may call sandboxes, too, until they are closed again.
    pub async fn open_sandboxes(&self) {
        self.close_sandboxes().await;
        let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 7090}]}]});
        let policy = json!({"metadata": {"name": OPEN}, "spec": spec});
        let policies: Api<NetworkPolicy> = Api::namespaced(self.kube.clone(), SANDBOXES);
        policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    }

    pub async fn close_sandboxes(&self) {
        let policies: Api<NetworkPolicy> = Api::namespaced(self.kube.clone(), SANDBOXES);
        let _ = policies.delete(OPEN, &DeleteParams::default()).await;
    }

    pub async fn node(&self) -> Node {
        let nodes: Api<Node> = Api::all(self.kube.clone());
        nodes.list(&ListParams::default()).await.unwrap().items.remove(0)
    }

    /// Patches of sandboxes that the API server has answered with success: claims, and nothing else.
    pub async fn claims(&self) -> u64 {
        let request = axum::http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = self.kube.request_text(request).await.unwrap();
        let labels = ["resource=\"sandboxes\"", "subresource=\"\"", "verb=\"PATCH\"", "code=\"200\""];
        let is = |line: &&str| {
            line.starts_with("apiserver_request_total{") && labels.iter().all(|label| line.contains(label))
        };
        let count = |line: &str| line.rsplit(' ').next().and_then(|it| it.parse::<f64>().ok()).unwrap_or_default();
        text.lines().filter(is).map(count).sum::<f64>() as u64
    }

    /// Waits for what must come.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !holds().await {
            if std::time::Instant::now() > limit {
                println!("{}", kubectl(&["get", "sandboxes,sandboxpools,pods", "-n", SANDBOXES, "-o", "wide"]));
                panic!("waited for 120 s: {what}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Waits until the session's last sandbox has ended, and says why.
    pub async fn ended(&self, session: &str) -> EndReason {
        let mut reason = None;
        self.until(&format!("the sandbox of {session} ends"), async || {
            reason = self.of(session).await.last().and_then(|it| it.status.clone()?.end_reason);
            reason.is_some()
        })
        .await;
        reason.unwrap()
    }

    /// Waits until the session's live sandbox is there no more, pod and all.
    pub async fn pod_gone(&self, sandbox: &Sandbox) {
        let name = sandbox.name_any();
        self.until(&format!("the pod {name} is gone"), async || {
            self.pods_api().get_opt(&name).await.unwrap().is_none()
        })
        .await;
    }
}

pub fn phase(sandbox: &Sandbox) -> Option<Phase> {
    sandbox.status.as_ref().and_then(|status| status.phase)
}

/// Runs kubectl against the cluster of the tests; what it prints.
pub fn kubectl(args: &[&str]) -> String {
    let output = Command::new("kubectl").args(args).output().expect("kubectl");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kubectl {args:?}: {out}{err}");
    out.into_owned()
}

fn merge(to: &mut Value, changes: &Value) {
    match (to, changes) {
        (Value::Object(to), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(to.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (to, changes) => *to = changes.clone(),
    }
}
