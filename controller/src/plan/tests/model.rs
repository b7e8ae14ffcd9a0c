//! A cluster in memory on which plans are carried out.
use kernelbox_api::EndReason;
use serde_json::{Value, json};

use super::*;

pub(super) const NOW: i64 = 1_000_000;

pub(super) fn object<T: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value, more: Value) -> T {
    let mut whole =
        json!({"apiVersion": "kernelbox.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let more = more.as_object().unwrap();
    for (key, value) in more {
        match key.as_str() {
            "metadata" => whole["metadata"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone()),
            _ => whole[key] = value.clone(),
        }
    }
    serde_json::from_value(whole).unwrap()
}

pub(super) fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn policy() -> NetworkPolicy {
    object(
        "NetworkPolicy",
        &policy::name("t"),
        json!({"podSelector": {}}),
        json!({"apiVersion": "networking.k8s.io/v1"}),
    )
}

/// A cluster in which every write happens at once, and pods start when they are told to.
pub(super) struct Model {
    pub(super) world: World,
    pub(super) now: i64,
    pub(super) next: usize,
    pub(super) writes: HashMap<String, usize>,
    /// Whose pods are not to be moved: one write more.
    pub(super) kept_in_place: HashSet<String>,
    pub(super) ends: Vec<EndReason>,
}

impl Model {
    pub(super) fn new(pool: Value) -> Self {
        let template = Arc::new(object("SandboxTemplate", "t", json!({"image": "x"}), json!({})));
        let mut spec = json!({"templateRef": {"name": "t"}});
        spec.as_object_mut().unwrap().extend(pool.as_object().unwrap().clone());
        let mut world = World::default();
        world
            .templates
            .insert("t".into(), Template { template, hash: Some("h1".into()), policy: Some(policy()), problem: None });
        world.pools.push(Arc::new(object("SandboxPool", "t", spec, json!({}))));
        Self { world, now: NOW, next: 0, writes: HashMap::new(), kept_in_place: HashSet::new(), ends: Vec::new() }
    }

    pub(super) fn add(&mut self, spec: Value) -> String {
        self.next += 1;
        let name = format!("s{:04}", self.next);
        let mut whole = json!({"templateRef": {"name": "t"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"metadata": {"creationTimestamp": time(self.now).to_string()}});
        self.world.sandboxes.push(Arc::new(object("Sandbox", &name, whole, metadata)));
        *self.writes.entry(name.clone()).or_default() += 1;
        name
    }

    pub(super) fn ask(&mut self, session: usize, generation: i64, tenant: usize) -> String {
        let spec =
            json!({"session": format!("sessions/{session}"), "generation": generation, "tenant": tenant.to_string()});
        self.add(spec)
    }

    pub(super) fn sandbox(&self, name: &str) -> Option<Sandbox> {
        self.world.sandboxes.iter().find(|it| key(it) == name).map(|it| Sandbox::clone(it))
    }

    pub(super) fn put(&mut self, sandbox: Sandbox) {
        let at = self.world.sandboxes.iter().position(|it| key(it) == key(&sandbox)).unwrap();
        *self.writes.entry(key(&sandbox).to_owned()).or_default() += 1;
        self.world.sandboxes[at] = Arc::new(sandbox);
    }

    pub(super) fn start(&mut self, name: &str) {
        if let Some(pod) = self.world.pods.get_mut(name) {
            let status =
                json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]});
            Arc::make_mut(pod).status = Some(serde_json::from_value(status).unwrap());
        }
    }

    pub(super) fn start_all(&mut self) {
        for name in self.world.pods.keys().cloned().collect::<Vec<_>>() {
            self.start(&name);
        }
    }

    /// One look of the leader, and all its writes. Says whether there were any.
    pub(super) fn look(&mut self) -> bool {
        let plan = plan(&self.world, time(self.now));
        let rests = plan.steps.iter().all(|(_, step)| *step == Step::AskWhetherIdle);
        let busy = !(rests && plan.create.is_empty() && plan.enclose.is_empty() && plan.lift.is_empty());
        for policy in plan.enclose {
            self.world.policies.insert(policy.name_any(), Arc::new(policy));
        }
        for policy in plan.lift {
            assert!(self.world.policies.remove(&policy.name_any()).is_some());
        }
        for (pool, status) in plan.pools {
            let mut pool = SandboxPool::clone(&pool);
            pool.status = Some(status);
            self.world.pools[0] = Arc::new(pool);
        }
        for (_, many) in plan.create {
            for _ in 0..many {
                self.add(json!({}));
            }
        }
        for (sandbox, step) in plan.steps {
            let name = key(&sandbox).to_owned();
            let pod = self.world.pods.get(&name).cloned();
            let mut sandbox = Sandbox::clone(&sandbox);
            match step {
                Step::CreatePod => {
                    let hash = self.world.templates["t"].hash.clone().unwrap();
                    let metadata = json!({"name": name, "uid": format!("pod-{name}"), "labels": {TEMPLATE_HASH_LABEL: hash, TEMPLATE_LABEL: "t"},
                        "creationTimestamp": time(self.now).to_string()});
                    let pod = json!({"metadata": metadata, "spec": {"containers": [], "nodeName": "n"}, "status": {}});
                    assert!(
                        self.world.pods.insert(name.clone(), Arc::new(serde_json::from_value(pod).unwrap())).is_none()
                    );
                    *self.writes.entry(name).or_default() += 1;
                }
                Step::Tell(status) => {
                    sandbox.status = Some(*status);
                    self.put(sandbox);
                }
                Step::KeepPodInPlace => {
                    let pod = Arc::make_mut(self.world.pods.get_mut(&name).unwrap());
                    pod.annotations_mut().extend(crate::pod::moving::annotations(false));
                    assert!(self.kept_in_place.insert(name), "it is told once");
                }
                Step::End(reason, words) => {
                    sandbox.status = Some(life::ended(&sandbox, pod.as_deref(), reason, words, time(self.now)));
                    self.ends.push(reason);
                    self.put(sandbox);
                }
                Step::DeletePod => {
                    self.world.pods.remove(&name);
                    *self.writes.entry(name).or_default() += 1;
                }
                Step::DeleteSandbox => {
                    self.world.sandboxes.retain(|it| key(it) != name);
                    *self.writes.entry(name).or_default() += 1;
                }
                Step::AskWhetherIdle | Step::Wait(_) => {}
            }
        }
        busy
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            if !self.look() {
                return;
            }
        }
        panic!("the leader never comes to rest");
    }

    pub(super) fn status(&self) -> SandboxPoolStatus {
        self.world.pools[0].status.clone().unwrap_or_default()
    }

    pub(super) fn ready(&self, which: impl Fn(&Sandbox) -> bool) -> Vec<String> {
        let is = |it: &&Arc<Sandbox>| {
            it.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Ready)) && which(it)
        };
        self.world.sandboxes.iter().filter(is).map(|it| it.name_any()).collect()
    }
}
