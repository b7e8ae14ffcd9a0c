//! Calls that a model wrote into its answer instead of making them: small local models do. Pure.
//!
//! Only an answer that is nothing but calls of known tools is taken for calls; with any prose around them they are text.
use serde_json::{Map, Value};

use super::arguments;
use crate::model::ToolCall;

/// Keys that name the tool, and those that hold its arguments.
const NAMES: [&str; 4] = ["name", "tool", "tool_name", "function"];
const ARGUMENTS: [&str; 4] = ["arguments", "parameters", "args", "input"];
/// What else may stand in a call.
const OTHERS: [&str; 3] = ["id", "type", "function"];

/// What may stand around a call, and its end.
const AROUND: [(&str, &str); 4] =
    [("<tool_call>", "</tool_call>"), ("<tools>", "</tools>"), ("```", "```"), ("~~~", "~~~")];

/// Fences that code may hold, before it is no call any more.
const MAX_FENCES: usize = 64;

/// The calls that an answer is; none where it is an answer. Their ids are `call_1` and so on.
pub(crate) fn calls(answer: &str, is_tool: impl Fn(&str) -> bool) -> Vec<ToolCall> {
    let mut values = Vec::new();
    if read(answer, &mut values).is_none() {
        return Vec::new();
    }
    let calls = values.into_iter().enumerate().map(|(at, value)| {
        let (name, arguments) = call(value)?;
        is_tool(&name).then(|| ToolCall { id: format!("call_{}", at + 1), name, arguments })
    });
    calls.collect::<Option<_>>().unwrap_or_default()
}

/// The JSON values of a text that holds nothing else, lists taken apart.
fn read(text: &str, values: &mut Vec<Value>) -> Option<()> {
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some((open, close)) = AROUND.iter().find(|(open, _)| rest.starts_with(open)) {
            let inside = &rest[open.len()..];
            let inside = if open.starts_with('<') { inside } else { language(inside) };
            // A tag that is not closed ends with the text: servers cut the end tag off.
            let (inside, after) = match closed(inside, close) {
                Some(found) => found,
                None if open.starts_with('<') => (inside, ""),
                None => return None,
            };
            flatten(arguments::json(inside.trim()).ok()?, values);
            rest = after.trim_start();
        } else {
            let (value, after) = first(rest)?;
            flatten(value, values);
            rest = after.trim_start();
        }
    }
    Some(())
}

/// Without the word after an opening fence.
fn language(inside: &str) -> &str {
    inside.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Splits at the first end mark before which there is whole JSON: code may hold fences of its own.
fn closed<'a>(text: &'a str, close: &str) -> Option<(&'a str, &'a str)> {
    let mut ends = text.match_indices(close).take(MAX_FENCES).map(|(at, _)| (&text[..at], &text[at + close.len()..]));
    ends.find(|(inside, _)| arguments::json(inside.trim()).is_ok())
}

/// The first JSON object or list of a text, and the rest.
fn first(text: &str) -> Option<(Value, &str)> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter();
    match stream.next()? {
        Ok(value) => Some((value, &text[stream.byte_offset()..])),
        // With raw line breaks it can only be the last.
        Err(_) => Some((arguments::json(text).ok()?, "")),
    }
}

fn flatten(value: Value, values: &mut Vec<Value>) {
    match value {
        Value::Array(list) => values.extend(list),
        value => values.push(value),
    }
}

/// The tool and its arguments, where the value is a call and nothing more.
fn call(value: Value) -> Option<(String, String)> {
    let Value::Object(mut object) = value else { return None };
    if let Some(Value::Object(inner)) = object.get_mut("function") {
        // As OpenAI writes them: {"type": "function", "function": {"name", "arguments"}}
        let inner = std::mem::take(inner);
        object.remove("function");
        return object.keys().all(|key| OTHERS.contains(&key.as_str())).then(|| plain(inner))?;
    }
    plain(object)
}

fn plain(mut object: Map<String, Value>) -> Option<(String, String)> {
    let name = NAMES.iter().find(|key| object.get(**key).is_some_and(Value::is_string))?;
    let Some(Value::String(name)) = object.remove(*name) else { return None };
    let arguments = ARGUMENTS.iter().find(|key| object.contains_key(**key))?;
    let arguments = match object.remove(*arguments)? {
        Value::String(text) => text,
        value @ Value::Object(_) => value.to_string(),
        _ => return None,
    };
    object.keys().all(|key| OTHERS.contains(&key.as_str())).then_some((name, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALL: &str = r#"{"name": "python", "arguments": {"code": "print(1)"}}"#;

    fn found(answer: &str) -> Vec<(String, String)> {
        let calls = calls(answer, |name| matches!(name, "python" | "salary"));
        calls.into_iter().map(|call| (call.name, call.arguments)).collect()
    }

    fn python() -> (String, String) {
        ("python".to_owned(), r#"{"code":"print(1)"}"#.to_owned())
    }

    #[test]
    fn an_answer_that_is_only_a_call_is_a_call() {
        for answer in [
            CALL.to_owned(),
            format!("```json\n{CALL}\n```"),
            format!("\n```\n{CALL}\n```\n"),
            format!("```{CALL}```"),
            format!("<tool_call>\n{CALL}\n</tool_call>"),
            format!("<tool_call>{CALL}"),
            format!("[{CALL}]"),
            format!("```tool_call\n[{CALL}]\n```"),
            r#"{"function": "python", "parameters": {"code": "print(1)"}}"#.to_owned(),
            r#"{"tool": "python", "args": {"code": "print(1)"}, "id": "7"}"#.to_owned(),
            r#"{"name": "python", "arguments": "{\"code\":\"print(1)\"}"}"#.to_owned(),
            r#"{"type": "function", "function": {"name": "python", "arguments": {"code": "print(1)"}}}"#.to_owned(),
        ] {
            assert_eq!(found(&answer), [python()], "{answer}");
        }
    }

    #[test]
    fn several_calls_keep_their_order_and_have_ids() {
        let salary = r#"{"name": "salary", "arguments": {}}"#;
        for answer in [
            format!("[{CALL}, {salary}]"),
            format!("{CALL}\n{salary}"),
            format!("```json\n{CALL}\n```\n```json\n{salary}\n```"),
            format!("<tool_call>{CALL}</tool_call>\n<tool_call>{salary}</tool_call>"),
        ] {
            assert_eq!(found(&answer), [python(), ("salary".to_owned(), "{}".to_owned())], "{answer}");
            let ids: Vec<_> = calls(&answer, |_| true).into_iter().map(|call| call.id).collect();
            assert_eq!(ids, ["call_1", "call_2"]);
        }
    }

    #[test]
    fn code_may_hold_raw_lines_and_fences() {
        let answer = "```json\n{\"name\": \"python\", \"arguments\": {\"code\": \"x = 1\nprint('```')\"}}\n```";
        assert_eq!(found(answer), [("python".to_owned(), r#"{"code":"x = 1\nprint('```')"}"#.to_owned())]);
    }

    #[test]
    fn anything_else_is_an_answer() {
        for answer in [
            String::new(),
            "The answer is 391.".to_owned(),
            format!("I will run this:\n```json\n{CALL}\n```"),
            format!("```json\n{CALL}\n```\nThis prints 1."),
            format!("{CALL} done"),
            "```python\nprint(1)\n```".to_owned(),
            "{}".to_owned(),
            "[]".to_owned(),
            "[1, 2]".to_owned(),
            r#"{"name": "python"}"#.to_owned(),
            r#"{"name": "python", "arguments": 5}"#.to_owned(),
            r#"{"name": "unknown", "arguments": {}}"#.to_owned(),
            r#"{"name": "python", "arguments": {}, "age": 5}"#.to_owned(),
            format!("[{CALL}, {{\"name\": \"unknown\", \"arguments\": {{}}}}]"),
            CALL[..CALL.len() - 1].to_owned(),
            format!("```json\n{CALL}"),
        ] {
            assert_eq!(found(&answer), [], "{answer}");
        }
    }

    proptest! {
        #[test]
        fn words_around_a_call_make_it_text(before in "[a-zA-Z.,! ]{0,20}", after in "[a-zA-Z.,! ]{0,20}") {
            let around = !before.trim().is_empty() || !after.trim().is_empty();
            let answer = format!("{before}\n```json\n{CALL}\n```\n{after}");
            prop_assert_eq!(found(&answer).is_empty(), around);
        }

        #[test]
        fn nothing_makes_it_panic(text in "(\\{|\"name\":|\"python\"|\\[|\\]|`{3}|<tool_call>|\\}|,|\\PC){0,30}") {
            found(&text);
        }
    }
}
