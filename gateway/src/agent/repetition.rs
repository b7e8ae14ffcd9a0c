//! Notices that the same code fails in the same way again and again: small models do not stop by themselves. Pure.

/// What is to be done after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Nothing: it is the first of its kind.
    Go,
    /// Tell the model, with [`WARNING`].
    Warn,
    /// Stop the turn.
    Stop,
}

/// For the model, after the second failure.
pub(crate) const WARNING: &str = "The same code has failed twice with the same error. Do not run it again: change it, or tell the user what is wrong.";

/// The failures of a turn, as far as they repeat.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repetition {
    last: Option<(String, String)>,
    count: u32,
}

impl Repetition {
    /// Code has failed, with an error of this name (`ZeroDivisionError`, or a word for how it ended).
    pub(crate) fn failed(&mut self, code: &str, error: &str) -> Advice {
        let this = (normal(code), error.to_owned());
        if self.last.as_ref() != Some(&this) {
            self.last = Some(this);
            self.count = 0;
        }
        self.count += 1;
        match self.count {
            0 | 1 => Advice::Go,
            2 => Advice::Warn,
            _ => Advice::Stop,
        }
    }

    /// Code has run to its end.
    pub(crate) fn worked(&mut self) {
        *self = Self::default();
    }
}

/// The code without what changes nothing: comments of their own line, empty lines, spaces at line ends.
fn normal(code: &str) -> String {
    let lines = code.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.trim_start().starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_three_times_in_a_row_stops_the_turn() {
        let mut repetition = Repetition::default();
        assert_eq!(repetition.failed("1/0", "ZeroDivisionError"), Advice::Go);
        assert_eq!(repetition.failed("# again\n\n1/0  \r\n", "ZeroDivisionError"), Advice::Warn);
        assert_eq!(repetition.failed("1/0\n", "ZeroDivisionError"), Advice::Stop);
        assert_eq!(repetition.failed("1/0\n", "ZeroDivisionError"), Advice::Stop);
    }

    #[test]
    fn other_code_another_error_and_success_begin_anew() {
        let mut repetition = Repetition::default();
        repetition.failed("open('a')", "FileNotFoundError");
        assert_eq!(repetition.failed("open('a')", "PermissionError"), Advice::Go);
        assert_eq!(repetition.failed("open('b')", "PermissionError"), Advice::Go);
        assert_eq!(repetition.failed("open('b')", "PermissionError"), Advice::Warn);
        repetition.worked();
        assert_eq!(repetition.failed("open('b')", "PermissionError"), Advice::Go);
        // Indentation is part of the code.
        assert_eq!(repetition.failed(" open('b')", "PermissionError"), Advice::Go);
    }
}
