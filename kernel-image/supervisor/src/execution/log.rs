//! The events of one execution: numbered from 1, the newest in memory, the older ones in a file once there are many.
use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::SystemTime,
};

use bytes::Buf as _;
use kernelbox_proto::v1::{ExecutionEvent, execution_event::Kind};
use prost::Message as _;

/// Every so many events the place in the file is remembered.
const MARK_EVERY: u64 = 64;
/// What an event costs beside its content.
const OVERHEAD: usize = 128;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    memory: VecDeque<ExecutionEvent>,
    memory_bytes: usize,
    /// Events in the file: the first of all.
    spilled: u64,
    file: Option<Spill>,
}

#[derive(Debug)]
struct Spill {
    file: File,
    len: u64,
    /// Where the events 1, 65, 129, ... begin.
    marks: Vec<u64>,
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, memory: VecDeque::new(), memory_bytes: 0, spilled: 0, file: None }
    }

    /// The number of the newest event; 0 when there is none.
    pub(super) fn last(&self) -> u64 {
        self.spilled + self.memory.len() as u64
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |spill| spill.len)
    }

    /// Adds an event. At most about `keep` bytes stay in memory.
    pub(super) fn push(&mut self, kind: Kind, keep: usize) {
        let sequence = i64::try_from(self.last() + 1).unwrap_or(i64::MAX);
        let time = Some(SystemTime::now().into());
        let event = ExecutionEvent { execution: String::new(), sequence, time, kind: Some(kind) };
        self.memory_bytes += event.encoded_len() + OVERHEAD;
        self.memory.push_back(event);
        if self.memory_bytes > keep {
            self.spill(keep / 2);
        }
    }

    /// Moves the oldest events to the file until at most `keep` bytes are in memory. Where the file cannot be written they stay.
    pub(super) fn spill(&mut self, keep: usize) {
        if self.memory_bytes > keep
            && let Err(error) = self.try_spill(keep)
        {
            tracing::error!(%error, path = %self.path.display(), "cannot spill events");
        }
    }

    fn try_spill(&mut self, keep: usize) -> io::Result<()> {
        let spill = match &mut self.file {
            Some(spill) => spill,
            None => {
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&self.path)?;
                self.file.insert(Spill { file, len: 0, marks: Vec::new() })
            }
        };
        let (mut bytes, mut count, mut freed, mut marks) = (Vec::new(), 0, 0, Vec::new());
        for event in &self.memory {
            if self.memory_bytes - freed <= keep {
                break;
            }
            if (self.spilled + count).is_multiple_of(MARK_EVERY) {
                marks.push(spill.len + bytes.len() as u64);
            }
            freed += event.encoded_len() + OVERHEAD;
            event.encode_length_delimited(&mut bytes).map_err(io::Error::other)?;
            count += 1;
        }
        spill.file.write_all_at(&bytes, spill.len)?;
        spill.len += bytes.len() as u64;
        spill.marks.extend(marks);
        self.memory.drain(..usize::try_from(count).unwrap_or(0));
        self.memory_bytes -= freed;
        self.spilled += count;
        Ok(())
    }

    /// The events after number `after`, as many as fit into `limit` bytes and at least one if there is one.
    pub(super) fn read(&self, after: u64, limit: usize) -> io::Result<Vec<ExecutionEvent>> {
        if after < self.spilled {
            return self.read_file(after, limit);
        }
        let skip = usize::try_from(after - self.spilled).unwrap_or(usize::MAX);
        let (mut events, mut bytes) = (Vec::new(), 0);
        for event in self.memory.iter().skip(skip) {
            bytes += event.encoded_len();
            if bytes > limit && !events.is_empty() {
                break;
            }
            events.push(event.clone());
        }
        Ok(events)
    }

    fn read_file(&self, after: u64, limit: usize) -> io::Result<Vec<ExecutionEvent>> {
        let Some(spill) = &self.file else { return Ok(Vec::new()) };
        let mark = usize::try_from(after / MARK_EVERY).unwrap_or(usize::MAX);
        let begin = spill.marks.get(mark).copied().unwrap_or(0);
        let mut number = after / MARK_EVERY * MARK_EVERY;
        let mut reader = Reader { spill, at: begin, buffer: bytes::BytesMut::new() };
        let (mut events, mut bytes) = (Vec::new(), 0);
        while number < self.spilled {
            let event = reader.next()?;
            number += 1;
            if number <= after {
                continue;
            }
            bytes += event.encoded_len();
            if bytes > limit && !events.is_empty() {
                break;
            }
            events.push(event);
        }
        Ok(events)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.file.is_some() {
            fs::remove_file(&self.path).ok();
        }
    }
}

struct Reader<'a> {
    spill: &'a Spill,
    at: u64,
    buffer: bytes::BytesMut,
}

impl Reader<'_> {
    fn next(&mut self) -> io::Result<ExecutionEvent> {
        // The length of an event is a varint of at most ten bytes.
        self.fill(10)?;
        let mut head = &self.buffer[..];
        let len = prost::decode_length_delimiter(&mut head).map_err(io::Error::other)?;
        let prefix = self.buffer.len() - head.remaining();
        self.buffer.advance(prefix);
        self.fill(len)?;
        if self.buffer.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        ExecutionEvent::decode(self.buffer.split_to(len).freeze()).map_err(io::Error::other)
    }

    /// Reads on until the buffer has `want` bytes, or the file ends.
    fn fill(&mut self, want: usize) -> io::Result<()> {
        while self.buffer.len() < want && self.at < self.spill.len {
            let left = usize::try_from(self.spill.len - self.at).unwrap_or(usize::MAX);
            let begin = self.buffer.len();
            self.buffer.resize(begin + left.min((64 << 10).max(want)), 0);
            let count = self.spill.file.read_at(&mut self.buffer[begin..], self.at)?;
            self.buffer.truncate(begin + count);
            self.at += count as u64;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernelbox_proto::v1::StreamText;
    use proptest::prelude::*;

    fn text(event: &ExecutionEvent) -> &str {
        match &event.kind {
            Some(Kind::Stdout(StreamText { text })) => text,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_reader_gets_exactly_the_rest_wherever_it_begins(
            sizes in prop::collection::vec(0usize..3000, 1..300), keep in 0usize..20_000, limit in 1usize..10_000, after in 0usize..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Log::new(dir.path().join("e"));
            for (n, size) in sizes.iter().enumerate() {
                log.push(Kind::Stdout(StreamText { text: format!("{n}:{}", "x".repeat(*size)) }), keep);
            }
            let mut at = after.min(sizes.len()) as u64;
            while at < log.last() {
                let events = log.read(at, limit).unwrap();
                prop_assert!(!events.is_empty());
                for event in events {
                    let n = usize::try_from(at).unwrap();
                    prop_assert_eq!(event.sequence, i64::try_from(at).unwrap() + 1);
                    let expected = format!("{n}:{}", "x".repeat(sizes[n]));
                    prop_assert_eq!(text(&event), &expected);
                    at += 1;
                }
            }
            prop_assert_eq!(at as usize, sizes.len());
        }
    }

    #[test]
    fn the_file_goes_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path().join("e"));
        log.push(Kind::Stdout(StreamText { text: "x".repeat(100) }), 0);
        assert!(log.memory_bytes() == 0 && log.file_bytes() > 100);
        assert!(dir.path().join("e").exists());
        drop(log);
        assert!(!dir.path().join("e").exists());
    }
}
