//! Files of this machine that a question is about.
use std::path::PathBuf;

use super::{Remote, transfer};
use crate::command::{
    connect::Client,
    failure::{Failure, Result},
    progress::Progress,
};

/// Refuses what cannot be attached to a question, before anything is started for it.
pub(crate) fn check(paths: &[PathBuf]) -> Result<()> {
    for (i, path) in paths.iter().enumerate() {
        let metadata = std::fs::metadata(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{} is a folder: attach its files, or an archive", path.display())));
        }
        if paths.iter().take(i).any(|other| other.file_name() == path.file_name()) {
            return Err(Failure::usage(format!("{}: another attached file has this name", path.display())));
        }
    }
    Ok(())
}

/// Copies files of this machine into a session's workspace, each under its name; answers the paths that they have there.
pub(crate) async fn copy(
    client: &Client,
    session: &str,
    paths: &[PathBuf],
    progress: &Progress,
) -> Result<Vec<String>> {
    let mut attached = Vec::new();
    for path in paths {
        // The transfer has a line of its own.
        progress.clear();
        let to = Remote { session: session.to_owned(), path: String::new() };
        attached.push(transfer::put(client, &path.to_string_lossy(), to, true).await?.path);
    }
    Ok(attached)
}
