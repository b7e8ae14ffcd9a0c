//! The operator: gives sandboxes to sessions and keeps them ahead of demand.
pub mod admin;
pub mod allocator;
pub mod auth;
pub mod cache;
mod clock;
pub mod cluster;
pub mod crd;
pub mod events;
pub mod explain;
pub mod keys;
pub mod leader;
pub mod lease;
pub mod life;
pub mod metrics;
pub mod names;
pub mod network;
pub mod plan;
pub mod pod;
pub mod policy;
pub mod queue;
#[cfg(test)]
mod replicas;
pub mod serve;
pub mod size;
pub mod supervisors;
