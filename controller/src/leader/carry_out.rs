//! Carries a plan out: its writes side by side, each only while this replica surely leads.
use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, future::BoxFuture, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kernelbox_api::{
    POOL_LABEL, Phase, Sandbox, SandboxPool, SandboxSpec, SandboxStatus, TEMPLATE_HASH_LABEL, TEMPLATE_LABEL,
    TemplateRef,
};
use kube::ResourceExt as _;

use super::Leader;
use crate::{
    clock,
    cluster::{WRITE_LIMIT, WriteError},
    life::{self, Step},
    names,
    plan::Plan,
    pod,
};

/// Writes at once.
const WRITES: usize = 16;

impl Leader {
    /// Whether all of it was done.
    pub(crate) async fn carry_out(&self, plan: Plan) -> bool {
        let mut writes: Vec<BoxFuture<'_, Result<(), WriteError>>> = Vec::new();
        for (sandbox, step) in plan.steps {
            if !matches!(step, Step::AskWhetherIdle | Step::Wait(_)) {
                writes.push(Box::pin(self.take_step(sandbox, step)));
            }
        }
        for (pool, many) in plan.create {
            for _ in 0..many {
                writes.push(Box::pin(self.create_warm(Arc::clone(&pool))));
            }
        }
        for (pool, status) in plan.pools {
            writes.push(Box::pin(async move {
                self.cluster.tell_pool(&pool, status.clone()).await?;
                self.events.of_pool(&pool, &status);
                Ok(())
            }));
        }
        for (template, status) in plan.templates {
            writes.push(Box::pin(async move { self.cluster.tell_template(&template, status).await }));
        }
        for policy in plan.enclose {
            writes.push(Box::pin(async move { self.cluster.put_policy(&policy).await }));
        }
        for policy in plan.lift {
            writes.push(Box::pin(async move { self.cluster.delete_policy(&policy).await }));
        }
        let guarded: Vec<BoxFuture<'_, bool>> =
            writes.into_iter().map(|write| Box::pin(self.guarded(write)) as BoxFuture<'_, bool>).collect();
        stream::iter(guarded).buffer_unordered(WRITES).fold(true, |all, one| async move { all && one }).await
    }

    async fn guarded(&self, write: BoxFuture<'_, Result<(), WriteError>>) -> bool {
        if !self.leadership.holds_for(WRITE_LIMIT) {
            return false;
        }
        match write.await {
            Ok(()) => true,
            // The watch will tell what it is now.
            Err(WriteError::Conflict | WriteError::Gone) => false,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a write failed; it is tried again");
                false
            }
        }
    }

    async fn take_step(&self, sandbox: Arc<Sandbox>, step: Step) -> Result<(), WriteError> {
        let cluster = &self.cluster;
        let known = cluster.pods.get(&sandbox.name_any());
        match step {
            Step::Wait(_) | Step::AskWhetherIdle => Ok(()),
            Step::CreatePod => match self.pod_of(&sandbox) {
                Some(pod) => match cluster.create_pod(&pod).await {
                    Err(WriteError::Refused(words)) => {
                        self.refusals.note(sandbox.name_any(), clock::now());
                        self.events.pod_refused(&sandbox, &words);
                        if let Some(status) = life::refused(&sandbox, &words) {
                            self.tell(&sandbox, status).await?;
                        }
                        Err(WriteError::Refused(words))
                    }
                    other => other,
                },
                None => Ok(()),
            },
            Step::Tell(status) => {
                self.tell(&sandbox, (*status).clone()).await?;
                if status.phase == Some(Phase::Ready) {
                    self.metrics.ready(&sandbox.spec.template_ref.name, &status);
                }
                Ok(())
            }
            Step::KeepPodInPlace => match known {
                Some(pod) => cluster.annotate_pod(&pod, pod::moving::annotations(false)).await,
                None => Ok(()),
            },
            Step::End(reason, message) => {
                let status = life::ended(&sandbox, known.as_deref(), reason, message, clock::now());
                let session = sandbox.spec.session.as_deref().and_then(|it| it.strip_prefix("sessions/"));
                tracing::info!(sandbox = sandbox.name_any(), session, %reason, "a sandbox ends");
                self.tell(&sandbox, status).await?;
                self.metrics.ended(reason);
                Ok(())
            }
            Step::DeletePod => match known {
                Some(pod) => cluster.delete_pod(&pod).await,
                None => Ok(()),
            },
            Step::DeleteSandbox => cluster.delete_sandbox(&sandbox).await,
        }
    }

    async fn tell(&self, sandbox: &Sandbox, status: SandboxStatus) -> Result<(), WriteError> {
        self.cluster.tell_sandbox(sandbox, status.clone()).await?;
        self.events.of_sandbox(sandbox, &status);
        Ok(())
    }

    fn pod_of(&self, sandbox: &Sandbox) -> Option<k8s_openapi::api::core::v1::Pod> {
        let template = self.cluster.template(&sandbox.spec.template_ref.name)?;
        let hash = template.hash?;
        match pod::build(sandbox, &template.template, &hash, &self.cluster.platform) {
            Ok(pod) => Some(pod),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    sandbox = sandbox.name_any(),
                    "no pod can be built"
                );
                None
            }
        }
    }

    async fn create_warm(&self, pool: Arc<SandboxPool>) -> Result<(), WriteError> {
        let template = &pool.spec.template_ref.name;
        let Some(hash) = self.cluster.template(template).and_then(|it| it.hash) else { return Ok(()) };
        let labels = [(TEMPLATE_LABEL, template.clone()), (TEMPLATE_HASH_LABEL, hash), (POOL_LABEL, pool.name_any())];
        let metadata = ObjectMeta {
            name: Some(names::warm(template)),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>()),
            ..Default::default()
        };
        let spec = SandboxSpec {
            template_ref: TemplateRef { name: template.clone() },
            session: None,
            generation: None,
            tenant: None,
            claim_time: None,
            idle_timeout: None,
        };
        self.cluster.create_sandbox(&Sandbox { metadata, spec, status: None }).await.map(|_| ())
    }
}
