//! Makes folders, and gives what is there other names.
use std::{io, os::fd::AsFd};

use cap_std::fs::Dir;
use kernelbox_proto::{Error, Result, v1};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, RenameFlags, renameat, renameat2},
    unistd::{UnlinkatFlags, linkat, unlinkat},
};

use super::{TEMPORARY, Workspace, WorkspacePath, error::At as _, place::status};

impl Workspace {
    /// Makes a folder and those above it; it is no error if it is there.
    pub fn make_directory(&self, path: &WorkspacePath) -> Result<v1::File> {
        self.make_folders(path)?;
        let folder = self.root.open_dir(path.beneath()).at(path)?;
        super::place::describe(&folder, ".", path.as_str().to_owned()).at(path)
    }

    pub(super) fn make_folders(&self, path: &WorkspacePath) -> Result<()> {
        match self.root.create_dir_all(path.beneath()) {
            // Something is there: a file, or a link that leads out, to nowhere or in a circle; opening it says which.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.root.open_dir(path.beneath()).at(path).map(drop)
            }
            made => made.at(path),
        }
    }

    /// Renames a file, link or folder, in one step.
    pub fn move_file(&self, path: &WorkspacePath, new_path: &WorkspacePath, overwrite: bool) -> Result<v1::File> {
        let (from, to) = (self.place(path)?, self.place(new_path)?);
        status(&from.folder, from.name.as_str()).at(path)?;
        let renamed = if overwrite {
            renameat(&from.folder, from.name.as_str(), &to.folder, to.name.as_str())
        } else {
            rename_new(&from.folder, &from.name, &to.folder, &to.name)
        };
        match renamed {
            Err(Errno::EINVAL) => Err(Error::invalid("new_path", "a folder cannot be moved into itself")),
            Err(Errno::EISDIR) => Err(Errno::EEXIST).at(new_path),
            renamed => renamed.at(new_path),
        }?;
        self.stat(new_path)
    }

    /// The folder of half-written files, which code may have removed or replaced.
    pub(super) fn temporary(&self) -> io::Result<Dir> {
        self.root.create_dir_all(TEMPORARY)?;
        self.root.open_dir(TEMPORARY)
    }
}

/// Renames unless something has the new name.
pub(super) fn rename_new(old: impl AsFd, old_name: &str, new: impl AsFd, new_name: &str) -> nix::Result<()> {
    match renameat2(&old, old_name, &new, new_name, RenameFlags::RENAME_NOREPLACE) {
        // Some network file systems cannot; a second name and then one less comes to the same for files.
        Err(Errno::EINVAL | Errno::ENOSYS) => match linkat(&old, old_name, &new, new_name, AtFlags::empty()) {
            Err(Errno::EPERM) => Err(Errno::EINVAL),
            linked => linked.and_then(|()| unlinkat(&old, old_name, UnlinkatFlags::NoRemoveDir)),
        },
        renamed => renamed,
    }
}
