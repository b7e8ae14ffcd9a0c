//! Writes: each guarded, each with a limit, each known to the caches once it is answered. What was not answered can be looked for.
use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, networking::v1::NetworkPolicy};
use kernelbox_api::{
    SANDBOX_LABEL, SESSION_HASH_LABEL, Sandbox, SandboxPool, SandboxPoolStatus, SandboxStatus, SandboxTemplate,
    SandboxTemplateStatus,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Cluster;
use crate::names;

/// How long a write may take. A leader whose lease ends sooner does not begin one.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Why a write did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The resource changed meanwhile, or one of this name is there already.
    #[error("it is not as it was known to be")]
    Conflict,
    #[error("it is gone")]
    Gone,
    /// Quota, admission, rights; in the words of the API server.
    #[error("{0}")]
    Refused(String),
    #[error("the API server does not answer")]
    Silent,
    #[error("the API server cannot be used")]
    Failed(#[source] kube::Error),
}

impl WriteError {
    /// For metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Silent => "silent",
            Self::Failed(_) => "failed",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_not_found() => Self::Gone,
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            kube::Error::Api(status) if matches!(status.code, 400..=499) => Self::Refused(status.message),
            other => Self::Failed(other),
        }
    }
}

impl Cluster {
    pub async fn create_sandbox(&self, sandbox: &Sandbox) -> Result<Arc<Sandbox>, WriteError> {
        let made = self.within("create", "sandboxes", self.api().create(&PostParams::default(), sandbox)).await?;
        self.sandboxes.wrote(&made);
        Ok(Arc::new(made))
    }

    /// Asks the API server itself for a session's sandboxes: what was written without an answer is known then.
    pub async fn look_for_sandboxes(&self, session: &str) -> Result<(), WriteError> {
        for sandbox in self.look_for(SESSION_HASH_LABEL, &names::session_hash(session)).await? {
            self.sandboxes.wrote(&sandbox);
        }
        Ok(())
    }

    /// Lays `patch` over it, if it is as it is known.
    pub async fn patch_sandbox(&self, known: &Sandbox, mut patch: Value) -> Result<(), WriteError> {
        patch["metadata"]["resourceVersion"] = known.resource_version().into();
        let name = known.name_any();
        let (api, params, patch) = (self.api::<Sandbox>(), PatchParams::default(), Patch::Merge(patch));
        let now = self.within("patch", "sandboxes", api.patch(&name, &params, &patch)).await;
        if matches!(now, Err(WriteError::Gone)) {
            self.sandboxes.deleted(known);
        }
        self.sandboxes.wrote(&now?);
        Ok(())
    }

    pub async fn tell_sandbox(&self, known: &Sandbox, status: SandboxStatus) -> Result<(), WriteError> {
        let new = Sandbox { status: Some(status), ..known.clone() };
        let (api, name) = (self.api::<Sandbox>(), known.name_any());
        let params = PostParams::default();
        let now = self.within("update", "sandboxes/status", api.replace_status(&name, &params, &new)).await;
        if matches!(now, Err(WriteError::Gone)) {
            self.sandboxes.deleted(known);
        }
        self.sandboxes.wrote(&now?);
        Ok(())
    }

    pub async fn tell_pool(&self, known: &SandboxPool, status: SandboxPoolStatus) -> Result<(), WriteError> {
        let new = SandboxPool { status: Some(status), ..known.clone() };
        let (api, name, params) = (self.api::<SandboxPool>(), known.name_any(), PostParams::default());
        let now = self.within("update", "sandboxpools/status", api.replace_status(&name, &params, &new)).await?;
        self.pools.wrote(&now);
        Ok(())
    }

    pub async fn tell_template(
        &self,
        known: &SandboxTemplate,
        status: SandboxTemplateStatus,
    ) -> Result<(), WriteError> {
        let new = SandboxTemplate { status: Some(status), ..known.clone() };
        let (api, name, params) = (self.api::<SandboxTemplate>(), known.name_any(), PostParams::default());
        let now = self.within("update", "sandboxtemplates/status", api.replace_status(&name, &params, &new)).await?;
        self.templates.wrote(&now);
        Ok(())
    }

    pub async fn delete_sandbox(&self, known: &Sandbox) -> Result<(), WriteError> {
        let (api, name) = (self.api::<Sandbox>(), known.name_any());
        let params = exactly(known.uid(), known.resource_version());
        match self.within("delete", "sandboxes", api.delete(&name, &params)).await {
            Ok(answer) => match answer.left() {
                Some(going) => self.sandboxes.wrote(&going),
                None => self.sandboxes.deleted(known),
            },
            Err(WriteError::Gone) => self.sandboxes.deleted(known),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub async fn create_pod(&self, pod: &Pod) -> Result<(), WriteError> {
        let made = self.within("create", "pods", self.api().create(&PostParams::default(), pod)).await;
        if matches!(made, Err(WriteError::Silent | WriteError::Failed(_))) {
            self.unanswered().insert(pod.name_any());
        }
        self.pods.wrote(&made?);
        Ok(())
    }

    /// Asks the API server itself for the pods whose making was not answered: they may be there, and then they count.
    pub async fn look_for_pods(&self) -> Result<(), WriteError> {
        let names: Vec<String> = self.unanswered().iter().cloned().collect();
        for name in names {
            for pod in self.look_for(SANDBOX_LABEL, &name).await? {
                self.pods.wrote(&pod);
            }
            self.unanswered().remove(&name);
        }
        Ok(())
    }

    async fn look_for<K>(&self, label: &str, value: &str) -> Result<Vec<K>, WriteError>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let (api, params) = (self.api::<K>(), ListParams::default().labels(&format!("{label}={value}")));
        let found = tokio::time::timeout(LIMIT, api.list(&params)).await.map_err(|_| WriteError::Silent)?;
        Ok(found?.items)
    }

    fn unanswered(&self) -> MutexGuard<'_, HashSet<String>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn annotate_pod(&self, known: &Pod, annotations: BTreeMap<String, String>) -> Result<(), WriteError> {
        let metadata = json!({ "uid": known.uid(), "annotations": annotations });
        let (api, params, patch) = (self.api(), PatchParams::default(), json!({ "metadata": metadata }));
        let now = self.within("patch", "pods", api.patch(&known.name_any(), &params, &Patch::Merge(patch))).await?;
        self.pods.wrote(&now);
        Ok(())
    }

    pub async fn delete_pod(&self, known: &Pod) -> Result<(), WriteError> {
        let (api, name) = (self.api::<Pod>(), known.name_any());
        let params = exactly(known.uid(), known.resource_version());
        match self.within("delete", "pods", api.delete(&name, &params)).await {
            Ok(answer) => match answer.left() {
                Some(going) => self.pods.wrote(&going),
                None => self.pods.deleted(known),
            },
            Err(WriteError::Gone) => self.pods.deleted(known),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes it what it is to be, whoever changed it, and whoever made it.
    pub async fn put_policy(&self, policy: &NetworkPolicy) -> Result<(), WriteError> {
        let (api, name, params) = (self.api::<NetworkPolicy>(), policy.name_any(), PostParams::default());
        let replaced = self.within("update", "networkpolicies", api.replace(&name, &params, policy)).await;
        let now = match replaced {
            Err(WriteError::Gone) => self.within("create", "networkpolicies", api.create(&params, policy)).await,
            other => other,
        };
        self.policies.wrote(&now?);
        Ok(())
    }

    pub async fn delete_policy(&self, known: &NetworkPolicy) -> Result<(), WriteError> {
        let (api, name) = (self.api::<NetworkPolicy>(), known.name_any());
        let params = exactly(known.uid(), known.resource_version());
        match self.within("delete", "networkpolicies", api.delete(&name, &params)).await {
            Ok(_) | Err(WriteError::Gone) => self.policies.deleted(known),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn within<T>(
        &self,
        verb: &str,
        resource: &str,
        write: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let begun = Instant::now();
        let answer = match tokio::time::timeout(LIMIT, write).await {
            Ok(answer) => answer.map_err(WriteError::from),
            Err(_) => Err(WriteError::Silent),
        };
        self.metrics.wrote(verb, resource, begun.elapsed(), &answer);
        answer
    }
}

/// Only this very resource, as it is known.
fn exactly(uid: Option<String>, resource_version: Option<String>) -> DeleteParams {
    DeleteParams::default().preconditions(Preconditions { resource_version, uid })
}
