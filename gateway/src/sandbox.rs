//! Where sessions' code runs, as the gateway knows it: a provider makes sandboxes, a sandbox is spoken to through its supervisor.
//!
//! Adapters live below `sandbox/` and depend on this; nothing here knows processes or pods.
pub mod cluster;
pub mod process;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
pub use kernelbox_proto::token::Scope;
use kernelbox_proto::{Error, SessionId, sandbox::v1::sandbox_service_client::SandboxServiceClient, v1::SandboxStage};
use tokio::sync::mpsc;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// How long what a sandbox sent before its end may take to arrive.
const AFTER_END: Duration = Duration::from_millis(500);

/// Bytes of a message from a supervisor, at most: none is over 1 MiB but for lists.
const MAX_MESSAGE: usize = 16 << 20;

/// The way to a sandbox's supervisor.
pub type SandboxChannel = InterceptedService<Channel, Authorized>;
/// A client of a sandbox's supervisor.
pub type SandboxClient = SandboxServiceClient<SandboxChannel>;

/// Makes sandboxes.
#[async_trait]
pub trait SandboxProvider: Send + Sync + 'static {
    /// An id for a session that is to be made and may have any: one whose sandbox is ready already, if there is one.
    fn warm_session(&self) -> Option<SessionId> {
        None
    }

    /// Whether there are templates to choose from; else sessions name none.
    fn has_templates(&self) -> bool {
        false
    }

    /// A ready sandbox that is nobody's yet. Each step is told to `stages`, which may be full or closed: it is never waited for.
    async fn acquire(&self, claim: Claim, stages: mpsc::Sender<SandboxStage>) -> Result<Arc<dyn Sandbox>, NoSandbox>;

    /// Whether a session's files outlive its sandbox without the gateway's doing. If not, it saves and restores them.
    fn keeps_workspaces(&self) -> bool {
        true
    }

    /// Whether somebody else asks idle sandboxes to retire, and looks after them while no gateway does.
    fn reclaims_idle(&self) -> bool {
        false
    }

    /// The session's live sandbox of exactly this generation, if there still is one that an earlier gateway had.
    async fn find(&self, _claim: &Claim) -> Result<Option<Arc<dyn Sandbox>>, Error> {
        Ok(None)
    }

    /// How code is confined, in words for whoever runs the server.
    fn isolation(&self) -> String;

    /// Removes what a session keeps here beside its sandbox: files, installed packages, journals.
    async fn forget(&self, session: &SessionId) -> Result<(), Error>;

    /// Ends all that the provider started. Nothing is acquired afterwards.
    async fn shutdown(&self);
}

/// Who needs a sandbox.
#[derive(Debug, Clone)]
pub struct Claim {
    pub session: SessionId,
    pub generation: i64,
    pub tenant: String,
    pub template: String,
    /// The session's own.
    pub idle_timeout: Option<Duration>,
    /// An earlier generation for which no answer came: what became of it is this one's.
    pub unanswered: Option<i64>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum NoSandbox {
    /// Nobody answered, and yet one may have been given. It can be asked for again, as a later generation.
    Unanswered(Error),
    Refused(Error),
}

impl From<Error> for NoSandbox {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<NoSandbox> for Error {
    fn from(none: NoSandbox) -> Self {
        match none {
            NoSandbox::Unanswered(error) | NoSandbox::Refused(error) => error,
        }
    }
}

/// One sandbox.
#[async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// What operators know it by: that of its pod, if it is one.
    fn name(&self) -> &str;

    /// The way to its supervisor; each call carries a fresh token of this scope.
    fn channel(&self, scope: Scope) -> SandboxChannel;

    /// A client of its supervisor.
    fn client(&self, scope: Scope) -> SandboxClient {
        SandboxClient::new(self.channel(scope))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Waits until it has ended, and says why. May be called often, also afterwards.
    async fn ended(&self) -> Ended;

    /// Ends it and removes what only it needed. Returns when nothing of it runs any more.
    async fn destroy(&self);
}

/// Returns a moment after the sandbox's end: what it had sent is read by then, and its connection may not tell that it is gone.
pub(crate) async fn long_ended(sandbox: Arc<dyn Sandbox>) {
    sandbox.ended().await;
    tokio::time::sleep(AFTER_END).await;
}

/// Why a sandbox is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// One word: Lost, OOMKilled, Evicted, ...
    pub reason: String,
    /// The same for people.
    pub message: String,
}

impl Ended {
    pub fn new(reason: &str, message: &str) -> Self {
        Self { reason: reason.to_owned(), message: message.to_owned() }
    }
}

/// Gives the token of a call; asked anew for each.
pub trait TokenSource: Send + Sync + 'static {
    fn token(&self, scope: Scope) -> Result<String, Error>;
}

/// Puts a token into each call, and the trace that it belongs to.
#[derive(Clone)]
pub struct Authorized {
    source: Arc<dyn TokenSource>,
    scope: Scope,
}

impl Authorized {
    pub fn new(source: Arc<dyn TokenSource>, scope: Scope) -> Self {
        Self { source, scope }
    }
}

impl fmt::Debug for Authorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorized").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Interceptor for Authorized {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.source.token(self.scope)?;
        let value = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Status::internal("a token is not a header value"))?;
        request.metadata_mut().insert("authorization", value);
        kernelbox_telemetry::pass_on(request.metadata_mut().as_mut());
        Ok(request)
    }
}
