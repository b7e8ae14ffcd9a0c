//! Where lines come from: an editor on a terminal, else whatever stdin is.
use std::{
    fs::DirBuilder,
    io::{BufRead as _, IsTerminal as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustyline::{
    Config, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::DefaultHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use tokio::sync::mpsc;

use crate::command::{
    server_file,
    table::write_stdout,
    terminal::{self, Kept},
};

const HISTORY: usize = 1000;
/// The prompt, plain and as a terminal shows it.
const PROMPT: (&str, &str) = ("> ", "\x1b[1;32m> \x1b[0m");

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Ctrl-C where nothing runs.
    Interrupted,
    End,
}

/// Reads a line when asked, on a thread of its own: a read of stdin cannot be taken back.
pub(super) struct Input {
    ask: std::sync::mpsc::Sender<()>,
    lines: mpsc::Receiver<Line>,
    terminal: bool,
    /// The terminal as it was, for an end that comes while a line is edited.
    kept: Option<Kept>,
}

impl Input {
    pub(super) fn new(data_dir: Option<&Path>) -> Self {
        let known = !matches!(std::env::var("TERM").unwrap_or_default().as_str(), "" | "dumb");
        let terminal = known && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let history = history_file(data_dir);
        let (ask, asked) = std::sync::mpsc::channel();
        let (send, lines) = mpsc::channel(1);
        let kept = terminal.then(Kept::of_terminal).flatten();
        std::thread::spawn(move || {
            let mut editor = if terminal { editor(history.as_deref()) } else { None };
            while asked.recv().is_ok() {
                let line = match &mut editor {
                    Some(editor) => edited(editor, history.as_deref()),
                    None => plain(),
                };
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { ask, lines, terminal, kept }
    }

    /// Whether a person types.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The next line. Must not be called again after it was cancelled: the thread still reads.
    pub(super) async fn next(&mut self) -> Line {
        // A thread that has ended says so below.
        let _ = self.ask.send(());
        self.lines.recv().await.unwrap_or(Line::End)
    }

    /// Leaves the terminal as it was, though a line is being edited.
    pub(super) fn abandon(self) {
        if let Some(kept) = self.kept {
            kept.restore();
            // The editor has switched bracketed paste on.
            let _ = write_stdout(b"\x1b[?2004l\r\n");
        }
    }
}

/// In the data directory, for this user alone; None where it cannot be made. History is a convenience: without it all else works.
fn history_file(data_dir: Option<&Path>) -> Option<PathBuf> {
    let dir = server_file::data_dir(data_dir).ok()?.join("state");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).ok()?;
    Some(dir.join("chat-history"))
}

type Lines = Editor<Continued, DefaultHistory>;

fn editor(history: Option<&Path>) -> Option<Lines> {
    let config = Config::builder().max_history_size(HISTORY).ok()?.history_ignore_space(true).build();
    let mut editor = Editor::with_config(config).ok()?;
    editor.set_helper(Some(Continued));
    if let Some(history) = history {
        // The first time there is none.
        let _ = editor.load_history(history);
    }
    Some(editor)
}

fn edited(editor: &mut Lines, history: Option<&Path>) -> Line {
    let prompt = if terminal::colours(std::io::stdout()) { PROMPT } else { (PROMPT.0, PROMPT.0) };
    match editor.readline(&prompt) {
        Ok(text) => {
            if !text.trim().is_empty() && editor.add_history_entry(text.as_str()).unwrap_or(false) {
                // Other chats write to it, too: add to it rather than write it anew. rustyline makes it 0600.
                let _ = history.map(|history| editor.append_history(history));
            }
            Line::Text(joined(&text))
        }
        Err(ReadlineError::Interrupted) => Line::Interrupted,
        Err(_) => Line::End,
    }
}

/// A line of what is no terminal, with those that a backslash joins to it.
fn plain() -> Line {
    let mut text = String::new();
    loop {
        match std::io::stdin().lock().read_line(&mut text) {
            Ok(1..) => {}
            _ if text.is_empty() => return Line::End,
            _ => return Line::Text(joined(&text)),
        }
        let line = text.trim_end_matches(['\n', '\r']).len();
        text.truncate(line);
        if !text.ends_with('\\') {
            return Line::Text(joined(&text));
        }
        text.push('\n');
    }
}

/// Lines that a backslash joins, as lines.
fn joined(text: &str) -> String {
    text.replace("\\\n", "\n")
}

/// A line that ends with a backslash goes on.
struct Continued;

impl Validator for Continued {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if context.input().ends_with('\\') { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Helper for Continued {}

impl Completer for Continued {
    type Candidate = String;
}

impl Hinter for Continued {
    type Hint = String;
}

impl Highlighter for Continued {}
