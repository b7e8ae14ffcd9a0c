//! Calls to the controller: any replica answers, and each call carries the token of this gateway's service account.
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kernelbox_proto::{
    DOMAIN, Error,
    controller::v1::{
        AcquireEvent, AcquireRequest, ReleaseRequest, RenewTokenRequest, RenewTokenResponse, SandboxGone, WatchRequest,
        allocator_service_client::AllocatorServiceClient,
    },
    v1::ErrorCode,
};
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::ClusterConfig;
use crate::sandbox::NoSandbox;

/// Nothing else of a call takes longer than this but the wait for a sandbox.
const LIMIT: Duration = Duration::from_secs(10);
/// A replica that does not answer for so long is left for another.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The token's file is read so often, at most: the kubelet writes a new one well before the old one ends.
const READ: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    #[error("--controller must be an address such as http://kernelbox-controller:7080")]
    Address(#[source] tonic::transport::Error),
}

/// The way to the controller. Clones share it.
#[derive(Clone)]
pub(super) struct Controller {
    channel: Channel,
    token_file: PathBuf,
    token: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Controller {
    pub(super) fn new(config: &ClusterConfig) -> Result<Self, ControllerError> {
        let endpoint = Endpoint::from_shared(config.controller.clone()).map_err(ControllerError::Address)?;
        let channel = endpoint
            .connect_timeout(KEEPALIVE)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self { channel, token_file: config.token.clone(), token: Arc::default() })
    }

    pub(super) async fn acquire(&self, request: AcquireRequest) -> Result<Streaming<AcquireEvent>, NoSandbox> {
        let answer = self.client().acquire(self.signed(request).await?).await;
        answer.map(tonic::Response::into_inner).map_err(|status| refusal(&status))
    }

    pub(super) async fn renew(&self, sandbox: &str, uid: &str) -> Result<RenewTokenResponse, Error> {
        let request = RenewTokenRequest { sandbox: sandbox.to_owned(), uid: uid.to_owned() };
        let request = self.signed(request).await?;
        let mut client = self.client();
        within(client.renew_token(request)).await
    }

    pub(super) async fn release(&self, sandbox: &str, uid: &str) -> Result<(), Error> {
        let request = self.signed(ReleaseRequest { sandbox: sandbox.to_owned(), uid: uid.to_owned() }).await?;
        let mut client = self.client();
        within(client.release(request)).await.map(|_| ())
    }

    pub(super) async fn watch(&self) -> Result<Streaming<SandboxGone>, Error> {
        let request = self.signed(WatchRequest {}).await?;
        let mut client = self.client();
        within(client.watch(request)).await
    }

    fn client(&self) -> AllocatorServiceClient<Channel> {
        AllocatorServiceClient::new(self.channel.clone())
    }

    async fn signed<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.token().await?);
        let value = MetadataValue::try_from(bearer)
            .map_err(|_| Error::new(ErrorCode::Internal, "the controller's token is not a header value"))?;
        request.metadata_mut().insert("authorization", value);
        kernelbox_telemetry::pass_on(request.metadata_mut().as_mut());
        Ok(request)
    }

    async fn token(&self) -> Result<String, Error> {
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read, token)) = known
            && read.elapsed() < READ
        {
            return Ok(token);
        }
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(|error| {
            let path = self.token_file.display();
            tracing::error!(%path, error = &error as &dyn std::error::Error, "the token for the controller cannot be read");
            Error::new(ErrorCode::Internal, "the gateway cannot show the controller who it is")
        })?;
        let token = token.trim().to_owned();
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), token.clone()));
        Ok(token)
    }
}

async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Error> {
    match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| refusal(&status).into()),
        Err(_) => Err(unanswered().into()),
    }
}

/// What the controller says is meant for clients, but for who may ask it. A status without our details is the connection's.
pub(super) fn refusal(status: &Status) -> NoSandbox {
    let is_its_own = status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN);
    let error = Error::from_status(status);
    match error.code {
        ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => {
            tracing::error!(error = status as &dyn std::error::Error, "the controller does not know this gateway");
            Error::new(ErrorCode::Internal, "the controller does not know this gateway").into()
        }
        // This replica ends, or cannot say; another may.
        ErrorCode::ShuttingDown | ErrorCode::DeadlineExceeded => unanswered(),
        _ if is_its_own => NoSandbox::Refused(error),
        _ => {
            tracing::warn!(error = status as &dyn std::error::Error, "the controller does not answer");
            unanswered()
        }
    }
}

fn unanswered() -> NoSandbox {
    let message = "no sandbox can be had, as the controller does not answer; try again";
    NoSandbox::Unanswered(Error::new(ErrorCode::SandboxStartFailed, message).retry_after(Duration::from_secs(2)))
}
