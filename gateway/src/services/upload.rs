//! Bytes on their way into a session's workspace, from wherever they come: a gRPC stream, an HTTP body, another server.
mod wire;

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kernelbox_proto::{
    Error,
    v1::{ErrorCode, File, UploadHeader, UploadRequest, upload_request::Part},
};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Services;
use crate::{
    metrics::Way,
    sandbox::Scope,
    sessions::{Live, Slot},
};

/// Chunks of a file. An error ends the upload; nothing is written then.
pub(crate) type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Bytes kept for sending them again to the next sandbox. A sandbox that is retired reads nothing, so that no more than the
/// connection's window (1 MiB) was taken from the source before it is known.
const KEPT: usize = 4 << 20;
/// The largest chunk that is sent on.
const CHUNK: usize = 256 << 10;

struct Source {
    parts: Parts,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More was read than is kept: the upload cannot begin again.
    overflown: bool,
}

impl Source {
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let next = self.parts.next().await?;
        if let Ok(chunk) = &next
            && !self.overflown
        {
            self.kept_bytes += chunk.len();
            self.overflown = self.kept_bytes > KEPT;
            if self.overflown {
                self.kept.clear();
            } else {
                self.kept.push(chunk.clone());
            }
        }
        Some(next)
    }
}

impl Services {
    /// Writes a file. Fails without having changed anything if the chunks do.
    pub(crate) async fn upload(&self, slot: &Arc<Slot>, header: UploadHeader, parts: Parts) -> Result<File, Error> {
        let bytes = self.router.metrics().file_bytes.clone();
        let parts = parts.inspect_ok(move |part| bytes.add(Way::In, part.len() as u64)).boxed();
        let source = Source { parts: Box::pin(cut(parts)), kept: Vec::new(), kept_bytes: 0, overflown: false };
        let source = Arc::new(Mutex::new(source));
        let (failed, mut failure) = mpsc::channel(1);
        // Whatever ends this call before its file is complete, also its being dropped, breaks off what goes to the sandbox.
        let cut = CancellationToken::new();
        let _cut = cut.clone().drop_guard();
        let send = |live: &Live| {
            let channel = live.sandbox.channel(Scope::Session);
            let (header, source, failed, cut) = (header.clone(), Arc::clone(&source), failed.clone(), cut.clone());
            async move {
                // Held by the stream until the connection has let go of it.
                let source = source.lock_owned().await;
                if source.overflown {
                    let message = "the sandbox was replaced during the upload; send it again";
                    return Err(Error::new(ErrorCode::Conflict, message).into());
                }
                wire::upload(channel, requests(header, source, failed, cut)).await
            }
        };
        tokio::select! {
            biased;
            error = failure.recv() => Err(error.unwrap_or_else(cut_off)),
            answer = self.router.call_live(slot, send) => match failure.try_recv() {
                Ok(error) => Err(error),
                Err(_) => answer.map(|(file, _)| file),
            },
        }
    }
}

/// An error among the requests breaks the call off: the sandbox keeps nothing of it. The mere end would make the file complete.
fn requests(
    header: UploadHeader,
    source: OwnedMutexGuard<Source>,
    failed: mpsc::Sender<Error>,
    cut: CancellationToken,
) -> impl Stream<Item = Result<UploadRequest, Status>> + Send + 'static {
    let head = futures::stream::iter([Ok(UploadRequest { part: Some(Part::Header(header)) })]);
    let again = futures::stream::iter(source.kept.clone()).map(|bytes| Ok(chunk(bytes)));
    let rest = futures::stream::unfold(Some((source, failed, cut)), |open| async {
        let (mut source, failed, cut) = open?;
        let next = tokio::select! {
            next = source.next() => next?,
            () = cut.cancelled() => Err(cut_off()),
        };
        match next {
            Ok(bytes) => Some((Ok(chunk(bytes)), Some((source, failed, cut)))),
            Err(error) => {
                let status = Status::cancelled(error.message.clone());
                // Full or closed: it is known already, or nobody asks.
                let _ = failed.try_send(error);
                Some((Err(status), None))
            }
        }
    });
    head.chain(again).chain(rest)
}

fn cut_off() -> Error {
    Error::new(ErrorCode::Cancelled, "the upload was cut off; nothing was written")
}

fn chunk(bytes: Bytes) -> UploadRequest {
    UploadRequest { part: Some(Part::Chunk(bytes)) }
}

/// No chunk is larger than the sandbox takes.
fn cut(parts: Parts) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    parts.flat_map(|part| {
        let pieces: Vec<_> = match part {
            Ok(mut bytes) if bytes.len() > CHUNK => {
                let mut pieces = Vec::with_capacity(bytes.len() / CHUNK + 1);
                while bytes.len() > CHUNK {
                    pieces.push(Ok(bytes.split_to(CHUNK)));
                }
                pieces.push(Ok(bytes));
                pieces
            }
            part => vec![part],
        };
        futures::stream::iter(pieces)
    })
}

/// Fails once more than `limit` bytes came.
pub(crate) fn limited(parts: Parts, limit: u64) -> Parts {
    let mut total = 0_u64;
    Box::pin(parts.map(move |part| {
        let part = part?;
        total += part.len() as u64;
        if total > limit { Err(too_large(limit)) } else { Ok(part) }
    }))
}

pub(crate) fn too_large(limit: u64) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the file is larger than {limit} bytes (limit --max-file-bytes)"))
        .with("limit", "max-file-bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(sizes: &[usize]) -> Parts {
        let parts: Vec<_> = sizes.iter().map(|size| Ok(Bytes::from(vec![1; *size]))).collect();
        Box::pin(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn chunks_are_cut_and_the_limit_is_exact() {
        let sizes: Vec<_> = cut(parts(&[3 * CHUNK + 1, 1])).map(|it| it.unwrap().len()).collect().await;
        assert_eq!(sizes, [CHUNK, CHUNK, CHUNK, 1, 1]);
        assert!(limited(parts(&[5, 5]), 10).all(|it| async move { it.is_ok() }).await);
        let last = limited(parts(&[5, 6]), 10).collect::<Vec<_>>().await.pop().unwrap();
        assert_eq!(last.unwrap_err().code, ErrorCode::TooLarge);
    }

    #[tokio::test]
    async fn what_was_read_is_kept_up_to_a_bound() {
        let mut source = Source { parts: parts(&[KEPT - 1, 1, 1]), kept: vec![], kept_bytes: 0, overflown: false };
        source.next().await;
        source.next().await;
        assert_eq!((source.kept.len(), source.overflown), (2, false));
        source.next().await;
        assert_eq!((source.kept.len(), source.overflown), (0, true));
    }
}
