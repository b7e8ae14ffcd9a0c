//! Where words go: stdout, stderr, and how they stay apart where both are the same terminal.
//!
//! A command's answer is on stdout, everything about it on stderr. What comes between (code, its output) is the caller's choice.
use std::io::{IsTerminal as _, Write as _};

use super::{failure::Result, progress::Progress, say, table::write_stdout, terminal};

/// A stream of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    Stderr,
}

/// What belongs together and is kept apart from its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// Nothing yet.
    Start,
    Text,
    Reasoning,
    Code,
    Output,
    Note,
}

/// How words look on a terminal with colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Dim,
    Code,
}

impl Style {
    fn begin(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Dim => "\x1b[2m",
            Self::Code => "\x1b[36m",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Screen {
    pub progress: Progress,
    /// Blocks begin on lines of their own. Without it everything is written as it comes.
    tidy: bool,
    /// By stream: stdout, stderr.
    colours: (bool, bool),
    block: Block,
    /// The cursor is where a line begins.
    line_start: bool,
}

impl Screen {
    /// Writes everything as it comes: the output of code alone.
    pub(crate) fn raw(progress: Progress) -> Self {
        let colours = (terminal::colours(std::io::stdout()), terminal::colours(std::io::stderr()));
        Self { progress, tidy: false, colours, block: Block::Start, line_start: true }
    }

    /// Keeps blocks apart.
    pub(crate) fn tidy(progress: Progress) -> Self {
        Self { tidy: true, ..Self::raw(progress) }
    }

    pub(crate) fn colours(&self, to: To) -> bool {
        match to {
            To::Stdout => self.colours.0,
            To::Stderr => self.colours.1,
        }
    }

    /// What is written from here on, to this stream, belongs to this block.
    pub(crate) fn begin(&mut self, block: Block, to: To) -> Result<()> {
        let before = std::mem::replace(&mut self.block, block);
        if !self.tidy || (before == block && block != Block::Code) {
            return Ok(());
        }
        self.fresh_line(to)?;
        let together = matches!(
            (before, block),
            (Block::Start, _) | (_, Block::Note) | (Block::Code | Block::Note, Block::Output)
        );
        if together { Ok(()) } else { self.write(to, "\n", Style::Plain) }
    }

    /// Ends the line that is open.
    pub(crate) fn fresh_line(&mut self, to: To) -> Result<()> {
        if self.tidy && !self.line_start { self.write(to, "\n", Style::Plain) } else { Ok(()) }
    }

    /// Writes and flushes. Nobody may read stderr: that is no error.
    pub(crate) fn write(&mut self, to: To, text: &str, style: Style) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.progress.clear();
        self.line_start = text.ends_with('\n');
        let styled;
        let text = if style == Style::Plain || !self.colours(to) {
            text
        } else {
            styled = format!("{}{text}\x1b[0m", style.begin());
            &styled
        };
        match to {
            To::Stdout => write_stdout(text.as_bytes()),
            To::Stderr => {
                let mut stderr = std::io::stderr().lock();
                let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
                Ok(())
            }
        }
    }

    /// Bytes that only a terminal understands, such as an image; they end with a line.
    pub(crate) fn escape(&mut self, bytes: &[u8]) -> Result<()> {
        self.progress.clear();
        self.line_start = true;
        write_stdout(bytes)
    }

    /// A line of the command's own on stderr.
    pub(crate) fn note(&mut self, text: &str) {
        if self.tidy {
            // On one terminal it must not be put behind a line that is open on stdout. A stdout that is gone shows at the next word.
            let to = if std::io::stdout().is_terminal() { To::Stdout } else { To::Stderr };
            let _ = self.begin(Block::Note, to);
        }
        self.progress.clear();
        if self.tidy {
            // Some of it is a model's, or its provider's.
            let _ = self.write(To::Stderr, &format!("kernelbox: {}\n", terminal::harmless(text)), Style::Dim);
        } else {
            say(text);
        }
    }

    /// Everything so far is done with.
    pub(crate) fn end(&mut self, to: To) -> Result<()> {
        self.progress.clear();
        self.fresh_line(to)?;
        self.block = Block::Start;
        Ok(())
    }
}
