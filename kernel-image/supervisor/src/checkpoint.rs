//! Checkpoints: a session's files and packages as one tar.zst stream, and back.
//!
//! Whatever code leaves in its folders, only regular files are opened, and nothing outside; whatever a stream says, nothing is written
//! outside. A checkpoint is no activity, and calls go on while one is made.
mod calls;
mod notes;
mod read;
#[cfg(test)]
mod tests;
mod walk;
mod write;

use std::sync::Arc;

use cap_std::fs::Dir;

pub use self::calls::Checkpoints;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::read::{restore, unpack};

/// The folders of a checkpoint, by their names in the stream.
#[derive(Debug, Clone)]
pub struct Roots {
    pub workspace: Arc<Dir>,
    pub packages: Arc<Dir>,
}

impl Roots {
    fn each(&self) -> [(&'static str, &Dir); 2] {
        [("workspace", &*self.workspace), ("packages", &*self.packages)]
    }
}

/// Folders deeper than this are left out.
const MAX_DEPTH: usize = 128;
/// The most files, folders and links.
const MAX_ENTRIES: u64 = 1_000_000;
/// The most bytes of a path in the stream.
const MAX_PATH: usize = 4096 + 16;

/// Whether a link's target stays in its root, by its words. `depth` counts the folders between the root and the link.
fn stays_inside(target: &[u8], depth: usize) -> bool {
    let mut depth = Some(depth);
    for part in target.split(|b| *b == b'/') {
        depth = match part {
            b"" | b"." => depth,
            b".." => depth.and_then(|depth| depth.checked_sub(1)),
            _ => depth.map(|depth| depth + 1),
        };
        if depth.is_none() {
            return false;
        }
    }
    !target.is_empty() && !target.starts_with(b"/")
}
