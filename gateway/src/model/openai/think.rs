//! Reasoning that stands in the text, between `<think>` and `</think>` at its beginning: taken out as it streams by.
//!
//! Only the beginning counts: an answer may speak of the tags.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of an answer's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
}

#[derive(Debug, Default)]
pub(super) struct Think {
    state: State,
    /// What cannot be told yet: perhaps the beginning of a tag.
    held: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Begin,
    Thinking,
    /// Between the tag and the text, where only white space is.
    After,
    Text,
}

impl Think {
    /// Takes the next piece of text.
    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.held.push_str(text);
        loop {
            match self.state {
                State::Begin => {
                    let begin = self.held.trim_start();
                    if let Some(rest) = begin.strip_prefix(OPEN) {
                        self.held = rest.to_owned();
                        self.state = State::Thinking;
                    } else if OPEN.starts_with(begin) {
                        return;
                    } else {
                        self.state = State::Text;
                    }
                }
                State::Thinking => match self.held.find(CLOSE) {
                    Some(at) => {
                        let rest = self.held.split_off(at + CLOSE.len());
                        self.held.truncate(at);
                        reasoning(std::mem::replace(&mut self.held, rest), out);
                        self.state = State::After;
                    }
                    None => {
                        let held = self.held.split_off(self.held.len() - tail(&self.held));
                        reasoning(std::mem::replace(&mut self.held, held), out);
                        return;
                    }
                },
                State::After if self.held.trim_start().is_empty() => {
                    self.held.clear();
                    return;
                }
                State::After => {
                    self.held = self.held.trim_start().to_owned();
                    self.state = State::Text;
                }
                State::Text => {
                    if !self.held.is_empty() {
                        out.push(Piece::Text(std::mem::take(&mut self.held)));
                    }
                    return;
                }
            }
        }
    }

    /// No more text comes: what was held is what it looks like.
    pub(super) fn end(&mut self, out: &mut Vec<Piece>) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Thinking => reasoning(held, out),
            _ if held.is_empty() => {}
            _ => out.push(Piece::Text(held)),
        }
    }
}

fn reasoning(text: String, out: &mut Vec<Piece>) {
    if !text.is_empty() {
        out.push(Piece::Reasoning(text));
    }
}

/// How many bytes at the end may be the beginning of the closing tag.
fn tail(text: &str) -> usize {
    (1..CLOSE.len()).rev().find(|&length| text.ends_with(&CLOSE[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a str>) -> (String, String) {
        let (mut think, mut out) = (Think::default(), Vec::new());
        for piece in pieces {
            think.push(piece, &mut out);
        }
        think.end(&mut out);
        let (mut reasoning, mut text) = (String::new(), String::new());
        for piece in out {
            match piece {
                Piece::Text(it) => text.push_str(&it),
                Piece::Reasoning(it) => reasoning.push_str(&it),
            }
        }
        (reasoning, text)
    }

    #[test]
    fn reasoning_is_taken_out_and_everything_else_stays() {
        for (all, reasoning, text) in [
            ("<think>hm\n</think>\n\nhello", "hm\n", "hello"),
            ("\n <think></think>hello", "", "hello"),
            ("<think>never done </thi", "never done </thi", ""),
            ("hello <think>no</think>", "", "hello <think>no</think>"),
            ("<thinking>", "", "<thinking>"),
            (" a", "", " a"),
            ("<thi", "", "<thi"),
            ("", "", ""),
        ] {
            assert_eq!(read([all]), (reasoning.to_owned(), text.to_owned()), "{all:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(all in "(\\s?<think>)?[a</>think ä]{0,30}(</think>)?\\s{0,2}[a<> ]{0,10}", at in prop::collection::vec(any::<usize>(), 0..8)) {
            let mut at: Vec<_> = at.into_iter().map(|at| at % (all.len() + 1)).filter(|at| all.is_char_boundary(*at)).collect();
            at.extend([0, all.len()]);
            at.sort_unstable();
            prop_assert_eq!(read(at.windows(2).map(|pair| &all[pair[0]..pair[1]])), read([all.as_str()]));
        }
    }
}
