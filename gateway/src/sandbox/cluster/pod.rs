//! A sandbox that is a pod: the way to its supervisor, its token, and its end.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable as _};
use kernelbox_proto::{Error, controller::v1::AcquiredSandbox, token::LIFE, v1::ErrorCode};
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::controller::Controller;
use crate::sandbox::{Authorized, Ended, Sandbox, SandboxChannel, Scope, TokenSource};

/// A supervisor that answers neither a call nor a ping for twice this is not there.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// A token is renewed when so much of its life is left; then it is tried again and again.
const RENEW: Duration = Duration::from_secs(LIFE.as_secs() / 2);
const AGAIN: Duration = Duration::from_secs(5);

pub(super) struct PodSandbox {
    name: String,
    uid: String,
    channel: Channel,
    token: Arc<Token>,
    controller: Controller,
    ended: watch::Receiver<Option<Ended>>,
    _renewal: DropGuard,
}

/// The token that all calls carry; it is renewed meanwhile.
struct Token(Mutex<String>);

impl TokenSource for Token {
    /// One token is good for both scopes.
    fn token(&self, _: Scope) -> Result<String, Error> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl PodSandbox {
    pub(super) fn new(
        acquired: AcquiredSandbox,
        controller: Controller,
        ended: watch::Receiver<Option<Ended>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", acquired.address))
            .map_err(|_| Error::new(ErrorCode::Internal, "the controller gave an address that is none"))?;
        let channel = endpoint
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_timeout(KEEPALIVE)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let token = Arc::new(Token(Mutex::new(acquired.token)));
        let done = stop.child_token();
        tasks.spawn(renew(
            controller.clone(),
            acquired.sandbox.clone(),
            acquired.uid.clone(),
            Arc::clone(&token),
            ended.clone(),
            done.clone(),
        ));
        let _renewal = done.drop_guard();
        Ok(Self { name: acquired.sandbox, uid: acquired.uid, channel, token, controller, ended, _renewal })
    }
}

async fn renew(
    controller: Controller,
    name: String,
    uid: String,
    token: Arc<Token>,
    mut ended: watch::Receiver<Option<Ended>>,
    done: CancellationToken,
) {
    let mut pause = RENEW;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = ended.wait_for(Option::is_some) => return,
            () = done.cancelled() => return,
        }
        pause = match controller.renew(&name, &uid).await {
            Ok(renewed) => {
                *token.0.lock().unwrap_or_else(PoisonError::into_inner) = renewed.token;
                RENEW
            }
            Err(error) => {
                tracing::warn!(sandbox = name, "a token could not be renewed: {error}");
                AGAIN
            }
        };
    }
}

#[async_trait]
impl Sandbox for PodSandbox {
    fn name(&self) -> &str {
        &self.name
    }

    fn channel(&self, scope: Scope) -> SandboxChannel {
        InterceptedService::new(self.channel.clone(), Authorized::new(Arc::clone(&self.token) as _, scope))
    }

    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let unknown = || Ended { reason: "Lost".to_owned(), message: "the server is shutting down".to_owned() };
        ended.wait_for(Option::is_some).await.map_or_else(|_| unknown(), |it| it.clone().unwrap_or_else(unknown))
    }

    /// Gives it back. The controller sees to the pod's end; should it not hear of this, the pod is idle before long.
    async fn destroy(&self) {
        if self.ended.borrow().is_some() {
            return;
        }
        let backoff = ExponentialBuilder::default().with_max_times(3);
        let released = (|| self.controller.release(&self.name, &self.uid)).retry(backoff).await;
        if let Err(error) = released {
            tracing::warn!(sandbox = self.name, "a sandbox could not be given back: {error}");
        }
    }
}
