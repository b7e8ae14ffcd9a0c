//! Finds what stands at a path, without opening it.
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use cap_std::fs::{Dir, OpenOptionsExt as _};
use kernelbox_proto::{
    Result,
    v1::{self, ErrorCode, FileType},
};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};

use super::{
    Workspace, WorkspacePath,
    error::{At as _, is_escape, not_regular},
};
use crate::media::media_type;

/// How much of a file tells its media type.
const HEAD: u64 = 8192;

/// A folder that is open, and a name in it. The folder stays the same one, whatever takes its path meanwhile.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: Dir,
    pub(super) name: String,
}

impl Workspace {
    /// The folder that the path is in. Links on the way to it are followed inside the workspace only.
    pub(super) fn place(&self, path: &WorkspacePath) -> Result<Place> {
        let (parent, name) = path.split();
        let folder = self.root.open_dir(parent.beneath()).at(parent)?;
        Ok(Place { folder, name: name.to_owned() })
    }

    /// Opens a regular file for reading, following links inside the workspace, and nothing else: a FIFO or device is never opened.
    pub(super) fn open_regular(&self, path: &WorkspacePath) -> Result<(File, FileStat)> {
        let place = self.place(path)?;
        let status = status(&place.folder, place.name.as_str()).at(path)?;
        let handle = if kind(&status) == FileType::Symlink {
            let mut options = cap_std::fs::OpenOptions::new();
            options.read(true).custom_flags(OFlag::O_PATH.bits());
            match self.root.open_with(path.beneath(), &options) {
                Ok(handle) => OwnedFd::from(handle.into_std()),
                Err(error) if is_escape(&error) => return Err(not_regular(path, "a link out of the workspace")),
                Err(error) => return Err(error).at(path),
            }
        } else {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(&place.folder, place.name.as_str(), flags, Mode::empty()).at(path)?
        };
        match kind(&fstat(&handle).at(path)?) {
            FileType::File => {}
            FileType::Directory => return Err(not_regular(path, "a folder")),
            FileType::Symlink => return Err(not_regular(path, "a link")),
            _ => return Err(not_regular(path, "a FIFO, socket or device")),
        }
        let file = reopen(&handle).at(path)?;
        let status = fstat(&file).at(path)?;
        Ok((file, status))
    }

    /// What stands at the path, as clients see it. Links are told, not followed.
    pub fn stat(&self, path: &WorkspacePath) -> Result<v1::File> {
        let place = self.place(path)?;
        describe(&place.folder, place.name.as_str(), path.as_str().to_owned()).at(path)
    }
}

/// Opens what is a regular file by its `O_PATH` handle.
fn reopen(handle: &OwnedFd) -> io::Result<File> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

pub(super) fn status<P: ?Sized + nix::NixPath>(folder: impl AsFd, name: &P) -> nix::Result<FileStat> {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// [`status`], or nothing where there is nothing.
pub(super) fn status_if_any(folder: impl AsFd, name: &str) -> nix::Result<Option<FileStat>> {
    match status(folder, name) {
        Ok(status) => Ok(Some(status)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn kind(status: &FileStat) -> FileType {
    match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => FileType::File,
        SFlag::S_IFDIR => FileType::Directory,
        SFlag::S_IFLNK => FileType::Symlink,
        _ => FileType::Other,
    }
}

/// Whether it is still the same content of the same file.
pub(super) fn same(one: &FileStat, other: &FileStat) -> bool {
    let stamp = |s: &FileStat| (s.st_dev, s.st_ino, s.st_size, s.st_ctime, s.st_ctime_nsec);
    stamp(one) == stamp(other)
}

/// What has this name in the folder, shown as `path`.
pub(super) fn describe<P: ?Sized + nix::NixPath>(folder: impl AsFd, name: &P, path: String) -> nix::Result<v1::File> {
    let status = status(&folder, name)?;
    let mut file = message(path, &status);
    match kind(&status) {
        FileType::Symlink => file.link_target = readlinkat(&folder, name)?.to_string_lossy().into_owned(),
        FileType::File => {
            // The name alone says it for most, so that a list opens few files.
            let named = mime_guess::from_path(&file.path).first_raw().is_some();
            let head = if named { Vec::new() } else { head(&folder, name).unwrap_or_default() };
            file.media_type = media_type(&file.path, &head);
        }
        _ => {}
    }
    Ok(file)
}

/// The message about a file that is open.
pub(super) fn describe_open(path: &WorkspacePath, file: &File, status: &FileStat) -> v1::File {
    let mut message = message(path.as_str().to_owned(), status);
    let mut head = vec![0; usize::try_from(HEAD).unwrap_or_default()];
    let count = std::os::unix::fs::FileExt::read_at(file, &mut head, 0).unwrap_or_default();
    message.media_type = media_type(path.as_str(), head.get(..count).unwrap_or_default());
    message
}

fn message(path: String, status: &FileStat) -> v1::File {
    let kind = kind(status);
    v1::File {
        path,
        r#type: kind.into(),
        size: if kind == FileType::File { status.st_size } else { 0 },
        modify_time: Some(prost_types::Timestamp {
            seconds: status.st_mtime,
            nanos: i32::try_from(status.st_mtime_nsec).unwrap_or_default(),
        }),
        mode: i32::try_from(status.st_mode & 0o7777).unwrap_or_default(),
        ..v1::File::default()
    }
}

fn head<P: ?Sized + nix::NixPath>(folder: impl AsFd, name: &P) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let handle = openat(folder, name, flags, Mode::empty())?;
    let mut head = Vec::new();
    if kind(&fstat(&handle)?) == FileType::File {
        reopen(&handle)?.take(HEAD).read_to_end(&mut head)?;
    }
    Ok(head)
}

/// `Conflict`: what was read is not what was there.
pub(super) fn changed(path: &WorkspacePath) -> kernelbox_proto::Error {
    kernelbox_proto::Error::new(ErrorCode::Conflict, format!("{path} changed meanwhile; try again"))
}
