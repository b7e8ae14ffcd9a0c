//! One live connection to a session zygote.
use std::{
    collections::HashMap,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use futures::StreamExt as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{
    Begin, Error, Source,
    wire::{Event, MAX_LINE, Request, Scan},
};
use crate::sync::lock;

/// How long the zygote may take to end all its processes.
const END_LIMIT: Duration = Duration::from_secs(10);

type Lines = FramedRead<OwnedReadHalf, LinesCodec>;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Its zygote ended first, and took it along.
    Lost,
}

impl Exit {
    /// Reads the status of `waitpid`.
    fn from_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8) & 0xff),
            signal => Self::Signal(signal),
        }
    }
}

/// A process that the zygote started.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    exit: watch::Receiver<Option<Exit>>,
    link: Weak<Link>,
}

impl Process {
    /// Waits for its end.
    pub async fn exited(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Lost),
            Err(_) => Exit::Lost,
        }
    }

    pub fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Sends a signal to it, or to its whole process group. A process that is gone is no error.
    pub async fn signal(&self, signal: nix::sys::signal::Signal, group: bool) {
        if self.has_exited() {
            return;
        }
        if let Some(link) = self.link.upgrade() {
            link.send(&Request::Signal { pid: self.pid, signal: signal as i32, group }).await.ok();
        }
    }
}

pub(super) enum Answer {
    Started(Process),
    Scanned(Scan),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) pid: i32,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    shared: Arc<Mutex<Shared>>,
    reader: tokio::task::AbortHandle,
    /// True when the zygote and all its processes are gone.
    ended: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests without an answer yet; what they get is a pid or a scan.
    asked: HashMap<u64, oneshot::Sender<Result<Told, Error>>>,
    running: HashMap<i32, watch::Sender<Option<Exit>>>,
    ended: bool,
}

#[derive(Debug)]
enum Told {
    Started(i32, watch::Receiver<Option<Exit>>),
    Scanned(Scan),
}

impl Link {
    pub(super) async fn open(source: &Source, begin: &Begin) -> Result<Self, Error> {
        let unreachable = |e: std::io::Error| Error::Unreachable(e.to_string());
        let (stream, mut child) = match source {
            Source::Host(socket) => (UnixStream::connect(socket).await.map_err(unreachable)?, None),
            Source::Own { python, program, warm_up } => {
                let (ours, theirs) = UnixStream::pair().map_err(unreachable)?;
                let theirs = theirs.into_std().map_err(unreachable)?;
                theirs.set_nonblocking(false).map_err(unreachable)?;
                // Nothing else is started by this process, so nothing else inherits it.
                fcntl(theirs.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| unreachable(e.into()))?;
                let child = Command::new(python)
                    .arg(program)
                    .arg("session")
                    .arg(theirs.as_raw_fd().to_string())
                    .arg(warm_up)
                    .env_clear()
                    .envs(&begin.env)
                    .stdin(std::process::Stdio::null())
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .map_err(unreachable)?;
                (ours, Some(child))
            }
        };
        let (reader, mut writer) = stream.into_split();
        write(&mut writer, &Request::Begin(begin)).await?;
        let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE));
        let pid = match next(&mut lines).await {
            Some(Event::Ready { pid }) => pid,
            Some(other) => {
                return Err(Error::Unreachable(format!("it said {other:?} where it had to say ready")));
            }
            // Its own words are on our standard error.
            None => {
                let exit = async { child.as_mut()?.wait().await.ok() };
                let exit = timeout(END_LIMIT, exit).await.ok().flatten();
                let exit = exit.map(|exit| format!(", with {exit}")).unwrap_or_default();
                return Err(Error::Unreachable(format!("it ended before it was ready{exit}")));
            }
        };
        tracing::info!(pid, "zygote ready");
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (over, ended) = watch::channel(false);
        let reading = Arc::clone(&shared);
        let reader = tokio::spawn(async move {
            read(lines, &reading, child).await;
            over.send_replace(true);
        });
        Ok(Self { pid, writer: tokio::sync::Mutex::new(writer), shared, reader: reader.abort_handle(), ended })
    }

    pub(super) fn ended(&self) -> bool {
        lock(&self.shared).ended
    }

    pub(super) async fn ask(self: Arc<Self>, id: u64, request: &Request<'_>) -> Result<Answer, Error> {
        let (answer, told) = oneshot::channel();
        {
            let mut shared = lock(&self.shared);
            if shared.ended {
                return Err(Error::Ended);
            }
            shared.asked.insert(id, answer);
        }
        self.send(request).await?;
        match told.await.map_err(|_| Error::Ended)?? {
            Told::Started(pid, exit) => Ok(Answer::Started(Process { pid, exit, link: Arc::downgrade(&self) })),
            Told::Scanned(scan) => Ok(Answer::Scanned(scan)),
        }
    }

    /// Asks the zygote to end and waits until it has.
    pub(super) async fn end(&self) {
        if self.send(&Request::End).await.is_err() {
            return;
        }
        let mut ended = self.ended.clone();
        timeout(END_LIMIT, ended.wait_for(|ended| *ended)).await.ok();
    }

    async fn send(&self, request: &Request<'_>) -> Result<(), Error> {
        write(&mut *self.writer.lock().await, request).await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
        finish(&self.shared);
    }
}

async fn write(writer: &mut OwnedWriteHalf, request: &Request<'_>) -> Result<(), Error> {
    let mut line = serde_json::to_vec(request).map_err(|e| Error::Failed(e.to_string()))?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(Error::Failed("too long for the zygote".into()));
    }
    writer.write_all(&line).await.map_err(|_| Error::Ended)
}

/// The next event; none when the zygote ended or said what it may not.
async fn next(lines: &mut Lines) -> Option<Event> {
    match lines.next().await? {
        Ok(line) => serde_json::from_str(&line)
            .inspect_err(|error| tracing::error!(%error, bytes = line.len(), "odd line of the zygote"))
            .ok(),
        Err(error) => {
            tracing::error!(%error, "cannot read from the zygote");
            None
        }
    }
}

async fn read(mut lines: Lines, shared: &Mutex<Shared>, child: Option<Child>) {
    while let Some(event) = next(&mut lines).await {
        let mut shared = lock(shared);
        match event {
            Event::Ready { .. } => {}
            Event::Started { id, pid } => {
                let (ended, exit) = watch::channel(None);
                shared.running.insert(pid, ended);
                if let Some(asked) = shared.asked.remove(&id) {
                    asked.send(Ok(Told::Started(pid, exit))).ok();
                }
            }
            Event::Failed { id, error } => {
                if let Some(asked) = shared.asked.remove(&id) {
                    asked.send(Err(Error::Failed(error))).ok();
                }
            }
            Event::Exited { pid, status } => {
                if let Some(running) = shared.running.remove(&pid) {
                    running.send_replace(Some(Exit::from_status(status)));
                }
            }
            Event::Scanned { id, scan } => {
                if let Some(asked) = shared.asked.remove(&id) {
                    asked.send(Ok(Told::Scanned(scan))).ok();
                }
            }
        }
    }
    tracing::info!("zygote ended");
    finish(shared);
    drop(lines);
    if let Some(mut child) = child {
        child.wait().await.ok();
    }
}

/// Tells everyone who waits that the zygote is gone.
fn finish(shared: &Mutex<Shared>) {
    let (asked, running) = {
        let mut shared = lock(shared);
        shared.ended = true;
        (std::mem::take(&mut shared.asked), std::mem::take(&mut shared.running))
    };
    for (_, asked) in asked {
        asked.send(Err(Error::Ended)).ok();
    }
    for (_, running) in running {
        running.send_replace(Some(Exit::Lost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_read_as_the_kernel_writes_it() {
        assert_eq!(Exit::from_status(0), Exit::Code(0));
        assert_eq!(Exit::from_status(3 << 8), Exit::Code(3));
        assert_eq!(Exit::from_status(9), Exit::Signal(9));
        assert_eq!(Exit::from_status(11 | 0x80), Exit::Signal(11));
    }
}
