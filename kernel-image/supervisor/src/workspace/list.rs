//! Lists a folder in pages, sorted by path, in memory that depends on the page and not on the folder.
use std::{
    collections::BinaryHeap,
    ffi::CString,
    os::fd::{AsFd as _, OwnedFd},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cap_std::fs::Dir;
use kernelbox_proto::{Error, Result, v1};
use nix::{
    dir::{Dir as Entries, Type},
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use prost::Message as _;

use super::{
    Workspace, WorkspacePath,
    error::At as _,
    place::{describe, kind, status},
};

const DEFAULT_PAGE: usize = 1_000;
const MAX_PAGE: usize = 10_000;
/// A page ends at this many bytes, so that it fits into a message.
const MAX_PAGE_BYTES: usize = 768 << 10;
/// Folders deeper than a path can name are not entered.
const MAX_PATH: usize = 4096;
/// A page goes on below at most this many folders that come before it: one for each prefix of a name.
const MAX_PREFIXES: usize = 256;

/// What to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    pub path: WorkspacePath,
    /// All below it, too, but not below folders whose name begins with a dot.
    pub recursive: bool,
    /// 0 for 1,000, at most 10,000.
    pub page_size: i32,
    /// From the page before; empty for the first.
    pub page_token: String,
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct Page {
    pub files: Vec<v1::File>,
    /// Empty on the last page.
    pub next_page_token: String,
}

impl Workspace {
    /// The files of a folder. A file that vanishes meanwhile is left out.
    pub fn list(&self, request: &ListRequest) -> Result<Page> {
        let size = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(Error::invalid("page_size", "must not be negative")),
        };
        let after = read_token(request)?;
        let folder = self.root.open_dir(request.path.beneath()).at(&request.path)?;
        let mut walk =
            Walk { recursive: request.recursive, after, size, bytes: 0, last: Vec::new(), more: false, files: vec![] };
        let mut prefix = request.path.as_str().as_bytes().to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let handle = reopen(&folder).at(&request.path)?;
        walk.folder(handle, &prefix).at(&request.path)?;
        let next_page_token = if walk.more { token(request, &walk.last) } else { String::new() };
        Ok(Page { files: walk.files, next_page_token })
    }
}

struct Walk {
    recursive: bool,
    /// The last path of the page before.
    after: Vec<u8>,
    size: usize,
    bytes: usize,
    last: Vec<u8>,
    /// The page is full and there is more.
    more: bool,
    files: Vec<v1::File>,
}

/// A step of the walk in a folder: a name to tell or, with "/" at its end, a folder to enter. In their order, paths come out sorted.
type Step = Vec<u8>;

impl Walk {
    fn folder(&mut self, folder: OwnedFd, prefix: &[u8]) -> nix::Result<()> {
        let (handle, steps) = self.steps(folder, prefix)?;
        for step in steps {
            if self.more {
                break;
            }
            match step.strip_suffix(b"/") {
                None => self.tell(&handle, &step, prefix),
                Some(name) => {
                    let Ok(name) = CString::new(name) else { continue };
                    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    // It may be gone, closed to us or something else by now.
                    let Ok(inner) = openat(&handle, name.as_c_str(), flags, Mode::empty()) else { continue };
                    self.folder(inner, &[prefix, &step].concat()).ok();
                }
            }
        }
        Ok(())
    }

    /// The next steps in a folder, sorted: as many as the rest of the page can need.
    fn steps(&self, folder: OwnedFd, prefix: &[u8]) -> nix::Result<(OwnedFd, Vec<Step>)> {
        let most = 2 * (self.size - self.files.len()) + MAX_PREFIXES + 2;
        let mut entries = Entries::from_fd(folder)?;
        let handle = entries.as_fd().try_clone_to_owned().map_err(|_| nix::errno::Errno::EMFILE)?;
        let mut steps = BinaryHeap::new();
        let mut add = |step: Step| {
            let full = steps.len() >= most;
            if full && steps.peek().is_some_and(|last| *last <= step) {
                return;
            }
            steps.push(step);
            if full {
                steps.pop();
            }
        };
        for entry in entries.iter() {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if matches!(bytes, b"." | b"..") {
                continue;
            }
            let path = [prefix, bytes].concat();
            if path > self.after {
                add(bytes.to_vec());
            }
            let is_folder = || match entry.file_type() {
                Some(kind) => kind == Type::Directory,
                None => status(&handle, name).is_ok_and(|status| kind(&status) == v1::FileType::Directory),
            };
            if self.recursive && !bytes.starts_with(b".") && path.len() < MAX_PATH && is_folder() {
                let below = [path.as_slice(), b"/"].concat();
                if below > self.after || self.after.starts_with(&below) {
                    add([bytes, b"/"].concat());
                }
            }
        }
        Ok((handle, steps.into_sorted_vec()))
    }

    fn tell(&mut self, handle: &OwnedFd, name: &[u8], prefix: &[u8]) {
        let path = [prefix, name].concat();
        let Ok(name) = CString::new(name) else { return };
        let Ok(file) = describe(handle, name.as_c_str(), String::from_utf8_lossy(&path).into_owned()) else { return };
        let bytes = file.encoded_len() + 8;
        if self.files.len() == self.size || (self.bytes + bytes > MAX_PAGE_BYTES && !self.files.is_empty()) {
            self.more = true;
            return;
        }
        self.bytes += bytes;
        self.files.push(file);
        self.last = path;
    }
}

/// The folder again, for reading its entries.
fn reopen(folder: &Dir) -> nix::Result<OwnedFd> {
    openat(folder, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// A token is what is listed, then the last path told, which need not be UTF-8.
fn token(request: &ListRequest, last: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&listed(request), last].concat())
}

fn read_token(request: &ListRequest) -> Result<Vec<u8>> {
    if request.page_token.is_empty() {
        return Ok(Vec::new());
    }
    let token = URL_SAFE_NO_PAD.decode(&request.page_token).unwrap_or_default();
    match token.strip_prefix(listed(request).as_slice()) {
        Some(last) => Ok(last.to_vec()),
        None => Err(Error::invalid("page_token", "is not of this list; begin again without one")),
    }
}

fn listed(request: &ListRequest) -> Vec<u8> {
    [&[u8::from(request.recursive)], request.path.as_str().as_bytes(), b"\0"].concat()
}
