//! What docs/metrics.md says of a program's metrics.
use std::fmt::Write as _;

use crate::Book;

impl Book {
    /// A table of all metrics, in Markdown, between two marks by which it is found again.
    pub fn page(&self, program: &str) -> String {
        let mut entries = self.entries.clone();
        entries.sort_by_key(|entry| (!entry.name.starts_with("kernelbox_"), entry.name));
        let mut page = format!("<!-- {program}: made of its code, by make metrics -->\n");
        page.push_str("| metric | type | labels | what it says |\n| --- | --- | --- | --- |\n");
        for entry in entries {
            let label = |(name, values): &(&str, &[&str])| match values {
                [] => format!("`{name}`"),
                values => format!("`{name}`: {}", values.join(", ")),
            };
            let labels: Vec<_> = entry.labels.iter().map(label).collect();
            // Writing into a string does not fail.
            let _ = writeln!(page, "| `{}` | {} | {} | {} |", entry.name, entry.kind, labels.join("; "), entry.help);
        }
        let _ = writeln!(page, "<!-- end of {program} -->");
        page
    }

    /// What is wrong with names and helps, by Prometheus' conventions and this project's.
    pub fn oddities(&self) -> Vec<String> {
        let odd = |entry: &crate::book::Entry| {
            let (name, help) = (entry.name, entry.help);
            let is_total = name.ends_with("_total");
            let has_unit = name.ends_with("_seconds") || name.ends_with("_bytes");
            [
                (!name.starts_with("kernelbox_") && !name.starts_with("process_"), "has another prefix"),
                ((entry.kind == "counter") != is_total, "is a counter without _total, or has it and is none"),
                (entry.kind == "histogram" && !has_unit, "has no unit"),
                (!help.ends_with('.') || help.len() < 20, "is not told of in sentences"),
                (help.contains('|') || help.contains('\n'), "would break the table"),
            ]
            .into_iter()
            .filter(|(is_odd, _)| *is_odd)
            .map(move |(_, what)| format!("{name} {what}"))
            .collect::<Vec<_>>()
        };
        self.entries.iter().flat_map(odd).collect()
    }

    /// The names of all metrics.
    pub fn names(&self) -> Vec<&'static str> {
        self.entries.iter().map(|entry| entry.name).collect()
    }
}
