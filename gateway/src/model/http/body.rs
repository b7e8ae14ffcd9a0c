//! Reading what a server sends: in time, not too much of it, and as the data of events.
use std::time::Duration;

use bytes::Bytes;
use eventsource_stream::{EventStreamError, Eventsource as _};
use futures::{Stream, StreamExt as _, stream::BoxStream};

use super::{ModelError, Timing, words::Named};

/// U+FEFF in UTF-8. The parser panics on one at the beginning, however many went before it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

pub(super) type Pieces = BoxStream<'static, Result<Bytes, ModelError>>;

/// Ends with an error where nothing comes for too long.
pub(super) fn in_time(pieces: Pieces, timing: Timing, named: Named) -> Pieces {
    let state = (pieces, timing.first);
    let pieces = futures::stream::try_unfold(state, move |(mut pieces, limit): (Pieces, Duration)| {
        let named = named.clone();
        async move {
            match tokio::time::timeout(limit, pieces.next()).await {
                Ok(next) => Ok(next.transpose()?.map(|piece| (piece, (pieces, timing.silence)))),
                Err(_) => Err(named.silent(limit)),
            }
        }
    });
    pieces.boxed()
}

/// The data of each event, of at most `limit` bytes in all. Comments and events without data are left out.
pub(super) fn events(pieces: Pieces, limit: usize, named: Named) -> BoxStream<'static, Result<String, ModelError>> {
    let mut guard = Guard { limit, named: named.clone(), seen: 0, begin: Some(Vec::new()) };
    let events = pieces.map(move |piece| guard.pass(piece?)).eventsource();
    let data = events.map(move |event| match event {
        Ok(event) => Ok(event.data),
        Err(EventStreamError::Transport(error)) => Err(error),
        Err(EventStreamError::Utf8(_)) => Err(named.broken("the stream is not UTF-8")),
        Err(EventStreamError::Parser(_)) => Err(named.broken("the stream is not one of server-sent events")),
    });
    data.boxed()
}

/// A body that is one JSON text, as the only event.
pub(super) fn whole(mut pieces: Pieces, limit: usize, named: Named) -> BoxStream<'static, Result<String, ModelError>> {
    let text = async move {
        let mut body = Vec::new();
        while let Some(piece) = pieces.next().await.transpose()? {
            body.extend_from_slice(&piece);
            if body.len() > limit {
                return Err(named.too_large(limit));
            }
        }
        String::from_utf8(body).map_err(|_| named.broken("the answer is not UTF-8"))
    };
    futures::stream::once(text).boxed()
}

/// As much of a body as comes, up to a limit.
pub(super) async fn read<E>(pieces: impl Stream<Item = Result<Bytes, E>>, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut pieces = std::pin::pin!(pieces);
    while let Some(Ok(piece)) = pieces.next().await {
        body.extend_from_slice(&piece);
        if body.len() > limit {
            body.truncate(limit);
            break;
        }
    }
    body
}

/// Bounds what the parser may gather, and keeps from it what it cannot bear.
struct Guard {
    limit: usize,
    named: Named,
    seen: usize,
    /// The first bytes, for as long as there may be a byte order mark.
    begin: Option<Vec<u8>>,
}

impl Guard {
    fn pass(&mut self, piece: Bytes) -> Result<Bytes, ModelError> {
        self.seen += piece.len();
        if self.seen > self.limit {
            return Err(self.named.too_large(self.limit));
        }
        let Some(mut begin) = self.begin.take() else { return Ok(piece) };
        begin.extend_from_slice(&piece);
        let marks = begin.chunks(BYTE_ORDER_MARK.len()).take_while(|it| *it == BYTE_ORDER_MARK).count();
        begin.drain(..marks * BYTE_ORDER_MARK.len());
        if BYTE_ORDER_MARK.starts_with(&begin) {
            self.begin = Some(begin);
            return Ok(Bytes::new());
        }
        Ok(begin.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Failure;

    const STREAM: &str =
        "\u{feff}: a comment\r\ndata: {\"a\": 1}\r\n\r\nevent: x\ndata: two\ndata: lines\n\nid: 7\n\ndata: ä€😀\n\n";

    fn read_all(pieces: Vec<Vec<u8>>, limit: usize) -> Vec<Result<String, ModelError>> {
        let pieces = futures::stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed();
        futures::executor::block_on(events(pieces, limit, Named::new("it")).collect())
    }

    fn split(bytes: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
        let mut at: Vec<_> = at.iter().map(|at| at % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
        at.sort_unstable();
        at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_gives_the_same_events(at in prop::collection::vec(any::<usize>(), 0..20)) {
            let events = read_all(split(STREAM.as_bytes(), &at), 1000);
            let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(events, ["{\"a\": 1}", "two\nlines", "ä€😀"]);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
            read_all(pieces, 1000);
        }
    }

    #[test]
    fn byte_order_marks_are_left_out_however_many_there_are() {
        for marks in 0..4 {
            let stream = format!("{}data: x\n\n", "\u{feff}".repeat(marks)).into_bytes();
            for size in 1..=stream.len() {
                let events = read_all(stream.chunks(size).map(<[u8]>::to_vec).collect(), 1000);
                assert_eq!(events, [Ok("x".to_owned())], "{marks} marks in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_stream_without_end_is_cut_off() {
        let error = read_all(vec![vec![b'x'; 600]; 2], 1000).pop().unwrap().unwrap_err();
        assert_eq!(error.kind, Failure::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_byte_may_take_longer_than_the_next() {
        let timing = Timing { first: Duration::from_secs(9), silence: Duration::from_secs(2), ..Timing::default() };
        let slow = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(Bytes::from_static(b"x"))
        };
        let pieces = futures::stream::iter([8, 1, 3]).then(slow).boxed();
        let read: Vec<_> = in_time(pieces, timing, Named::new("it")).collect().await;
        assert_eq!(read.len(), 3);
        let silent = read[2].as_ref().unwrap_err();
        assert_eq!((silent.kind, silent.message.as_str()), (Failure::Silent, "it said nothing for 2s"));
    }
}
