//! Folders: a private one for sockets, short enough for their paths, and the sessions' own below the data directory.
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use kernelbox_proto::SessionId;
use sha2::{Digest as _, Sha256};

/// A Unix socket's path has at most 107 bytes; below the run dir stand `/<8 hex>/supervisor.sock`.
const MAX_RUN_DIR: usize = 107 - "/01234567/supervisor.sock".len();

#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    #[error("cannot make or read {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} belongs to another user; choose another folder with --run-dir", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is too long for sockets; choose a shorter folder with --run-dir", path.display())]
    TooLong { path: PathBuf },
    #[error("another server uses the data directory already (lock: {})", path.display())]
    InUse { path: PathBuf },
}

/// Makes a folder and those above it; it itself is ours and closed to others.
pub(crate) fn private_dir(path: &Path) -> Result<(), DirsError> {
    let io = |source| DirsError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
    let meta = fs::symlink_metadata(path).map_err(io)?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(DirsError::Foreign { path: path.to_owned() });
    }
    if meta.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

/// The folder for sockets, held by this process alone.
#[derive(Debug)]
pub(super) struct RunDir {
    pub path: PathBuf,
    _lock: File,
}

impl RunDir {
    pub(super) fn open(wanted: Option<&Path>, data_dir: &Path) -> Result<Self, DirsError> {
        let path = match wanted {
            Some(path) => {
                private_dir(path)?;
                path.to_owned()
            }
            None => {
                let base = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_dir()) {
                    Some(dir) => Path::new(&dir).join("kernelbox"),
                    None => PathBuf::from(format!("/tmp/kernelbox-{}", nix::unistd::geteuid())),
                };
                private_dir(&base)?;
                let name = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
                let path = base.join(hex::encode(&name[..4]));
                private_dir(&path)?;
                path
            }
        };
        let io = |source| DirsError::Io { path: path.clone(), source };
        let path = fs::canonicalize(&path).map_err(io)?;
        if path.as_os_str().len() > MAX_RUN_DIR {
            return Err(DirsError::TooLong { path });
        }
        let lock = path.join("lock");
        let io = |source| DirsError::Io { path: lock.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _lock: file }),
            Err(TryLockError::WouldBlock) => Err(DirsError::InUse { path: lock }),
            Err(TryLockError::Error(source)) => Err(DirsError::Io { path: lock, source }),
        }
    }

    pub(super) fn zygote_socket(&self) -> PathBuf {
        self.path.join("zygote.sock")
    }
}

/// A session's folders.
#[derive(Debug)]
pub(super) struct SessionDirs {
    pub root: PathBuf,
    pub workspace: PathBuf,
    pub packages: PathBuf,
    pub state: PathBuf,
}

impl SessionDirs {
    pub(super) fn of(data_dir: &Path, session: &SessionId) -> Self {
        let root = data_dir.join("sessions").join(session.as_str());
        Self { workspace: root.join("workspace"), packages: root.join("packages"), state: root.join("state"), root }
    }

    pub(super) fn make(&self) -> Result<(), DirsError> {
        [&self.root, &self.workspace, &self.packages, &self.state].into_iter().try_for_each(|dir| private_dir(dir))
    }
}

/// Removes a folder that programs may still be writing to for a moment.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..3 {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open_up(path)?,
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            done => return done,
        }
    }
    fs::remove_dir_all(path)
}

/// Code may have closed its folders to itself.
fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_holds_the_run_dir_and_others_cannot_look_in() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let held = RunDir::open(Some(&run), dir.path()).unwrap();
        assert_eq!(fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(RunDir::open(Some(&run), dir.path()), Err(DirsError::InUse { .. })));
        drop(held);
        RunDir::open(Some(&run), dir.path()).unwrap();
        let long = dir.path().join("x".repeat(90));
        assert!(matches!(RunDir::open(Some(&long), dir.path()), Err(DirsError::TooLong { .. })));
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(matches!(private_dir(&link), Err(DirsError::Foreign { .. })));
    }
}
