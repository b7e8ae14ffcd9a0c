//! Writes a file: to a temporary one first, which takes the name when all is there and right.
use std::{
    fs::{File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use kernelbox_proto::{
    Error, Result,
    v1::{self, FileType},
};
use nix::{
    errno::Errno,
    fcntl::renameat,
    sys::stat::{FileStat, fstat},
    unistd::{UnlinkatFlags, unlinkat},
};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{
    Quota, TEMPORARY, Workspace, WorkspacePath,
    change::rename_new,
    download::{digest_field, mismatch, out_of_range},
    error::{At as _, full, not_regular},
    place::{Place, changed, describe_open, kind, same, status_if_any},
};

/// Permission bits where none are given.
const DEFAULT_MODE: u32 = 0o644;

/// What is being written.
#[derive(Debug, Clone)]
pub struct UploadHeader {
    pub path: WorkspacePath,
    /// From this byte on, keeping what is before it.
    pub offset: i64,
    /// What the whole file must have; empty for any.
    pub sha256: String,
    pub overwrite: bool,
    /// 0 for 0644.
    pub mode: i32,
}

/// A file that is being written. Dropped before [`Upload::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    header: UploadHeader,
    wanted: Option<String>,
    mode: u32,
    place: Place,
    /// The file that is gone on with, as it was.
    continued: Option<FileStat>,
    temporary: Temporary,
    file: File,
    digest: Sha256,
    spent: Spent,
}

impl Workspace {
    /// Begins to write a file; folders above it are made. Reads what is to be kept of the old one.
    pub fn upload(&self, header: UploadHeader) -> Result<Upload> {
        let wanted = digest_field(&header.sha256)?;
        let offset = u64::try_from(header.offset).map_err(|_| Error::invalid("offset", "must not be negative"))?;
        let mode = match u32::try_from(header.mode) {
            Ok(0) => DEFAULT_MODE,
            Ok(mode) if mode <= 0o777 => mode,
            _ => return Err(Error::invalid("mode", "must be permission bits, at most 0777 (511)")),
        };
        let (parent, _) = header.path.split();
        self.make_folders(&parent)?;
        let place = self.place(&header.path)?;
        let old = status_if_any(&place.folder, &place.name).at(&header.path)?;
        check_old(&header, old.as_ref())?;

        let (temporary, file) = Temporary::new(self).at(TEMPORARY)?;
        let spent = Spent { quota: self.quota.clone(), bytes: 0 };
        let mut upload =
            Upload { header, wanted, mode, place, continued: None, temporary, file, digest: Sha256::new(), spent };
        if offset > 0 {
            upload.keep(self, offset)?;
        }
        Ok(upload)
    }
}

/// Whether the new file may take the place of the old one.
fn check_old(header: &UploadHeader, old: Option<&FileStat>) -> Result<()> {
    let path = &header.path;
    match old.map(kind) {
        None if header.offset > 0 => Err(out_of_range(path, 0)),
        Some(FileType::Directory) => Err(not_regular(path, "a folder")),
        Some(FileType::Other) => Err(not_regular(path, "a FIFO, socket or device")),
        Some(FileType::Symlink) if header.offset > 0 => Err(not_regular(path, "a link")),
        Some(_) if !header.overwrite && header.offset == 0 => Err(Errno::EEXIST).at(path),
        _ => Ok(()),
    }
}

impl Upload {
    /// Copies what is to be kept of the old file.
    fn keep(&mut self, workspace: &Workspace, offset: u64) -> Result<()> {
        let path = self.header.path.clone();
        let (old, status) = workspace.open_regular(&path)?;
        let size = u64::try_from(status.st_size).unwrap_or_default();
        if offset > size {
            return Err(out_of_range(&path, size));
        }
        let mut old = old.take(offset);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = old.read(&mut buffer).at(&path)?;
            if count == 0 {
                break;
            }
            self.write(buffer.get(..count).unwrap_or_default())?;
        }
        if old.limit() > 0 {
            return Err(changed(&path));
        }
        self.continued = Some(status);
        Ok(())
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.spent.more(bytes.len() as u64) {
            return Err(full());
        }
        self.file.write_all(bytes).at(&self.header.path)?;
        self.digest.update(bytes);
        Ok(())
    }

    /// Gives the file its name, in one step.
    pub fn finish(self) -> Result<v1::File> {
        let Self { header, wanted, mode, place, continued, temporary, file, digest, spent } = self;
        let path = &header.path;
        let sha256 = hex::encode(digest.finalize());
        if wanted.is_some_and(|wanted| wanted != sha256) {
            return Err(mismatch(path, &sha256));
        }
        file.set_permissions(Permissions::from_mode(mode)).at(path)?;
        let status = fstat(&file).at(path)?;
        if let Some(continued) = continued {
            let now = status_if_any(&place.folder, &place.name).at(path)?;
            if !now.is_some_and(|now| same(&now, &continued)) {
                return Err(changed(path));
            }
        }
        if header.overwrite || header.offset > 0 {
            renameat(&temporary.folder, temporary.name.as_str(), &place.folder, place.name.as_str()).at(path)?;
        } else {
            rename_new(&temporary.folder, &temporary.name, &place.folder, &place.name).at(path)?;
        }
        temporary.taken();
        spent.for_good();
        let mut message = describe_open(path, &file, &status);
        message.sha256 = sha256;
        Ok(message)
    }
}

/// A file that goes away with its owner, unless it was given another name.
#[derive(Debug)]
struct Temporary {
    folder: Dir,
    name: String,
}

impl Temporary {
    fn new(workspace: &Workspace) -> io::Result<(Self, File)> {
        let folder = workspace.temporary()?;
        let name = Uuid::new_v4().simple().to_string();
        let file = folder.open_with(&name, OpenOptions::new().read(true).write(true).create_new(true).mode(0o600))?;
        Ok((Self { folder, name }, file.into_std()))
    }

    fn taken(mut self) {
        self.name.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            unlinkat(&self.folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir).ok();
        }
    }
}

/// Bytes taken from the quota, given back if the file comes to nothing.
#[derive(Debug)]
struct Spent {
    quota: Quota,
    bytes: u64,
}

impl Spent {
    fn more(&mut self, bytes: u64) -> bool {
        let taken = self.quota.take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    fn for_good(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.quota.give(self.bytes);
    }
}
