//! Notices that the same code runs to the same end again and again: small models do not stop by themselves. Pure.

/// What is to be done after code has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Nothing.
    Go,
    /// Tell the model this.
    Warn(&'static str),
    /// Stop the turn.
    Stop,
}

/// For the model, after the second failure.
const FAILED: &str = "The same code has failed twice with the same error. Do not run it again: change it, or tell the user what is wrong.";
/// For the model, when it runs again what has worked.
const WORKED: &str = "The same code has run before, and its output is above. Do not run it again: answer the user now.";
/// The same failure so often in a row stops the turn.
const FAILURES: u32 = 3;
/// The same success so often, too; there are reasons to look at something twice.
const SUCCESSES: u32 = 5;

/// What ran last in a turn, and how often in a row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repetition {
    last: Option<(String, Option<String>)>,
    count: u32,
}

impl Repetition {
    /// Code has run; `error` names how it failed (`ZeroDivisionError`, or a word for how it ended).
    pub(crate) fn ran(&mut self, code: &str, error: Option<&str>) -> Advice {
        let this = (normal(code), error.map(str::to_owned));
        if self.last.as_ref() != Some(&this) {
            self.last = Some(this);
            self.count = 0;
        }
        self.count += 1;
        let (most, warning) = if error.is_some() { (FAILURES, FAILED) } else { (SUCCESSES, WORKED) };
        match self.count {
            0 | 1 => Advice::Go,
            count if count < most => Advice::Warn(warning),
            _ => Advice::Stop,
        }
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

    const ZERO: Option<&str> = Some("ZeroDivisionError");

    #[test]
    fn the_same_failure_three_times_in_a_row_stops_the_turn() {
        let mut repetition = Repetition::default();
        assert_eq!(repetition.ran("1/0", ZERO), Advice::Go);
        assert_eq!(repetition.ran("# again\n\n1/0  \r\n", ZERO), Advice::Warn(FAILED));
        assert_eq!(repetition.ran("1/0\n", ZERO), Advice::Stop);
        assert_eq!(repetition.ran("1/0\n", ZERO), Advice::Stop);
    }

    #[test]
    fn the_same_success_is_remarked_on_and_stops_it_late() {
        let mut repetition = Repetition::default();
        assert_eq!(repetition.ran("plot()", None), Advice::Go);
        for _ in 2..SUCCESSES {
            assert_eq!(repetition.ran("plot()", None), Advice::Warn(WORKED));
        }
        assert_eq!(repetition.ran("plot()", None), Advice::Stop);
    }

    #[test]
    fn other_code_another_error_and_success_begin_anew() {
        let (missing, denied) = (Some("FileNotFoundError"), Some("PermissionError"));
        let mut repetition = Repetition::default();
        repetition.ran("open('a')", missing);
        assert_eq!(repetition.ran("open('a')", denied), Advice::Go);
        assert_eq!(repetition.ran("open('b')", denied), Advice::Go);
        assert_eq!(repetition.ran("open('b')", denied), Advice::Warn(FAILED));
        assert_eq!(repetition.ran("open('b')", None), Advice::Go);
        assert_eq!(repetition.ran("open('b')", denied), Advice::Go);
        // Indentation is part of the code.
        assert_eq!(repetition.ran(" open('b')", denied), Advice::Go);
    }
}
