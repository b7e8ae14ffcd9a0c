//! Checkpoint, ConfirmCheckpoint and Restore, as their callers meet them.
use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use kernelbox_proto::{
    Error, SessionId,
    sandbox::v1::{
        CheckpointDone, CheckpointRequest, CheckpointResponse, ConfirmCheckpointRequest, ConfirmCheckpointResponse,
        RestoreRequest, RestoreResponse, checkpoint_response, restore_request,
    },
    v1::ErrorCode,
};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::{Roots, read, write};
use crate::{access::Access, artifacts::Artifacts, auth::Scope, workspace::Quota};

type Result<T, E = Error> = std::result::Result<T, E>;
type Chunks = mpsc::Sender<Result<CheckpointResponse, Status>>;

/// The bytes of a chunk that is sent.
const CHUNK: usize = 256 << 10;
/// The most bytes of a chunk that is taken.
const MAX_CHUNK: usize = 1 << 20;
/// Chunks on their way.
const WAITING: usize = 4;
/// How long a restore waits for its next chunk.
const CHUNK_TIMEOUT: Duration = Duration::from_mins(1);

/// The calls about checkpoints. Clones are the same.
#[derive(Clone)]
pub struct Checkpoints(Arc<Parts>);

struct Parts {
    access: Arc<Access>,
    roots: Roots,
    quota: Quota,
    artifacts: Arc<Artifacts>,
    /// One at a time, whichever way.
    turn: Arc<Mutex<()>>,
}

impl Checkpoints {
    pub fn new(access: Arc<Access>, roots: Roots, quota: Quota, artifacts: Arc<Artifacts>) -> Self {
        Self(Arc::new(Parts { access, roots, quota, artifacts, turn: Arc::default() }))
    }

    /// Chunks, then the last word. Ends when its caller goes.
    pub async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<ReceiverStream<Result<CheckpointResponse, Status>>> {
        self.0.access.check(request.metadata(), &[Scope::Lifecycle])?;
        let turn = Arc::clone(&self.0.turn).lock_owned().await;
        let number = self.0.access.lifecycle().begin_checkpoint()?;
        let (chunks, answer) = mpsc::channel(WAITING);
        let parts = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let said = match parts.save(&request.get_ref().unless_mark, number, &chunks) {
                Ok(done) => Ok(CheckpointResponse { part: Some(checkpoint_response::Part::Done(done)) }),
                // Nobody is there to be told.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
                Err(error) => {
                    tracing::error!(%error, "a checkpoint failed");
                    Err(Error::new(ErrorCode::Internal, "the session's files cannot be read").into())
                }
            };
            chunks.blocking_send(said).ok();
        });
        Ok(ReceiverStream::new(answer))
    }

    pub fn confirm(&self, request: &Request<ConfirmCheckpointRequest>) -> Result<ConfirmCheckpointResponse> {
        self.0.access.check(request.metadata(), &[Scope::Lifecycle])?;
        self.0.access.lifecycle().confirm(request.get_ref().number)?;
        Ok(ConfirmCheckpointResponse {})
    }

    /// The header, then chunks.
    pub async fn restore<S>(&self, request: Request<S>) -> Result<RestoreResponse, Status>
    where
        S: Stream<Item = Result<RestoreRequest, Status>> + Unpin,
    {
        let (metadata, _, mut parts) = request.into_parts();
        self.0.access.check(&metadata, &[Scope::Lifecycle])?;
        let Some(restore_request::Part::Header(header)) = next(&mut parts).await? else {
            return Err(Error::invalid("header", "the first message must be the header").into());
        };
        let session = SessionId::from_name(&header.session)?;
        let turn = Arc::clone(&self.0.turn).try_lock_owned();
        let turn = turn.map_err(|_| Error::new(ErrorCode::Conflict, "another restore runs; try again"))?;
        let guard = self.0.access.lifecycle().restore(&session, header.generation)?;
        let (chunks, input) = mpsc::channel(WAITING);
        let inner = Arc::clone(&self.0);
        let work = tokio::task::spawn_blocking(move || {
            let _held = (turn, guard);
            inner.load(Incoming { chunks: input, now: Bytes::new() })
        });
        let fed = feed(&mut parts, chunks).await;
        let restored = work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a restore failed");
            Err(Error::new(ErrorCode::Internal, "the restore failed"))
        });
        // What was wrong with the call explains what was wrong with its bytes.
        fed?;
        Ok(restored?)
    }
}

impl Parts {
    fn save(&self, unless_mark: &str, number: i64, chunks: &Chunks) -> io::Result<CheckpointDone> {
        let there = || if chunks.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) };
        let mark = write::mark(&self.roots, &there)?;
        if mark == unless_mark {
            return Ok(CheckpointDone { mark, unchanged: true, number, ..CheckpointDone::default() });
        }
        let out = Outgoing { chunks: chunks.clone(), now: BytesMut::with_capacity(CHUNK) };
        let written = write::write(&self.roots, self.quota.limit(), out)?;
        Ok(CheckpointDone {
            mark,
            unchanged: false,
            number,
            files: i64::try_from(written.files).unwrap_or(i64::MAX),
            bytes: i64::try_from(written.bytes).unwrap_or(i64::MAX),
            skipped: written.notes.into_lines(),
        })
    }

    fn load(&self, input: impl Read) -> Result<RestoreResponse> {
        let restored = read::restore(&self.roots, &self.quota, input);
        // Also of what is only half there: code did not make it.
        if let Err(error) = self.artifacts.absorb_all() {
            tracing::warn!(%error, "files that were restored may be told as an execution's");
        }
        let restored = restored?;
        Ok(RestoreResponse {
            files: i64::try_from(restored.files).unwrap_or(i64::MAX),
            bytes: i64::try_from(restored.bytes).unwrap_or(i64::MAX),
            skipped: restored.notes.into_lines(),
        })
    }
}

/// Passes chunks on until the stream ends, or whoever reads them has had enough.
async fn feed<S>(parts: &mut S, chunks: mpsc::Sender<Bytes>) -> Result<(), Status>
where
    S: Stream<Item = Result<RestoreRequest, Status>> + Unpin,
{
    while let Some(part) = next(parts).await? {
        match part {
            restore_request::Part::Chunk(chunk) if chunk.len() > MAX_CHUNK => {
                return Err(Error::invalid("chunk", "must be at most 1 MiB").into());
            }
            restore_request::Part::Chunk(chunk) => {
                if chunks.send(chunk).await.is_err() {
                    return Ok(());
                }
            }
            restore_request::Part::Header(_) => {
                return Err(Error::invalid("chunk", "every message after the first must be a chunk").into());
            }
        }
    }
    Ok(())
}

async fn next<S>(parts: &mut S) -> Result<Option<restore_request::Part>, Status>
where
    S: Stream<Item = Result<RestoreRequest, Status>> + Unpin,
{
    match tokio::time::timeout(CHUNK_TIMEOUT, parts.next()).await {
        Err(_) => Err(Error::new(ErrorCode::DeadlineExceeded, "no chunk came for a minute").into()),
        Ok(None) => Ok(None),
        Ok(Some(message)) => match message?.part {
            Some(part) => Ok(Some(part)),
            None => Err(Error::invalid("part", "must be the header or a chunk").into()),
        },
    }
}

/// Sends what is written in chunks, no faster than they are taken.
struct Outgoing {
    chunks: Chunks,
    now: BytesMut,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.now.len());
        self.now.extend_from_slice(&bytes[..count]);
        if self.now.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.now.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.now, BytesMut::with_capacity(CHUNK)).freeze();
        let message = CheckpointResponse { part: Some(checkpoint_response::Part::Chunk(chunk)) };
        self.chunks.blocking_send(Ok(message)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads chunks as they come.
struct Incoming {
    chunks: mpsc::Receiver<Bytes>,
    now: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.now = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.now.len());
        self.now.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
