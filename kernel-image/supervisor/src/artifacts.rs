//! Files that executions created, changed or deleted, found by the file system and not by the code's word.
//!
//! A file counts as changed when its ctime, inode or size did: code can forge the mtime, not these. Nothing but regular files is opened, and
//! nothing outside the workspace. Most executions change none: then a large workspace is not even listed (`watch`). Whoever changes files on the client's behalf says so with `absorb`, so that inputs are no artifacts.
mod watch;

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use cap_std::fs::{Dir, File, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use kernelbox_proto::v1::{Artifact, ArtifactChange};
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};

use self::watch::Watch;
use crate::{media::media_type, sync::lock};

/// Folders that tools fill for themselves; what is in them is no artifact.
const SKIPPED: [&str; 6] = [".kernelbox", ".git", ".ipynb_checkpoints", ".venv", "__pycache__", "node_modules"];
/// Folders deeper than this are not looked into.
const MAX_DEPTH: usize = 64;
/// The most files that are looked at.
const MAX_FILES: usize = 200_000;
/// So few files are always listed: it takes no longer than to ask whether it is needed.
const FEW_FILES: usize = 200;
/// More are listed at least so often, as no event tells of a write through a second name outside the workspace.
const LIST_EVERY: Duration = Duration::from_secs(10);
/// The most artifacts that one execution is said to have made.
const MAX_ARTIFACTS: usize = 1_000;
/// The most bytes hashed for one execution; a file beyond it has no digest.
const MAX_HASHED: u64 = 256 << 20;

/// Knows the workspace as it was when it last looked.
#[derive(Debug)]
pub struct Artifacts {
    workspace: Arc<Dir>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    files: BTreeMap<String, Stamp>,
    watch: Watch,
    listed: Instant,
}

/// What cannot change unnoticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds since 1970.
    pub(crate) changed: (i64, i64),
}

/// What changed, and whether that is all.
#[derive(Debug, Default)]
pub struct Changes {
    /// Sorted by path, without digests of files that are too large.
    pub artifacts: Vec<Artifact>,
    /// There are more than are listed.
    pub incomplete: bool,
}

impl Artifacts {
    /// Takes what is there now as given.
    pub fn new(workspace: Arc<Dir>) -> io::Result<Self> {
        let mut watch = Watch::new();
        let files = scan(&workspace, &mut watch)?;
        Ok(Self { workspace, seen: Mutex::new(Seen { files, watch, listed: Instant::now() }) })
    }

    /// What changed since the last look. Blocks for as long as it takes to list the workspace and to hash what changed.
    pub fn changes(&self) -> io::Result<Changes> {
        let mut seen = lock(&self.seen);
        let quiet = seen.watch.quiet() && seen.listed.elapsed() < LIST_EVERY;
        if quiet && seen.files.len() > FEW_FILES {
            return Ok(Changes::default());
        }
        let now = scan(&self.workspace, &mut seen.watch)?;
        let mut changed = Vec::new();
        for (path, stamp) in &now {
            match seen.files.get(path) {
                None => changed.push((path.clone(), ArtifactChange::Created)),
                Some(before) if before != stamp => changed.push((path.clone(), ArtifactChange::Modified)),
                Some(_) => {}
            }
        }
        let gone = seen.files.keys().filter(|path| !now.contains_key(*path));
        changed.extend(gone.map(|path| (path.clone(), ArtifactChange::Deleted)));
        seen.files = now;
        seen.listed = Instant::now();
        drop(seen);

        changed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let incomplete = changed.len() > MAX_ARTIFACTS;
        changed.truncate(MAX_ARTIFACTS);
        let mut hashable = MAX_HASHED;
        let artifacts = changed.into_iter().map(|(path, change)| self.describe(path, change, &mut hashable)).collect();
        Ok(Changes { artifacts, incomplete })
    }

    /// Takes what is at these paths now, and below them, as given.
    pub fn absorb(&self, paths: &[&str]) -> io::Result<()> {
        let mut seen = lock(&self.seen);
        let Seen { files, watch, .. } = &mut *seen;
        for path in paths {
            let path = path.trim_matches('/');
            let below = format!("{path}/");
            files.retain(|known, _| known != path && !known.starts_with(&below));
            match self.workspace.symlink_metadata(path) {
                Ok(metadata) if metadata.is_file() => drop(files.insert(path.to_owned(), Stamp::of(&metadata))),
                Ok(metadata) if metadata.is_dir() => walk(&self.workspace.open_dir(path)?, &below, 1, files, watch)?,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes all that is there now as given.
    pub fn absorb_all(&self) -> io::Result<()> {
        let mut seen = lock(&self.seen);
        seen.files = scan(&self.workspace, &mut seen.watch)?;
        seen.listed = Instant::now();
        Ok(())
    }

    fn describe(&self, path: String, change: ArtifactChange, hashable: &mut u64) -> Artifact {
        let mut artifact = Artifact { path, change: change.into(), ..Artifact::default() };
        if change == ArtifactChange::Deleted {
            artifact.media_type = media_type(&artifact.path, &[]);
            return artifact;
        }
        // It may be gone or replaced by now; then what is known of it is said.
        match self.open(&artifact.path).and_then(|file| read(file, &artifact.path, hashable)) {
            Ok((size, media_type, sha256)) => {
                artifact.size = i64::try_from(size).unwrap_or(i64::MAX);
                artifact.media_type = media_type;
                artifact.sha256 = sha256;
            }
            Err(error) => tracing::debug!(path = artifact.path, %error, "cannot read an artifact"),
        }
        artifact
    }

    /// Opens a regular file without waiting for what may have taken its name.
    fn open(&self, path: &str) -> io::Result<File> {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits();
        let file = self.workspace.open_with(path, OpenOptions::new().read(true).custom_flags(flags))?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
    }
}

/// Size, media type, and the digest if `hashable` allows and the file kept still.
fn read(mut file: File, path: &str, hashable: &mut u64) -> io::Result<(u64, String, String)> {
    let before = Stamp::of(&file.metadata()?);
    let mut buffer = vec![0; 128 << 10];
    let first = file.read(&mut buffer)?;
    let media_type = media_type(path, buffer.get(..first.min(8192)).unwrap_or_default());
    if before.size > *hashable {
        return Ok((before.size, media_type, String::new()));
    }
    *hashable -= before.size;
    let (mut digest, mut count, mut total) = (Sha256::new(), first, 0);
    while count > 0 && total <= before.size {
        digest.update(buffer.get(..count).unwrap_or_default());
        total += count as u64;
        count = file.read(&mut buffer)?;
    }
    let after = Stamp::of(&file.metadata()?);
    let sha256 = if before == after { hex::encode(digest.finalize()) } else { String::new() };
    Ok((after.size, media_type, sha256))
}

impl Stamp {
    pub(crate) fn of(metadata: &cap_std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn scan(workspace: &Dir, watch: &mut Watch) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    watch.begin();
    walk(workspace, "", 0, &mut files, watch)?;
    Ok(files)
}

/// Lists a folder into `files`. What vanishes or is closed to us while we look is left out.
fn walk(
    folder: &Dir,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, Stamp>,
    watch: &mut Watch,
) -> io::Result<()> {
    watch.add(folder);
    for entry in folder.entries()? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let path = format!("{prefix}{}", name.to_string_lossy());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_file() {
            if files.len() >= MAX_FILES {
                tracing::warn!(limit = MAX_FILES, "the workspace has too many files; some changes will not be told");
                return Ok(());
            }
            if let Ok(metadata) = entry.metadata() {
                if metadata.nlink() > 1 {
                    watch.linked();
                }
                files.insert(path, Stamp::of(&metadata));
            }
        } else if kind.is_dir()
            && depth < MAX_DEPTH
            && !SKIPPED.iter().any(|skipped| name == *skipped)
            && let Ok(inner) = entry.open_dir()
        {
            walk(&inner, &format!("{path}/"), depth + 1, files, watch)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
