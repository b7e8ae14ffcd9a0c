//! What a model is told besides the conversation: the system prompt, the python tool, and notes on files and variables. Pure.
//!
//! The system prompt and the tools begin every call alike, so that providers can cache them: nothing that changes, no dates and no ids,
//! belongs there. Notes go into the user's message.
use kernelbox_proto::v1::{File, FileType, ListVariablesResponse, Session, Variable};
use serde_json::json;

use super::text::{end_cut, one_line, size};
use crate::model::ToolSpec;

/// The name of the built-in tool.
pub(crate) const PYTHON: &str = "python";

/// Kernelbox's own system prompt. Small local models read it too, at 45 tokens a second: at most 600 tokens.
const SYSTEM: &str = "\
You are a helpful assistant that solves tasks by running Python code. You have the tool `python`. It runs code in a stateful Jupyter \
kernel: variables, imports and files stay from one call to the next.

- Use the python tool for every calculation, every file and every chart. Never guess a result: run code and read its output.
- The working directory is /workspace. The user's files are there. Use relative paths, such as open('data.csv').
- Look at data before you use it: print its columns, types and first rows.
- Print what you want to see. The value of the last line is shown too.
- Draw charts with matplotlib (import matplotlib.pyplot as plt) and show them with plt.show(). The user \
sees every chart that you show.
- Save a file in the working directory only if the user wants a file. The user gets every file that you save.
- To use a package, import it. Missing packages install themselves on import.
- If code fails, read the error, find its cause and fix the code. Do not run the same code again. If it cannot be done, say why.
- input() does not work. Do not ask whether you may run code: run it.

When you have the result, answer briefly in plain words, with the numbers that matter and the names of files that you saved. Say only \
what the output shows. Do not repeat the code. Do not write links or images into the answer, and never invent a link or a file name.";

const MAX_FILES: usize = 50;
const MAX_VARIABLES: usize = 50;
const MAX_COLUMNS: usize = 12;
/// Lines of a file that are shown, and the bytes of one.
const HEAD_LINES: usize = 3;
const HEAD_LINE: usize = 300;
/// A name or path, in bytes.
const MAX_NAME: usize = 200;

/// The whole system prompt of a session.
pub(crate) fn system(session: &Session) -> String {
    let own = session.system_prompt.trim();
    let suffix = session.system_prompt_suffix.trim();
    let base = if own.is_empty() { SYSTEM } else { own };
    if suffix.is_empty() { base.to_owned() } else { format!("{base}\n\n{suffix}") }
}

/// The built-in tool.
pub(crate) fn python() -> ToolSpec {
    ToolSpec {
        name: PYTHON.to_owned(),
        description:
            "Runs Python code in the user's Jupyter kernel and returns what it prints, the value of its last line, and \
                      errors. State is kept between calls."
                .to_owned(),
        parameters: json!({
            "type": "object",
            "properties": { "code": { "type": "string", "description": "The Python code to run, one statement a line" } },
            "required": ["code"],
        }),
    }
}

/// Names the files that a message is about, and shows how some of them begin: who knows the columns need not guess them.
pub(crate) fn attachments(files: &[File], heads: &[(String, Vec<u8>)]) -> Option<String> {
    let named = || format!("[Files of this message, in the working directory: {}]", listed(files));
    (!files.is_empty()).then(|| heads.iter().map(|(path, bytes)| begins(path, bytes)).fold(named(), |a, b| a + &b))
}

/// The first lines of a file. The last of them may be cut off, so it is left out where there are others.
fn begins(path: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines: Vec<_> = text.lines().take(HEAD_LINES + 1).map(|line| end_cut(line, HEAD_LINE)).collect();
    lines.truncate(HEAD_LINES.min(lines.len().saturating_sub(1).max(1)));
    format!("\n[{} begins with these lines:\n{}\n]", name(path), lines.join("\n"))
}

/// Names the files of the session, when the model may not know them any more.
pub(crate) fn workspace(files: &[File]) -> Option<String> {
    let own: Vec<_> = files.iter().filter(|file| !file.path.starts_with('.')).cloned().collect();
    (!own.is_empty()).then(|| format!("[Files in the working directory: {}]", listed(&own)))
}

/// For the first message after the kernel's variables were lost.
pub(crate) const VARIABLES_GONE: &str = "[The kernel was restarted. The variables and imports of before are gone, files are kept. \
                                         Import and load again what you need.]";

/// Names the variables of the kernel, when the model may not know them any more.
pub(crate) fn variables(list: &ListVariablesResponse) -> Option<String> {
    let mut words: Vec<_> = list.variables.iter().take(MAX_VARIABLES).map(variable).collect();
    if list.variables.len() > MAX_VARIABLES || list.incomplete {
        words.push("and others".to_owned());
    }
    (!words.is_empty()).then(|| format!("[Variables in the kernel: {}]", words.join("; ")))
}

fn listed(files: &[File]) -> String {
    let mut words: Vec<_> = files.iter().take(MAX_FILES).map(file).collect();
    if files.len() > MAX_FILES {
        words.push(format!("and {} more", files.len() - MAX_FILES));
    }
    words.join(", ")
}

fn file(file: &File) -> String {
    let path = name(&file.path);
    match file.r#type() {
        FileType::Directory => format!("{path}/"),
        FileType::Symlink | FileType::Other => path,
        FileType::File | FileType::Unspecified => {
            format!("{path} ({})", size(u64::try_from(file.size).unwrap_or(0)))
        }
    }
}

/// For example `df: pandas.DataFrame, 150 x 2 (a int64, b object)`.
fn variable(variable: &Variable) -> String {
    let mut words = format!("{}: {}", name(&variable.name), name(&variable.r#type));
    if !variable.shape.is_empty() {
        let shape: Vec<_> = variable.shape.iter().map(i64::to_string).collect();
        words.push_str(&format!(", {}", shape.join(" x ")));
    }
    let mut columns: Vec<_> = variable
        .columns
        .iter()
        .take(MAX_COLUMNS)
        .map(|column| format!("{} {}", name(&column.name), name(&column.dtype)).trim_start().to_owned())
        .collect();
    if variable.columns.len() > MAX_COLUMNS {
        columns.push(format!("and {} more", variable.columns.len() - MAX_COLUMNS));
    }
    if !columns.is_empty() {
        words.push_str(&format!(" ({})", columns.join(", ")));
    }
    words
}

/// A name cannot end the note.
fn name(text: &str) -> String {
    one_line(&text.replace(['[', ']'], "?"), MAX_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernelbox_proto::v1::Column;

    fn a_file(path: &str, size: i64) -> File {
        File { path: path.into(), r#type: FileType::File.into(), size, ..Default::default() }
    }

    #[test]
    fn the_prompt_is_short_and_names_what_matters() {
        assert!(SYSTEM.len() <= 2400, "{}", SYSTEM.len());
        for word in
            ["stateful Jupyter kernel", "/workspace", "python tool", "plt.show()", "install themselves", "briefly"]
        {
            assert!(SYSTEM.contains(word), "{word}");
        }
    }

    #[test]
    fn a_session_replaces_the_prompt_and_adds_to_it() {
        let session = |own: &str, suffix: &str| Session {
            system_prompt: own.into(),
            system_prompt_suffix: suffix.into(),
            ..Default::default()
        };
        assert_eq!(system(&session("", " ")), SYSTEM);
        assert_eq!(system(&session("Be a pirate.", "")), "Be a pirate.");
        assert_eq!(system(&session("Be a pirate.", "Speak French.")), "Be a pirate.\n\nSpeak French.");
        assert!(system(&session("", "Speak French.")).ends_with("file name.\n\nSpeak French."));
    }

    #[test]
    fn files_are_named_with_their_sizes() {
        assert_eq!(attachments(&[], &[]), None);
        let note = attachments(&[a_file("iris.csv", 3716), a_file("a\nb].csv", 1)], &[]).unwrap();
        assert_eq!(note, "[Files of this message, in the working directory: iris.csv (3.7 KiB), a?b?.csv (1 bytes)]");
        let head = |text: &str| attachments(&[a_file("a.csv", 9)], &[("a.csv".into(), text.into())]).unwrap();
        let shown =
            "[Files of this message, in the working directory: a.csv (9 bytes)]\n[a.csv begins with these lines:\n";
        assert_eq!(head("x,y\n1,2\n3,4\n5,6\n7"), format!("{shown}x,y\n1,2\n3,4\n]"));
        assert_eq!(head("x,y\n1,"), format!("{shown}x,y\n]"), "what may be cut off is not shown");
        assert_eq!(head("x,y"), format!("{shown}x,y\n]"));
        assert!(head(&"x".repeat(5000)).len() < 500);
        let many: Vec<_> = (0..60).map(|n| a_file(&format!("{n}.csv"), 1)).collect();
        assert!(workspace(&many).unwrap().ends_with("49.csv (1 bytes), and 10 more]"));
        assert_eq!(workspace(&[a_file(".kernelbox/output/e1.txt", 1)]), None);
    }

    #[test]
    fn variables_are_named_with_their_shapes() {
        let column = |name: &str, dtype: &str| Column { name: name.into(), dtype: dtype.into() };
        let frame = Variable {
            name: "df".into(),
            r#type: "pandas.DataFrame".into(),
            shape: vec![150, 2],
            columns: vec![column("a", "int64"), column("b", "object")],
            ..Default::default()
        };
        let array = Variable {
            name: "x".into(),
            r#type: "numpy.ndarray".into(),
            shape: vec![3],
            columns: vec![column("", "float64")],
            ..Default::default()
        };
        let number = Variable { name: "n".into(), r#type: "int".into(), ..Default::default() };
        let list = ListVariablesResponse { variables: vec![frame, array, number], incomplete: true };
        let note = "[Variables in the kernel: df: pandas.DataFrame, 150 x 2 (a int64, b object); x: numpy.ndarray, 3 (float64); \
                    n: int; and others]";
        assert_eq!(variables(&list).unwrap(), note);
        assert_eq!(variables(&ListVariablesResponse::default()), None);
    }
}
