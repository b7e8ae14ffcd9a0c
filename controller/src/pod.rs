//! The pod of a sandbox, as its template wants it and as safe as every sandbox is. Pure.
mod disk;
mod inject;
pub mod moving;
pub mod observe;
mod overlay;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
        GRPCAction, ObjectFieldSelector, Pod, PodDNSConfig, PodSecurityContext, PodSpec, Probe, ResourceFieldSelector,
        ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kernelbox_api::{
    Accelerator, POOL_LABEL, SANDBOX_LABEL, Sandbox, SandboxTemplate, SandboxTemplateSpec, Supervisor,
    TEMPLATE_HASH_LABEL, TEMPLATE_LABEL, WorkspaceMedium,
};
use kernelbox_telemetry::LogFormat;
use kube::{Resource as _, ResourceExt as _};

use disk::Disk;

/// The container that kernels run in.
pub const CONTAINER: &str = "kernel";
/// Where its supervisor listens.
pub const PORT: i32 = 7090;
/// Code runs as this user; the images have it.
const USER: i64 = 1000;
/// The session's files, and beside them its packages: one volume.
const WORKSPACE: &str = "/workspace";
const PACKAGES: &str = "/packages";
/// All else that is written: one more.
const HOME: &str = "/home/kernelbox";
const RUN: &str = "/run/kernelbox";
const STATE: &str = "/var/lib/kernelbox";
const KEYS: &str = "/etc/kernelbox/keys";
/// A pod whose node stops to answer is given up after so many seconds.
const NOT_READY: i64 = 30;
/// For the last checkpoint.
const GRACE_SECONDS: i64 = 30;
/// What of the node's disk is the pod's.
const STORAGE: &str = "ephemeral-storage";

/// What is not the template's to say.
#[derive(Debug, Clone)]
pub struct Platform {
    /// The config map with the public keys that tokens are checked with, one `<kid>.pem` each.
    pub public_keys: String,
    /// The image from which pods get a supervisor whose own has none.
    pub supervisor_image: Option<String>,
    /// How supervisors write their logs.
    pub log_format: LogFormat,
}

impl Default for Platform {
    fn default() -> Self {
        Self { public_keys: "kernelbox-public-keys".to_owned(), supervisor_image: None, log_format: LogFormat::Text }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("podTemplate cannot be laid over the pod: {0}")]
    Overlay(String),
    #[error(
        "supervisor is Injected, and the controller does not know an image that has one: set its --supervisor-image or \
         KERNELBOX_SUPERVISOR_IMAGE"
    )]
    NoSupervisor,
    #[error("workspace.size {0:?} is no quantity of bytes, such as 2Gi")]
    Size(String),
    #[error("a pod is not JSON")]
    Json(#[source] serde_json::Error),
}

/// The pod of this sandbox.
pub fn build(
    sandbox: &Sandbox,
    template: &SandboxTemplate,
    hash: &str,
    platform: &Platform,
) -> Result<Pod, BuildError> {
    let mut pod = shape(template, platform)?;
    let name = sandbox.name_any();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH_LABEL.to_owned(), hash.to_owned());
    labels.insert(SANDBOX_LABEL.to_owned(), name.clone());
    if let Some(pool) = sandbox.labels().get(POOL_LABEL) {
        labels.insert(POOL_LABEL.to_owned(), pool.clone());
    }
    if sandbox.spec.session.is_some() {
        pod.metadata.annotations.get_or_insert_default().extend(moving::annotations(false));
    }
    pod.metadata.namespace = sandbox.namespace();
    pod.metadata.name = Some(name);
    pod.metadata.owner_references = sandbox.controller_owner_ref(&()).map(|owner| vec![owner]);
    Ok(pod)
}

/// All that the template's pods have in common.
pub fn shape(template: &SandboxTemplate, platform: &Platform) -> Result<Pod, BuildError> {
    let spec = &template.spec;
    let disk = Disk::of(&spec.workspace)?;
    let resolvers = Some(spec.egress.dns.resolvers.clone()).filter(|it| !it.is_empty());
    let resolvers = resolvers.map(|it| PodDNSConfig { nameservers: Some(it), ..Default::default() });
    let mut own = PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        active_deadline_seconds: Some(deadline(spec)),
        image_pull_secrets: Some(spec.image_pull_secrets.clone()).filter(|it| !it.is_empty()),
        runtime_class_name: spec.isolation.runtime_class_name.clone(),
        host_users: spec.isolation.host_users,
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(spec.isolation.seccomp.clone().unwrap_or_else(runtime_default)),
            ..Default::default()
        }),
        node_selector: spec.accelerator.as_ref().map(|it| it.node_selector.clone()).filter(|it| !it.is_empty()),
        tolerations: Some(tolerations(spec.accelerator.as_ref())),
        dns_policy: resolvers.as_ref().map(|_| "None".to_owned()),
        dns_config: resolvers,
        containers: vec![container(spec, &disk, platform)],
        volumes: Some(volumes(spec, &disk, platform)),
        ..Default::default()
    };
    if spec.supervisor == Supervisor::Injected {
        let image = platform.supervisor_image.as_deref().ok_or(BuildError::NoSupervisor)?;
        inject::inject(&mut own, image);
    }
    let labels = [
        ("app.kubernetes.io/name", "kernelbox-sandbox".to_owned()),
        ("app.kubernetes.io/managed-by", "kernelbox-controller".to_owned()),
        (TEMPLATE_LABEL, template.name_any()),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
    let annotations = moving::annotations(true);
    let pod = Pod {
        metadata: ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..Default::default() },
        spec: Some(own),
        status: None,
    };
    match &spec.pod_template {
        Some(wanted) => overlay::lay(pod, wanted),
        None => Ok(pod),
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), ..Default::default() }
}

/// The node ends the pod by itself then, should nobody else: its life and its start, with a margin.
fn deadline(spec: &SandboxTemplateSpec) -> i64 {
    let lifecycle = &spec.lifecycle;
    let of = |duration: kube::core::Duration| std::time::Duration::from(duration);
    let whole = of(lifecycle.max_lifetime) + of(lifecycle.start_timeout) + of(lifecycle.unsaved_grace);
    i64::try_from(whole.as_secs()).unwrap_or(i64::MAX / 2).saturating_add(600)
}

fn tolerations(accelerator: Option<&Accelerator>) -> Vec<Toleration> {
    let gone = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(|key| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(NOT_READY),
        ..Default::default()
    });
    gone.into_iter().chain(accelerator.into_iter().flat_map(|it| it.tolerations.clone())).collect()
}

fn container(spec: &SandboxTemplateSpec, disk: &Disk, platform: &Platform) -> Container {
    let mut env = spec.env.clone();
    // What the supervisor is told comes last, so that it wins.
    env.extend([
        value("HOME", HOME.to_owned()),
        value("KERNELBOX_LISTEN", format!("0.0.0.0:{PORT}")),
        value("KERNELBOX_WARM_UP", spec.warm_up.join(",")),
        value("KERNELBOX_KERNEL_ENV", spec.env.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(",")),
        value("KERNELBOX_WORKSPACE", WORKSPACE.to_owned()),
        value("KERNELBOX_PACKAGES", PACKAGES.to_owned()),
        value("KERNELBOX_STATE_DIR", STATE.to_owned()),
        value("KERNELBOX_RUN_DIR", RUN.to_owned()),
        value("KERNELBOX_PUBLIC_KEYS", KEYS.to_owned()),
        EnvVar {
            name: "KERNELBOX_UID".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { field_path: "metadata.uid".to_owned(), ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        },
        // A cell that needs more of either is ended by the supervisor before the node ends the pod.
        value("KERNELBOX_DISK_LIMIT", disk.session.to_string()),
        EnvVar {
            name: "KERNELBOX_MEMORY_LIMIT".to_owned(),
            value_from: Some(EnvVarSource {
                resource_field_ref: Some(ResourceFieldSelector {
                    container_name: Some(CONTAINER.to_owned()),
                    resource: "limits.memory".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        },
    ]);
    if platform.log_format == LogFormat::Json {
        env.push(value("KERNELBOX_LOG_FORMAT", "json".to_owned()));
    }
    env.extend(spec.python.iter().map(|python| value("KERNELBOX_PYTHON", python.clone())));
    let mut mounts = vec![
        mount("workspace", WORKSPACE, Some("workspace")),
        mount("workspace", PACKAGES, Some("packages")),
        mount("scratch", HOME, Some("home")),
        mount("scratch", "/tmp", Some("tmp")),
        mount("scratch", RUN, Some("run")),
        mount("scratch", STATE, Some("state")),
        VolumeMount { read_only: Some(true), ..mount("keys", KEYS, None) },
    ];
    if spec.accelerator.as_ref().is_some_and(|it| it.shared_memory.is_some()) {
        mounts.push(mount("shared-memory", "/dev/shm", None));
    }
    Container {
        name: CONTAINER.to_owned(),
        image: Some(spec.image.clone()),
        image_pull_policy: spec.image_pull_policy.clone(),
        env: Some(env),
        ports: Some(vec![ContainerPort { name: Some("grpc".to_owned()), container_port: PORT, ..Default::default() }]),
        resources: Some(resources(spec, disk)),
        security_context: Some(restricted()),
        // Serving means that the first kernel has answered. Often at first, as claims wait for it.
        readiness_probe: Some(Probe {
            grpc: Some(GRPCAction { port: PORT, ..Default::default() }),
            period_seconds: Some(1),
            timeout_seconds: Some(2),
            failure_threshold: Some(30),
            ..Default::default()
        }),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

/// What no container of a sandbox may.
fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Default::default() }),
        ..Default::default()
    }
}

fn value(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), ..Default::default() }
}

fn mount(volume: &str, path: &str, within: Option<&str>) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        sub_path: within.map(str::to_owned),
        ..Default::default()
    }
}

fn empty(name: &str, medium: Option<&str>, size: Quantity) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit: Some(size) }),
        ..Default::default()
    }
}

/// Every resource has a limit: the template's, or ours.
fn resources(spec: &SandboxTemplateSpec, disk: &Disk) -> ResourceRequirements {
    let mut resources = spec.resources.clone();
    let limits = resources.limits.get_or_insert_default();
    for (name, quantity) in [("cpu", "1"), ("memory", "2Gi")] {
        limits.entry(name.to_owned()).or_insert_with(|| Quantity(quantity.to_owned()));
    }
    if !limits.contains_key(STORAGE) {
        limits.insert(STORAGE.to_owned(), disk.whole.clone());
        let requests = resources.requests.get_or_insert_default();
        requests.entry(STORAGE.to_owned()).or_insert_with(|| Quantity(disk::REQUEST.to_owned()));
    }
    if let Some(resource) = spec.accelerator.as_ref().and_then(|it| it.resource.as_ref()) {
        let limits = resources.limits.get_or_insert_default();
        limits.insert(resource.name.clone(), Quantity(resource.count.to_string()));
    }
    resources
}

fn volumes(spec: &SandboxTemplateSpec, disk: &Disk, platform: &Platform) -> Vec<Volume> {
    let medium = match spec.workspace.medium {
        WorkspaceMedium::Disk => None,
        WorkspaceMedium::Memory => Some("Memory"),
    };
    let keys = ConfigMapVolumeSource { name: platform.public_keys.clone(), ..Default::default() };
    let mut volumes = vec![
        empty("workspace", medium, disk.volume.clone()),
        empty("scratch", None, disk::scratch()),
        Volume { name: "keys".to_owned(), config_map: Some(keys), ..Default::default() },
    ];
    if let Some(size) = spec.accelerator.as_ref().and_then(|it| it.shared_memory.clone()) {
        volumes.push(empty("shared-memory", Some("Memory"), size));
    }
    volumes
}

#[cfg(test)]
mod tests;
