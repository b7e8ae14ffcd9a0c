//! Looks through the folders of a checkpoint, in no order, with few names in memory at a time.
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
};

use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt as _};
use nix::fcntl::{OFlag, readlinkat};

use super::{MAX_DEPTH, MAX_ENTRIES, Roots, stays_inside};

/// Half-written files are there, which no later sandbox could go on with.
const TEMPORARY: &[u8] = b"workspace/.kernelbox/tmp";

/// Something that was found. A folder comes after what is in it.
pub(super) struct Found<'a> {
    pub(super) folder: &'a Dir,
    pub(super) name: &'a OsStr,
    /// From the root's name on.
    pub(super) path: &'a [u8],
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    File(Metadata),
    Folder(Metadata),
    Link(Metadata, OsString),
    /// Left out, and why.
    Odd(&'static str),
}

/// Shows all that is there to `see`, whose error ends it. What vanishes meanwhile is not there.
pub(super) fn walk(roots: &Roots, see: &mut dyn FnMut(Found<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut walk = Walk { see, left: MAX_ENTRIES };
    for (name, root) in roots.each() {
        let mut path = name.as_bytes().to_vec();
        walk.folder(root, &mut path, 0)?;
        let metadata = root.dir_metadata()?;
        (walk.see)(Found { folder: root, name: OsStr::new("."), path: &path, kind: Kind::Folder(metadata) })?;
    }
    Ok(())
}

struct Walk<'a> {
    see: &'a mut dyn FnMut(Found<'_>) -> io::Result<()>,
    left: u64,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Dir, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        for entry in folder.entries()? {
            let Ok(entry) = entry else { continue };
            let Some(left) = self.left.checked_sub(1) else {
                let why = "there are too many files; the rest of this folder is left out";
                return (self.see)(Found { folder, name: OsStr::new("."), path, kind: Kind::Odd(why) });
            };
            self.left = left;
            let name = entry.file_name();
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
            let seen = if path == TEMPORARY { Ok(()) } else { self.entry(folder, &name, path, depth) };
            path.truncate(length);
            seen?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: &Dir, name: &OsStr, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        let Ok(metadata) = folder.symlink_metadata(name) else { return Ok(()) };
        let kind = if metadata.is_file() {
            Kind::File(metadata)
        } else if metadata.is_symlink() {
            match readlinkat(folder, name) {
                Ok(target) if stays_inside(target.as_bytes(), depth) => Kind::Link(metadata, target),
                Ok(_) => Kind::Odd("a link that leads out"),
                Err(_) => return Ok(()),
            }
        } else if !metadata.is_dir() {
            Kind::Odd("a FIFO, socket or device")
        } else if depth >= MAX_DEPTH {
            Kind::Odd("the folder is too deep")
        } else {
            match open_folder(folder, name) {
                Ok(inner) => {
                    self.folder(&inner, path, depth + 1)?;
                    Kind::Folder(metadata)
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Kind::Odd("its permissions forbid to look into it")
                }
                // Something else has its name by now.
                Err(_) => return Ok(()),
            }
        };
        (self.see)(Found { folder, name, path, kind })
    }
}

fn open_folder(folder: &Dir, name: &OsStr) -> io::Result<Dir> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let opened = folder.open_with(name, OpenOptions::new().read(true).custom_flags(flags))?;
    Ok(Dir::from_std_file(opened.into_std()))
}
