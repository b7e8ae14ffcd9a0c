//! Kernelbox' resources in a cluster: [`SandboxTemplate`], [`SandboxPool`] and [`Sandbox`], and the words that they share.
//!
//! Types alone: tools and tests use them without the operator. Group kernelbox.dev, version v1alpha1.
#![expect(clippy::duplicated_attributes, reason = "printer columns are of the same type")]
#![expect(unreachable_pub, reason = "kube's KubeSchema repeats each type inside a function")]
mod condition;
mod pool;
mod sandbox;
mod template;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt as _;

pub use self::{
    condition::{Condition, ConditionStatus, set_condition},
    pool::{SandboxPool, SandboxPoolSpec, SandboxPoolStatus},
    sandbox::{EndReason, Phase, Sandbox, SandboxSpec, SandboxStatus, StageTimes, TemplateRef},
    template::{
        Accelerator, AcceleratorResource, AllowedPeer, Dns, Egress, EgressMode, EgressPort, Isolation, Lifecycle,
        PodOverlay, PodOverlayMetadata, Protocol, SandboxTemplate, SandboxTemplateSpec, SandboxTemplateStatus,
        Supervisor, Workspace, WorkspaceMedium,
    },
};

/// The API group.
pub const GROUP: &str = "kernelbox.dev";
/// Label of sandboxes and pods: the template's name.
pub const TEMPLATE_LABEL: &str = "kernelbox.dev/template";
/// Label of sandboxes and pods: which version of the template they were made from.
pub const TEMPLATE_HASH_LABEL: &str = "kernelbox.dev/template-hash";
/// Label of sandboxes: the pool's name, on those that were made to be warm.
pub const POOL_LABEL: &str = "kernelbox.dev/pool";
/// Label of pods: the sandbox' name.
pub const SANDBOX_LABEL: &str = "kernelbox.dev/sandbox";
/// Label of claimed sandboxes: a hash of the session's name, so that they can be listed.
pub const SESSION_HASH_LABEL: &str = "kernelbox.dev/session-hash";

/// All definitions, in the order in which they are printed.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [SandboxTemplate::crd(), SandboxPool::crd(), pending_at_first(Sandbox::crd())]
}

/// A status cannot be given when a resource is made: the API server fills in its first one.
fn pending_at_first(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|it| it.open_api_v3_schema.as_mut());
        if let Some(status) = schema.and_then(|it| it.properties.as_mut()?.get_mut("status")) {
            status.default = Some(JSON(serde_json::json!({ "phase": Phase::Pending })));
        }
    }
    definition
}
