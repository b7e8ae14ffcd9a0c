//! SandboxTemplate: how a sandbox is built.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{EnvVar, LocalObjectReference, ResourceRequirements, SeccompProfile, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// How a sandbox is built.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kernelbox.dev",
    version = "v1alpha1",
    kind = "SandboxTemplate",
    shortname = "sbxt",
    category = "kernelbox",
    doc = "How to build a sandbox: image, resources, accelerator, isolation, egress, lifecycle.",
    namespaced,
    status = "SandboxTemplateStatus",
    derive = "PartialEq",
    validation = ("self.metadata.name.size() <= 40", "the name must have at most 40 characters: names of sandboxes begin with it"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Egress", type_ = "string", json_path = ".spec.egress.mode"),
    printcolumn(name = "Accelerator", type_ = "string", json_path = ".spec.accelerator.resource.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SandboxTemplateSpec {
    /// With Python 3.10 or newer and ipykernel 6.29 or newer in it, and kernelbox-supervisor as its entry point, unless `supervisor` is Injected.
    #[schemars(length(min = 1))]
    pub image: String,
    #[serde(default)]
    pub supervisor: Supervisor,
    /// The interpreter of the kernels, a path in the image or a name on its PATH. None: the image's KERNELBOX_PYTHON, else python3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("self.startsWith('/') || !self.contains('/')", "must be an absolute path, such as /opt/conda/bin/python, or a name, such as python3"))]
    pub python: Option<String>,
    /// Always, IfNotPresent or Never. None: as Kubernetes has it for the image's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['Always', 'IfNotPresent', 'Never']", "must be Always, IfNotPresent or Never"))]
    pub image_pull_policy: Option<String>,
    /// Secrets of the sandboxes' namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The Jupyter kernel that is started first.
    #[serde(default = "default_kernel")]
    #[schemars(length(min = 1, max = 63))]
    pub kernel: String,
    /// Of the container. What has no limit here gets Kernelbox' own: 1 CPU, 2 GiB of memory, 4 GiB of files.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// For work on GPUs and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    #[serde(default)]
    pub isolation: Isolation,
    #[serde(default)]
    pub egress: Egress,
    #[serde(default)]
    pub workspace: Workspace,
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Modules imported ahead of the first kernel.
    #[serde(default = "default_warm_up")]
    #[schemars(length(max = 64))]
    pub warm_up: Vec<String>,
    /// Of every kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// All else that a pod can have, laid over the pod that Kernelbox builds. It cannot loosen security.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodOverlay>,
}

fn default_kernel() -> String {
    "python3".to_owned()
}

fn default_warm_up() -> Vec<String> {
    ["numpy", "pandas", "matplotlib.pyplot"].map(str::to_owned).to_vec()
}

/// Where the program is that keeps a sandbox' kernels and files. Image: there, as its entry point. Injected: not there; an init container brings it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Supervisor {
    /// In the image, as its entry point.
    #[default]
    Image,
    /// Not in the image: an init container brings it, and uv. Kernels have the image's own environment then.
    Injected,
}

/// Devices, and the nodes that have them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.resource) != has(self.resourceClaimTemplate)", "give one of resource and resourceClaimTemplate"))]
pub struct Accelerator {
    /// An extended resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<AcceleratorResource>,
    /// A claim of dynamic resource allocation: the name of a ResourceClaimTemplate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_claim_template: Option<String>,
    /// Several sandboxes take turns on one device.
    #[serde(default)]
    pub shared: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Of /dev/shm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_memory: Option<Quantity>,
}

/// An extended resource and how many of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcceleratorResource {
    /// nvidia.com/gpu, nvidia.com/mig-1g.10gb, amd.com/gpu, ...
    #[schemars(length(min = 3, max = 317))]
    pub name: String,
    #[schemars(with = "i32", range(min = 1, max = 64))]
    pub count: u32,
}

/// How sandboxes are kept apart from their node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Isolation {
    /// gVisor's or Kata's, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// false: users of the pod are not those of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_users: Option<bool>,
    /// None: RuntimeDefault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<SeccompProfile>,
}

/// Where code may connect to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(self.mode == 'Allowlist') == (has(self.allow) && self.allow.size() > 0)", "allow belongs to mode Allowlist, which needs it"))]
pub struct Egress {
    #[serde(default)]
    pub mode: EgressMode,
    /// With mode Allowlist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub allow: Vec<AllowedPeer>,
    /// With mode Internet: not these, beside all that is never reached. Such as 203.0.113.0/24.
    #[serde(default, rename = "blockedCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 43)))]
    #[x_kube(validation = ("self.all(it, isCIDR(it))", "must be networks, such as 203.0.113.0/24"))]
    pub blocked_cidrs: Vec<String>,
    /// With mode Internet: also to 2000::/3.
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default)]
    pub dns: Dns,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EgressMode {
    /// Public addresses: not the cluster's, the nodes' and the metadata services'.
    #[default]
    Internet,
    /// Nothing, and no DNS.
    None,
    /// What `allow` says; names are answered by `dns.resolvers` alone.
    Allowlist,
}

/// A network that may be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct AllowedPeer {
    /// Such as 203.0.113.0/24.
    #[schemars(length(max = 43))]
    #[x_kube(validation = ("isCIDR(self)", "must be a network, such as 203.0.113.0/24"))]
    pub cidr: String,
    /// None: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EgressPort>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EgressPort {
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    #[default]
    TCP,
    UDP,
}

/// Who answers names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Addresses of resolvers that sandboxes use in place of the cluster's DNS, whose answers tell the names of services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), inner(length(max = 39)))]
    #[x_kube(validation = ("self.all(it, isIP(it))", "must be addresses, such as 203.0.113.53"))]
    pub resolvers: Vec<String>,
}

/// The folder of files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    #[serde(default = "default_workspace_size")]
    pub size: Quantity,
    #[serde(default)]
    pub medium: WorkspaceMedium,
}

impl Default for Workspace {
    fn default() -> Self {
        Self { size: default_workspace_size(), medium: WorkspaceMedium::default() }
    }
}

fn default_workspace_size() -> Quantity {
    Quantity("2Gi".to_owned())
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkspaceMedium {
    /// The node's disk.
    #[default]
    Disk,
    /// Memory, which counts for the container's limit.
    Memory,
}

/// How long things may take. Go's format: 90s, 15m, 24h.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// From its pod to the first kernel's answer.
    #[serde(default = "default_start_timeout")]
    #[x_kube(validation = ("duration(self) >= duration('1s')", "must be a duration of at least 1s, such as 5m"))]
    pub start_timeout: Duration,
    /// Without use for so long it is reclaimed. None: 15m, and 5m with an accelerator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s')", "must be a duration of at least 1s, such as 15m"))]
    pub idle_timeout: Option<Duration>,
    /// In all, used or not.
    #[serde(default = "default_max_lifetime")]
    #[x_kube(validation = ("duration(self) >= duration('1m')", "must be a duration of at least 1m, such as 24h"))]
    pub max_lifetime: Duration,
    /// How long an idle one is kept whose files no gateway came to save.
    #[serde(default = "default_unsaved_grace")]
    #[x_kube(validation = ("duration(self) >= duration('0s')", "must be a duration, such as 1h"))]
    pub unsaved_grace: Duration,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            start_timeout: default_start_timeout(),
            idle_timeout: None,
            max_lifetime: default_max_lifetime(),
            unsaved_grace: default_unsaved_grace(),
        }
    }
}

/// How long a sandbox is left alone where nothing is said, and how long one that others wait for.
const IDLE: std::time::Duration = std::time::Duration::from_mins(15);
const IDLE_WITH_ACCELERATOR: std::time::Duration = std::time::Duration::from_mins(5);

impl Lifecycle {
    /// Without use for so long it is reclaimed.
    pub fn idle_timeout(&self, accelerator: Option<&Accelerator>) -> std::time::Duration {
        let default = if accelerator.is_some() { IDLE_WITH_ACCELERATOR } else { IDLE };
        self.idle_timeout.map_or(default, Into::into)
    }
}

fn seconds(seconds: u64) -> Duration {
    std::time::Duration::from_secs(seconds).into()
}

fn default_start_timeout() -> Duration {
    seconds(5 * 60)
}

fn default_max_lifetime() -> Duration {
    seconds(24 * 3600)
}

fn default_unsaved_grace() -> Duration {
    seconds(3600)
}

/// What is laid over the pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodOverlay {
    #[serde(default)]
    pub metadata: PodOverlayMetadata,
    /// A part of a PodSpec. The container that kernels run in is named `kernel`.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub spec: serde_json::Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodOverlayMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// What is known about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxTemplateStatus {
    /// Of the pods that are made from it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_hash: Option<String>,
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_supervisor_is_in_the_image_unless_the_template_says_otherwise() {
        let of = |spec: Value| serde_json::from_value::<SandboxTemplateSpec>(spec).map(|spec| spec.supervisor);
        assert_eq!(of(json!({"image": "x"})).unwrap(), Supervisor::Image);
        assert_eq!(of(json!({"image": "x", "supervisor": "Injected"})).unwrap(), Supervisor::Injected);
        assert!(of(json!({"image": "x", "supervisor": "Sidecar"})).is_err());
    }

    #[test]
    fn the_definition_says_what_may_be_chosen() {
        let definition = serde_json::to_value(SandboxTemplate::crd()).unwrap();
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        assert_eq!(spec["supervisor"]["enum"], json!(["Image", "Injected"]));
        assert_eq!(spec["supervisor"]["default"], "Image");
        let rule = &spec["python"]["x-kubernetes-validations"][0]["rule"];
        assert_eq!(rule, "self.startsWith('/') || !self.contains('/')");
    }
}
