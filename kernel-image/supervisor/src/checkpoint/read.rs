//! Restores a checkpoint. The stream may say anything: nothing is written outside the roots, through a link or beyond the quota.
use std::{
    io::{self, Read, Write as _},
    os::fd::{AsFd, OwnedFd},
};

use kernelbox_proto::{Error, Result, v1::ErrorCode};
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::{
        stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat},
        time::TimeSpec,
    },
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};
use tar::{Archive, Entry, EntryType, Header};

use super::{MAX_DEPTH, MAX_ENTRIES, MAX_PATH, Roots, notes::Notes, stays_inside};
use crate::workspace::Quota;

/// The most memory that the stream may ask for, as a power of two: what [`super::write`] uses, and some more.
const WINDOW_LOG: u32 = 23;
/// The most that may follow the last file.
const MAX_TAIL: u64 = 1 << 20;

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(super) notes: Notes,
}

/// Reads a tar.zst stream into the roots.
pub(crate) fn restore(roots: &Roots, quota: &Quota, input: impl Read) -> Result<Restored> {
    let mut input = zstd::Decoder::new(input).map_err(damaged)?;
    input.window_log_max(WINDOW_LOG).map_err(damaged)?;
    unpack(roots, quota, input)
}

/// Reads a tar stream into the roots.
pub(crate) fn unpack(roots: &Roots, quota: &Quota, input: impl Read) -> Result<Restored> {
    let mut reader =
        Reader { roots, quota, last: None, name: None, link: None, whole: false, restored: Restored::default() };
    let mut archive = Archive::new(input);
    for (number, entry) in (0..).zip(archive.entries().map_err(damaged)?.raw(true)) {
        if number > MAX_ENTRIES {
            return Err(Error::new(ErrorCode::TooLarge, format!("the checkpoint has over {MAX_ENTRIES} files")));
        }
        reader.entry(&mut entry.map_err(damaged)?)?;
    }
    // To the end, where the checksum is.
    let tail = io::copy(&mut archive.into_inner().take(MAX_TAIL + 1), &mut io::sink()).map_err(damaged)?;
    if !reader.whole || tail > MAX_TAIL {
        return Err(damaged(io::Error::other("its end is missing")));
    }
    Ok(reader.restored)
}

struct Reader<'a> {
    roots: &'a Roots,
    quota: &'a Quota,
    /// The folder that was used last, by its path.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Names of the next entry that its header has no room for.
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// The last folder of every checkpoint came.
    whole: bool,
    restored: Restored,
}

impl Reader<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<()> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                self.name = Some(long(entry)?);
                return Ok(());
            }
            EntryType::GNULongLink => {
                self.link = Some(long(entry)?);
                return Ok(());
            }
            _ => {}
        }
        let path = self.name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let link = self.link.take().or_else(|| entry.header().link_name_bytes().map(std::borrow::Cow::into_owned));
        let parts = parts(&path)?;
        if kind != EntryType::Regular && entry.size() > 0 {
            return Err(damaged(io::Error::other("something that is no file has content")));
        }
        let placed = match kind {
            EntryType::Regular => self.file(&path, &parts, entry)?,
            EntryType::Directory => self.directory(&path, &parts, entry.header())?,
            EntryType::Symlink => self.symlink(&path, &parts, &link.unwrap_or_default(), entry.header())?,
            _ => return Err(refused(&path, ErrorCode::NotARegularFile, "is no file, folder or symbolic link")),
        };
        if let Err(errno) = placed {
            match errno {
                Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => return Err(full()),
                errno => self.restored.notes.add(&path, errno.desc()),
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], parts: &[&[u8]], entry: &mut Entry<'_, impl Read>) -> Result<nix::Result<()>> {
        let size = entry.size();
        if !self.quota.take(size) {
            return Err(full());
        }
        let written = self.write(path, parts, entry);
        if !matches!(written, Ok(Ok(()))) {
            self.quota.give(size);
        }
        written
    }

    fn write(&mut self, path: &[u8], parts: &[&[u8]], entry: &mut Entry<'_, impl Read>) -> Result<nix::Result<()>> {
        let (folder, name) = match self.parent(path, parts)? {
            Ok(place) => place,
            Err(errno) => return Ok(Err(errno)),
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = make_room(&folder, name)
            .and_then(|()| openat(&folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR))
            .map(std::fs::File::from);
        let mut file = match opened {
            Ok(file) => file,
            Err(errno) => return Ok(Err(errno)),
        };
        let mut buffer = vec![0; 128 << 10];
        let mut size = 0;
        loop {
            let count = match entry.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error)),
            };
            size += count as u64;
            if let Err(error) = file.write_all(buffer.get(..count).unwrap_or_default()) {
                return Ok(Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)));
            }
        }
        if size < entry.size() {
            return Err(damaged(io::Error::other("a file is cut off")));
        }
        let done = fchmod(&file, mode(entry.header())).and_then(|()| {
            let time = time(entry.header());
            futimens(&file, &time, &time)
        });
        self.restored.files += 1;
        self.restored.bytes += size;
        Ok(done)
    }

    fn directory(&mut self, path: &[u8], parts: &[&[u8]], header: &Header) -> Result<nix::Result<()>> {
        let folder = match self.folder(path, parts)? {
            Ok(folder) => folder,
            Err(errno) => return Ok(Err(errno)),
        };
        // The roots themselves are the sandbox's.
        if parts.len() == 1 {
            self.whole |= parts == [b"packages"];
            return Ok(Ok(()));
        }
        let time = time(header);
        Ok(fchmod(&folder, mode(header)).and_then(|()| futimens(&folder, &time, &time)))
    }

    fn symlink(&mut self, path: &[u8], parts: &[&[u8]], target: &[u8], header: &Header) -> Result<nix::Result<()>> {
        if parts.len() < 2 || !stays_inside(target, parts.len() - 2) {
            return Err(refused(path, ErrorCode::InvalidPath, "is a link that leads out"));
        }
        let (folder, name) = match self.parent(path, parts)? {
            Ok(place) => place,
            Err(errno) => return Ok(Err(errno)),
        };
        let time = time(header);
        Ok(make_room(&folder, name)
            .and_then(|()| symlinkat(target, &folder, name))
            .and_then(|()| utimensat(&folder, name, &time, &time, UtimensatFlags::NoFollowSymlink)))
    }

    /// The folder that something goes to, and its name there.
    fn parent<'p>(&mut self, path: &[u8], parts: &[&'p [u8]]) -> Result<nix::Result<(OwnedFd, &'p [u8])>> {
        match parts.split_last() {
            Some((name, parents)) if !parents.is_empty() => {
                Ok(self.folder(path, parents)?.map(|folder| (folder, *name)))
            }
            _ => Err(refused(path, ErrorCode::InvalidPath, "stands where a folder must be")),
        }
    }

    /// Opens a folder from its root on, without following a link, and makes what is missing.
    fn folder(&mut self, path: &[u8], parts: &[&[u8]]) -> Result<nix::Result<OwnedFd>> {
        let whole = parts.join(&b'/');
        if let Some((last, folder)) = &self.last
            && *last == whole
        {
            return Ok(copy(folder));
        }
        let opened = self.open(parts);
        if let Err(Errno::ELOOP | Errno::ENOTDIR) = opened {
            return Err(refused(path, ErrorCode::InvalidPath, "leads through a link or a file"));
        }
        Ok(opened.and_then(|folder| {
            self.last = Some((whole, copy(&folder)?));
            Ok(folder)
        }))
    }

    fn open(&self, parts: &[&[u8]]) -> nix::Result<OwnedFd> {
        let (root, below) = parts.split_first().ok_or(Errno::ENOENT)?;
        let roots = self.roots.each();
        let (_, root) = roots.iter().find(|(name, _)| name.as_bytes() == *root).ok_or(Errno::ENOENT)?;
        let mut folder = copy(root)?;
        for part in below {
            match mkdirat(&folder, *part, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            folder = openat(&folder, *part, flags, Mode::empty())?;
        }
        Ok(folder)
    }
}

fn copy(folder: impl AsFd) -> nix::Result<OwnedFd> {
    let copied = folder.as_fd().try_clone_to_owned();
    copied.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

/// The last of two entries with one name counts; what stood there goes, unless it is a folder.
fn make_room(folder: &OwnedFd, name: &[u8]) -> nix::Result<()> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EPERM) => Err(Errno::EISDIR),
        Err(errno) => Err(errno),
    }
}

/// The parts of a path, the first of which is a root's name.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    let invalid = |what| Err(refused(path, ErrorCode::InvalidPath, what));
    if path.len() > MAX_PATH || path.contains(&0) {
        return invalid("is no path");
    }
    let parts: Vec<_> = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let root = parts.first().is_some_and(|root| [&b"workspace"[..], b"packages"].contains(root));
    if path.starts_with(b"/") || parts.contains(&&b".."[..]) || !root {
        return invalid("leads out of the checkpoint's folders");
    }
    // The root, as many folders as a checkpoint has, and a name.
    if parts.len() > MAX_DEPTH + 2 {
        return invalid("is too deep");
    }
    Ok(parts)
}

fn long(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let mut name = Vec::new();
    entry.take(MAX_PATH as u64 + 2).read_to_end(&mut name).map_err(damaged)?;
    if name.len() > MAX_PATH + 1 {
        return Err(damaged(io::Error::other("a name is too long")));
    }
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn mode(header: &Header) -> Mode {
    Mode::from_bits_truncate(header.mode().unwrap_or(0o600) & 0o777)
}

fn time(header: &Header) -> TimeSpec {
    TimeSpec::new(header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or_default(), 0)
}

fn refused(path: &[u8], code: ErrorCode, what: &str) -> Error {
    Error::new(code, format!("the checkpoint is refused: {:?} {what}", String::from_utf8_lossy(path)))
}

fn damaged(error: io::Error) -> Error {
    Error::invalid("chunk", format!("the checkpoint is damaged: {error}"))
}

fn full() -> Error {
    Error::new(ErrorCode::DiskLimit, "the checkpoint does not fit in the workspace")
}
