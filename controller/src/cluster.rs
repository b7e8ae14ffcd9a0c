//! The cluster as this process knows it, and the few ways in which it changes it. What is written is known at once.
mod write;

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kernelbox_api::{Sandbox, SandboxPool, SandboxTemplate};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub use self::write::{LIMIT as WRITE_LIMIT, WriteError};
use crate::{
    cache::{Cache, Changes},
    metrics::Metrics,
    names,
    plan::{Template, World},
    pod::Platform,
};

/// Pods that are ours have this label.
const OURS: &str = "app.kubernetes.io/managed-by=kernelbox-controller";

/// The namespace of sandboxes.
pub struct Cluster {
    client: Client,
    namespace: String,
    pub platform: Platform,
    pub changes: Changes,
    pub templates: Cache<SandboxTemplate>,
    pub pools: Cache<SandboxPool>,
    pub sandboxes: Cache<Sandbox>,
    pub pods: Cache<Pod>,
    metrics: Metrics,
}

impl Cluster {
    pub fn new(client: Client, namespace: String, platform: Platform, metrics: Metrics) -> Self {
        let changes = Changes::default();
        Self {
            client,
            namespace,
            platform,
            templates: Cache::new(changes.clone()),
            pools: Cache::new(changes.clone()),
            sandboxes: Cache::new(changes.clone()),
            pods: Cache::new(changes.clone()),
            changes,
            metrics,
        }
    }

    /// Watches all four kinds until it is stopped.
    pub async fn follow(&self, stop: CancellationToken) {
        let ours = watcher::Config::default().labels(OURS);
        let all = [
            self.watch(&self.templates, watcher::Config::default()),
            self.watch(&self.pools, watcher::Config::default()),
            self.watch(&self.sandboxes, watcher::Config::default()),
            self.watch(&self.pods, ours),
        ];
        tokio::select! {
            _ = futures::future::join_all(all) => {}
            () = stop.cancelled() => {}
        }
    }

    fn watch<'a, K>(&'a self, cache: &'a Cache<K>, config: watcher::Config) -> BoxFuture<'a, ()>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let events = watcher(self.api::<K>(), config).default_backoff();
        // Who wrote which field is of no interest, and large.
        let events = events.modify(|object| object.managed_fields_mut().clear());
        Box::pin(cache.follow(events))
    }

    /// Whether all that there was at the start is known.
    pub fn is_complete(&self) -> bool {
        self.templates.is_complete()
            && self.pools.is_complete()
            && self.sandboxes.is_complete()
            && self.pods.is_complete()
    }

    /// A template by its name, with the hash of its pods.
    pub fn template(&self, name: &str) -> Option<Template> {
        self.templates.get(name).map(|template| self.hashed(template))
    }

    fn hashed(&self, template: Arc<SandboxTemplate>) -> Template {
        match names::template_hash(&template, &self.platform) {
            Ok(hash) => Template { template, hash: Some(hash), problem: None },
            Err(error) => Template { template, hash: None, problem: Some(error.to_string()) },
        }
    }

    /// All that is known now; the answers of supervisors are the leader's to add.
    pub fn world(&self) -> World {
        World {
            templates: self.templates.all().into_iter().map(|it| (it.name_any(), self.hashed(it))).collect(),
            pools: self.pools.all(),
            sandboxes: self.sandboxes.all(),
            pods: self.pods.all().into_iter().map(|it| (it.name_any(), it)).collect(),
            answers: HashMap::new(),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
