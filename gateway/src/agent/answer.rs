//! Cleans an answer of links that lead nowhere: models invent `sandbox:` addresses and pictures. Code is left as it is. Pure.

use crate::fetch::decoded;

/// Where models think that files are.
const SCHEMES: [&str; 3] = ["sandbox:", "file:", "attachment:"];
const FOLDERS: [&str; 3] = ["/workspace/", "/mnt/data/", "./"];

/// Links within links' words. Markdown has none but pictures; the bound keeps the stack.
const MAX_DEPTH: usize = 3;
/// Bytes of a link's words, and of its target. What has more is text, so that no bracket is looked for over and over.
const MAX_WORDS: usize = 512;
const MAX_TARGET: usize = 2 << 10;

/// The answer, with the files that the turn made known by their paths in the workspace.
pub(crate) fn clean(answer: &str, artifacts: &[String]) -> String {
    let mut cleaned = String::with_capacity(answer.len());
    let mut fence: Option<(char, usize)> = None;
    let mut was_gone = false;
    for line in answer.split_inclusive('\n') {
        let mark = mark(line);
        match (fence, mark) {
            (None, Some(_)) => fence = mark,
            // The end has the same sign, at least as often, and nothing behind it.
            (Some((sign, count)), Some((other, more))) if sign == other && more >= count && is_bare(line, sign) => {
                fence = None;
            }
            (Some(_), _) => {}
            (None, None) => {
                let clean = text(line, artifacts, 0);
                // A line that had nothing but a picture goes with it.
                let is_blank = line.trim().is_empty();
                let is_gone = clean.trim().is_empty() && !is_blank;
                // Of the empty lines around it one is enough.
                if !is_gone && !(was_gone && is_blank && (cleaned.is_empty() || cleaned.ends_with("\n\n"))) {
                    cleaned.push_str(&clean);
                }
                was_gone = is_gone;
                continue;
            }
        }
        cleaned.push_str(line);
    }
    cleaned.trim_end().to_owned()
}

/// The sign of a fence and how often it stands there.
fn mark(line: &str) -> Option<(char, usize)> {
    let line = line.trim_start();
    let sign = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let count = line.chars().take_while(|c| *c == sign).count();
    let rest = &line[count..];
    // With a backtick behind it, it is code within a line.
    (count >= 3 && (sign == '~' || !rest.contains('`'))).then_some((sign, count))
}

fn is_bare(line: &str, sign: char) -> bool {
    line.trim().chars().all(|c| c == sign)
}

/// A line outside of fences, or the words of a link in so many others.
fn text(line: &str, artifacts: &[String], depth: usize) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let step = match c {
            '`' => code(rest).map(|end| (rest[..end].to_owned(), end)),
            '!' => rest[1..].starts_with('[').then(|| picture(rest, artifacts)).flatten(),
            '[' if depth < MAX_DEPTH => link(rest, artifacts, depth),
            '<' => bare(&rest[1..], artifacts)
                .filter(|(_, end)| rest[1 + end..].starts_with('>'))
                .map(|(it, end)| (it, end + 2)),
            's' if !is_within(&out) => bare(rest, artifacts),
            _ => None,
        };
        let (add, length) = step.unwrap_or_else(|| (c.to_string(), c.len_utf8()));
        // Where something is removed between two spaces, one is enough.
        let is_gap = add.is_empty() && (out.is_empty() || out.ends_with(' '));
        out.push_str(&add);
        rest = &rest[length..];
        rest = if is_gap { rest.strip_prefix(' ').unwrap_or(rest) } else { rest };
    }
    out
}

/// The length of code within a line: up to as many backticks as it begins with.
fn code(text: &str) -> Option<usize> {
    let count = text.chars().take_while(|c| *c == '`').count();
    let mut at = count;
    while let Some(found) = text[at..].find('`') {
        at += found;
        let run = text[at..].chars().take_while(|c| *c == '`').count();
        at += run;
        if run == count {
            return Some(at);
        }
    }
    // None ends it: the backticks are text.
    Some(count)
}

/// `![words](target)`: stays where it leads to the web or to a file that was made, under its real path.
fn picture(text: &str, artifacts: &[String]) -> Option<(String, usize)> {
    let (words, target, length) = parts(&text[1..])?;
    let clean = match made(target, artifacts) {
        _ if is_web(target) => text[..=length].to_owned(),
        Some(path) => format!("![{words}]({})", encoded(path)),
        None => String::new(),
    };
    Some((clean, length + 1))
}

/// `[words](target)`: the words alone where the target is a place in a sandbox, with the name of a file that was made.
fn link(text: &str, artifacts: &[String], depth: usize) -> Option<(String, usize)> {
    let (words, target, length) = parts(text)?;
    // A picture that links somewhere.
    let inner = self::text(words, artifacts, depth + 1);
    if !is_place(target) {
        return Some((format!("[{inner}{}", &text[words.len() + 1..length]), length));
    }
    let name = made(target, artifacts).map_or_else(|| file_name(target), String::as_str);
    let clean = match made(target, artifacts) {
        Some(path) if !inner.is_empty() && !inner.contains(file_name(path)) => format!("{inner} ({path})"),
        _ if inner.trim().is_empty() => name.to_owned(),
        _ => inner,
    };
    Some((clean, length))
}

/// An address that stands alone.
fn bare(text: &str, artifacts: &[String]) -> Option<(String, usize)> {
    let rest = text.strip_prefix("sandbox:")?;
    let end = rest.find(|c: char| c.is_whitespace() || "()<>[]{}\"'`*,;".contains(c)).unwrap_or(rest.len());
    let target = rest[..end].trim_end_matches(['.', '!', '?', ':']);
    if !target.starts_with('/') {
        return None;
    }
    let name = made(target, artifacts).map_or_else(|| file_name(target), String::as_str);
    Some((name.to_owned(), "sandbox:".len() + target.len()))
}

/// Whether what comes is the middle of a word or an address.
fn is_within(before: &str) -> bool {
    !before.is_empty() && !before.ends_with(|c: char| c.is_whitespace() || "(<\"'*[>".contains(c))
}

/// Of `[words](target "title")`: the words, the target, and the length of it all.
fn parts(text: &str) -> Option<(&str, &str, usize)> {
    let words = balanced(within(text, MAX_WORDS), '[', ']')?;
    let rest = text[words.len() + 2..].strip_prefix('(')?;
    let inside = match rest.trim_start().strip_prefix('<') {
        // A picture written out has no end to its length, but no brackets in it either.
        _ if rest.starts_with("data:") => &rest[..rest.find(['(', ')']).filter(|at| rest[*at..].starts_with(')'))?],
        Some(_) => {
            let rest = within(rest, MAX_TARGET);
            &rest[..rest.find(">)").map(|at| at + 1).or_else(|| rest.find(')'))?]
        }
        None => balanced(within(&text[words.len() + 2..], MAX_TARGET), '(', ')')?,
    };
    let target = inside.trim();
    let target = match target.strip_prefix('<') {
        Some(target) => target.split('>').next().unwrap_or_default(),
        None => target
            .split_once([' ', '\t'])
            .filter(|(_, it)| it.trim_start().starts_with(['"', '\'', '(']))
            .map_or(target, |it| it.0),
    };
    Some((words, target, words.len() + 2 + inside.len() + 2))
}

/// No more than so many bytes of a text.
fn within(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What stands in the brackets that the text begins with.
fn balanced(text: &str, open: char, close: char) -> Option<&str> {
    let mut depth = 0_usize;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut is_escaped) => {}
            '\\' => is_escaped = true,
            c if c == open => depth += 1,
            c if c == close => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(&text[1..at]);
                }
            }
            _ => {}
        }
    }
    None
}

fn is_web(target: &str) -> bool {
    let target = target.to_ascii_lowercase();
    target.starts_with("http://") || target.starts_with("https://")
}

/// Whether it can only be meant as a file of the sandbox.
fn is_place(target: &str) -> bool {
    let target = target.to_ascii_lowercase();
    SCHEMES.iter().any(|scheme| target.starts_with(scheme)) || FOLDERS[..2].iter().any(|it| target.starts_with(it))
}

/// The artifact that is meant: by its path, else by its name where only one has it.
fn made<'a>(target: &str, artifacts: &'a [String]) -> Option<&'a String> {
    let mut path = target;
    for prefix in SCHEMES.iter().chain(&["//"]).chain(&FOLDERS) {
        path = path.strip_prefix(prefix).unwrap_or(path);
    }
    let path = decoded(path.split(['?', '#']).next().unwrap_or_default());
    let path = FOLDERS.iter().fold(path.as_str(), |path, folder| path.strip_prefix(folder).unwrap_or(path));
    let path = path.trim_start_matches('/');
    let mut named = artifacts.iter().filter(|it| file_name(it) == file_name(path));
    match (artifacts.iter().find(|it| *it == path), named.next(), named.next()) {
        (Some(same), ..) => Some(same),
        (None, Some(only), None) => Some(only),
        _ => None,
    }
}

fn file_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default()
}

/// As a target in Markdown.
fn encoded(path: &str) -> String {
    match path.contains([' ', '(', ')']) {
        true => format!("<{path}>"),
        false => path.to_owned(),
    }
}

#[cfg(test)]
mod tests;
