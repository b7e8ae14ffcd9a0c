//! What a terminal would show of a text, as far as its lines go: without escapes, and of a line that was overwritten (a progress bar)
//! only what stood there last. Pure.
use super::escapes::Escapes;
use crate::agent::text::Ends;

/// A stream of the program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The lines that were written, in a bounded size.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    lines: Ends,
    /// The line that is being written.
    line: Ends,
    /// A carriage return came: what follows overwrites the line.
    is_returned: bool,
    last: Option<Stream>,
    stdout: Escapes,
    stderr: Escapes,
}

impl Screen {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            lines: Ends::new(limit),
            line: Ends::new(limit),
            is_returned: false,
            last: None,
            stdout: Escapes::default(),
            stderr: Escapes::default(),
        }
    }

    /// A piece of a stream; escapes and lines may go on in the next one.
    pub(super) fn write(&mut self, stream: Stream, text: &str) {
        if self.last.replace(stream).is_some_and(|last| last != stream) {
            self.end_line();
        }
        let escapes = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let plain = escapes.removed(text);
        self.put(&plain);
    }

    /// Whole lines, as they are.
    pub(super) fn block(&mut self, text: &str) {
        self.end_line();
        self.lines.push(text);
        self.lines.push(if text.ends_with('\n') { "" } else { "\n" });
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.line.clear();
        self.is_returned = false;
    }

    pub(super) fn within(mut self, limit: usize) -> String {
        self.lines.append(&self.line);
        self.lines.within(limit)
    }

    fn put(&mut self, text: &str) {
        for part in text.split_inclusive(['\n', '\r']) {
            let content = part.trim_end_matches(['\n', '\r']);
            if !content.is_empty() {
                if std::mem::take(&mut self.is_returned) {
                    self.line.clear();
                }
                self.line.push(content);
            }
            if part.ends_with('\n') {
                self.line.push("\n");
                self.lines.append(&self.line);
                self.line.clear();
                self.is_returned = false;
            } else if part.ends_with('\r') {
                self.is_returned = true;
            }
        }
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.put("\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stream::{Stderr, Stdout};
    use proptest::prelude::*;

    fn shown(pieces: &[(Stream, &str)]) -> String {
        let mut screen = Screen::new(1000);
        pieces.iter().for_each(|(stream, text)| screen.write(*stream, text));
        screen.within(1000)
    }

    #[test]
    fn a_progress_bar_is_its_last_state() {
        let bar = "\r  0%|    | 0/2\r 50%|##  | 1/2";
        assert_eq!(
            shown(&[(Stderr, bar), (Stderr, "\r100%|####| 2/2\n"), (Stdout, "done\n")]),
            "100%|####| 2/2\ndone\n"
        );
        assert_eq!(shown(&[(Stdout, "a\r\nb\r"), (Stdout, "\nc\rd")]), "a\nb\nd");
    }

    #[test]
    fn escapes_go_also_where_they_are_split() {
        assert_eq!(shown(&[(Stdout, "\u{1b}[3"), (Stdout, "1mred\u{1b}[0m é\u{8}\u{7}\n")]), "red é\n");
        assert_eq!(shown(&[(Stdout, "\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\")]), "link");
        // One stream's escape is not the other's.
        assert_eq!(shown(&[(Stdout, "a\u{1b}["), (Stderr, "31m"), (Stdout, "1mb")]), "a\n31m\nb");
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut screen = Screen::new(1000);
        for _ in 0..100 {
            screen.write(Stdout, &"x".repeat(64 << 10));
        }
        let text = screen.within(1000);
        assert!(text.len() <= 1000 && text.contains("of 6553600 bytes"), "{text}");
    }

    #[test]
    fn streams_begin_lines_of_their_own() {
        assert_eq!(shown(&[(Stdout, "a"), (Stderr, "b"), (Stderr, "c\n"), (Stdout, "d")]), "a\nbc\nd");
    }

    proptest! {
        #[test]
        fn pieces_are_one_text(text in "(\u{1b}|\\[|[0-9;]|m|\r|\n|\\PC){0,60}", at in 0usize..60) {
            let at = text.floor_char_boundary(at);
            let (one, two) = text.split_at(at);
            prop_assert_eq!(shown(&[(Stdout, one), (Stdout, two)]), shown(&[(Stdout, &text)]));
            let text = shown(&[(Stdout, &text)]);
            let is_plain = !text.contains(['\r', '\u{1b}']);
            prop_assert!(is_plain);
        }
    }
}
