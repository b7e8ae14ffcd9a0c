//! Makes a checkpoint: its mark, and its stream.
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cap_std::fs::{Dir, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use nix::fcntl::OFlag;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::{
    MAX_PATH, Roots,
    notes::Notes,
    walk::{Found, Kind, walk},
};
use crate::artifacts::Stamp;

/// More than this is left out where the sandbox has no limit of its own: a file may claim any size.
const MAX_BYTES: u64 = 1 << 40;
/// Fast, and a third of the size for text.
const LEVEL: i32 = 3;
/// The system's clock of files moves in steps; two changes in one step look like one.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// What a stream holds.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) notes: Notes,
}

/// Stands for all that is there now: it is another one when a file, link or folder is. `go_on` is asked between them.
pub(super) fn mark(roots: &Roots, go_on: &dyn Fn() -> io::Result<()>) -> io::Result<String> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(CLOCK_STEP);
    // In no order, so that none has to be made: the digests are added up without carry.
    let mut sum = [0_u8; 32];
    let mut add = |digest: &[u8]| sum.iter_mut().zip(digest).for_each(|(sum, byte)| *sum ^= byte);
    walk(roots, &mut |found| {
        go_on()?;
        let mut digest = Sha256::new();
        digest.update(found.path);
        digest.update([0]);
        let (Kind::File(metadata) | Kind::Folder(metadata) | Kind::Link(metadata, _)) = &found.kind else {
            add(&digest.finalize());
            return Ok(());
        };
        let Stamp { device, inode, size, changed } = Stamp::of(metadata);
        for number in [device, inode, size] {
            digest.update(number.to_le_bytes());
        }
        for number in [changed.0, changed.1] {
            digest.update(number.to_le_bytes());
        }
        if since(changed) >= began {
            // It may change again and look the same: this mark is not to be met again.
            let mut once = [0; 16];
            getrandom::fill(&mut once).map_err(io::Error::other)?;
            digest.update(once);
        }
        add(&digest.finalize());
        Ok(())
    })?;
    Ok(hex::encode(sum))
}

fn since((seconds, nanoseconds): (i64, i64)) -> Duration {
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or_default().min(999_999_999);
    Duration::new(u64::try_from(seconds).unwrap_or_default(), nanoseconds)
}

/// Writes the tar.zst stream. No more than `limit` bytes of files are in it; the rest is noted.
pub(super) fn write(roots: &Roots, limit: u64, out: impl Write) -> io::Result<Written> {
    let mut out = zstd::Encoder::new(out, LEVEL)?;
    out.include_checksum(true)?;
    let mut writer = Writer { out, left: limit.min(MAX_BYTES), written: Written::default() };
    walk(roots, &mut |found| writer.add(found))?;
    let Writer { mut out, written, .. } = writer;
    out.write_all(&[0; 1024])?;
    out.finish()?.flush()?;
    Ok(written)
}

struct Writer<W: Write> {
    out: W,
    left: u64,
    written: Written,
}

impl<W: Write> Writer<W> {
    fn add(&mut self, found: Found<'_>) -> io::Result<()> {
        let Found { folder, name, path, kind } = found;
        if path.len() > MAX_PATH {
            self.written.notes.add(path, "its path is too long");
            return Ok(());
        }
        match kind {
            Kind::File(_) => self.file(folder, name, path),
            Kind::Folder(metadata) => self.header(EntryType::Directory, path, &[], &metadata, 0),
            Kind::Link(metadata, target) => self.header(EntryType::Symlink, path, target.as_bytes(), &metadata, 0),
            Kind::Odd(why) => {
                self.written.notes.add(path, why);
                Ok(())
            }
        }
    }

    fn file(&mut self, folder: &Dir, name: &OsStr, path: &[u8]) -> io::Result<()> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let file = match folder.open_with(name, OpenOptions::new().read(true).custom_flags(flags)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.written.notes.add(path, "its permissions forbid to read it");
                return Ok(());
            }
            // It is gone, or something else has its name.
            Err(_) => return Ok(()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(());
        }
        let Some(left) = self.left.checked_sub(metadata.len()) else {
            self.written.notes.add(path, "it is larger than a workspace may be");
            return Ok(());
        };
        self.left = left;
        self.header(EntryType::Regular, path, &[], &metadata, metadata.len())?;
        let mut content = Content { file: file.into_std(), left: metadata.len(), problem: None };
        io::copy(&mut content, &mut self.out)?;
        self.pad(metadata.len())?;
        let after = Metadata::from_file(&content.file)?;
        if let Some(problem) = content.problem {
            self.written.notes.add(path, &problem);
        } else if Stamp::of(&after) != Stamp::of(&metadata) {
            self.written.notes.add(path, "it changed while it was saved");
        }
        self.written.files += 1;
        self.written.bytes += metadata.len();
        Ok(())
    }

    fn header(
        &mut self,
        kind: EntryType,
        path: &[u8],
        target: &[u8],
        metadata: &Metadata,
        size: u64,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        self.long(EntryType::GNULongName, path)?;
        self.long(EntryType::GNULongLink, target)?;
        let old = header.as_old_mut();
        short(&mut old.name, path);
        short(&mut old.linkname, target);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Says a name that the header has no room for.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        if name.len() <= 100 {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        short(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let size = name.len() as u64 + 1;
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % 512).unwrap_or_default();
        if over > 0 { self.out.write_all(&[0; 512][over..]) } else { Ok(()) }
    }
}

fn short(field: &mut [u8; 100], name: &[u8]) {
    field.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
}

/// Exactly as many bytes as the header says, whatever becomes of the file.
struct Content {
    file: File,
    left: u64,
    problem: Option<String>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..most];
        let mut count = 0;
        if self.problem.is_none() && most > 0 {
            match self.file.read(buffer) {
                Ok(0) => self.problem = Some("it became shorter while it was saved; its end is zeros".to_owned()),
                Ok(read) => count = read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => self.problem = Some(format!("it could not be read to its end: {error}")),
            }
        }
        if self.problem.is_some() {
            buffer.fill(0);
            count = most;
        }
        self.left -= count as u64;
        Ok(count)
    }
}
