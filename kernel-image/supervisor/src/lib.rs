//! The supervisor of a sandbox: it keeps its kernels and its files, and serves `SandboxService`.
pub mod access;
pub mod args;
pub mod artifacts;
pub mod auth;
pub mod checkpoint;
pub mod context;
pub mod contexts;
pub mod convert;
pub mod embedded;
pub mod events;
pub mod execution;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod install;
pub mod interpreter;
pub mod jupyter;
pub mod kernel;
pub mod lifecycle;
pub mod media;
pub mod output;
pub mod packages;
pub mod sandbox;
pub mod server;
pub mod service;
pub mod spec;
mod sync;
#[cfg(test)]
mod testing;
pub mod variables;
pub mod watchdog;
pub mod workspace;
pub mod zygote;
