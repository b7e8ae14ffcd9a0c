//! What the gateway serves besides gRPC: the HTTP twin of FileService.
pub(crate) mod error;
pub(crate) mod files;
mod range;
