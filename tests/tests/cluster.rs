//! Kernelbox in a real cluster: `make test-cluster`. One test at a time; each begins with a pool of two and nothing else.
#[path = "cluster/churn.rs"]
mod churn;
#[path = "cluster/claims.rs"]
mod claims;
#[path = "cluster/idle.rs"]
mod idle;
#[path = "cluster/losses.rs"]
mod losses;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/quotas.rs"]
mod quotas;
#[path = "cluster/whole.rs"]
mod whole;
