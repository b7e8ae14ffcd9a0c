//! Pods that the cluster refused to make, so that it is not asked for the same again and again.
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::{life::Refusal, plan::World};

#[derive(Debug, Default)]
pub struct Refusals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By the sandbox' name.
    refused: HashMap<String, Refusal>,
    /// How many pods there were.
    pods: usize,
}

impl Refusals {
    pub(super) fn note(&self, sandbox: String, now: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused.entry(sandbox).or_insert(Refusal { since: now, asked: now }).asked = now;
    }

    /// Those that still hold, by the sandbox' name.
    pub(super) fn of(&self, world: &World) -> HashMap<String, Refusal> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where a pod has gone there may be room.
        if world.pods.len() < std::mem::replace(&mut known.pods, world.pods.len()) {
            known.refused.clear();
        }
        if !known.refused.is_empty() {
            let there: HashSet<_> = world.sandboxes.iter().map(|it| it.name_any()).collect();
            known.refused.retain(|name, _| there.contains(name));
        }
        known.refused.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernelbox_api::Sandbox;
    use serde_json::json;

    use super::*;

    #[test]
    fn they_hold_until_their_sandbox_or_any_pod_is_gone() {
        let (refusals, second) = (Refusals::default(), |at| Timestamp::from_second(at).unwrap());
        let spec = || serde_json::from_value(json!({"templateRef": {"name": "t"}})).unwrap();
        let mut world = World { sandboxes: vec![Arc::new(Sandbox::new("s", spec()))], ..World::default() };
        world.pods.insert("other".into(), Arc::default());
        assert!(refusals.of(&world).is_empty());

        refusals.note("s".into(), second(1));
        refusals.note("s".into(), second(3));
        refusals.note("gone".into(), second(1));
        let since_then = HashMap::from([("s".to_owned(), Refusal { since: second(1), asked: second(3) })]);
        assert_eq!(refusals.of(&world), since_then);

        world.pods.clear();
        assert!(refusals.of(&world).is_empty());
        refusals.note("s".into(), second(5));
        assert_eq!(refusals.of(&world)["s"].since, second(5));
    }
}
