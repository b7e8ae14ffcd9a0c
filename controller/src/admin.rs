//! The admin port: /metrics, /healthz, /readyz.
use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{cluster::Cluster, keys::Keys, metrics::Metrics};

#[derive(Clone)]
pub struct Admin {
    pub cluster: Arc<Cluster>,
    pub keys: Arc<Keys>,
    pub metrics: Metrics,
}

impl Admin {
    /// Serves until it is stopped.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self);
        axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn metrics(State(admin): State<Admin>) -> Result<String, StatusCode> {
    admin.metrics.signs_with_key_of(admin.keys.created());
    admin.metrics.book().text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// Requests can be answered: all that there is is known, and there is a key to sign with.
async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match (admin.cluster.is_complete(), admin.keys.are_there()) {
        (true, true) => (StatusCode::OK, "ok\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "the cluster is not known yet\n"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "there are no signing keys yet\n"),
    }
}

/// Listens, and says where.
pub async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
