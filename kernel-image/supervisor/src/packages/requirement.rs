//! A requirement as pip takes it, of the harmless kind: a name, extras, versions.
use std::{fmt, str::FromStr};

use kernelbox_proto::Error;

/// For example `humanize`, `polars>=1`, `package[extra]==1.2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    text: String,
    name_len: usize,
}

impl Requirement {
    /// The distribution's name, normalised.
    pub fn name(&self) -> String {
        normalise(&self.text[..self.name_len])
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Requirement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            let problem = format!("{:?} is none: write \"name\", \"name>=1\" or \"name[extra]==1.2\"", cut(text));
            Error::invalid("requirements", problem)
        };
        let compact: String = text.chars().filter(|c| *c != ' ').collect();
        let name_len = compact.find(|c: char| !is_name(c)).unwrap_or(compact.len());
        let name = &compact[..name_len];
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if compact.len() > 200 || !ends(name.chars().next()) || !ends(name.chars().last()) {
            return Err(invalid());
        }
        let mut rest = &compact[name_len..];
        if let Some(extras) = rest.strip_prefix('[') {
            let (extras, after) = extras.split_once(']').ok_or_else(invalid)?;
            if extras.split(',').any(|extra| extra.is_empty() || extra.starts_with('-') || !extra.chars().all(is_name))
            {
                return Err(invalid());
            }
            rest = after;
        }
        let valid = |clause: &str| {
            let operators = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];
            let version = operators.iter().find_map(|operator| clause.strip_prefix(operator));
            version.is_some_and(|version| {
                ends(version.chars().next()) && version.chars().all(|c| is_name(c) || "*+!".contains(c))
            })
        };
        if !rest.is_empty() && !rest.split(',').all(valid) {
            return Err(invalid());
        }
        Ok(Self { text: compact, name_len })
    }
}

/// A distribution's name as indexes compare it.
pub(super) fn normalise(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(60)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_requirements_are_taken() {
        for (text, name) in [
            ("humanize", "humanize"),
            ("polars>=1", "polars"),
            ("Zope.Interface [test, docs] == 1.2.*, != 1.2.3", "zope-interface"),
            ("a~=1.0+local", "a"),
        ] {
            assert_eq!(text.parse::<Requirement>().unwrap().name(), name);
        }
    }

    #[test]
    fn options_paths_and_addresses_are_refused() {
        for text in [
            "",
            " ",
            "-r x",
            "--index-url=http://x",
            "./x",
            "/etc/passwd",
            "../x",
            "x @ http://y",
            "git+https://x",
            "x;y",
            "x\ny",
            "x[",
            "x[]",
            "x[-e]",
            "x==",
            "x>=1,",
            "x==$(id)",
            "x==../y",
            "C:\\x",
            "x #y",
            ".x",
            "x-",
            "é",
        ] {
            assert!(text.parse::<Requirement>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_one_harmless_line(text in "[a-z]{1,2}(==|>=|\\[|@|)([a-z0-9.]|[/@;:\\] ]){0,4}") {
            crate::fuzzing::requirement(&text);
        }
    }
}
