//! The files of a session: every call stays inside the workspace, whatever links and odd files code leaves there.
//!
//! Paths are opened beneath the workspace's own descriptor, never by an absolute name. Only regular files are ever opened for reading or
//! writing; what else has a name is told, moved or deleted by name. All of it blocks: callers run it on blocking threads, a step at a
//! time, so that a slow client never holds one.
mod change;
mod delete;
mod download;
mod error;
mod list;
mod path;
mod place;
mod quota;
#[cfg(test)]
mod tests;
mod upload;

use std::{io, path::Path, sync::Arc};

use cap_std::{ambient_authority, fs::Dir};

pub use self::{
    download::Download,
    list::{ListRequest, Page},
    path::{MOUNT, WorkspacePath},
    quota::Quota,
    upload::{Upload, UploadHeader},
};

/// Where files that are being written stand until they are whole, and folders that are being deleted.
const TEMPORARY: &str = ".kernelbox/tmp";

/// A session's files. Clones are the same.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: Arc<Dir>,
    quota: Quota,
}

impl Workspace {
    /// Opens the folder.
    pub fn open(folder: &Path, quota: Quota) -> io::Result<Self> {
        Ok(Self::new(Arc::new(Dir::open_ambient_dir(folder, ambient_authority())?), quota))
    }

    /// Takes the folder, and removes from it what an earlier supervisor left half-written.
    pub fn new(root: Arc<Dir>, quota: Quota) -> Self {
        let workspace = Self { root, quota };
        workspace.clear_temporary();
        workspace
    }

    /// The folder itself.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }
}
