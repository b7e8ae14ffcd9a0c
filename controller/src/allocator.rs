//! AllocatorService: gives sandboxes to sessions. Every replica serves it, from what it knows by its watch.
mod acquire;
mod gone;
mod waiting;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures::stream::BoxStream;
use kernelbox_api::{EndReason, Phase, Sandbox};
use kernelbox_proto::{
    Error, SessionId,
    controller::v1::{
        AcquireEvent, AcquireRequest, ReleaseRequest, ReleaseResponse, RenewTokenRequest, RenewTokenResponse,
        SandboxGone, WatchRequest, allocator_service_server::AllocatorService,
    },
    token::{LIFE, Scope},
    v1::ErrorCode,
};
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::{
    auth::Gateways,
    clock,
    cluster::{Cluster, WriteError},
    keys::Keys,
    life,
    metrics::Metrics,
};

/// Serves gateways.
#[derive(Clone)]
pub struct Allocator(Arc<Parts>);

struct Parts {
    cluster: Arc<Cluster>,
    keys: Arc<Keys>,
    gateways: Gateways,
    metrics: Metrics,
    /// Warm sandboxes that calls of this replica are claiming now: no two try the same one.
    reserved: Mutex<HashSet<String>>,
    stop: CancellationToken,
}

impl Allocator {
    pub fn new(
        cluster: Arc<Cluster>,
        keys: Arc<Keys>,
        gateways: Gateways,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Parts { cluster, keys, gateways, metrics, reserved: Mutex::default(), stop }))
    }
}

#[tonic::async_trait]
impl AllocatorService for Allocator {
    type AcquireStream = BoxStream<'static, Result<AcquireEvent, Status>>;
    type WatchStream = BoxStream<'static, Result<SandboxGone, Status>>;

    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<Self::AcquireStream>, Status> {
        self.0.gateways.check(request.metadata()).await?;
        let request = request.into_inner();
        let session = check(&request)?;
        Span::current().record("session", session.as_str()).record("generation", request.generation);
        if !self.0.cluster.is_complete() {
            return Err(Error::new(ErrorCode::ShuttingDown, "the controller is starting; try again").into());
        }
        Ok(Response::new(acquire::stream(Arc::clone(&self.0), request)))
    }

    async fn renew_token(&self, request: Request<RenewTokenRequest>) -> Result<Response<RenewTokenResponse>, Status> {
        self.0.gateways.check(request.metadata()).await?;
        let request = request.into_inner();
        let sandbox = self.0.live(&request.sandbox, &request.uid)?;
        let token = self.0.token(&sandbox, &request.uid)?;
        Ok(Response::new(RenewTokenResponse { token, token_expire_time: Some(expiry()) }))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        self.0.gateways.check(request.metadata()).await?;
        let request = request.into_inner();
        self.0.release(&request.sandbox, &request.uid).await?;
        Ok(Response::new(ReleaseResponse {}))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.gateways.check(request.metadata()).await?;
        Ok(Response::new(gone::stream(Arc::clone(&self.0))))
    }
}

/// The session that is asked for.
fn check(request: &AcquireRequest) -> Result<SessionId, Error> {
    let session = SessionId::from_name(&request.session)?;
    if request.generation < 1 {
        return Err(Error::invalid("generation", "must be at least 1"));
    }
    if request.tenant.is_empty() || request.tenant.len() > 253 {
        return Err(Error::invalid("tenant", "must have 1 to 253 bytes"));
    }
    if request.template.is_empty() {
        return Err(Error::invalid("template", "must name a SandboxTemplate"));
    }
    Ok(session)
}

impl Parts {
    fn live(&self, name: &str, uid: &str) -> Result<Arc<Sandbox>, Error> {
        let sandbox = self.cluster.sandboxes.get(name).filter(|it| {
            let status = it.status.as_ref();
            let is_that = status.and_then(|it| it.pod_uid.as_deref()) == Some(uid);
            is_that && status.and_then(|it| it.phase) != Some(Phase::Ended)
        });
        sandbox.ok_or_else(|| Error::new(ErrorCode::SandboxLost, format!("the sandbox {name} has ended")))
    }

    /// For all calls of the sandbox' session.
    fn token(&self, sandbox: &Sandbox, uid: &str) -> Result<String, Error> {
        self.keys.token(uid, sandbox.spec.session.clone(), &[Scope::Session, Scope::Lifecycle])
    }

    /// It is no error if it has ended.
    async fn release(&self, name: &str, uid: &str) -> Result<(), Error> {
        // Somebody else may write its status at the same time.
        for _ in 0..5 {
            let Ok(sandbox) = self.live(name, uid) else { return Ok(()) };
            let mut changes = self.cluster.changes.subscribe();
            let pod = self.cluster.pods.get(name);
            let now = clock::now();
            let status = life::ended(&sandbox, pod.as_deref(), EndReason::Released, String::new(), now);
            match self.cluster.tell_sandbox(&sandbox, status).await {
                Ok(()) => {
                    tracing::info!(sandbox = sandbox.name_any(), "a sandbox was released");
                    self.metrics.ended(EndReason::Released);
                    return Ok(());
                }
                Err(WriteError::Gone) => return Ok(()),
                Err(WriteError::Conflict) => {
                    let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
                }
                Err(error) => return Err(unwritten(&error)),
            }
        }
        Err(Error::new(ErrorCode::Conflict, "the sandbox changes all the time; try again"))
    }
}

fn expiry() -> prost_types::Timestamp {
    prost_types::Timestamp::from(SystemTime::now() + LIFE)
}

/// What a gateway is told of a write that failed; the log has all of it.
fn unwritten(error: &WriteError) -> Error {
    tracing::error!(error = error as &dyn std::error::Error, "a write failed");
    let message = match error {
        WriteError::Refused(words) => format!("the cluster refuses the sandbox: {words}"),
        _ => "the Kubernetes API cannot be used now; try again".to_owned(),
    };
    Error::new(ErrorCode::SandboxStartFailed, message).retry_after(Duration::from_secs(2))
}
