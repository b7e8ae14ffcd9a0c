//! Accepts connections and serves HTTP/1 and HTTP/2 on them.
use std::{convert::Infallible, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const HANDSHAKE: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 4096;

pub(super) struct Connections {
    accepting: JoinHandle<Infallible>,
    open: TaskTracker,
    /// Connections take no more calls and close after the last.
    finish: CancellationToken,
    /// Connections close now.
    cut: CancellationToken,
}

pub(super) fn start(listener: TcpListener, tls: Option<TlsAcceptor>, app: Router) -> Connections {
    let (open, finish, cut) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
    let connection = Connection { app, finish: finish.clone(), cut: cut.clone() };
    let tracker = open.clone();
    let accepting = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tracker.spawn(connection.clone().serve_tcp(stream, tls.clone()));
                }
                Err(error) => {
                    // Most often there are no descriptors left; that passes.
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Connections { accepting, open, finish, cut }
}

impl Connections {
    /// Closes all connections, at the latest after `limit`.
    pub(super) async fn close(self, limit: Duration) {
        self.accepting.abort();
        self.finish.cancel();
        self.open.close();
        if timeout(limit, self.open.wait()).await.is_err() {
            self.cut.cancel();
            self.open.wait().await;
        }
    }
}

#[derive(Clone)]
struct Connection {
    app: Router,
    finish: CancellationToken,
    cut: CancellationToken,
}

impl Connection {
    async fn serve_tcp(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // Small events are sent at once; where that cannot be set, they are only slower.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(stream).await };
        let handshake = timeout(HANDSHAKE, tls.accept(stream));
        let cut = self.cut.clone();
        let stream = tokio::select! { shaken = handshake => shaken, () = cut.cancelled() => return };
        match stream {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "no TLS connection"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(KEEP_ALIVE);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let service = TowerToHyperService::new(self.app);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut finishing = false;
        loop {
            tokio::select! {
                served = &mut connection => {
                    if let Err(error) = served {
                        tracing::debug!(error = &*error as &dyn std::error::Error, "a connection broke");
                    }
                    return;
                }
                () = self.finish.cancelled(), if !finishing => {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled() => return,
            }
        }
    }
}
