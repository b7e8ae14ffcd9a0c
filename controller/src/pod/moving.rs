//! Whether those who scale a cluster may move a pod to empty its node: a warm one at any time, a session's not. Pure.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

const CLUSTER_AUTOSCALER: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
const KARPENTER: &str = "karpenter.sh/do-not-disrupt";

/// The annotations that say so.
pub fn annotations(may_move: bool) -> BTreeMap<String, String> {
    [(CLUSTER_AUTOSCALER, may_move), (KARPENTER, !may_move)].map(|(key, is)| (key.to_owned(), is.to_string())).into()
}

/// What its annotations say.
pub fn may_move(pod: &Pod) -> bool {
    pod.annotations().get(KARPENTER).is_none_or(|stays| stays != "true")
}
