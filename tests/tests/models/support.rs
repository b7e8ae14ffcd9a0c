//! A model at the scripted server, and what came of asking it.
use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use kernelbox_gateway::model::{
    Answer, ChatModel, Chunk, Endpoint, Key, Message, ModelError, Models, ModelsConfig, Part, Prompt, Provider,
    ToolSpec, config::Timing,
};
use kernelbox_tests::model_server::ModelServer;
use serde_json::json;

/// A wait that no test should need.
const PATIENCE: Duration = Duration::from_secs(20);
pub const KEY: &str = "sk-secret-0123456789";

/// Everything that came of a question that was answered.
pub struct Heard {
    pub text: String,
    pub reasoning: String,
    pub answer: Answer,
}

pub fn endpoint(server: &ModelServer, provider: Provider) -> Endpoint {
    Endpoint { key: Key::new(KEY), model: Some("m".into()), ..Endpoint::new(provider, server.url()) }
}

pub fn models(endpoint: Endpoint) -> Models {
    kernelbox_gateway::install_crypto();
    let timing = Timing { first: Duration::from_secs(5), silence: Duration::from_millis(300), ..Timing::default() };
    Models::new(ModelsConfig { endpoints: vec![endpoint], timing, ..ModelsConfig::default() }).unwrap()
}

pub fn model(server: &ModelServer, provider: Provider) -> Arc<dyn ChatModel> {
    models(endpoint(server, provider)).get("").unwrap()
}

pub fn user(text: &str) -> Message {
    Message::User(vec![Part::Text(text.into())])
}

/// A question with a tool at hand.
pub fn question() -> Prompt {
    Prompt {
        system: "be good".into(),
        messages: vec![user("17*23?")],
        tools: vec![ToolSpec {
            name: "python".into(),
            description: "runs code".into(),
            parameters: json!({"type": "object", "properties": {"code": {"type": "string"}}}),
        }],
        ..Prompt::default()
    }
}

pub async fn ask(model: &Arc<dyn ChatModel>) -> Result<Heard, ModelError> {
    ask_with(model, &question()).await
}

pub async fn ask_with(model: &Arc<dyn ChatModel>, prompt: &Prompt) -> Result<Heard, ModelError> {
    tokio::time::timeout(PATIENCE, listen(model, prompt)).await.expect("no hang")
}

async fn listen(model: &Arc<dyn ChatModel>, prompt: &Prompt) -> Result<Heard, ModelError> {
    let mut answering = model.ask(prompt).await?;
    let (mut text, mut reasoning, mut last) = (String::new(), String::new(), None);
    while let Some(chunk) = answering.next().await {
        assert!(last.is_none(), "nothing comes after the answer");
        match chunk? {
            Chunk::Text(more) => text.push_str(&more),
            Chunk::Reasoning(more) => reasoning.push_str(&more),
            Chunk::Answer(answer) => last = Some(answer),
        }
    }
    let answer = last.expect("the answer comes last");
    assert_eq!(text, answer.message.text, "what was said on the way is what the answer holds");
    Ok(Heard { text, reasoning, answer })
}

/// The error that asking ends with; it holds no key.
pub async fn fail(model: &Arc<dyn ChatModel>) -> ModelError {
    let error = ask(model).await.err().expect("a failure");
    assert!(!format!("{error} {error:?}").contains(KEY), "{error:?}");
    error
}

/// `NAME ARGUMENTS` of each call.
pub fn calls(heard: &Heard) -> Vec<String> {
    heard.answer.message.calls.iter().map(|call| format!("{} {}", call.name, call.arguments)).collect()
}
