//! What a model meant by the arguments of a call. They should be JSON; small models write what looks like it. Pure.
//!
//! Code that breaks off in the middle is never run: half of a deletion is not what was asked for.
use serde_json::{Map, Value};

mod loose;

/// Names that models give to the code, after `code` itself.
const ALIASES: [&str; 5] = ["python", "source", "script", "input", "command"];
/// Calls in calls, and JSON in JSON strings, are opened this deep.
const MAX_DEPTH: u8 = 3;

const HOW: &str = r#"Nothing was run. Call python with one JSON object, for example {"code": "print(1 + 1)"}."#;

/// The code of a python call; otherwise words for the model.
pub(crate) fn code(arguments: &str) -> Result<String, String> {
    let code = find(arguments.trim(), 0)?;
    let code = unfenced(&code).unwrap_or(code);
    match code.trim() {
        "" => Err(format!("The call has no code. {HOW}")),
        _ => Ok(code),
    }
}

/// The arguments of any other tool; otherwise words for the model.
pub(crate) fn object(arguments: &str) -> Result<Map<String, Value>, String> {
    let text = arguments.trim();
    // How providers write a call without arguments.
    if matches!(text, "" | "null") {
        return Ok(Map::new());
    }
    let problem = match json(text) {
        Ok(Value::Object(object)) => return Ok(object),
        // JSON in a JSON string.
        Ok(Value::String(inner)) => match json(&inner) {
            Ok(Value::Object(object)) => return Ok(object),
            _ => "they are a string".to_owned(),
        },
        Ok(_) => "they are not an object".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(format!("The arguments must be one JSON object ({problem}). The tool was not called; call it again."))
}

/// JSON, where strings may have raw line breaks and tabs in them.
pub(super) fn json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| serde_json::from_str(&loose::escaped(text)).map_err(|_| error))
}

fn find(text: &str, depth: u8) -> Result<String, String> {
    match json(text) {
        Ok(Value::Object(object)) => in_object(&object, depth),
        Ok(Value::String(inner)) if depth < MAX_DEPTH && inner.trim_start().starts_with('{') => {
            find(inner.trim(), depth + 1)
        }
        Ok(Value::String(code)) => Ok(code),
        Ok(Value::Null | Value::Bool(_)) => Err(format!("The call has no code. {HOW}")),
        // A number or a list is an expression of Python's too.
        Ok(_) => Ok(text.to_owned()),
        Err(error) => match loose::string(text) {
            loose::Found::Code(code) => Ok(code),
            loose::Found::CutOff => Err(format!(
                "The call broke off before the end of its code. {HOW} Keep the code short; use several calls."
            )),
            loose::Found::NotJson => Ok(text.to_owned()),
            loose::Found::Unclear => Err(format!("The arguments are not valid JSON ({error}). {HOW}")),
        },
    }
}

fn in_object(object: &Map<String, Value>, depth: u8) -> Result<String, String> {
    let named = std::iter::once("code").chain(ALIASES).find_map(|name| object.get(name).and_then(as_code));
    if let Some(code) = named {
        return Ok(code);
    }
    let mut strings = object.iter().filter(|(name, _)| *name != "name").filter_map(|(_, value)| value.as_str());
    if let (Some(only), None) = (strings.next(), strings.next()) {
        return if depth < MAX_DEPTH && only.trim_start().starts_with('{') {
            find(only.trim(), depth + 1)
        } else {
            Ok(only.to_owned())
        };
    }
    // A whole call where its arguments should be.
    let inner = ["arguments", "parameters"].iter().find_map(|name| object.get(*name)?.as_object());
    match inner {
        Some(inner) if depth < MAX_DEPTH => in_object(inner, depth + 1),
        _ => Err(format!("The call has no code. {HOW}")),
    }
}

/// A string, or the lines of one.
fn as_code(value: &Value) -> Option<String> {
    match value {
        Value::String(code) => Some(code.clone()),
        Value::Array(lines) => {
            let lines: Option<Vec<_>> = lines.iter().map(Value::as_str).collect();
            lines.map(|lines| lines.iter().map(|line| line.trim_end_matches('\n')).collect::<Vec<_>>().join("\n"))
        }
        _ => None,
    }
}

/// The content of the only fenced block of a text, whatever stands around it.
fn unfenced(text: &str) -> Option<String> {
    let opened = text.trim_start().starts_with("```");
    let start = if opened { text.find("```")? } else { text.find("\n```")? + 1 };
    let (language, rest) = text[start + 3..].split_once('\n')?;
    let end = if rest.starts_with("```") { 0 } else { rest.rfind("\n```")? };
    let (inside, after) = rest.split_at(end);
    let after = after.trim_start().trim_start_matches('`');
    // Inside a string of the code, or between two blocks, fences mean something else.
    let only = language.chars().all(|c| c.is_alphanumeric() || c == ' ') && !inside.contains("\n```");
    let is_prose = |text: &str| !text.contains("\"\"\"") && !text.contains("'''");
    (only && is_prose(&text[..start]) && is_prose(after)).then(|| inside.to_owned())
}

#[cfg(test)]
mod tests;
