//! What the controller asks of supervisors: whether their sandboxes are idle. One that is takes no calls any more.
use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::SignedDuration;
use kernelbox_proto::{
    sandbox::v1::{RetireRequest, sandbox_service_client::SandboxServiceClient},
    token::Scope,
};
use tonic::{Request, Status, transport::Endpoint};

use crate::{clock, keys::Keys, life::Answer};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Where a supervisor is, and whose.
#[derive(Debug, Clone)]
pub struct Supervisor {
    /// host:port.
    pub address: String,
    /// The pod's uid: no other answers to its tokens.
    pub uid: String,
}

/// Asks whether the sandbox was used within `idle_for`; if not, it retires.
pub async fn retire(keys: Arc<Keys>, supervisor: Supervisor, idle_for: Duration) -> Option<Answer> {
    match tokio::time::timeout(LIMIT, call(&keys, &supervisor, idle_for)).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(status)) => {
            let error = &status as &dyn std::error::Error;
            tracing::warn!(address = supervisor.address, error, "a sandbox cannot be asked whether it is idle");
            None
        }
        Err(_) => {
            tracing::warn!(address = supervisor.address, "a sandbox does not answer whether it is idle");
            None
        }
    }
}

async fn call(keys: &Keys, supervisor: &Supervisor, idle_for: Duration) -> Result<Answer, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{}", supervisor.address))
        .map_err(|_| Status::internal("an address that is none"))?;
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let token = keys.token(&supervisor.uid, None, &[Scope::Lifecycle])?;
    let mut request = Request::new(RetireRequest { idle_for: idle_for.try_into().ok() });
    let bearer = format!("Bearer {token}").parse().map_err(|_| Status::internal("a token is no header"))?;
    request.metadata_mut().insert("authorization", bearer);
    let answer = SandboxServiceClient::new(channel).retire(request).await?.into_inner();
    let idle = answer.idle.and_then(|it| Duration::try_from(it).ok()).unwrap_or_default();
    let now = clock::now();
    let used = SignedDuration::try_from(idle).ok().and_then(|idle| now.checked_sub(idle).ok()).unwrap_or(now);
    Ok(if answer.retired { Answer::Retired { asked: now, used, unsaved: answer.unsaved } } else { Answer::Used(used) })
}
