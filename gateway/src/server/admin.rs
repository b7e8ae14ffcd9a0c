//! The admin port: whether the process lives, whether it takes work, and its metrics.
use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::StatusCode, routing::get};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ServeError, credentials::Credentials};
use crate::{config, metrics::Metrics, sessions::SessionRouter};

pub(super) struct Admin {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

/// `draining` is cancelled when the server takes no work any more.
pub(super) async fn start(
    address: SocketAddr,
    draining: CancellationToken,
    router: SessionRouter,
    metrics: Arc<Metrics>,
    credentials: Credentials,
) -> Result<Admin, ServeError> {
    let listener = config::bind(address, "--admin-listen").await?;
    let address = listener.local_addr().unwrap_or(address);
    let ready = move || {
        let draining = draining.is_cancelled();
        async move { if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "ok") } }
    };
    let metrics = move || {
        router.count();
        credentials.look();
        let text = metrics.book.text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR);
        async move { text }
    };
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the admin port failed");
        }
    });
    Ok(Admin { address, task })
}

impl Admin {
    pub(super) async fn stop(self) {
        self.task.abort();
        // Aborted, which is what was asked for.
        let _ = self.task.await;
    }
}
