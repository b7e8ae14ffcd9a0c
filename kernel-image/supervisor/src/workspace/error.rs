//! What the operating system says, in words for the user.
use std::{fmt::Display, io};

use kernelbox_proto::{Error, Result, v1::ErrorCode};
use nix::errno::Errno;

/// Says at which path something failed.
pub(super) trait At<T> {
    fn at(self, path: impl Display) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: impl Display) -> Result<T> {
        self.map_err(|error| describe(&error, &path))
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, path: impl Display) -> Result<T> {
        self.map_err(|errno| describe(&errno.into(), &path))
    }
}

/// cap-std's own error for a path that leaves its folder has no number.
pub(super) fn is_escape(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

pub(super) fn not_regular(path: impl Display, what: &str) -> Error {
    Error::new(ErrorCode::NotARegularFile, format!("{path} is {what}, not a regular file"))
}

pub(super) fn full() -> Error {
    Error::new(ErrorCode::DiskLimit, "the session's disk is full; delete files and try again")
}

fn describe(error: &io::Error, path: &dyn Display) -> Error {
    if is_escape(error) {
        return Error::new(ErrorCode::InvalidPath, format!("{path} leads out of the workspace through a link"));
    }
    let (code, message) = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => (ErrorCode::FileNotFound, format!("{path} does not exist")),
        Some(Errno::ENOTDIR) => (ErrorCode::NotADirectory, format!("{path}: a file stands where a folder is needed")),
        Some(Errno::ENOTEMPTY) => {
            (ErrorCode::NotADirectory, format!("{path} is a folder that is not empty; ask for all that is in it, too"))
        }
        Some(Errno::EISDIR) => return not_regular(path, "a folder"),
        Some(Errno::EEXIST) => {
            (ErrorCode::AlreadyExists, format!("{path} exists; set `overwrite` or choose another name"))
        }
        Some(Errno::ELOOP) => (ErrorCode::InvalidPath, format!("{path}: its links lead in a circle")),
        Some(Errno::ENAMETOOLONG) => (ErrorCode::InvalidPath, format!("{path} is too long for the file system")),
        Some(Errno::EINVAL) => (ErrorCode::InvalidPath, format!("{path}: the file system refuses it")),
        Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => return full(),
        Some(Errno::EACCES | Errno::EPERM) => {
            (ErrorCode::PermissionDenied, format!("{path}: its permissions forbid this; change them with chmod"))
        }
        Some(Errno::EROFS) => (ErrorCode::PermissionDenied, format!("{path} is on a read-only file system")),
        Some(Errno::EXDEV) => {
            (ErrorCode::InvalidPath, format!("{path} is on another file system; copy it instead of moving it"))
        }
        Some(Errno::EBUSY | Errno::ETXTBSY | Errno::EAGAIN) => {
            (ErrorCode::Conflict, format!("{path} is in use; try again"))
        }
        _ => {
            tracing::error!(%error, %path, "a file call failed");
            (ErrorCode::Internal, format!("{path}: the file system failed"))
        }
    };
    Error::new(code, message)
}
