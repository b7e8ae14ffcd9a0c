//! A traceback as a model needs it: the frames of the user's own code, how many of libraries lie between, and the error. Pure.
use kernelbox_proto::v1::CodeError;

use super::escapes::plain;
use crate::agent::text::middle_cut;

/// One entry, at most: an error's message may hold a whole table.
const MAX_ENTRY: usize = 2000;

/// The traceback in at most `limit` bytes.
pub(super) fn trimmed(error: &CodeError, limit: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let (mut left_out, mut last) = (0_u32, String::new());
    for entry in error.traceback.iter().map(|entry| plain(entry)) {
        let text = entry.trim_end();
        if let Some(place) = library(text) {
            left_out += 1;
            place.clone_into(&mut last);
            continue;
        }
        tell(&mut lines, &mut left_out, &last);
        // The line above a traceback.
        if !text.is_empty() && !text.chars().all(|c| c == '-') {
            lines.push(middle_cut(&squeezed(text), MAX_ENTRY));
        }
    }
    tell(&mut lines, &mut left_out, &last);
    // The last entry is the error in its own words, where there are any.
    let name = plain(&error.name);
    if !lines.last().is_some_and(|line| line.contains(&name)) {
        let summary = format!("{name}: {}", plain(&error.value));
        lines.push(middle_cut(summary.trim_end_matches([':', ' ']), MAX_ENTRY));
    }
    middle_cut(&lines.join("\n"), limit)
}

fn tell(lines: &mut Vec<String>, left_out: &mut u32, last: &str) {
    match std::mem::take(left_out) {
        0 => {}
        1 => lines.push(format!("[1 library frame: {last}]")),
        n => lines.push(format!("[{n} library frames, the last: {last}]")),
    }
}

/// "NameError             Traceback (most recent call last)": the gap says nothing.
fn squeezed(line: &str) -> String {
    match line.split_once("  ").map(|(name, rest)| (name, rest.trim_start())) {
        Some((name, rest @ "Traceback (most recent call last)")) => format!("{name} {rest}:"),
        _ => line.to_owned(),
    }
}

/// The place of a frame that is not the user's, for example `pandas/core/frame.py:4102, in DataFrame.__getitem__(self, key)`.
fn library(entry: &str) -> Option<&str> {
    let place = entry.trim_start().strip_prefix("File ")?.lines().next()?.trim_matches('"');
    // Code that was made while it ran, and files of the workspace.
    let is_made = place.starts_with('<') && !place.starts_with("<frozen");
    let is_own = place.starts_with("/workspace/") || place.contains("/workspace/");
    let installed = place.rsplit_once("/site-packages/").or_else(|| place.rsplit_once("/dist-packages/"));
    if is_made || (is_own && installed.is_none()) {
        return None;
    }
    let standard = || {
        let (_, after) = place.rsplit_once("/lib/python")?;
        after.split_once('/').map(|(_, module)| module)
    };
    Some(installed.map(|(_, module)| module).or_else(standard).unwrap_or(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(name: &str, value: &str, traceback: &[&str]) -> CodeError {
        let traceback = traceback.iter().map(|entry| (*entry).to_owned()).collect();
        CodeError { name: name.into(), value: value.into(), traceback }
    }

    /// As IPython 9 wrote it.
    fn in_a_library() -> CodeError {
        error(
            "JSONDecodeError",
            "Expecting value: line 1 column 1 (char 0)",
            &[
                "\x1b[31m---------------------------------------------------------------------------\x1b[39m",
                "\x1b[31mJSONDecodeError\x1b[39m                           Traceback (most recent call last)",
                "\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[3]\x1b[39m\x1b[32m, line 2\x1b[39m\n\x1b[32m      1\x1b[39m \
                 import helper\n\x1b[32m----> \x1b[39m\x1b[32m2\x1b[39m \x1b[30;43mhelper\x1b[39;49m.load('')\n",
                "\x1b[36mFile \x1b[39m\x1b[32m/workspace/helper.py:3\x1b[39m, in \x1b[36mload\x1b[39m\x1b[34m(x)\x1b[39m\n\
                 \x1b[32m----> \x1b[39m\x1b[32m3\x1b[39m     return json.loads(x)\n",
                "\x1b[36mFile \x1b[39m\x1b[32m/usr/lib/python3.12/json/__init__.py:346\x1b[39m, in \x1b[36mloads\x1b[39m(s)\n    346 x",
                "\x1b[36mFile \x1b[39m\x1b[32m/usr/lib/python3.12/json/decoder.py:337\x1b[39m, in decode(self, s)\n--> 337 y\n",
                "\x1b[31mJSONDecodeError\x1b[39m: Expecting value: line 1 column 1 (char 0)",
            ],
        )
    }

    #[test]
    fn library_frames_are_counted_and_the_users_stay() {
        let text = trimmed(&in_a_library(), 4000);
        assert_eq!(
            text,
            "JSONDecodeError Traceback (most recent call last):\n\
             Cell In[3], line 2\n      1 import helper\n----> 2 helper.load('')\n\
             File /workspace/helper.py:3, in load(x)\n----> 3     return json.loads(x)\n\
             [2 library frames, the last: json/decoder.py:337, in decode(self, s)]\n\
             JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
        );
    }

    #[test]
    fn whose_a_frame_is_its_path_tells() {
        for (place, module) in [
            ("File /workspace/a.py:1, in f()", None),
            ("File /data/sessions/s/workspace/a.py:1", None),
            ("File <string>:2, in q()", None),
            ("Cell In[1], line 1", None),
            ("  Cell In[1], line 1\n    x = (\n", None),
            (
                "File <frozen importlib._bootstrap>:1387, in _gcd_import(name)",
                Some("<frozen importlib._bootstrap>:1387, in _gcd_import(name)"),
            ),
            (
                "File /v/lib/python3.12/site-packages/pandas/io/common.py:873, in get_handle()",
                Some("pandas/io/common.py:873, in get_handle()"),
            ),
            ("File /workspace/env/lib/python3.12/site-packages/x.py:1", Some("x.py:1")),
            ("File ~/.pyenv/versions/3.12.1/lib/python3.12/json/decoder.py:353", Some("json/decoder.py:353")),
            ("File /sessions/s/packages/qrcode/main.py:5", Some("/sessions/s/packages/qrcode/main.py:5")),
        ] {
            assert_eq!(library(place), module, "{place}");
        }
    }

    #[test]
    fn a_syntax_error_is_whole() {
        let entry = "  \x1b[36mCell\x1b[39m \x1b[32mIn[1]\x1b[39m\x1b[32m, line 1\x1b[39m\n    x = (\n         ^\nSyntaxError: incomplete input\n";
        let text = trimmed(&error("SyntaxError", "incomplete input (<ipython-input-1>, line 1)", &[entry]), 4000);
        assert_eq!(text, "  Cell In[1], line 1\n    x = (\n         ^\nSyntaxError: incomplete input");
    }

    #[test]
    fn an_error_without_a_traceback_is_its_name_and_message() {
        assert_eq!(trimmed(&error("KeyError", "'a'", &[]), 4000), "KeyError: 'a'");
        assert_eq!(trimmed(&error("KeyboardInterrupt", "", &[]), 4000), "KeyboardInterrupt");
    }

    #[test]
    fn a_long_message_is_said_once_and_cut() {
        let value = "v".repeat(100_000);
        let last = format!("ValueError: {value}");
        let text = trimmed(&error("ValueError", &value, &["Cell In[1], line 1", &last]), 3000);
        assert!(text.len() <= 3000 && text.starts_with("Cell In[1]"), "{text}");
        assert!(text.matches("ValueError").count() <= 2, "{text}");
    }

    proptest! {
        #[test]
        fn it_keeps_the_limit(entries in prop::collection::vec("(File |/workspace/|:|\n|-|\\PC){0,20}", 0..8), value in "\\PC{0,200}", limit in 100usize..400) {
            let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
            prop_assert!(trimmed(&error("E", &value, &entries), limit).len() <= limit);
        }
    }
}
