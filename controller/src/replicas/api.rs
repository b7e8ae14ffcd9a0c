//! An API server in memory: resources by kind and name, their versions, and the events of their changes. What it keeps to is what the
//! controller relies on: versions that rise, names that are taken, preconditions, statuses apart, pods that take time to go.
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::holds::Story;
use crate::clock;

/// What the model has to say of a request that it does not carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    Conflict,
    AlreadyExists,
}

/// One thing that a watch tells.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) is_deleted: bool,
    pub(super) object: Value,
}

#[derive(Default)]
pub(super) struct Api {
    version: u64,
    kinds: HashMap<String, BTreeMap<String, Value>>,
    log: HashMap<String, Vec<Told>>,
    /// What became of all that ever was.
    pub(super) story: Story,
}

impl Api {
    pub(super) fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.kinds.get(kind)?.get(name)
    }

    pub(super) fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.kinds.get(kind).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn names(&self, kind: &str) -> Vec<String> {
        self.kinds.get(kind).into_iter().flat_map(|all| all.keys().cloned()).collect()
    }

    pub(super) fn log(&self, kind: &str) -> &[Told] {
        self.log.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn create(&mut self, kind: &str, mut object: Value) -> Result<Value, Refusal> {
        let name = text(&object, "/metadata/name").to_owned();
        if self.get(kind, &name).is_some() {
            return Err(Refusal::AlreadyExists);
        }
        let metadata = &mut object["metadata"];
        metadata["uid"] = format!("{kind}-{}", self.version + 1).into();
        metadata["namespace"] = "kernelbox-sandboxes".into();
        metadata["generation"] = 1.into();
        metadata["creationTimestamp"] = second(clock::now()).into();
        match kind {
            "sandboxes" | "pods" => object["status"] = json!({"phase": "Pending"}),
            "sandboxpools" | "sandboxtemplates" => _ = object.as_object_mut().unwrap().remove("status"),
            _ => {}
        }
        Ok(self.put(kind, object))
    }

    /// `is_status`: the status alone is replaced; else all but it.
    pub(super) fn replace(&mut self, kind: &str, is_status: bool, new: &Value) -> Result<Value, Refusal> {
        let known = self.get(kind, text(new, "/metadata/name")).ok_or(Refusal::NotFound)?.clone();
        guard(&known, &new["metadata"])?;
        let mut next = if is_status { known.clone() } else { new.clone() };
        if is_status {
            next["status"] = new["status"].clone();
        } else {
            for kept in ["uid", "resourceVersion", "creationTimestamp", "namespace", "generation"] {
                next["metadata"][kept] = known["metadata"][kept].clone();
            }
            next["status"] = known["status"].clone();
        }
        Ok(self.change(kind, known, next))
    }

    /// A merge patch; it does not reach the status.
    pub(super) fn patch(&mut self, kind: &str, name: &str, mut patch: Value) -> Result<Value, Refusal> {
        let known = self.get(kind, name).ok_or(Refusal::NotFound)?.clone();
        guard(&known, &patch["metadata"])?;
        _ = patch.as_object_mut().unwrap().remove("status");
        let mut next = known.clone();
        merge(&mut next, patch);
        Ok(self.change(kind, known, next))
    }

    /// None: it is gone at once. A pod that a node has is told to end, and goes later.
    pub(super) fn delete(&mut self, kind: &str, name: &str, preconditions: &Value) -> Result<Option<Value>, Refusal> {
        let known = self.get(kind, name).ok_or(Refusal::NotFound)?.clone();
        guard(&known, preconditions)?;
        if kind != "pods" {
            self.remove(kind, name);
            return Ok(None);
        }
        if !text(&known, "/metadata/deletionTimestamp").is_empty() {
            return Ok(Some(known));
        }
        let (mut going, is_on_node) = (known.clone(), !text(&known, "/spec/nodeName").is_empty());
        let grace = if is_on_node { 30 } else { 0 };
        going["metadata"]["deletionTimestamp"] = second(clock::now() + SignedDuration::from_secs(grace)).into();
        going["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if is_on_node {
            return Ok(Some(self.change(kind, known, going)));
        }
        // The answer is the pod as it was last, though it is gone.
        self.remove(kind, name);
        going["metadata"]["resourceVersion"] = self.version.to_string().into();
        Ok(Some(going))
    }

    /// Whoever wants to, without a word to anybody.
    pub(super) fn edit(&mut self, kind: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let Some(known) = self.get(kind, name).cloned() else { return };
        let mut next = known.clone();
        edit(&mut next);
        self.change(kind, known, next);
    }

    pub(super) fn remove(&mut self, kind: &str, name: &str) {
        let Some(mut object) = self.kinds.get_mut(kind).and_then(|all| all.remove(name)) else { return };
        if kind == "pods" {
            self.went(&object);
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.entry(kind.to_owned()).or_default().push(Told { is_deleted: true, object });
    }

    /// Pods whose sandbox is gone go after it.
    pub(super) fn collect_garbage(&mut self) {
        let owners: Vec<String> = self.all("sandboxes").map(|it| text(it, "/metadata/uid").to_owned()).collect();
        let orphans = self.all("pods").filter(|it| !owners.iter().any(|owner| owner == owner_of(it)));
        for name in orphans.map(|it| text(it, "/metadata/name").to_owned()).collect::<Vec<_>>() {
            _ = self.delete("pods", &name, &json!({}));
        }
    }

    fn change(&mut self, kind: &str, known: Value, mut next: Value) -> Value {
        if known == next {
            return known;
        }
        if known["spec"] != next["spec"] {
            next["metadata"]["generation"] = (known["metadata"]["generation"].as_i64().unwrap_or_default() + 1).into();
        }
        self.put(kind, next)
    }

    fn put(&mut self, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if kind == "sandboxes" {
            self.story.sandbox(&object);
        }
        self.log.entry(kind.to_owned()).or_default().push(Told { is_deleted: false, object: object.clone() });
        let name = text(&object, "/metadata/name").to_owned();
        self.kinds.entry(kind.to_owned()).or_default().insert(name, object.clone());
        object
    }
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The uid of the sandbox that a pod is of.
pub(super) fn owner_of(pod: &Value) -> &str {
    text(pod, "/metadata/ownerReferences/0/uid")
}

fn guard(known: &Value, wanted: &Value) -> Result<(), Refusal> {
    let differs = |field: &str| wanted[field].as_str().is_some_and(|it| it != known["metadata"][field]);
    if differs("resourceVersion") || differs("uid") { Err(Refusal::Conflict) } else { Ok(()) }
}

fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (key, value) in patch {
        match value {
            Value::Null => _ = into.remove(&key),
            value => merge(into.entry(key).or_insert(Value::Null), value),
        }
    }
}

fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap().to_string()
}
