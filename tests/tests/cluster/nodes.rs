//! What takes the nodes of tests/cluster, which are this machine: their processes and cables, what one of them says that it has, and the
//! host outside.
#[path = "nodes/egress.rs"]
mod egress;
#[path = "nodes/gpu.rs"]
mod gpu;
#[path = "nodes/machines.rs"]
mod machines;
#[path = "nodes/standstills.rs"]
mod standstills;
