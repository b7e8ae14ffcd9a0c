//! The data directory as the command knows it: where this user's server says how it is reached.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Result};

/// `server.json`: written when the server answers, removed when it ends. True only while `server.lock` is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    pub endpoint: String,
    pub pid: u32,
    pub version: String,
}

impl ServerFile {
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("server.json")
    }

    /// What stands there, if it can be read.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(data_dir)).ok()?).ok()
    }
}

/// `--data-dir`, else `$XDG_DATA_HOME/kernelbox`, else `~/.local/share/kernelbox`.
pub(crate) fn data_dir(flag: Option<&Path>) -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let dir = match flag {
        Some(dir) => std::path::absolute(dir).map_err(|e| Failure::local(dir.display(), e))?,
        None => from("XDG_DATA_HOME")
            .or_else(|| from("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("kernelbox"))
            .ok_or_else(|| Failure::usage("HOME is not set: say where data is kept with --data-dir"))?,
    };
    Ok(dir)
}

/// The key that this machine's server made for its own user.
pub(crate) fn local_key(data_dir: &Path) -> Option<String> {
    let key = std::fs::read_to_string(kernelbox_gateway::config::key_file(data_dir)).ok()?;
    Some(key.trim().to_owned())
}
