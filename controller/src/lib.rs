//! The operator: gives sandboxes to sessions and keeps them ahead of demand.
pub mod cache;
pub mod crd;
pub mod life;
pub mod names;
pub mod plan;
pub mod pod;
pub mod queue;
pub mod size;
