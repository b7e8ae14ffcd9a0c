//! The gateway: sessions, their sandboxes, and the services through which clients use them.
//!
//! [`serve`] is the whole of it; `kernelbox serve`, `kernelbox up` and tests call it with a [`ServeConfig`].

mod agent;
mod auth;
pub mod config;
mod executions;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod http;
mod limits;
#[cfg(target_os = "linux")]
pub mod local_model;
pub mod metrics;
pub mod model;
mod objects;
pub mod sandbox;
mod server;
mod services;
mod sessions;
mod spawner;
mod store;
mod turns;

pub use config::{Bound, ProcessConfig, ServeConfig, Shutdown, TlsConfig};
pub use limits::{Limits, TenantLimits};
pub use sandbox::cluster::ClusterConfig;
pub use server::{ServeError, serve, serve_with};

/// Makes aws-lc-rs the provider of all TLS in this process. Called once, in main.
pub fn install_crypto() {
    // An error only says that a provider is there already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
