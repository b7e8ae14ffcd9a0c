//! Whether anything can have changed since the last look, so that most looks need not list the workspace.
//!
//! The system's own events are only ever a reason to look again: what changed is still found by looking. Where they cannot be had, or may
//! not tell all, every look lists.
use std::{collections::HashSet, ffi::OsString, os::fd::AsRawFd as _};

use cap_std::fs::Dir;
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

/// With more files open than this, it is cheaper to list than to remember them.
const MAX_OPEN: usize = 1_000;

/// Watches the folders that were listed.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    /// Files that were opened and not closed: writes through a mapping are told only when that ends.
    open: HashSet<(WatchDescriptor, OsString)>,
    /// Something is not watched, or has another name that may not be.
    partial: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no file events; the workspace is listed after every execution");
        }
        Self { inotify: inotify.ok(), open: HashSet::new(), partial: true }
    }

    /// A new list begins.
    pub(super) fn begin(&mut self) {
        self.partial = false;
    }

    /// A folder is about to be listed.
    pub(super) fn add(&mut self, folder: &Dir) {
        let Some(inotify) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_OPEN
            | AddWatchFlags::IN_CLOSE
            | AddWatchFlags::IN_ONLYDIR;
        // By descriptor: the path may lead elsewhere by now.
        if let Err(error) = inotify.add_watch(format!("/proc/self/fd/{}", folder.as_raw_fd()).as_str(), flags) {
            tracing::debug!(%error, "a folder cannot be watched");
            self.partial = true;
        }
    }

    /// A file was found that also has another name, perhaps in a folder that is not watched.
    pub(super) fn linked(&mut self) {
        self.partial = true;
    }

    /// Whether nothing can have changed since the last call.
    pub(super) fn quiet(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut quiet = !self.partial;
        loop {
            match inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        quiet &= !note(&mut self.open, event);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return quiet && self.open.is_empty(),
                Err(_) => return false,
            }
        }
    }
}

/// Whether the event tells of a change, or of events that were lost.
fn note(open: &mut HashSet<(WatchDescriptor, OsString)>, event: InotifyEvent) -> bool {
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        open.clear();
        return true;
    }
    let reading = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE_NOWRITE;
    let folder = event.mask.contains(AddWatchFlags::IN_ISDIR);
    if let Some(name) = event.name.filter(|_| !folder) {
        if !event.mask.contains(AddWatchFlags::IN_OPEN) {
            if event.mask.intersects(AddWatchFlags::IN_CLOSE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)
            {
                open.remove(&(event.wd, name));
            }
        } else if open.len() < MAX_OPEN {
            open.insert((event.wd, name));
        } else {
            return true;
        }
    }
    !event.mask.difference(AddWatchFlags::IN_ISDIR | AddWatchFlags::IN_IGNORED).difference(reading).is_empty()
}
