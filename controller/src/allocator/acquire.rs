//! How a session comes to its sandbox: its live one, else a warm one by one guarded write, else one made for it. What a write did is seen in
//! the cache, and nowhere else.
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kernelbox_api::{
    Phase, SESSION_HASH_LABEL, Sandbox, SandboxSpec, TEMPLATE_HASH_LABEL, TEMPLATE_LABEL, TemplateRef,
};
use kernelbox_proto::{
    Error,
    controller::v1::{AcquireEvent, AcquireRequest, AcquiredSandbox, acquire_event::Kind},
    v1::{ErrorCode, SandboxStage, Stage},
};
use kube::ResourceExt as _;
use rand::seq::IndexedRandom as _;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{Instrument as _, Span, info_span};

use super::{Parts, expiry, unwritten, waiting};
use crate::{
    clock,
    cluster::WriteError,
    metrics::Source,
    names, plan,
    pod::observe::{Observed, observe},
};

/// The place in the queue is told so often, at least.
const TELL: Duration = Duration::from_secs(1);

/// Who asks while the Kubernetes API cannot be used waits so long for it.
const PATIENCE: Duration = Duration::from_mins(2);

/// The stages, and the sandbox in the end.
pub(super) fn stream(parts: Arc<Parts>, request: AcquireRequest) -> BoxStream<'static, Result<AcquireEvent, Status>> {
    let (events, receiver) = mpsc::channel(16);
    let acquiring = async move {
        let _waits = parts.metrics.waits();
        let acquired = tokio::select! {
            acquired = parts.acquire(&request, &events) => acquired,
            // Its caller is gone. What was made for the session stays for its next call.
            () = events.closed() => return,
            () = parts.stop.cancelled() => {
                Err(Error::new(ErrorCode::ShuttingDown, "the controller is shutting down; another answers"))
            }
        };
        let last = match acquired {
            Ok(Some(acquired)) => Ok(AcquireEvent { kind: Some(Kind::Acquired(acquired)) }),
            Ok(None) => return,
            Err(error) => {
                parts.metrics.not_acquired(error.code);
                Err(Status::from(error))
            }
        };
        let _ = events.send(last).await;
    };
    tokio::spawn(acquiring.in_current_span());
    ReceiverStream::new(receiver).boxed()
}

/// Why no sandbox was given.
enum NotGiven {
    Refusal(Error),
    /// Nobody could be asked; that passes.
    Silence(WriteError),
}

impl From<WriteError> for NotGiven {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Silent | WriteError::Failed(_) => Self::Silence(error),
            error => Self::Refusal(unwritten(&error)),
        }
    }
}

/// What the cache says of a session's sandboxes.
enum Known {
    None,
    Mine(Arc<Sandbox>),
    /// There is what became of an ask that was not answered.
    Unanswered(Arc<Sandbox>),
    /// There is one of this higher generation.
    Newer(i64),
}

impl Parts {
    async fn acquire(
        &self,
        request: &AcquireRequest,
        events: &mpsc::Sender<Result<AcquireEvent, Status>>,
    ) -> Result<Option<AcquiredSandbox>, Error> {
        let begun = Instant::now();
        let mut changes = self.cluster.changes.subscribe();
        let (mut source, mut told) = (Source::Existing, None);
        let mut is_unanswered = request.unanswered_generation > 0;
        loop {
            changes.borrow_and_update();
            match self.known(request) {
                Known::Newer(generation) => {
                    let message = format!("the session has a sandbox of generation {generation} already");
                    return Err(Error::new(ErrorCode::SandboxBound, message));
                }
                Known::Mine(sandbox) if request.existing_only && is_ended(&sandbox) => return Ok(None),
                Known::Mine(sandbox) => {
                    if let Some(acquired) = self.if_ready(&sandbox)? {
                        self.metrics.acquired(source, begun.elapsed());
                        trace(source, &sandbox);
                        return Ok(Some(acquired));
                    }
                    let stage = waiting::stage(&self.cluster, &sandbox);
                    if told.as_ref() != Some(&stage) {
                        told = Some(stage.clone());
                        tell(events, stage);
                    }
                    let _ = tokio::time::timeout(TELL, changes.changed()).await;
                }
                Known::None | Known::Unanswered(_) if request.existing_only => return Ok(None),
                known => {
                    let given = match known {
                        Known::Unanswered(sandbox) => self.take_over(&sandbox, request).await,
                        _ => self.give(request, is_unanswered).await,
                    };
                    match given {
                        Ok(given) => (source, is_unanswered) = (given, false),
                        Err(NotGiven::Silence(error)) if begun.elapsed() < PATIENCE => {
                            is_unanswered = true;
                            tracing::warn!(
                                error = &error as &dyn std::error::Error,
                                "a sandbox cannot be given; it is tried again"
                            );
                            tell(events, api_away());
                            tokio::time::sleep(TELL).await;
                        }
                        Err(NotGiven::Silence(error)) => return Err(unwritten(&error)),
                        Err(NotGiven::Refusal(error)) => return Err(error),
                    }
                }
            }
        }
    }

    /// The session's last sandbox; one of this very generation even if it has ended, as it has been given once.
    fn known(&self, request: &AcquireRequest) -> Known {
        let all = self.cluster.sandboxes.all().into_iter();
        let own = all.filter(|it| it.spec.session.as_ref() == Some(&request.session));
        match own.max_by_key(|it| plan::rank(it)) {
            Some(one) if one.spec.generation > Some(request.generation) => {
                Known::Newer(one.spec.generation.unwrap_or_default())
            }
            Some(one) if one.spec.generation == Some(request.generation) => Known::Mine(one),
            Some(one) if is_of_unanswered(&one, request) && !is_ended(&one) => Known::Unanswered(one),
            _ => Known::None,
        }
    }

    fn if_ready(&self, sandbox: &Sandbox) -> Result<Option<AcquiredSandbox>, Error> {
        let name = sandbox.name_any();
        let status = sandbox.status.clone().unwrap_or_default();
        if let (Some(Phase::Ended), reason) = (status.phase, status.end_reason) {
            let reason = reason.map(|it| it.to_string()).unwrap_or_default();
            let words = status.message.unwrap_or_default();
            return Err(match status.stages.kernel_ready {
                Some(_) => Error::new(ErrorCode::SandboxLost, format!("the sandbox has ended ({reason}): {words}")),
                None => Error::new(ErrorCode::SandboxStartFailed, format!("no sandbox started ({reason}): {words}")),
            }
            .with("reason", reason));
        }
        let (Some(Phase::Ready), Some(address), Some(uid)) = (status.phase, status.address, status.pod_uid) else {
            return Ok(None);
        };
        let token = self.token(sandbox, &uid)?;
        Ok(Some(AcquiredSandbox { sandbox: name, uid, address, token, token_expire_time: Some(expiry()) }))
    }

    /// Makes what became of an ask that was not answered this one's. Whatever else may still come of that is out of date then.
    async fn take_over(&self, sandbox: &Sandbox, request: &AcquireRequest) -> Result<Source, NotGiven> {
        let mut changes = self.cluster.changes.subscribe();
        match self.cluster.patch_sandbox(sandbox, json!({ "spec": { "generation": request.generation } })).await {
            Ok(()) => Ok(Source::Existing),
            // It is another by now, which the watch will show.
            Err(WriteError::Conflict | WriteError::Gone) => {
                let _ = tokio::time::timeout(TELL, changes.changed()).await;
                Ok(Source::Existing)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes that a sandbox is the session's. `is_unanswered`: it may have been done before.
    async fn give(&self, request: &AcquireRequest, is_unanswered: bool) -> Result<Source, NotGiven> {
        // Of two sandboxes of one generation another replica might know the wrong one alone.
        if is_unanswered {
            self.cluster.look_for_sandboxes(&request.session).await?;
            if !matches!(self.known(request), Known::None) {
                return Ok(Source::Existing);
            }
        }
        let Some(template) = self.cluster.template(&request.template) else {
            let message = format!("there is no SandboxTemplate {:?}", request.template);
            return Err(NotGiven::Refusal(Error::new(ErrorCode::InvalidArgument, message)));
        };
        let Some(hash) = template.hash else {
            let problem = template.problem.unwrap_or_default();
            let message = format!("the SandboxTemplate {:?} is not valid: {problem}", request.template);
            return Err(NotGiven::Refusal(Error::new(ErrorCode::SandboxStartFailed, message)));
        };
        // They stay reserved until the watch has had time to show whose they are.
        let mut lost = Vec::new();
        while let Some(warm) = self.reserve(&request.template, &hash) {
            match self.cluster.patch_sandbox(&warm.0, claim(request)).instrument(info_span!("claim")).await {
                Ok(()) => return Ok(Source::Warm),
                // Another replica has it, or it has ended.
                Err(WriteError::Conflict | WriteError::Gone) => lost.push(warm),
                Err(error) => return Err(error.into()),
            }
        }
        let labels = [
            (TEMPLATE_LABEL, request.template.clone()),
            (TEMPLATE_HASH_LABEL, hash),
            (SESSION_HASH_LABEL, names::session_hash(&request.session)),
        ];
        let metadata = ObjectMeta {
            name: Some(names::cold(&request.template, &request.session, request.generation)),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>()),
            ..Default::default()
        };
        let spec = SandboxSpec {
            template_ref: TemplateRef { name: request.template.clone() },
            session: Some(request.session.clone()),
            generation: Some(request.generation),
            tenant: Some(request.tenant.clone()),
            claim_time: Some(MicroTime(clock::now())),
            idle_timeout: idle_timeout(request),
        };
        let mut changes = self.cluster.changes.subscribe();
        let sandbox = Sandbox { metadata, spec, status: None };
        match self.cluster.create_sandbox(&sandbox).instrument(info_span!("create")).await {
            Ok(_) => Ok(Source::Cold),
            // It was made before, by a request whose answer was lost; the watch will show it.
            Err(WriteError::Conflict) => {
                let _ = tokio::time::timeout(TELL, changes.changed()).await;
                Ok(Source::Existing)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One of the warm ones, at random, so that replicas seldom try the same.
    fn reserve(&self, template: &str, hash: &str) -> Option<Reserved<'_>> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.cluster.sandboxes.all();
        let free: Vec<_> = all
            .iter()
            .filter(|it| it.spec.session.is_none() && it.spec.template_ref.name == template)
            .filter(|it| it.status.as_ref().and_then(|status| status.phase) == Some(Phase::Ready))
            .filter(|it| it.labels().get(TEMPLATE_HASH_LABEL).is_some_and(|of| of == hash))
            .filter(|it| it.metadata.deletion_timestamp.is_none() && !reserved.contains(&it.name_any()))
            .filter(|it| {
                let pod = self.cluster.pods.get(&it.name_any());
                pod.is_some_and(|pod| matches!(observe(&pod), Observed::Ready { .. }))
            })
            .collect();
        let one = Arc::clone(*free.choose(&mut rand::rng())?);
        reserved.insert(one.name_any());
        drop(reserved);
        Some(Reserved(one, self))
    }
}

/// What the call's span has of its outcome: the sandbox, and how the time went in which it started, if that was now.
fn trace(source: Source, sandbox: &Sandbox) {
    Span::current().record("sandbox", sandbox.name_any());
    if source == Source::Cold {
        let within = kernelbox_telemetry::context();
        for (stage, begin, end) in sandbox.status.iter().flat_map(|status| status.stages.steps()) {
            kernelbox_telemetry::past(&within, stage, begin.0.into(), end.0.into());
        }
    }
}

fn is_of_unanswered(sandbox: &Sandbox, request: &AcquireRequest) -> bool {
    let since = request.unanswered_generation;
    since > 0 && sandbox.spec.generation >= Some(since)
}

fn is_ended(sandbox: &Sandbox) -> bool {
    sandbox.status.as_ref().and_then(|status| status.phase) == Some(Phase::Ended)
}

/// A warm sandbox that no other call of this replica tries to get.
struct Reserved<'a>(Arc<Sandbox>, &'a Parts);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.1.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0.name_any());
    }
}

/// The one write that makes a warm sandbox a session's.
fn claim(request: &AcquireRequest) -> serde_json::Value {
    json!({
        "metadata": { "labels": { SESSION_HASH_LABEL: names::session_hash(&request.session) } },
        "spec": {
            "session": request.session,
            "generation": request.generation,
            "tenant": request.tenant,
            "claimTime": MicroTime(clock::now()),
            "idleTimeout": idle_timeout(request),
        },
    })
}

/// The session's own.
fn idle_timeout(request: &AcquireRequest) -> Option<kube::core::Duration> {
    request.idle_timeout.and_then(|it| Duration::try_from(it).ok()).map(Into::into)
}

fn api_away() -> SandboxStage {
    let message = "the Kubernetes API cannot be used now".to_owned();
    SandboxStage { stage: Stage::Queued.into(), position: 0, message }
}

fn tell(events: &mpsc::Sender<Result<AcquireEvent, Status>>, stage: SandboxStage) {
    // Who is slow hears of a later one.
    let _ = events.try_send(Ok(AcquireEvent { kind: Some(Kind::Stage(stage)) }));
}
