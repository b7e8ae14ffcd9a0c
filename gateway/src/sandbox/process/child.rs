//! One sandbox of this machine: its supervisor's process, from its start to its last trace.
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use kernelbox_proto::{Error, v1::ErrorCode};
use tokio::{net::UnixStream, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::service_fn;

use super::{
    leftovers::Record,
    spawn::{Piped, Tail},
    tokens::Tokens,
};
use crate::{
    sandbox::{Authorized, Ended, Sandbox, SandboxChannel, Scope},
    spawner,
};

pub(super) struct ProcessSandbox {
    uid: String,
    channel: Channel,
    tokens: Arc<Tokens>,
    stop: CancellationToken,
    ended: watch::Receiver<Option<Ended>>,
}

impl ProcessSandbox {
    /// Takes a child that was just started under its care, until `stop`. `dir` is removed when it has ended.
    pub(super) fn new(
        uid: String,
        child: Piped,
        dir: PathBuf,
        record: Record,
        tokens: Arc<Tokens>,
        tracker: &tokio_util::task::TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let socket = dir.join("supervisor.sock");
        let (tell, ended) = watch::channel(None);
        tracker.spawn(keep(child, dir, record, stop.clone(), tell));
        Self { uid, channel: channel(socket), tokens, stop, ended }
    }

    /// Waits for the health service to say SERVING: its first kernel has answered then.
    pub(super) async fn serving(&self, tail: &Tail, limit: Duration) -> Result<(), Error> {
        let failed = |what: String| {
            Error::new(ErrorCode::SandboxStartFailed, format!("{what}{}", tail.suffix()))
                .retry_after(Duration::from_secs(1))
        };
        tokio::select! {
            () = healthy(&self.channel) => Ok(()),
            ended = self.ended() => Err(failed(format!("the sandbox ended while it started ({})", ended.message))),
            () = sleep(limit) => {
                let limit = humantime::format_duration(limit);
                Err(failed(format!("the sandbox was not ready within {limit}")))
            }
        }
    }

    pub(super) fn lives(&self) -> bool {
        self.ended.borrow().is_none()
    }
}

/// The child's whole life, and what comes after it.
async fn keep(
    mut child: Piped,
    dir: PathBuf,
    record: Record,
    stop: CancellationToken,
    tell: watch::Sender<Option<Ended>>,
) {
    let ended = tokio::select! {
        status = child.wait() => lost(status),
        () = stop.cancelled() => {
            child.end().await;
            Ended { reason: "Deleted".to_owned(), message: "it was not needed any more".to_owned() }
        }
    };
    let uid = record.uid.clone();
    let cleared = tokio::task::spawn_blocking(move || {
        super::leftovers::end_all(&record, Duration::from_secs(10));
        super::dirs::remove(&dir)
    });
    if let Ok(Err(error)) = cleared.await {
        tracing::error!(error = &error as &dyn std::error::Error, uid, "cannot remove a sandbox's folder");
    }
    tell.send_replace(Some(ended));
}

fn lost(status: io::Result<ExitStatus>) -> Ended {
    Ended { reason: "Lost".to_owned(), message: format!("its supervisor {}", spawner::how_ended(&status)) }
}

fn channel(socket: PathBuf) -> Channel {
    let connect = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The windows are wide, as it is memory that the bytes move through.
    Endpoint::from_static("http://sandbox")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_with_connector_lazy(connect)
}

async fn healthy(channel: &Channel) {
    let mut pause = Duration::from_millis(2);
    loop {
        let request = HealthCheckRequest { service: String::new() };
        if let Ok(answer) = HealthClient::new(channel.clone()).watch(request).await {
            let mut statuses = answer.into_inner();
            while let Ok(Some(status)) = statuses.message().await {
                if status.status() == ServingStatus::Serving {
                    return;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[async_trait]
impl Sandbox for ProcessSandbox {
    fn name(&self) -> &str {
        &self.uid
    }

    fn channel(&self, scope: Scope) -> SandboxChannel {
        InterceptedService::new(self.channel.clone(), Authorized::new(Arc::clone(&self.tokens) as _, scope))
    }

    async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let unknown = || Ended { reason: "Lost".to_owned(), message: "the server is shutting down".to_owned() };
        ended.wait_for(Option::is_some).await.map_or_else(|_| unknown(), |it| it.clone().unwrap_or_else(unknown))
    }

    async fn destroy(&self) {
        self.stop.cancel();
        self.ended().await;
    }
}

impl Drop for ProcessSandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Writes the public key where the supervisor looks for it.
pub(super) fn put_key(dir: &Path, kid: &str, pem: &str) -> io::Result<PathBuf> {
    let keys = dir.join("keys");
    fs::create_dir(&keys)?;
    fs::write(keys.join(format!("{kid}.pem")), pem)?;
    Ok(keys)
}
