//! The lines that supervisor and zygote exchange: one JSON object each.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Begin;

/// The most bytes of a line.
pub(super) const MAX_LINE: usize = 4 << 20;

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Request<'a> {
    Begin(&'a Begin),
    Fork {
        id: u64,
        connection_file: PathBuf,
        env: BTreeMap<String, String>,
        cwd: PathBuf,
    },
    Exec {
        id: u64,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        cwd: PathBuf,
        stdout: Option<PathBuf>,
        stderr: Option<PathBuf>,
    },
    Signal {
        pid: i32,
        signal: i32,
        group: bool,
    },
    Scan {
        id: u64,
        code: &'a str,
        policy: &'static str,
        workspace: &'a Path,
    },
    End,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event {
    Ready {
        pid: i32,
    },
    Started {
        id: u64,
        pid: i32,
    },
    Failed {
        id: u64,
        error: String,
    },
    Exited {
        pid: i32,
        status: i32,
    },
    Scanned {
        id: u64,
        #[serde(flatten)]
        scan: Scan,
    },
}

/// What a cell imports and the sandbox lacks.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Scan {
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// Why nothing could be said.
    #[serde(default)]
    pub error: Option<String>,
}

/// A module, and the distribution that has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Missing {
    pub module: String,
    pub distribution: String,
}
