//! Tool calls from their fragments. Servers agree neither on indexes nor on ids; a call counts as new when it can be nothing else.

use serde_json::Value;

use crate::model::{ToolCall, own_id};

#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    /// What Google wants back with the call.
    extra: Option<Value>,
}

impl Calls {
    /// Takes a fragment of `tool_calls`.
    pub(super) fn push(&mut self, fragment: &Value) {
        let index = fragment["index"].as_u64();
        let id = fragment["id"].as_str().unwrap_or_default();
        let name = fragment["function"]["name"].as_str().unwrap_or_default();
        let arguments = match &fragment["function"]["arguments"] {
            Value::String(arguments) => arguments.clone(),
            Value::Null => String::new(),
            // Some servers do not quote them.
            arguments => arguments.to_string(),
        };
        let known = match index {
            Some(_) => self.0.iter_mut().rfind(|call| call.index == index),
            None => self.0.last_mut(),
        };
        let call = match known {
            Some(call) if !call.is_over_before(id, name) => call,
            _ => {
                self.0.push(Call { index, ..Call::default() });
                let Some(call) = self.0.last_mut() else { return };
                call
            }
        };
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        call.arguments.push_str(&arguments);
        if let extra @ Value::Object(_) = &fragment["extra_content"] {
            call.extra = Some(extra.clone());
        }
    }

    /// The calls, each with an id of its own; and what has to go back with them, by id.
    pub(super) fn finish(self) -> (Vec<ToolCall>, serde_json::Map<String, Value>) {
        let mut calls: Vec<ToolCall> = Vec::new();
        let mut extras = serde_json::Map::new();
        // A call without a name is none.
        for call in self.0.into_iter().filter(|call| !call.name.is_empty()) {
            let id = own_id(call.id, &calls);
            if let Some(extra) = call.extra {
                extras.insert(id.clone(), extra);
            }
            calls.push(ToolCall { id, name: call.name, arguments: call.arguments });
        }
        (calls, extras)
    }
}

impl Call {
    /// Whether a fragment with this id and name, which has this call's index or none, begins another call. Ollama gives all calls
    /// index 0; old versions of vLLM give every fragment another id, but the name only once.
    fn is_over_before(&self, id: &str, name: &str) -> bool {
        if name.is_empty() || self.name.is_empty() {
            return false;
        }
        if !id.is_empty() && !self.id.is_empty() {
            return id != self.id;
        }
        name != self.name || serde_json::from_str::<Value>(&self.arguments).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fragments: &[Value]) -> Vec<(String, String, String)> {
        let mut calls = Calls::default();
        fragments.iter().for_each(|fragment| calls.push(fragment));
        calls.finish().0.into_iter().map(|call| (call.id, call.name, call.arguments)).collect()
    }

    fn fragment(index: impl Into<Option<u64>>, id: &str, name: &str, arguments: &str) -> Value {
        let mut fragment = json!({"function": {"name": name, "arguments": arguments}});
        if let Some(index) = index.into() {
            fragment["index"] = index.into();
        }
        if !id.is_empty() {
            fragment["id"] = id.into();
        }
        fragment
    }

    fn of(calls: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
        calls.iter().map(|(id, name, arguments)| ((*id).into(), (*name).into(), (*arguments).into())).collect()
    }

    #[test]
    fn fragments_find_their_calls() {
        for (what, fragments, calls) in [
            (
                "by index, interleaved",
                vec![
                    fragment(0, "a", "f", ""),
                    fragment(1, "b", "g", "{"),
                    fragment(0, "", "", "{}"),
                    fragment(1, "", "", "}"),
                ],
                of(&[("a", "f", "{}"), ("b", "g", "{}")]),
            ),
            (
                "whole calls that all have index 0",
                vec![fragment(0, "a", "f", "{\"x\":1}"), fragment(0, "b", "f", "{\"x\":2}")],
                of(&[("a", "f", "{\"x\":1}"), ("b", "f", "{\"x\":2}")]),
            ),
            (
                "no indexes",
                vec![fragment(None, "a", "f", "{"), fragment(None, "", "", "}"), fragment(None, "b", "g", "{}")],
                of(&[("a", "f", "{}"), ("b", "g", "{}")]),
            ),
            (
                "id and name in every fragment",
                vec![fragment(0, "a", "f", "{"), fragment(0, "a", "f", "}")],
                of(&[("a", "f", "{}")]),
            ),
            (
                "another id in every fragment",
                vec![fragment(0, "a", "f", ""), fragment(0, "b", "", "{"), fragment(0, "c", "", "}")],
                of(&[("a", "f", "{}")]),
            ),
            (
                "arguments before the name",
                vec![fragment(0, "a", "", "{"), fragment(0, "", "f", "}")],
                of(&[("a", "f", "{}")]),
            ),
            ("no name at all", vec![fragment(0, "a", "", "{}")], vec![]),
        ] {
            assert_eq!(read(&fragments), calls, "{what}");
        }
        let object = json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}});
        assert_eq!(read(&[object]), of(&[("a", "f", "{\"x\":1}")]), "arguments as an object");
    }

    #[test]
    fn calls_without_ids_or_with_the_same_get_their_own() {
        let calls = read(&[
            fragment(0, "", "f", "{}"),
            fragment(0, "", "f", "{}"),
            fragment(1, "same", "f", "1"),
            fragment(2, "same", "g", "2"),
        ]);
        let mut ids: Vec<_> = calls.iter().map(|(id, ..)| id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!((calls.len(), ids.len()), (4, 4), "{calls:?}");
        assert!(calls[0].0.len() == 9 && calls[0].0.bytes().all(|b| b.is_ascii_alphanumeric()), "{calls:?}");
    }
}
