//! Jupyter's messages as outputs: pure, and tolerant of what kernels of any kind send.
use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use kernelbox_proto::v1::CodeError;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Something that code put out.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Stdout(String),
    Stderr(String),
    Display(Bundle),
    Result { bundle: Bundle, execution_count: i32 },
    Update(Bundle),
    Clear { wait: bool },
    Error(CodeError),
}

/// A MIME bundle with all its parts, sorted by media type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bundle {
    pub parts: Vec<(String, Content)>,
    pub metadata: Option<Struct>,
    pub display_id: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Text(String),
    Data(Bytes),
    /// A JSON document, as the kernel wrote it.
    Json(String),
}

impl Content {
    pub fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Json(text) => text.len(),
            Self::Data(data) => data.len(),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) | Self::Json(text) => text.as_bytes(),
            Self::Data(data) => data,
        }
    }
}

#[derive(Deserialize)]
struct Stream {
    name: String,
    text: String,
}

#[derive(Deserialize)]
struct Rich<'a> {
    #[serde(borrow, default)]
    data: BTreeMap<String, &'a RawValue>,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    transient: Option<Transient>,
    #[serde(default)]
    execution_count: Option<i32>,
}

#[derive(Deserialize)]
struct Transient {
    #[serde(default)]
    display_id: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    ename: String,
    #[serde(default)]
    evalue: String,
    #[serde(default)]
    traceback: Vec<String>,
}

#[derive(Deserialize)]
struct Clear {
    #[serde(default)]
    wait: bool,
}

/// Reads the content of an output message. None for a kind of message that is no output.
pub fn output(kind: &str, content: &[u8]) -> Result<Option<Output>, serde_json::Error> {
    let content = utf8(content);
    Ok(Some(match kind {
        "stream" => {
            let stream: Stream = serde_json::from_str(&content)?;
            if stream.name == "stderr" { Output::Stderr(stream.text) } else { Output::Stdout(stream.text) }
        }
        "display_data" => Output::Display(bundle(serde_json::from_str(&content)?)),
        "update_display_data" => Output::Update(bundle(serde_json::from_str(&content)?)),
        "execute_result" => {
            let rich: Rich<'_> = serde_json::from_str(&content)?;
            let execution_count = rich.execution_count.unwrap_or_default();
            Output::Result { bundle: bundle(rich), execution_count }
        }
        "clear_output" => Output::Clear { wait: serde_json::from_str::<Clear>(&content)?.wait },
        "error" => {
            let Failure { ename, evalue, traceback } = serde_json::from_str(&content)?;
            Output::Error(CodeError { name: ename, value: evalue, traceback })
        }
        _ => return Ok(None),
    }))
}

/// What an `execute_reply` says.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub struct Reply {
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub execution_count: Option<i32>,
    #[serde(default)]
    pub ename: String,
    #[serde(default)]
    pub evalue: String,
    #[serde(default)]
    pub traceback: Vec<String>,
    #[serde(default)]
    payload: Vec<serde_json::Value>,
}

impl Reply {
    pub fn read(content: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_str(&utf8(content))
    }

    /// The error that ended the code, if one did.
    pub fn error(&self) -> Option<CodeError> {
        let Self { ename, evalue, traceback, .. } = self;
        let error = CodeError { name: ename.clone(), value: evalue.clone(), traceback: traceback.clone() };
        (self.status == "error" && !ename.is_empty()).then_some(error)
    }

    /// What the kernel wants shown beside its messages: the pages of `object?` and the text of `%load`.
    pub fn pages(&self) -> impl Iterator<Item = Bundle> + '_ {
        self.payload.iter().filter_map(|payload| match payload.get("source")?.as_str()? {
            "page" => {
                let data = payload.get("data")?.to_string();
                let data: BTreeMap<String, &RawValue> = serde_json::from_str(&data).ok()?;
                Some(Bundle { parts: parts(data), ..Bundle::default() })
            }
            "set_next_input" => {
                let text = payload.get("text")?.as_str()?.to_owned();
                Some(Bundle { parts: vec![("text/plain".to_owned(), Content::Text(text))], ..Bundle::default() })
            }
            _ => None,
        })
    }
}

/// A kernel may pass on bytes that are not UTF-8 (surrogate escapes); they become U+FFFD.
fn utf8(content: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(content)
}

fn bundle(rich: Rich<'_>) -> Bundle {
    Bundle {
        parts: parts(rich.data),
        metadata: (!rich.metadata.is_empty()).then(|| to_struct(rich.metadata)),
        display_id: rich.transient.and_then(|transient| transient.display_id).unwrap_or_default(),
    }
}

fn parts(data: BTreeMap<String, &RawValue>) -> Vec<(String, Content)> {
    data.into_iter().map(|(media_type, value)| (content(&media_type, value), media_type)).map(|(c, m)| (m, c)).collect()
}

fn content(media_type: &str, value: &RawValue) -> Content {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence == "application/json" || essence.ends_with("+json") {
        return Content::Json(value.get().to_owned());
    }
    let text = match serde_json::from_str::<serde_json::Value>(value.get()) {
        Ok(serde_json::Value::String(text)) => text,
        // The notebook format's way to write long texts: a list of lines.
        Ok(serde_json::Value::Array(lines)) if lines.iter().all(serde_json::Value::is_string) => {
            lines.iter().filter_map(serde_json::Value::as_str).collect()
        }
        _ => return Content::Json(value.get().to_owned()),
    };
    if !is_binary(essence) {
        return Content::Text(text);
    }
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    match BASE64.decode(compact) {
        Ok(data) => Content::Data(data.into()),
        Err(_) => Content::Text(text),
    }
}

fn is_binary(essence: &str) -> bool {
    let family = essence.split('/').next().unwrap_or_default();
    match essence {
        "application/pdf" | "application/octet-stream" | "application/zip" => true,
        _ if essence.ends_with("+xml") => false,
        _ => matches!(family, "image" | "audio" | "video" | "font"),
    }
}

fn to_struct(map: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(key, value)| (key, to_value(value))).collect() }
}

fn to_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(to_value).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts_of(json: &str) -> Vec<(String, Content)> {
        let Some(Output::Display(bundle)) = output("display_data", json.as_bytes()).unwrap() else { panic!("{json}") };
        bundle.parts
    }

    #[test]
    fn images_are_bytes_and_texts_are_text_and_json_stays_as_it_was_written() {
        let parts = parts_of(
            r#"{"data":{"text/plain":"a","image/png":"iVBO\nRw0=\n","image/svg+xml":"<svg/>","application/json":{"b":1.0,"a":12345678901234567890123},
                "text/latex":["x","y"],"application/vnd.plotly.v1+json":[1]},"metadata":{}}"#,
        );
        let names: Vec<_> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "application/json",
                "application/vnd.plotly.v1+json",
                "image/png",
                "image/svg+xml",
                "text/latex",
                "text/plain"
            ]
        );
        assert_eq!(parts[0].1, Content::Json(r#"{"b":1.0,"a":12345678901234567890123}"#.into()));
        assert_eq!(parts[2].1, Content::Data(Bytes::from_static(b"\x89PNG\r")));
        assert_eq!(parts[3].1, Content::Text("<svg/>".into()));
        assert_eq!(parts[4].1, Content::Text("xy".into()));
    }

    #[test]
    fn what_is_not_base64_is_kept_as_text() {
        assert_eq!(parts_of(r#"{"data":{"image/png":"not base64!"}}"#)[0].1, Content::Text("not base64!".into()));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let output = output("stream", b"{\"name\":\"stdout\",\"text\":\"a\xffb\"}").unwrap();
        assert_eq!(output, Some(Output::Stdout("a\u{fffd}b".into())));
    }

    #[test]
    fn the_pages_of_a_reply_are_output() {
        let reply = Reply::read(
            br#"{"status":"ok","execution_count":3,"payload":[{"source":"page","data":{"text/plain":"help"},"start":0},{"source":"ask_exit"}]}"#,
        )
        .unwrap();
        assert_eq!(reply.execution_count, Some(3));
        let pages: Vec<_> = reply.pages().collect();
        assert_eq!(pages.len(), 1);
        assert_eq!(pages[0].parts, [("text/plain".to_owned(), Content::Text("help".into()))]);
    }

    proptest! {
        #[test]
        fn no_content_panics(kind in "stream|display_data|update_display_data|execute_result|clear_output|error|x", content in any::<Vec<u8>>()) {
            let _ = output(&kind, &content);
            let _ = Reply::read(&content);
        }

        #[test]
        fn any_text_of_a_stream_is_kept(text in any::<String>()) {
            let content = serde_json::json!({"name": "stdout", "text": text}).to_string();
            prop_assert_eq!(output("stream", content.as_bytes()).unwrap(), Some(Output::Stdout(text)));
        }
    }
}
