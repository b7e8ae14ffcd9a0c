//! What is known of one kind of resource: what the watch showed, and what this process wrote and the watch has not shown yet.
//!
//! So nothing is made twice because a watch is slow. A write is forgotten once the watch shows it or something later, or has listed all anew
//! since.
use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use futures::{Stream, StreamExt as _};
use kernelbox_metrics::IntCounter;
use kube::{
    Resource, ResourceExt as _,
    runtime::watcher::{self, Event},
};
use tokio::sync::watch;

/// Tells that anything changed, in any of the caches that share it.
#[derive(Debug, Clone)]
pub struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Changes {
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    pub fn tell(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The resources of one kind in one namespace, by name.
#[derive(Debug)]
pub struct Cache<K> {
    state: RwLock<State<K>>,
    changes: Changes,
}

#[derive(Debug)]
struct State<K> {
    seen: HashMap<String, Arc<K>>,
    written: HashMap<String, Written<K>>,
    /// The watch has shown all that was written up to this version.
    shown: u64,
    /// A new list as far as it was read.
    listing: Option<HashMap<String, Arc<K>>>,
    /// How many lists were begun.
    lists: u64,
    is_complete: bool,
}

#[derive(Debug)]
struct Written<K> {
    /// None: it was deleted.
    now: Option<Arc<K>>,
    uid: Option<String>,
    version: u64,
    /// The lists begun before.
    lists: u64,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug> Cache<K> {
    pub fn new(changes: Changes) -> Self {
        let (seen, written) = (HashMap::new(), HashMap::new());
        Self {
            state: RwLock::new(State { seen, written, shown: 0, listing: None, lists: 0, is_complete: false }),
            changes,
        }
    }

    /// Whether all that there was at the start is known.
    pub fn is_complete(&self) -> bool {
        self.read(|state| state.is_complete)
    }

    pub fn get(&self, name: &str) -> Option<Arc<K>> {
        self.read(|state| match state.written.get(name) {
            Some(written) => written.now.clone(),
            None => state.seen.get(name).cloned(),
        })
    }

    /// In no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read(|state| {
            let seen = state.seen.iter().filter(|(name, _)| !state.written.contains_key(*name)).map(|(_, it)| it);
            seen.chain(state.written.values().filter_map(|written| written.now.as_ref())).cloned().collect()
        })
    }

    /// Takes the API server's answer to a write.
    pub fn wrote(&self, object: &K) {
        self.note(object, Some(Arc::new(object.clone())));
    }

    /// It is gone by a write of ours.
    pub fn deleted(&self, object: &K) {
        self.note(object, None);
    }

    fn note(&self, object: &K, now: Option<Arc<K>>) {
        let mut state = self.write();
        let (name, uid, version) = (object.name_any(), object.uid(), version(object));
        // The watch may have been faster, and may have shown its end as well.
        let is_shown = match &now {
            Some(_) => state.shown >= version,
            None => {
                let known = state.written.get(&name).map_or(state.seen.get(&name), |it| it.now.as_ref());
                known.is_none_or(|known| known.uid() != uid)
            }
        };
        if !is_shown {
            let lists = state.lists;
            state.written.insert(name, Written { now, uid, version, lists });
        }
        drop(state);
        self.changes.tell();
    }

    /// There can be no resource of this kind.
    pub fn has_none(&self) {
        self.write().is_complete = true;
        self.changes.tell();
    }

    /// Takes what the watch says, until it ends. `failures` counts how often it broke.
    pub async fn follow(&self, events: impl Stream<Item = watcher::Result<Event<K>>>, failures: IntCounter) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.apply(event),
                Err(error) => {
                    failures.inc();
                    tracing::warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "the watch broke; it is tried again");
                }
            }
        }
    }

    pub(crate) fn apply(&self, event: Event<K>) {
        let mut state = self.write();
        match event {
            Event::Init => {
                state.lists += 1;
                state.listing = Some(HashMap::new());
                return;
            }
            Event::InitApply(object) => {
                let listing = state.listing.get_or_insert_default();
                listing.insert(object.name_any(), Arc::new(object));
                return;
            }
            Event::InitDone => {
                state.seen = state.listing.take().unwrap_or_default();
                state.shown = state.seen.values().map(|it| version(it.as_ref())).fold(state.shown, u64::max);
                let State { seen, written, lists, .. } = &mut *state;
                written.retain(|name, it| {
                    it.lists == *lists && seen.get(name).is_none_or(|seen| !it.is_in(seen.as_ref()))
                });
                state.is_complete = true;
            }
            Event::Apply(object) => {
                let name = object.name_any();
                state.show(version(&object));
                if state.written.get(&name).is_some_and(|it| it.is_in(&object)) {
                    state.written.remove(&name);
                }
                state.seen.insert(name, Arc::new(object));
            }
            Event::Delete(object) => {
                let name = object.name_any();
                state.show(version(&object));
                if state.written.get(&name).is_some_and(|it| it.uid == object.uid()) {
                    state.written.remove(&name);
                }
                state.seen.remove(&name);
            }
        }
        drop(state);
        self.changes.tell();
    }

    fn read<T>(&self, look: impl FnOnce(&State<K>) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> State<K> {
    /// Events come in the order of their versions: no earlier write will be shown any more, not even by its end.
    fn show(&mut self, version: u64) {
        self.shown = self.shown.max(version);
        self.written.retain(|_, it| it.now.is_none() || it.version > version);
    }
}

impl<K: Resource<DynamicType = ()>> Written<K> {
    /// What the watch shows has this write in it, or is later.
    fn is_in(&self, seen: &K) -> bool {
        match self.now {
            Some(_) => version(seen) >= self.version,
            None => seen.uid() != self.uid,
        }
    }
}

/// Kubernetes promises that the versions of one kind can be compared as numbers.
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|it| it.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
