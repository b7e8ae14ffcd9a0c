//! Deletes what stands at a path; never what a link leads to.
use std::{io, os::fd::AsFd};

use kernelbox_proto::{
    Error, Result,
    v1::{ErrorCode, FileType},
};
use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, renameat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};
use uuid::Uuid;

use super::{
    TEMPORARY, Workspace, WorkspacePath,
    error::At as _,
    place::{kind, status},
};

/// Folders below this depth are first moved up, so that few are open at a time and no recursion is deep.
const MAX_DEPTH: usize = 32;
/// How often a folder is emptied that code keeps filling.
const MAX_ROUNDS: usize = 16;

impl Workspace {
    /// Deletes a file, a link, or a folder; one that is not empty only with `recursive`.
    pub fn delete(&self, path: &WorkspacePath, recursive: bool) -> Result<()> {
        let place = self.place(path)?;
        let name = place.name.as_str();
        if kind(&status(&place.folder, name).at(path)?) != FileType::Directory {
            return unlinkat(&place.folder, name, UnlinkatFlags::NoRemoveDir).at(path);
        }
        if !recursive {
            return unlinkat(&place.folder, name, UnlinkatFlags::RemoveDir).at(path);
        }
        match self.remove_tree(&place.folder, name) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTEMPTY as i32) => Err(Error::new(
                ErrorCode::Conflict,
                format!("{path}: files are being made in it while it is deleted; try again"),
            )),
            removed => removed.at(path),
        }
    }

    /// Removes what uploads and deletions of an earlier supervisor left.
    pub(super) fn clear_temporary(&self) {
        let Ok(path) = WorkspacePath::parse_entry("path", TEMPORARY) else { return };
        match self.delete(&path, true) {
            Ok(()) => {}
            Err(error) if matches!(error.code, ErrorCode::FileNotFound) => {}
            Err(error) => tracing::warn!(%error, "half-written files cannot be removed"),
        }
    }

    fn remove_tree(&self, folder: impl AsFd, name: &str) -> io::Result<()> {
        let mut deep = Deep { workspace: self, folder: None, names: Vec::new() };
        remove(&folder, name, 0, &mut deep)?;
        while let (Some(name), Some(folder)) = (deep.names.pop(), deep.folder.take()) {
            let removed = remove(&folder, name.as_str(), 0, &mut deep);
            deep.folder = Some(folder);
            removed?;
        }
        Ok(())
    }
}

/// Folders that were too deep, moved to where they are not.
struct Deep<'a> {
    workspace: &'a Workspace,
    folder: Option<cap_std::fs::Dir>,
    names: Vec<String>,
}

impl Deep<'_> {
    fn take_up(&mut self, from: impl AsFd, name: &std::ffi::CStr) -> io::Result<()> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => self.workspace.temporary()?,
        };
        let new_name = Uuid::new_v4().simple().to_string();
        renameat(from, name, &folder, new_name.as_str())?;
        self.folder = Some(folder);
        self.names.push(new_name);
        Ok(())
    }
}

fn remove<P: ?Sized + nix::NixPath>(parent: impl AsFd, name: &P, depth: usize, deep: &mut Deep<'_>) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    for _ in 0..MAX_ROUNDS {
        let mut folder = match Dir::openat(&parent, name, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        empty(&mut folder, depth, deep)?;
        match unlinkat(&parent, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY) => {}
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::ENOTEMPTY.into())
}

fn empty(folder: &mut Dir, depth: usize, deep: &mut Deep<'_>) -> io::Result<()> {
    let handle = folder.as_fd().try_clone_to_owned()?;
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_folder = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => status(&handle, name).is_ok_and(|status| kind(&status) == FileType::Directory),
        };
        if !is_folder {
            match unlinkat(&handle, name, UnlinkatFlags::NoRemoveDir) {
                // It has become a folder: the next round finds it.
                Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        } else if depth < MAX_DEPTH {
            match remove(&handle, name, depth + 1, deep) {
                // It has become something else: the next round finds it.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
                removed => removed?,
            }
        } else {
            deep.take_up(&handle, name)?;
        }
    }
    Ok(())
}
