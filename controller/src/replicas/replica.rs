//! One replica: its real caches, allocator and leader, told by the watch what the test lets it be told.
use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::wire::{ACCOUNT, NAMESPACE, Server};
use crate::{
    allocator::Allocator,
    auth::Gateways,
    cache::Cache,
    cluster::Cluster,
    events::Events,
    keys::Keys,
    leader::{Leader, Refusals},
    lease::Leadership,
    life::Answer,
    metrics::Metrics,
    plan::Plan,
    pod::Platform,
    policy::Surroundings,
};

/// All that is watched and changes here.
pub(super) const KINDS: [&str; 5] = ["sandboxes", "pods", "networkpolicies", "sandboxpools", "sandboxtemplates"];

pub(super) struct Replica {
    server: Arc<Server>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) allocator: Allocator,
    pub(super) leader: Arc<Leader>,
    pub(super) leads: watch::Sender<Option<Instant>>,
    /// What supervisors said since it leads.
    pub(super) answers: HashMap<String, Answer>,
    /// Made, and not carried out yet.
    pub(super) plan: Option<Plan>,
    pub(super) carrying_out: Option<JoinHandle<bool>>,
    stop: CancellationToken,
    /// By kind: how much of the log its watch has told, and how much of a list that is being read.
    told: HashMap<&'static str, usize>,
    listing: HashMap<&'static str, usize>,
}

impl Replica {
    /// It knows nothing yet.
    pub(super) fn new(number: usize, server: &Arc<Server>, keys: &Arc<Keys>) -> Self {
        let client = server.client(number);
        let metrics = Metrics::new().unwrap();
        let around = Surroundings::default();
        let platform = Platform::default();
        let cluster = Cluster::new(client.clone(), NAMESPACE.to_owned(), platform, around, metrics.clone());
        let cluster = Arc::new(cluster);
        none(&cluster.nodes);
        none(&cluster.services);
        let (leads, leadership) = watch::channel(None);
        let leader = Leader {
            cluster: Arc::clone(&cluster),
            keys: Arc::clone(keys),
            leadership: Leadership::of(leadership),
            metrics: metrics.clone(),
            events: Events::new(client.clone(), format!("replica-{number}")),
            refusals: Refusals::default(),
        };
        let stop = CancellationToken::new();
        let gateways = Gateways::new(client, vec![ACCOUNT.to_owned()]);
        let allocator = Allocator::new(Arc::clone(&cluster), Arc::clone(keys), gateways, metrics, stop.clone());
        Self {
            server: Arc::clone(server),
            cluster,
            allocator,
            leader: Arc::new(leader),
            leads,
            answers: HashMap::new(),
            plan: None,
            carrying_out: None,
            stop,
            told: HashMap::new(),
            listing: HashMap::new(),
        }
    }

    /// It ends, as a process does.
    pub(super) fn end(self) {
        self.stop.cancel();
        self.stop_carrying_out();
    }

    pub(super) fn stop_carrying_out(&self) {
        if let Some(carrying_out) = &self.carrying_out {
            carrying_out.abort();
        }
    }

    /// A leader does one thing after another.
    pub(super) fn is_busy(&self) -> bool {
        self.carrying_out.as_ref().is_some_and(|it| !it.is_finished())
    }

    /// Begins to do what it planned.
    pub(super) fn carry_out(&mut self) {
        if let Some(plan) = self.plan.take_if(|_| self.carrying_out.as_ref().is_none_or(JoinHandle::is_finished)) {
            let leader = Arc::clone(&self.leader);
            self.carrying_out = Some(tokio::spawn(async move { leader.carry_out(plan).await }));
        }
    }

    pub(super) fn lead(&self, leads: bool) {
        self.leads.send_replace(leads.then(|| Instant::now() + Duration::from_hours(100_000)));
    }

    /// The next few events of a kind.
    pub(super) fn deliver(&mut self, kind: &'static str, many: usize) {
        self.list_to_end(kind);
        let Some(from) = self.told.get(kind).copied() else { return };
        let events: Vec<_> = self.server.api().log(kind).iter().skip(from).take(many).cloned().collect();
        self.told.insert(kind, from + events.len());
        for event in events {
            let is_deleted = event.is_deleted;
            self.apply(kind, if is_deleted { Event::Delete(event.object) } else { Event::Apply(event.object) });
        }
    }

    pub(super) fn deliver_all(&mut self) {
        for kind in KINDS {
            if !self.told.contains_key(kind) {
                self.list(kind);
            }
            self.deliver(kind, usize::MAX);
        }
    }

    pub(super) fn has_listed_all(&self) -> bool {
        KINDS.iter().all(|kind| self.told.contains_key(kind))
    }

    /// Begins to read a list.
    pub(super) fn list(&mut self, kind: &'static str) {
        self.apply(kind, Event::Init);
        let (all, so_far) = {
            let api = self.server.api();
            (api.all(kind).cloned().collect::<Vec<_>>(), api.log(kind).len())
        };
        for object in all {
            self.apply(kind, Event::InitApply(object));
        }
        self.listing.insert(kind, so_far);
    }

    pub(super) fn list_to_end(&mut self, kind: &'static str) {
        if let Some(so_far) = self.listing.remove(kind) {
            self.apply(kind, Event::InitDone);
            self.told.insert(kind, so_far);
        }
    }

    fn apply(&self, kind: &str, event: Event<Value>) {
        let cluster = &self.cluster;
        match kind {
            "sandboxes" => cluster.sandboxes.apply(typed(event)),
            "pods" => cluster.pods.apply(typed(event)),
            "networkpolicies" => cluster.policies.apply(typed(event)),
            "sandboxpools" => cluster.pools.apply(typed(event)),
            "sandboxtemplates" => cluster.templates.apply(typed(event)),
            other => unreachable!("{other}"),
        }
    }
}

fn none<K>(cache: &Cache<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
{
    cache.apply(Event::Init);
    cache.apply(Event::InitDone);
}

fn typed<K: DeserializeOwned>(event: Event<Value>) -> Event<K> {
    let of = |object| serde_json::from_value(object).unwrap();
    match event {
        Event::Apply(object) => Event::Apply(of(object)),
        Event::Delete(object) => Event::Delete(of(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(of(object)),
        Event::InitDone => Event::InitDone,
    }
}
