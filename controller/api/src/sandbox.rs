//! Sandbox: one pod with one supervisor, warm and nobody's, or a session's for good.
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What a sandbox is made from, and whose it is.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kernelbox.dev",
    version = "v1alpha1",
    kind = "Sandbox",
    plural = "sandboxes",
    shortname = "sbx",
    category = "kernelbox",
    doc = "One isolated place with one kernel: a pod. Made by the controller; claimed by one session, once and for good.",
    namespaced,
    status = "SandboxStatus",
    derive = "PartialEq",
    validation = ("self.metadata.name.size() <= 63", "the name must be a DNS label, as it is the pod's"),
    printcolumn(name = "Template", type_ = "string", json_path = ".spec.templateRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Session", type_ = "string", json_path = ".spec.session"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.endReason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Tenant", type_ = "string", json_path = ".spec.tenant", priority = 1),
    printcolumn(name = "Generation", type_ = "integer", json_path = ".spec.generation", priority = 1),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    selectable = ".status.phase"
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(oldSelf.session) ? has(self.session) && self.session == oldSelf.session : true",
        "session is immutable once it is set: a sandbox is never reused between sessions"),
    validation = ("has(oldSelf.generation) ? has(self.generation) && self.generation >= oldSelf.generation : true",
        "generation never falls"),
    validation = ("has(self.session) == has(self.generation) && has(self.session) == has(self.tenant)",
        "session, generation and tenant come together, with the claim"),
    validation = ("has(oldSelf.tenant) ? self.tenant == oldSelf.tenant : true", "tenant is immutable once it is set")
)]
pub struct SandboxSpec {
    /// The template that it is made from.
    #[x_kube(validation = ("self == oldSelf", "templateRef is immutable"))]
    pub template_ref: TemplateRef,
    /// The session that has it: sessions/{session}. None: it is warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub session: Option<String>,
    /// Which of the session's sandboxes this is; of two, the higher one is the session's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub generation: Option<i64>,
    /// Who the session belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tenant: Option<String>,
    /// When it became the session's. It is here and not in the status so that a claim is one write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_time: Option<MicroTime>,
    /// The session's own idle timeout: it counts where it is shorter than the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("duration(self) >= duration('1s')", "must be a duration of at least 1s, such as 15m"))]
    pub idle_timeout: Option<Duration>,
}

/// A template in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// What became of it so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxStatus {
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it stands there, in the words of whoever it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The pod's uid; its name is the sandbox' own. It is the audience of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// host:port of its supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it reached each stage.
    #[serde(default)]
    pub stages: StageTimes,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
}

/// Where a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// It waits for its turn, or starts: its pod tells more, once it is there. So it is from the first moment, without a write.
    Pending,
    /// Its first kernel answers. Without a session it is warm.
    Ready,
    /// Nothing of it runs any more.
    Ended,
}

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum EndReason {
    /// The gateway needs it no more.
    Released,
    /// Not used for its template's idleTimeout, with everything saved.
    IdleTimeout,
    /// Idle, with a workspace that no gateway came to save within unsavedGrace.
    IdleUnsaved,
    /// It reached its template's maxLifetime.
    MaxLifetime,
    /// It was not ready within its template's startTimeout.
    StartTimeout,
    /// Nobody got it within its deadline in the queue.
    QueueTimeout,
    /// The session has a newer one.
    Superseded,
    /// It was warm and its template changed.
    Stale,
    /// It was warm and its pool is smaller now.
    ScaledDown,
    /// The container's limit of memory was passed.
    OOMKilled,
    /// The node needed its room, or was drained.
    Evicted,
    /// Somebody deleted the pod.
    Deleted,
    /// The node is gone or does not answer.
    NodeLost,
    /// The supervisor ended by itself, or answers no more.
    Failed,
    /// The image cannot be had.
    ImageUnavailable,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl StageTimes {
    /// The stages of its start that are over: name, beginning, end.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, &MicroTime, &MicroTime)> {
        let mut before = self.queued.as_ref();
        let ends = [
            ("queued", &self.created),
            ("scheduled", &self.scheduled),
            ("pulled", &self.started),
            ("kernel_ready", &self.kernel_ready),
        ];
        ends.into_iter().filter_map(move |(stage, end)| {
            let end = end.as_ref()?;
            before.replace(end).map(|begin| (stage, begin, end))
        })
    }
}

/// The times of a sandbox' life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageTimes {
    /// It was asked for, and waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<MicroTime>,
    /// Its pod was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<MicroTime>,
    /// The pod has a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<MicroTime>,
    /// The image is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<MicroTime>,
    /// The supervisor runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<MicroTime>,
    /// The first kernel answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ready: Option<MicroTime>,
    /// It ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<MicroTime>,
}
