//! Lines for `input()`: from the terminal, or from whatever stdin is.
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use kernelbox_proto::v1::InputRequested;
use tokio::sync::mpsc;

use crate::command::terminal::Quiet;

/// Reads a line for each question, on a thread of its own: a read of stdin cannot be taken back.
#[derive(Debug, Default)]
pub(super) struct Lines {
    reader: Option<Reader>,
    /// The question that is open.
    question: Option<String>,
    /// A terminal shows nothing of what is typed while this lives.
    quiet: Option<Quiet>,
}

#[derive(Debug)]
struct Reader {
    ask: std::sync::mpsc::Sender<()>,
    lines: mpsc::Receiver<Option<String>>,
    /// The thread reads for an earlier question that was never answered.
    reading: bool,
}

impl Lines {
    /// A question of the code's.
    pub(super) fn ask(&mut self, question: &InputRequested) {
        self.question = Some(question.input.clone());
        if question.password && std::io::stdin().is_terminal() {
            self.quiet = Quiet::without_echo();
        }
        let reader = self.reader.get_or_insert_with(Reader::start);
        if !reader.reading {
            // A thread that has ended has said that stdin has, too.
            let _ = reader.ask.send(());
            reader.reading = true;
        }
    }

    /// The answer to the open question: which one it was, and the line. None when stdin has ended. Waits for ever while nothing is
    /// asked; may be cancelled.
    pub(super) async fn answer(&mut self) -> Option<(String, String)> {
        let (Some(reader), true) = (&mut self.reader, self.question.is_some()) else {
            return std::future::pending().await;
        };
        let line = reader.lines.recv().await.flatten();
        reader.reading = false;
        if self.quiet.take().is_some() {
            // The newline was not shown either.
            let _ = writeln!(std::io::stderr());
        }
        self.question.take().zip(line)
    }
}

impl Reader {
    fn start() -> Self {
        let (ask, asked) = std::sync::mpsc::channel();
        let (send, lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                let line = matches!(read, Ok(1..)).then(|| line.trim_end_matches(['\n', '\r']).to_owned());
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { ask, lines, reading: false }
    }
}
