//! The cluster as this process knows it, and the few ways in which it changes it. What is written is known at once.
mod write;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Node, NodeStatus, Pod},
    networking::v1::{NetworkPolicy, ServiceCIDR},
};
use kernelbox_api::{Sandbox, SandboxPool, SandboxTemplate};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub use self::write::{LIMIT as WRITE_LIMIT, WriteError};
use crate::{
    cache::{Cache, Changes},
    metrics::Metrics,
    names,
    network::Network,
    plan::{Template, World},
    pod::Platform,
    policy::{self, Surroundings},
};

/// Pods and policies that are ours have this label.
const OURS: &str = "app.kubernetes.io/managed-by=kernelbox-controller";

/// The namespace of sandboxes, and what it must know of the cluster around.
pub struct Cluster {
    client: Client,
    namespace: String,
    pub platform: Platform,
    around: Surroundings,
    pub changes: Changes,
    pub templates: Cache<SandboxTemplate>,
    pub pools: Cache<SandboxPool>,
    pub sandboxes: Cache<Sandbox>,
    pub pods: Cache<Pod>,
    pub(crate) policies: Cache<NetworkPolicy>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) services: Cache<ServiceCIDR>,
    /// The pods whose making was not answered.
    unanswered: Mutex<HashSet<String>>,
    metrics: Metrics,
}

impl Cluster {
    pub fn new(client: Client, namespace: String, platform: Platform, around: Surroundings, metrics: Metrics) -> Self {
        let changes = Changes::default();
        Self {
            client,
            namespace,
            platform,
            around,
            templates: Cache::new(changes.clone()),
            pools: Cache::new(changes.clone()),
            sandboxes: Cache::new(changes.clone()),
            pods: Cache::new(changes.clone()),
            policies: Cache::new(changes.clone()),
            nodes: Cache::new(changes.clone()),
            services: Cache::new(changes.clone()),
            changes,
            unanswered: Mutex::default(),
            metrics,
        }
    }

    /// Watches all that it knows until it is stopped.
    pub async fn follow(&self, stop: CancellationToken) {
        let ours = || watcher::Config::default().labels(OURS);
        let all = [
            watch(self.api(), &self.templates, watcher::Config::default(), |_| {}, &self.metrics),
            watch(self.api(), &self.pools, watcher::Config::default(), |_| {}, &self.metrics),
            watch(self.api(), &self.sandboxes, watcher::Config::default(), |_| {}, &self.metrics),
            watch(self.api(), &self.pods, ours(), |_| {}, &self.metrics),
            watch(self.api(), &self.policies, ours(), |_| {}, &self.metrics),
            watch(
                Api::all(self.client.clone()),
                &self.nodes,
                watcher::Config::default(),
                only_addresses,
                &self.metrics,
            ),
            Box::pin(self.watch_services()),
        ];
        tokio::select! {
            _ = futures::future::join_all(all) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Before 1.33 Kubernetes does not tell the range of its services.
    async fn watch_services(&self) {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        if matches!(api.list_metadata(&ListParams::default().limit(1)).await, Err(kube::Error::Api(status)) if status.is_not_found())
        {
            tracing::warn!(
                "this cluster does not tell the range of its services: where it is public, --blocked-cidr must"
            );
            self.services.has_none();
        } else {
            watch(api, &self.services, watcher::Config::default(), |_| {}, &self.metrics).await;
        }
    }

    /// Whether all that there was at the start is known.
    pub fn is_complete(&self) -> bool {
        self.templates.is_complete()
            && self.pools.is_complete()
            && self.sandboxes.is_complete()
            && self.pods.is_complete()
            && self.policies.is_complete()
            && self.nodes.is_complete()
            && self.services.is_complete()
    }

    /// A template by its name, with the hash of its pods.
    pub fn template(&self, name: &str) -> Option<Template> {
        self.templates.get(name).map(|template| self.understood(template, &Network::default()))
    }

    fn understood(&self, template: Arc<SandboxTemplate>, network: &Network) -> Template {
        let hash = names::template_hash(&template, &self.platform).map_err(|error| error.to_string());
        match hash.and_then(|hash| Ok((hash, policy::build(&template, &self.around, network)?))) {
            Ok((hash, policy)) => Template { template, hash: Some(hash), policy: Some(policy), problem: None },
            Err(problem) => Template { template, hash: None, policy: None, problem: Some(problem) },
        }
    }

    /// All that is known now; the answers of supervisors are the leader's to add.
    pub fn world(&self) -> World {
        let (nodes, services) = (self.nodes.all(), self.services.all());
        let network =
            Network::new(nodes.iter().map(Arc::as_ref), services.iter().map(Arc::as_ref), &self.around.blocked);
        let templates = self.templates.all().into_iter();
        World {
            templates: templates.map(|it| (it.name_any(), self.understood(it, &network))).collect(),
            pools: self.pools.all(),
            sandboxes: self.sandboxes.all(),
            pods: self.pods.all().into_iter().map(|it| (it.name_any(), it)).collect(),
            policies: self.policies.all().into_iter().map(|it| (it.name_any(), it)).collect(),
            answers: HashMap::new(),
            refusals: HashMap::new(),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// `prune`: takes away what is of no interest and large.
fn watch<'a, K>(
    api: Api<K>,
    cache: &'a Cache<K>,
    config: watcher::Config,
    prune: fn(&mut K),
    metrics: &Metrics,
) -> BoxFuture<'a, ()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, config).default_backoff();
    // Nor is it who wrote which field.
    let events = events.modify(move |object| {
        object.managed_fields_mut().clear();
        prune(object);
    });
    Box::pin(cache.follow(events, metrics.watch_failures(&K::plural(&()))))
}

fn only_addresses(node: &mut Node) {
    let addresses = node.status.take().and_then(|status| status.addresses);
    node.status = Some(NodeStatus { addresses, ..Default::default() });
}
