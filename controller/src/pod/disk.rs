//! How much of its node's disk a pod may take. Pure.
//!
//! The supervisor ends code whose files are more than the template's workspace. The node ends the whole pod at its own limits, so these are
//! further off.
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kernelbox_api::{Workspace, WorkspaceMedium};
use kube_quantity::{ParseQuantityError, ParsedQuantity};

use super::BuildError;

/// Room for what is neither workspace nor packages.
const SCRATCH: u64 = 1 << 30;
/// The container's own log, and what else nodes count.
const LOGS: u64 = 1 << 30;
/// What of it the node keeps free for a pod, if the template does not say: most sessions have few files.
pub(super) const REQUEST: &str = "1Gi";
/// The margin is this part of the workspace.
const MARGIN: u64 = 4;

/// The limits of a template's pods.
pub(super) struct Disk {
    /// Of the session's files and packages, in bytes: the supervisor's.
    pub session: u64,
    /// Of the volume that these are in.
    pub volume: Quantity,
    /// Of all on the node's disk.
    pub whole: Quantity,
}

impl Disk {
    pub(super) fn of(workspace: &Workspace) -> Result<Self, BuildError> {
        let session = bytes(&workspace.size).ok_or_else(|| BuildError::Size(workspace.size.0.clone()))?;
        let volume = session.saturating_add(session / MARGIN);
        let on_disk = match workspace.medium {
            WorkspaceMedium::Disk => volume,
            WorkspaceMedium::Memory => 0,
        };
        Ok(Self { session, volume: mebibytes(volume), whole: mebibytes(on_disk.saturating_add(SCRATCH + LOGS)) })
    }
}

/// The volume for what is neither workspace nor packages.
pub(super) fn scratch() -> Quantity {
    mebibytes(SCRATCH)
}

/// At least one.
fn bytes(quantity: &Quantity) -> Option<u64> {
    let parsed: Result<ParsedQuantity, ParseQuantityError> = quantity.try_into();
    parsed.ok()?.to_bytes_u64().filter(|bytes| *bytes > 0)
}

fn mebibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Mi", bytes.div_ceil(1 << 20)))
}
