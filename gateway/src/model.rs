//! Language models as the agent knows them: what is asked, what comes back, and how it fails.
//!
//! Adapters live below `model/`, one per wire format, and depend on this. One call is one try: who asks decides on the next.
mod anthropic;
pub mod config;
mod counted;
mod facts;
mod http;
mod openai;
mod registry;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub(crate) use self::counted::Counted;
pub use self::{
    config::{Endpoint, Key, ModelSettings, ModelsConfig, ModelsError, Provider},
    registry::Models,
};

/// A model behind an API.
#[async_trait]
pub trait ChatModel: Send + Sync + 'static {
    /// What is known of it. Asks its server, for a few seconds at most, and remembers what it says.
    async fn facts(&self) -> Facts;

    /// Asks once. The stream ends with [`Chunk::Answer`], or after an error.
    async fn ask(&self, request: &Prompt) -> Result<Answering, ModelError>;
}

/// An answer on its way.
pub type Answering = BoxStream<'static, Result<Chunk, ModelError>>;

/// What is known of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As its server calls it.
    pub name: String,
    /// Tokens of a prompt and its answer together.
    pub context_tokens: u32,
    /// It can be shown images.
    pub sees_images: bool,
}

/// Everything that a model is told in one call. It begins alike from call to call, so that providers can cache it.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    pub system: String,
    pub messages: Vec<Message>,
    pub tools: Vec<ToolSpec>,
    /// The tools are those of the conversation, and none may be called now.
    pub words_only: bool,
    /// Tokens of the answer, at most. None: what the adapter thinks right.
    pub max_output_tokens: Option<u32>,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    /// JSON schema of an object.
    pub parameters: serde_json::Value,
}

/// One message of a conversation. After an assistant's message with calls comes a `Results` with one result for each, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    User(Vec<Part>),
    Assistant(AssistantMessage),
    Results(Vec<CallResult>),
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Text(String),
    Image {
        /// image/png, image/jpeg, image/gif or image/webp.
        media_type: String,
        #[serde(with = "base64_bytes")]
        data: Bytes,
    },
}

/// What a model said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AssistantMessage {
    pub text: String,
    pub calls: Vec<ToolCall>,
    /// What the adapter has to send back with this message, in its own words (signed thinking, for example).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<serde_json::Value>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Unique within the message.
    pub id: String,
    pub name: String,
    /// As the model wrote them: JSON, or what it took for JSON.
    pub arguments: String,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallResult {
    /// [`ToolCall::id`]
    pub call: String,
    pub parts: Vec<Part>,
    pub failed: bool,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Chunk {
    Text(String),
    Reasoning(String),
    /// The whole message, last.
    Answer(Answer),
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub message: AssistantMessage,
    pub usage: Usage,
    pub stop: Stop,
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stop {
    /// It was done, or wants its calls answered.
    #[default]
    Done,
    /// It met the limit on the answer's tokens; calls may be cut.
    Length,
    /// The provider's filter stopped it.
    Filtered,
}

/// Tokens of one call; 0 where the server does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Of the input, what came from the provider's cache.
    pub cached_input_tokens: u64,
    /// Of the output, what was reasoning.
    pub reasoning_tokens: u64,
}

/// A model call that failed. The message is for the user: what the provider said, never a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    pub kind: Failure,
    pub message: String,
    /// How long the provider wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// How a model call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server cannot be reached.
    Unreachable,
    /// 429, 529 or the provider's word for too many requests.
    Overloaded,
    /// 5xx, or an error in the middle of a stream that is the server's own.
    Server,
    /// The connection broke, or what came is not the wire format.
    Broken,
    /// Nothing came for too long.
    Silent,
    /// The prompt does not fit the model's context.
    TooLong,
    /// The key is missing, wrong or has no right to the model.
    Denied,
    /// The server understood, and will not: a bad request, an unknown model, spent credit.
    Refused,
    /// The provider's filter refused the prompt.
    Filtered,
}

impl Failure {
    /// Whether the same call may work in a moment.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Unreachable | Self::Overloaded | Self::Server | Self::Broken | Self::Silent)
    }
}

impl ModelError {
    pub fn new(kind: Failure, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

/// The wire formats, as [`crate::fuzzing`] reads them.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod wires {
    pub(crate) use super::{anthropic::read as anthropic, openai::read as openai};
}

/// A call's arguments as providers take them back: an object, whatever the model wrote.
fn object_of(arguments: &str) -> serde_json::Value {
    match serde_json::from_str(arguments) {
        Ok(object @ serde_json::Value::Object(_)) => object,
        _ if arguments.trim().is_empty() => serde_json::json!({}),
        _ => serde_json::json!({"arguments": arguments}),
    }
}

/// Letters of an id that is made up. Mistral takes no others, and exactly nine of them.
const ID_LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const ID_LENGTH: usize = 9;

/// A call's id, or a new one where it has none or another call's.
fn own_id(mut id: String, others: &[ToolCall]) -> String {
    while id.is_empty() || others.iter().any(|other| other.id == id) {
        id = (0..ID_LENGTH).map(|_| char::from(ID_LETTERS[rand::random_range(0..ID_LETTERS.len())])).collect();
    }
    id
}

/// Bytes in the JSON of a stored message.
mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
    }
}
