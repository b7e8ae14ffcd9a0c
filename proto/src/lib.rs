//! Kernelbox's contract: the generated messages and services, the one table of error codes, and resource names.
//!
//! It knows no server and no client; everything here is pure.

mod error;
mod json;
mod name;
#[cfg(feature = "token")]
pub mod token;

pub use error::{DOMAIN, Error, Result};
pub use json::to_json;
pub use name::{ContextId, ContextName, ExecutionId, ExecutionName, SessionId, TurnId, TurnName};

/// The encoded `FileDescriptorSet` of all packages, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernelbox.binpb"));

/// The public API.
#[allow(clippy::all, clippy::restriction, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("kernelbox.v1");
}

/// Internal: what gateway and controller ask of a sandbox.
pub mod sandbox {
    #[allow(clippy::all, clippy::restriction, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("kernelbox.sandbox.v1");
    }
}

/// Internal: how a gateway gets a sandbox in a cluster.
pub mod controller {
    #[allow(clippy::all, clippy::restriction, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("kernelbox.controller.v1");
    }
}
