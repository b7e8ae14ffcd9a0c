//! What a line means: a command, or a question and the files that it names.
use std::path::{Path, PathBuf};

pub(super) const HELP: &str = "In a chat:
  /file PATH     copy a file into the session; the next question is about it
  /files         list the session's files
  /save PATH     copy a file of the session here
  /new           go on in a new session
  /model [NAME]  let another model answer; without NAME the session's own
  /quit          end, as Ctrl-D does
  @PATH          in a question: attach this file
A line that ends with a backslash goes on in the next; a question that begins with
/ needs a space before it. Ctrl-C cancels what the model does, and not the session.";

/// A line that was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Nothing,
    Ask(String),
    Help,
    /// A path of this machine.
    File(String),
    Files,
    /// A path of the workspace.
    Save(String),
    New,
    /// None: the session's own.
    Model(Option<String>),
    Quit,
}

impl Command {
    /// Err: what is wrong with it.
    pub(super) fn read(line: &str) -> Result<Self, String> {
        if line.trim().is_empty() {
            return Ok(Self::Nothing);
        }
        let Some(command) = line.strip_prefix('/') else { return Ok(Self::Ask(line.trim().to_owned())) };
        let (name, rest) = command.trim().split_once(char::is_whitespace).unwrap_or((command.trim(), ""));
        let rest = rest.trim();
        match (name, rest) {
            ("file" | "save", "") => Err(format!("say which file: /{name} PATH")),
            ("file", path) => Ok(Self::File(path.to_owned())),
            ("save", path) => Ok(Self::Save(path.to_owned())),
            ("model", name) => Ok(Self::Model((!name.is_empty()).then(|| name.to_owned()))),
            ("help", "") => Ok(Self::Help),
            ("files", "") => Ok(Self::Files),
            ("new", "") => Ok(Self::New),
            ("quit", "") => Ok(Self::Quit),
            ("help" | "files" | "new" | "quit", _) => Err(format!("/{name} takes nothing more")),
            _ => Err(format!("there is no /{name}; /help lists what there is")),
        }
    }
}

/// The question as the model is to read it, and the files of this machine that it names by `@path`. Such a word becomes the name that the
/// file has in the session; a word that names no file stays as it is.
pub(super) fn attachments(question: &str) -> (String, Vec<PathBuf>) {
    let mut message = String::with_capacity(question.len());
    let mut paths: Vec<PathBuf> = Vec::new();
    for word in question.split_inclusive(char::is_whitespace) {
        match word.strip_prefix('@').and_then(named) {
            Some((path, rest)) => {
                message.push_str(&path.file_name().unwrap_or_default().to_string_lossy());
                message.push_str(rest);
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            None => message.push_str(word),
        }
    }
    (message, paths)
}

/// The file that a word names, and what of the word is no part of its name.
fn named(word: &str) -> Option<(PathBuf, &str)> {
    let whole = word.trim_end();
    let spare = whole.trim_end_matches(|c: char| ".,;:!?)]}'\"".contains(c));
    [whole, spare].into_iter().find_map(|name| {
        let path = local(name);
        path.is_file().then(|| (path, word.get(name.len()..).unwrap_or_default()))
    })
}

/// A path as people type it: `~/` is their home.
pub(super) fn local(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_or_a_question() {
        assert_eq!(Command::read("/file my data.csv "), Ok(Command::File("my data.csv".into())));
        assert_eq!(Command::read("/model"), Ok(Command::Model(None)));
        assert_eq!(Command::read("/model big one"), Ok(Command::Model(Some("big one".into()))));
        assert_eq!(Command::read("  \n"), Ok(Command::Nothing));
        assert_eq!(Command::read(" /etc is what?"), Ok(Command::Ask("/etc is what?".into())));
        assert_eq!(Command::read("/etc"), Err("there is no /etc; /help lists what there is".into()));
        assert!(Command::read("/save").is_err() && Command::read("/quit now").is_err());
        for line in HELP.lines().filter_map(|line| line.strip_prefix("  /")) {
            let name = line.split_whitespace().next().unwrap();
            assert!(Command::read(&format!("/{name}")).or(Command::read(&format!("/{name} x"))).is_ok(), "{name}");
        }
    }

    #[test]
    fn files_that_a_question_names_are_attached_under_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "1").unwrap();
        let at = format!("@{}", path.display());
        let (message, paths) = attachments(&format!("sum {at}, plot\n{at} for me@example.com and @nobody"));
        assert_eq!(message, "sum a.csv, plot\na.csv for me@example.com and @nobody");
        assert_eq!(paths, [path]);
        assert_eq!(attachments(&format!("@{}", dir.path().display())).1, Vec::<PathBuf>::new(), "a folder is no file");
    }
}
