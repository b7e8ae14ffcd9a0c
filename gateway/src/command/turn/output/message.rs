//! A message of the model's as it comes. Nothing is written here.
use kernelbox_proto::v1::TextDelta;

use crate::command::terminal::harmless;

/// The message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Names it; empty before the first.
    pub id: String,
    /// Its text as far as it was seen.
    pub text: String,
    /// Where in the message `text` begins: not at 0 for one whose beginning was seen by an earlier command.
    from: i64,
    /// Some of its text, or of its reasoning, says something.
    visible: bool,
    /// The same of its reasoning.
    thinks: bool,
}

impl Message {
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// More text; answers what of it is to be shown. Empty lines before the first word are not.
    pub(super) fn add(&mut self, delta: &TextDelta) -> String {
        if self.text.is_empty() {
            self.from = delta.offset;
        }
        let begins = self.text.trim().is_empty();
        self.text.push_str(&delta.text);
        let shown = begun(&delta.text, begins);
        self.visible |= !shown.is_empty();
        shown
    }

    /// More reasoning; answers what of it is to be shown.
    pub(super) fn think(&mut self, delta: &TextDelta) -> String {
        let shown = begun(&delta.text, !self.thinks);
        self.thinks |= !shown.is_empty();
        self.visible |= !shown.is_empty();
        shown
    }

    pub(super) fn was_shown(&self) -> bool {
        self.visible
    }

    /// What of the answer is still to be shown after the text that was; None where that was other text.
    pub(super) fn rest_of<'a>(&self, answer: &'a str) -> Option<&'a str> {
        let (seen, answer) = (self.text.trim(), answer.trim());
        if self.from > 0 && answer.ends_with(seen) {
            return Some("");
        }
        answer.strip_prefix(seen)
    }
}

fn begun(text: &str, begins: bool) -> String {
    harmless(if begins { text.trim_start_matches(['\n', '\r', ' ']) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[(i64, &str)]) -> (Message, String) {
        let mut message = Message::new("m");
        let add = |(offset, text): &(i64, &str)| {
            message.add(&TextDelta { text: (*text).to_owned(), message: "m".to_owned(), offset: *offset })
        };
        let shown = pieces.iter().map(add).collect();
        (message, shown)
    }

    #[test]
    fn an_answer_that_was_shown_is_not_said_again() {
        let (message, shown) = written(&[(0, "\n\n"), (2, "It is\n"), (8, "391.\n")]);
        assert_eq!(shown, "It is\n391.\n");
        assert_eq!(message.rest_of("It is\n391."), Some(""));
        assert_eq!(message.rest_of("It is\n391. Stopped."), Some(" Stopped."));
        assert_eq!(message.rest_of("It was 391."), None);
        assert_eq!(Message::default().rest_of("It is."), Some("It is."));
    }

    #[test]
    fn the_rest_of_a_message_whose_beginning_was_seen_before_is_enough() {
        let (message, _) = written(&[(6, "391.")]);
        assert_eq!(message.rest_of("It is 391."), Some(""));
        assert_eq!(message.rest_of("It is 392."), None);
    }
}
