//! Reads what a model took for JSON: one key and one string, with quotes and line breaks as they should not be. Pure.

/// What a text that is not JSON may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The string of the object.
    Code(String),
    /// An object whose string does not end.
    CutOff,
    /// No object: code, maybe.
    NotJson,
    /// An object, but of what?
    Unclear,
}

/// The string in `{"code": "..."}`.
pub(super) fn string(text: &str) -> Found {
    let Some(inside) = text.strip_prefix('{') else {
        return match text.strip_prefix('"') {
            // A JSON string that does not end, or code that begins with a string.
            Some(rest) if !rest.contains('"') => Found::CutOff,
            _ => Found::NotJson,
        };
    };
    let Some((name, value)) = key(inside.trim_start()) else {
        // `{"co` and `{"code"` are the beginnings of an object, `{1, 2}` and `{x: 1 for x in y}` are code.
        let begun = inside.trim().trim_start_matches(['"', '\'']);
        let is_name = begun.trim_end_matches(['"', '\'', ':', ' ']).chars().all(|c| c.is_alphanumeric() || c == '_');
        return if is_name { Found::CutOff } else { Found::NotJson };
    };
    // The prefix of a Python string.
    let value = value.trim_start();
    let unprefixed = value.trim_start_matches(['r', 'R', 'f', 'b', 'u']);
    let quoted = if unprefixed.starts_with(['"', '\'', '`']) { unprefixed } else { value };
    for triple in ["\"\"\"", "'''", "```"] {
        if let Some(rest) = quoted.strip_prefix(triple) {
            return match end(rest, triple) {
                // Raw line breaks mean that nothing else is escaped either.
                Some(code) if code.contains('\n') => Found::Code(code.trim_matches('\n').to_owned()),
                Some(code) => Found::Code(unescaped(code)),
                None => Found::CutOff,
            };
        }
    }
    for quote in ["\"", "'", "`"] {
        if let Some(rest) = quoted.strip_prefix(quote) {
            return end(rest, quote).map_or(Found::CutOff, |code| Found::Code(unescaped(code)));
        }
    }
    match value.chars().next() {
        None => Found::CutOff,
        // Whoever leaves out the quotes of the code has escaped nothing in it.
        Some(_) if name == "code" => {
            value.trim_end().strip_suffix('}').map_or(Found::CutOff, |code| Found::Code(code.trim_end().to_owned()))
        }
        Some(_) => Found::Unclear,
    }
}

/// A key and what follows its colon. Without quotes only `code` is one: `{x: 1}` is Python.
fn key(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (name, rest) = match quote {
        Some(quote) => text[1..].split_once(quote)?,
        None => ("code", text.strip_prefix("code")?),
    };
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    rest.trim_start().strip_prefix(':').filter(|_| is_name).map(|value| (name, value))
}

/// What stands before the last quote, if nothing but the object's end follows it.
fn end<'a>(text: &'a str, quote: &str) -> Option<&'a str> {
    let (code, rest) = text.rsplit_once(quote)?;
    let escaped = code.len() - code.trim_end_matches('\\').len();
    let is_end = rest.chars().all(|c| c.is_whitespace() || matches!(c, '}' | ','));
    (is_end && escaped % 2 == 0).then_some(code)
}

/// Undoes the escapes of JSON and of Python's quotes; others are the code's own.
fn unescaped(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        code.push_str(before);
        let mut chars = escape.chars().skip(1);
        let plain = match chars.next() {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some(c @ ('"' | '\'' | '\\' | '/' | '`')) => Some(c),
            _ => None,
        };
        code.push(plain.unwrap_or('\\'));
        rest = &escape[if plain.is_some() { 2 } else { 1 }..];
    }
    code.push_str(rest);
    code
}

/// The text with the control characters of its strings escaped, as JSON wants them.
pub(super) fn escaped(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 16);
    let (mut in_string, mut after_backslash) = (false, false);
    for c in text.chars() {
        if in_string && c < ' ' {
            // A backslash before a raw line break is the code's own.
            json.push_str(if after_backslash { "\\" } else { "" });
            json.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            json.push(c);
        }
        in_string ^= c == '"' && !after_backslash;
        after_backslash = in_string && c == '\\' && !after_backslash;
    }
    json
}
