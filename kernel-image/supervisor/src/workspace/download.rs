//! Reads a file, or a range of it, in chunks.
use std::{fs::File, io, os::unix::fs::FileExt as _};

use bytes::{Bytes, BytesMut};
use kernelbox_proto::{
    Error, Result,
    v1::{self, ErrorCode},
};
use nix::sys::stat::{FileStat, fstat};
use sha2::{Digest as _, Sha256};

use super::{
    Workspace, WorkspacePath,
    error::At as _,
    place::{changed, describe_open, same},
};

/// The most bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// A file that is being read.
#[derive(Debug)]
pub struct Download {
    /// What is read; its size is that of the whole file.
    pub file: v1::File,
    path: WorkspacePath,
    handle: File,
    position: u64,
    end: u64,
    /// How the file was when its digest was found to be right.
    promised: Option<FileStat>,
}

impl Workspace {
    /// Opens a file to read `length` bytes (0: all) from `offset` on. With `sha256` the whole file is read first.
    pub fn download(&self, path: &WorkspacePath, offset: i64, length: i64, sha256: &str) -> Result<Download> {
        let offset = u64::try_from(offset).map_err(|_| Error::invalid("offset", "must not be negative"))?;
        let length = u64::try_from(length).map_err(|_| Error::invalid("length", "must not be negative"))?;
        let wanted = digest_field(sha256)?;
        let (handle, status) = self.open_regular(path)?;
        let size = u64::try_from(status.st_size).unwrap_or_default();
        if offset > size {
            return Err(out_of_range(path, size));
        }
        let mut file = describe_open(path, &handle, &status);
        if let Some(wanted) = &wanted {
            let found = digest(&handle).at(path)?;
            if found != *wanted {
                return Err(mismatch(path, &found));
            }
            if !same(&status, &fstat(&handle).at(path)?) {
                return Err(changed(path));
            }
            file.sha256 = found;
        }
        let end = if length == 0 { size } else { size.min(offset.saturating_add(length)) };
        let promised = wanted.is_some().then_some(status);
        Ok(Download { file, path: path.clone(), handle, position: offset, end, promised })
    }

    /// [`Workspace::stat`] with the digest, for a regular file; links are not followed.
    pub fn stat_with_digest(&self, path: &WorkspacePath) -> Result<v1::File> {
        let mut file = self.stat(path)?;
        if file.r#type() == v1::FileType::File {
            let (handle, _) = self.open_regular(path)?;
            file.sha256 = digest(&handle).at(path)?;
        }
        Ok(file)
    }
}

impl Download {
    /// The next bytes, at most 256 KiB; none at the end. `Conflict` if the file was cut, or is not what its digest promised any more.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX).min(CHUNK);
        if left == 0 {
            return match &self.promised {
                Some(promised) if !same(promised, &fstat(&self.handle).at(&self.path)?) => Err(changed(&self.path)),
                _ => Ok(None),
            };
        }
        let mut chunk = BytesMut::zeroed(left);
        let count = read_at(&self.handle, &mut chunk, self.position).at(&self.path)?;
        if count == 0 {
            return Err(changed(&self.path));
        }
        chunk.truncate(count);
        self.position += count as u64;
        Ok(Some(chunk.freeze()))
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// SHA-256 of a file, in hexadecimal digits.
fn digest(file: &File) -> io::Result<String> {
    let (mut digest, mut position) = (Sha256::new(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = read_at(file, &mut buffer, position)?;
        if count == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(buffer.get(..count).unwrap_or_default());
        position += count as u64;
    }
}

/// A digest that a request gives, in lower case; none where it is empty.
pub(super) fn digest_field(sha256: &str) -> Result<Option<String>> {
    if sha256.is_empty() {
        return Ok(None);
    }
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid("sha256", "must be 64 hexadecimal digits"));
    }
    Ok(Some(sha256.to_ascii_lowercase()))
}

pub(super) fn mismatch(path: &WorkspacePath, found: &str) -> Error {
    Error::new(ErrorCode::DigestMismatch, format!("{path}: the SHA-256 is {found}, not the one given"))
}

pub(super) fn out_of_range(path: &WorkspacePath, size: u64) -> Error {
    Error::new(ErrorCode::OutOfRange, format!("{path} has {size} bytes; the offset lies beyond"))
}
