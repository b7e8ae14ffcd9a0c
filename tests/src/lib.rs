//! Tests of the whole stack: real gateway, supervisor and kernels, started from this checkout's programs.
//!
//! The suites are in `tests/`; here is what they share.

mod client;
pub mod cluster;
mod collector;
mod leftovers;
mod local_model;
pub mod model_server;
pub mod prompt;
mod stack;
mod turn;

pub use client::{Client, Run, code_of};
pub use cluster::Cluster;
pub use collector::{Collector, Traced, documented_trace};
pub use leftovers::{eventually, memory_of, mentions, process_runs};
pub use local_model::LocalModel;
pub use model_server::{ModelServer, Reply, Seen};
pub use prompt::{Given, Prompt};
pub use stack::{Stack, StackBuilder, program, python, root};
pub use turn::{Turned, ask};
