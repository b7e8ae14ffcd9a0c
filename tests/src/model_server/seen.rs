//! A request as the server saw it.
use axum::http::{HeaderMap, Method, Uri};
use serde_json::Value;

/// The format that a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// `POST .../chat/completions`
    OpenAi,
    /// `POST /openai/deployments/{deployment}/chat/completions`
    Azure,
    /// `POST .../messages`
    Anthropic,
}

impl Wire {
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        match path {
            _ if method != Method::POST => None,
            _ if path.ends_with("/messages") => Some(Self::Anthropic),
            _ if !path.ends_with("/chat/completions") => None,
            _ if path.starts_with("/openai/deployments/") => Some(Self::Azure),
            _ => Some(Self::OpenAi),
        }
    }
}

/// A request for an answer.
#[derive(Debug, Clone)]
pub struct Seen {
    pub wire: Wire,
    pub path: String,
    /// Without the `?`; empty if there is none.
    pub query: String,
    pub headers: HeaderMap,
    /// Null if it was not JSON.
    pub body: Value,
}

impl Seen {
    pub(super) fn new(wire: Wire, uri: &Uri, headers: HeaderMap, body: &[u8]) -> Self {
        Self {
            wire,
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            headers,
            body: serde_json::from_slice(body).unwrap_or_default(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn streams(&self) -> bool {
        self.body["stream"] == true
    }

    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The system prompt, in whatever place the format has for it.
    pub fn system(&self) -> String {
        match self.wire {
            Wire::Anthropic => text_of(&self.body["system"]),
            _ => self.messages().iter().filter(|it| it["role"] == "system").map(|it| text_of(&it["content"])).collect(),
        }
    }

    /// The text of the last message.
    pub fn last_text(&self) -> String {
        self.messages().last().map(|it| text_of(&it["content"])).unwrap_or_default()
    }

    /// The results of tools that the messages hold, as text, in order.
    pub fn results(&self) -> Vec<String> {
        let mut results = Vec::new();
        for message in self.messages() {
            match message["role"].as_str() {
                Some("tool" | "function") => results.push(text_of(&message["content"])),
                _ => {
                    let blocks = message["content"].as_array().into_iter().flatten();
                    let blocks = blocks.filter(|block| block["type"] == "tool_result");
                    results.extend(blocks.map(|block| text_of(&block["content"])));
                }
            }
        }
        results
    }

    /// The names of the tools that it offers.
    pub fn tools(&self) -> Vec<String> {
        let tools = self.body["tools"].as_array().into_iter().flatten().map(|it| match self.wire {
            Wire::Anthropic => &it["name"],
            _ => &it["function"]["name"],
        });
        let functions = self.body["functions"].as_array().into_iter().flatten().map(|it| &it["name"]);
        tools.chain(functions).filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// It wants words: no tool may be called.
    pub fn words_only(&self) -> bool {
        let choice = &self.body["tool_choice"];
        choice == "none" || choice["type"] == "none"
    }

    /// It uses the `functions` of before there were tools.
    pub fn is_legacy(&self) -> bool {
        self.body["functions"].is_array()
    }
}

/// The text of a string, or of the text parts of an array.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}
