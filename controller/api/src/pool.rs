//! SandboxPool: how many warm sandboxes of a template are kept ahead of demand.
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Condition, TemplateRef};

/// How many there may be.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kernelbox.dev",
    version = "v1alpha1",
    kind = "SandboxPool",
    shortname = "sbxp",
    category = "kernelbox",
    doc = "Warm sandboxes of one template, kept ahead of demand.",
    namespaced,
    status = "SandboxPoolStatus",
    derive = "PartialEq",
    printcolumn(name = "Template", type_ = "string", json_path = ".spec.templateRef.name"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
    printcolumn(name = "Target", type_ = "integer", json_path = ".status.target"),
    printcolumn(name = "Claimed", type_ = "integer", json_path = ".status.claimed"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queued"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.min", priority = 1),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.max", priority = 1),
    printcolumn(name = "Limit", type_ = "integer", json_path = ".spec.limit", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("!has(self.max) || self.min <= self.max", "min must not be over max"),
    validation = ("!has(self.limit) || self.min <= self.limit", "min must not be over limit")
)]
pub struct SandboxPoolSpec {
    /// The template of all of them.
    #[x_kube(validation = ("self == oldSelf", "templateRef is immutable: make another pool"))]
    pub template_ref: TemplateRef,
    /// Warm ones that are always kept.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0, max = 1000))]
    pub min: u32,
    /// Warm ones, at most. None: as many as `min`, so that the size never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 0, max = 1000))]
    pub max: Option<u32>,
    /// Sandboxes of the template in all, claimed ones included. None: no limit but the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1))]
    pub limit: Option<u32>,
    /// Pods that may be starting at once.
    #[serde(default = "default_max_pending")]
    #[schemars(with = "i32", range(min = 1, max = 1000))]
    pub max_pending: u32,
}

fn default_max_pending() -> u32 {
    10
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxPoolStatus {
    /// Warm and ready to be claimed.
    #[schemars(with = "i32")]
    pub ready: u32,
    /// Starting.
    #[schemars(with = "i32")]
    pub pending: u32,
    /// Sessions have them.
    #[schemars(with = "i32")]
    pub claimed: u32,
    /// Sessions wait for them.
    #[schemars(with = "i32")]
    pub queued: u32,
    /// How many warm ones are wanted now.
    #[schemars(with = "i32")]
    pub target: u32,
    /// Why so many, or what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The generation of the spec that these figures are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
