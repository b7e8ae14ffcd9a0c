//! What a checkpoint does not hold or bring back, for people, within bounds.

/// The most that is listed.
const MAX_NOTES: usize = 100;
/// The most characters of a path that are told.
const MAX_SHOWN: usize = 200;

/// Paths with reasons.
#[derive(Debug, Default)]
pub(super) struct Notes {
    lines: Vec<String>,
    more: usize,
}

impl Notes {
    pub(super) fn add(&mut self, path: &[u8], why: &str) {
        if self.lines.len() + 1 >= MAX_NOTES {
            self.more += 1;
            return;
        }
        let path: String = String::from_utf8_lossy(path).chars().take(MAX_SHOWN).collect();
        self.lines.push(format!("{path}: {why}"));
    }

    /// At most 100 lines; the last may say how many more there are.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}
