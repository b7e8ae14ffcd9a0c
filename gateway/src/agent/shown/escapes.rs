//! Removes what only a terminal understands: escape sequences and control characters, but for line breaks and tabs. Pure.

/// Where in an escape sequence a text stands; the next piece of the text goes on there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Escapes {
    #[default]
    Outside,
    /// After ESC.
    Escape,
    /// Colours, movements: until a letter.
    Csi,
    /// Titles, links: until BEL or ESC \\, and never beyond the line, lest one that does not end hides all that follows.
    Text,
}

impl Escapes {
    /// The next piece of a text.
    pub(super) fn removed(&mut self, text: &str) -> String {
        text.chars().filter(|c| self.is_shown(*c)).collect()
    }

    fn is_shown(&mut self, c: char) -> bool {
        *self = match (*self, c) {
            (_, '\u{1b}') => Self::Escape,
            (Self::Outside, '\u{9b}') | (Self::Escape, '[') => Self::Csi,
            (Self::Escape, ']' | 'P' | 'X' | '^' | '_') => Self::Text,
            // A character set's name.
            (Self::Escape, ' '..='/') | (Self::Csi, ' '..='?') => *self,
            (Self::Text, c) if !matches!(c, '\u{7}' | '\u{9c}' | '\n') => Self::Text,
            // The last character of a sequence.
            (Self::Escape, '0'..='~') | (Self::Csi, '@'..='~') => {
                *self = Self::Outside;
                return false;
            }
            // A sequence that is none.
            _ => Self::Outside,
        };
        *self == Self::Outside && (matches!(c, '\n' | '\r' | '\t') || !c.is_control())
    }
}

/// A whole text without escapes and carriage returns.
pub(super) fn plain(text: &str) -> String {
    Escapes::default().removed(text).replace('\r', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_go_and_text_stays() {
        for (text, shown) in [
            ("\u{1b}[0;31mred\u{1b}[0m é\u{8}\u{7}\tx", "red é\tx"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{7}.", "link."),
            ("\u{1b}]0;never closed\nnext", "\nnext"),
            ("\u{1b}(Bplain\u{1b}[?25l\u{1b}[2K\u{1b}M", "plain"),
            ("\u{1b}\n\u{1b}[\nx\u{1b}é", "\n\nxé"),
            ("\u{9b}1mbold", "bold"),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_one_text(text in "(\u{1b}|\\[|\\]|[0-9;]|m|\r|\n|\\PC){0,60}", at in 0usize..60) {
            let (one, two) = text.split_at(text.floor_char_boundary(at));
            let mut escapes = Escapes::default();
            let pieces = escapes.removed(one) + &escapes.removed(two);
            prop_assert_eq!(pieces, Escapes::default().removed(&text));
        }
    }
}
