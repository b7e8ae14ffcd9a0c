//! Plain aligned tables, and numbers as people read them.
use std::io::Write as _;

use kernelbox_proto::to_json;

use super::failure::{Failure, Result};

/// Rows under a header, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(ToString::to_string).collect()] }
    }

    /// One row; control characters are shown as escapes, so that a name cannot break the table or the terminal.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| visible(cell)).collect());
    }

    pub(crate) fn print(self) -> Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, &width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        write_stdout(text.as_bytes())
    }
}

/// Writes and flushes. A reader that is gone (`| head`) ends the command quietly.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Failure::new(super::failure::Exit::Failed, "")
        } else {
            Failure::local("cannot write to stdout", error)
        }
    })
}

/// A message as one line of proto3 JSON. `name` is its protobuf name without the package.
pub(crate) fn print_json(name: &str, message: &impl prost::Message) -> Result<()> {
    let line = to_json(&format!("kernelbox.v1.{name}"), message).map_err(|e| Failure::local("cannot write JSON", e))?;
    write_stdout(format!("{line}\n").as_bytes())
}

/// Control characters as Rust would escape them.
pub(crate) fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A text of its own below a table; nothing where it is empty. Lines stay lines, other control characters are shown as escapes.
pub(crate) fn paragraph(title: &str, text: &str) -> Result<()> {
    let lines: Vec<_> = text.trim_end().lines().map(visible).collect();
    if lines.is_empty() { Ok(()) } else { write_stdout(format!("\n{title}\n{}\n", lines.join("\n")).as_bytes()) }
}

/// The text up to this many characters.
pub(crate) fn cut(text: &str, at: usize) -> String {
    match text.char_indices().nth(at) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// For example `2026-01-31 12:00:00`, in UTC; `-` where absent.
pub(crate) fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.to_string().replace('T', " ").chars().take(19).collect())
}

/// For example `1.5 MB`.
pub(crate) fn bytes(size: i64) -> String {
    indicatif::DecimalBytes(u64::try_from(size).unwrap_or(0)).to_string()
}

/// An enum value's name without its prefix, in lower case: `SANDBOX_STATE_READY` is `ready`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_the_table() {
        assert_eq!(visible("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
    }
}
