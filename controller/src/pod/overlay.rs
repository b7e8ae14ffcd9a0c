//! Lays a template's podTemplate over the pod. What would loosen its security is refused, not left out: nobody should think it is on.
use k8s_openapi::api::core::v1::Pod;
use kernelbox_api::PodOverlay;
use serde_json::{Map, Value};

use super::{BuildError, CONTAINER, inject};

/// Fields of a pod that are Kernelbox' own.
const POD_FIELDS: [&str; 15] = [
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "restartPolicy",
    "runtimeClassName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
];
/// Fields of a container that are.
const CONTAINER_FIELDS: [&str; 3] = ["image", "securityContext", "ports"];
/// Fields that are where the supervisor is injected.
const INJECTED_FIELDS: [&str; 3] = ["command", "args", "workingDir"];
/// Volumes that show something of the node or of the cluster.
const VOLUMES: [&str; 3] = ["hostPath", "projected", "csi"];
/// Volumes of every sandbox.
const OWN_VOLUMES: [&str; 5] = ["workspace", "scratch", "keys", "shared-memory", inject::VOLUME];
/// Of these, what code in the sandbox must not write.
const READ_ONLY: [&str; 2] = ["keys", inject::VOLUME];
/// Environment of the supervisor.
const PREFIX: &str = "KERNELBOX_";

/// The pod with what is wanted besides.
pub(super) fn lay(pod: Pod, wanted: &PodOverlay) -> Result<Pod, BuildError> {
    let refuse = |what: String| Err(BuildError::Overlay(what));
    if let Some(key) = wanted.metadata.labels.keys().chain(wanted.metadata.annotations.keys()).find(|it| is_ours(it)) {
        return refuse(format!("{key} is Kernelbox' own"));
    }
    let empty = Map::new();
    let spec = match &wanted.spec {
        Value::Null => &empty,
        Value::Object(spec) => spec,
        _ => return refuse("spec is not an object".to_owned()),
    };
    if let Some(field) = POD_FIELDS.iter().find(|field| spec.contains_key(**field)) {
        return refuse(format!("spec.{field} is Kernelbox' own; the template has fields for what may be chosen"));
    }
    for list in ["initContainers", "ephemeralContainers"] {
        if spec.contains_key(list) {
            return refuse(format!("spec.{list} would run beside the supervisor"));
        }
    }
    for container in items(spec, "containers") {
        if container.get("name").and_then(Value::as_str) != Some(CONTAINER) {
            return refuse(format!("spec.containers: there is one container, named {CONTAINER}"));
        }
        if let Some(field) = CONTAINER_FIELDS.iter().find(|field| container.get(**field).is_some()) {
            return refuse(format!("spec.containers[{CONTAINER}].{field} is Kernelbox' own"));
        }
        let is_injected = pod.spec.as_ref().is_some_and(|spec| spec.init_containers.is_some());
        if let Some(field) = INJECTED_FIELDS.iter().find(|field| is_injected && container.get(**field).is_some()) {
            return refuse(format!(
                "spec.containers[{CONTAINER}].{field} is Kernelbox' own where the supervisor is Injected"
            ));
        }
        let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        let mut volumes = mounts.filter_map(|it| it.get("name")?.as_str());
        if let Some(name) = volumes.find(|name| READ_ONLY.contains(name)) {
            return refuse(format!("spec.containers[{CONTAINER}].volumeMounts: {name} is Kernelbox' own"));
        }
        let names =
            container.get("env").and_then(Value::as_array).into_iter().flatten().filter_map(|it| it.get("name"));
        if let Some(name) = names.filter_map(Value::as_str).find(|name| name.starts_with(PREFIX)) {
            return refuse(format!("spec.containers[{CONTAINER}].env: {name} is Kernelbox' own"));
        }
    }
    for volume in items(spec, "volumes") {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        if OWN_VOLUMES.contains(&name) {
            return refuse(format!("spec.volumes: {name} is Kernelbox' own"));
        }
        if let Some(kind) = VOLUMES.iter().find(|kind| volume.get(**kind).is_some()) {
            return refuse(format!("spec.volumes: {kind} volumes would reach out of the sandbox"));
        }
    }
    let mut whole = serde_json::to_value(pod).map_err(BuildError::Json)?;
    merge(&mut whole["metadata"], &serde_json::to_value(&wanted.metadata).map_err(BuildError::Json)?);
    merge(&mut whole["spec"], &Value::Object(spec.clone()));
    serde_json::from_value(whole).map_err(|error| BuildError::Overlay(error.to_string()))
}

fn is_ours(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| domain == kernelbox_api::GROUP || domain == "app.kubernetes.io")
}

fn items<'a>(spec: &'a Map<String, Value>, list: &str) -> impl Iterator<Item = &'a Value> {
    spec.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// Objects are merged; of lists, items of the same name are, and others are added.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for item in from {
                let same = |it: &&mut Value| it.get("name").is_some() && it.get("name") == item.get("name");
                match into.iter_mut().find(same) {
                    Some(known) => merge(known, item),
                    None => into.push(item.clone()),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
