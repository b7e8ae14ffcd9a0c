//! How the bytes of a reply reach the client: in order, by the byte, not all, or never to the end.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::Response,
};
use futures::StreamExt as _;
use serde_json::Value;

#[derive(Debug, Clone, Default)]
pub(super) struct Delivery {
    pub by_the_byte: bool,
    pub stall_after: Option<usize>,
    pub cut_after: Option<usize>,
    pub end_after: Option<usize>,
}

/// Answers that are not over yet, and what all took that are.
#[derive(Debug, Default)]
pub(super) struct Open {
    answers: AtomicUsize,
    nanoseconds: AtomicU64,
}

/// An answer that is open for as long as its body is there.
pub(super) struct Answering {
    open: Arc<Open>,
    since: Instant,
}

impl Open {
    pub(super) fn begin(self: &Arc<Self>, since: Instant) -> Answering {
        self.answers.fetch_add(1, Ordering::SeqCst);
        Answering { open: Arc::clone(self), since }
    }

    pub(super) fn answers(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::SeqCst))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let took = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.open.nanoseconds.fetch_add(took, Ordering::SeqCst);
        self.open.answers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Delivery {
    pub(super) fn respond(
        &self,
        status: u16,
        content_type: &str,
        headers: &[(String, String)],
        pieces: Vec<Bytes>,
        answering: Answering,
    ) -> Response {
        let limit = [self.stall_after, self.cut_after, self.end_after].into_iter().flatten().min();
        let pieces = cut(pieces, limit.unwrap_or(usize::MAX), self.by_the_byte);
        let (stalls, cuts) = (self.stall_after.is_some(), self.cut_after.is_some());
        let pieces = futures::stream::iter(pieces).then(move |piece| async move {
            // Lets the piece before go out alone.
            tokio::task::yield_now().await;
            Ok::<_, io::Error>(piece)
        });
        let end = futures::stream::once(async move {
            let _answering = answering;
            if stalls {
                std::future::pending::<()>().await;
            }
            if cuts { Err(io::Error::other("cut")) } else { Ok(Bytes::new()) }
        });
        build(status, content_type, headers, Body::from_stream(pieces.chain(end)))
    }
}

/// The first `limit` bytes.
fn cut(pieces: Vec<Bytes>, limit: usize, by_the_byte: bool) -> Vec<Bytes> {
    let mut left = limit;
    let mut kept = Vec::new();
    for mut piece in pieces {
        piece.truncate(left);
        left -= piece.len();
        if by_the_byte {
            kept.extend((0..piece.len()).map(|at| piece.slice(at..=at)));
        } else if !piece.is_empty() {
            kept.push(piece);
        }
    }
    kept
}

pub(super) fn json(status: u16, headers: &[(String, String)], json: &Value) -> Response {
    build(status, "application/json", headers, Body::from(json.to_string()))
}

fn build(status: u16, content_type: &str, headers: &[(String, String)], body: Body) -> Response {
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(body).unwrap()
}
