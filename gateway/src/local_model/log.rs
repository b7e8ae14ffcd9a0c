//! What the model's server says: into a file that cannot grow for ever, and its last words for a message.
use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    task::JoinHandle,
};

/// A longer file is put aside as `.old` and begun anew.
const LIMIT: u64 = 1 << 20;
const TAIL_BYTES: usize = 2 << 10;
const TAIL_LINES: usize = 4;

/// Copies the stream to the file until it ends; the task gives back its last lines.
///
/// It is read to its end whatever the disk says: a child must not block on its own log.
pub(super) fn follow(mut stream: impl AsyncRead + Send + Unpin + 'static, path: PathBuf) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut log = Log::open(path);
        let mut tail = Vec::new();
        let mut buffer = vec![0; 8 << 10];
        loop {
            let read = match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => &buffer[..read],
            };
            log.write(read);
            tail.extend_from_slice(read);
            tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        }
        last_lines(&tail)
    })
}

/// A file that was lost is not missed: its writes go nowhere.
struct Log {
    path: PathBuf,
    file: Option<(File, u64)>,
}

impl Log {
    fn open(path: PathBuf) -> Self {
        let file = open(&path);
        if let Err(error) = &file {
            tracing::warn!(error = error as &dyn std::error::Error, path = %path.display(), "the local model's log cannot be written");
        }
        Self { file: file.ok(), path }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some((file, size)) = &mut self.file else { return };
        if *size > LIMIT {
            // If it cannot be put aside, it is appended to no longer.
            let anew = std::fs::rename(&self.path, self.path.with_extension("log.old")).and_then(|()| open(&self.path));
            self.file = anew.ok();
            return self.write(bytes);
        }
        if file.write_all(bytes).is_ok() {
            *size += bytes.len() as u64;
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn last_lines(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_log_is_bounded_and_the_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local-model.log");
        let mut said: Vec<u8> = b"a line that is not utf-8 \xff\n".repeat(120_000);
        said.extend_from_slice(b"\none\ntwo\nthree\nfour\n");
        let tail = follow(io::Cursor::new(said), path.clone()).await.unwrap();
        assert_eq!(tail, "one\ntwo\nthree\nfour");
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        let most = LIMIT + (8 << 10);
        assert!(size(&path) <= most && size(&path.with_extension("log.old")) <= most);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_blocks_nobody() {
        let said = io::Cursor::new(b"last words\n".repeat(10));
        let tail = follow(said, PathBuf::from("/dev/null/none.log")).await.unwrap();
        assert!(tail.ends_with("last words"));
    }
}
