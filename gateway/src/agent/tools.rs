//! The tools that the model may call: python, the client's own, and those of the session's MCP servers.
use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::try_join_all;
use kernelbox_proto::{
    Error,
    v1::{self, ToolCallRequested, ToolCalled, ToolResult, TurnStatus, turn_event::Kind},
};

use tracing::Instrument as _;

use super::{
    Agent, Halt, arguments, json, mcp,
    prompt::{self, PYTHON},
    text,
};
use crate::{
    metrics::{Tool, Turns},
    model::{CallResult, Part, ToolCall, ToolSpec},
    turns::{Running, ToolAnswer},
};

/// How long a client may take to answer, where its tool does not say.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(300);
/// Arguments of a call, in bytes.
const ARGUMENTS_BYTES: usize = 128 << 10;
/// What the model is shown of a tool's answer, in bytes.
const SHOWN_BYTES: usize = 16 << 10;

/// The tools of a turn.
#[derive(Default)]
pub(super) struct Tools {
    specs: Vec<ToolSpec>,
    /// How long the client may take, by tool.
    clients: HashMap<String, Duration>,
    servers: mcp::Tools,
    sees_images: bool,
}

impl Tools {
    /// Reaches the session's MCP servers and lists their tools.
    pub(super) async fn connect(
        settings: &v1::Session,
        connector: &mcp::Connector,
        sees_images: bool,
    ) -> Result<Self, Error> {
        let mut specs = vec![prompt::python()];
        specs.extend(settings.tools.iter().map(spec));
        let timeout = |tool: &v1::Tool| tool.timeout.and_then(|it| it.try_into().ok()).unwrap_or(CLIENT_TIMEOUT);
        let clients = settings.tools.iter().map(|tool| (tool.name.clone(), timeout(tool))).collect();
        let taken: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let servers = connector.connect(&settings.mcp_servers, &taken).await?;
        specs.extend(servers.specs().cloned());
        Ok(Self { specs, clients, servers, sees_images })
    }

    /// Ends the connections to MCP servers.
    pub(super) async fn close(self) {
        self.servers.close().await;
    }

    pub(super) fn specs(&self) -> &[ToolSpec] {
        &self.specs
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.specs.iter().any(|spec| spec.name == name)
    }

    fn whose(&self, name: &str) -> Tool {
        match () {
            () if self.clients.contains_key(name) => Tool::Client,
            () if self.has(name) => Tool::Mcp,
            () => Tool::Unknown,
        }
    }

    /// One call of a tool that is not python.
    async fn call(&self, call: &ToolCall, running: &Running, metrics: &Turns) -> Result<CallResult, Halt> {
        let (parts, failed) = match arguments::object(&call.arguments) {
            Err(words) => (vec![Part::Text(words)], true),
            Ok(_) if call.arguments.len() > ARGUMENTS_BYTES => {
                (vec![Part::Text(format!("The arguments are too long: at most {ARGUMENTS_BYTES} bytes."))], true)
            }
            Ok(arguments) => match self.clients.get(&call.name) {
                Some(timeout) => {
                    let ToolAnswer { content, failed } = ask_client(call, arguments, *timeout, running).await?;
                    (vec![Part::Text(text::middle_cut(&content, SHOWN_BYTES))], failed)
                }
                None if self.has(&call.name) => {
                    let called = ToolCalled {
                        tool_call: call.id.clone(),
                        tool: call.name.clone(),
                        arguments: Some(json::to_struct(arguments.clone())),
                    };
                    running.recorder.tell(Kind::ToolCalled(called)).await?;
                    let options = mcp::CallOptions { limit: SHOWN_BYTES, sees_images: self.sees_images };
                    let answered = self.servers.call(&call.name, arguments, options, running.cancel_token()).await;
                    (answered.parts, answered.failed)
                }
                None => {
                    let names: Vec<_> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
                    let words = format!("There is no tool {:?}. There are: {}.", call.name, names.join(", "));
                    (vec![Part::Text(words)], true)
                }
            },
        };
        metrics.called(self.whose(&call.name), failed);
        let result = ToolResult { tool_call: call.id.clone(), tool: call.name.clone(), content: words(&parts), failed };
        running.recorder.tell(Kind::ToolResult(result)).await?;
        Ok(CallResult { call: call.id.clone(), parts, failed })
    }
}

impl Agent {
    /// Does all calls of a message; the results are in the calls' order.
    pub(super) async fn call_tools(&mut self, calls: &[ToolCall]) -> Result<Vec<CallResult>, Halt> {
        let (tools, running) = (Arc::clone(&self.tools), Arc::clone(&self.running));
        let metrics = self.router.shared_metrics();
        let (pythons, others): (Vec<_>, Vec<_>) = calls.iter().enumerate().partition(|(_, call)| call.name == PYTHON);
        let others = try_join_all(others.into_iter().map(|(at, call)| {
            let (tools, running, metrics) = (&tools, &running, &metrics.turns);
            // A model may call anything by any name.
            let name = if tools.has(&call.name) { call.name.as_str() } else { "unknown" };
            let called = tools.call(call, running, metrics);
            let called = called.instrument(tracing::info_span!("tool", tool = name));
            async move { Ok::<_, Halt>((at, called.await?)) }
        }));
        let pythons = async {
            let mut results = Vec::with_capacity(pythons.len());
            for (at, call) in pythons {
                let result = self.run_python(call).await?;
                metrics.turns.called(Tool::Python, result.failed);
                results.push((at, result));
            }
            Ok::<_, Halt>(results)
        };
        let (mut results, others) = tokio::try_join!(pythons, others)?;
        results.extend(others);
        results.sort_by_key(|(at, _)| *at);
        running.recorder.change(|turn| turn.status = TurnStatus::Running.into()).await;
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

/// Asks the client, who answers with SubmitToolResult.
async fn ask_client(
    call: &ToolCall,
    arguments: serde_json::Map<String, serde_json::Value>,
    timeout: Duration,
    running: &Running,
) -> Result<ToolAnswer, Halt> {
    let answered = running.wait_for_tool(&call.id);
    let requested = ToolCallRequested {
        tool_call: call.id.clone(),
        tool: call.name.clone(),
        arguments: Some(json::to_struct(arguments)),
    };
    running.recorder.change(|turn| turn.status = TurnStatus::WaitingForTool.into()).await;
    running.recorder.tell(Kind::ToolCallRequested(requested)).await?;
    let answer = tokio::time::timeout(timeout, answered).await;
    running.forget_tool(&call.id);
    Ok(match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => {
            let content = format!("The tool did not answer within {}.", humantime::format_duration(timeout));
            ToolAnswer { content, failed: true }
        }
    })
}

fn spec(tool: &v1::Tool) -> ToolSpec {
    let parameters = match &tool.parameters {
        Some(parameters) => json::from_struct(parameters),
        None => serde_json::json!({ "type": "object", "properties": {} }),
    };
    ToolSpec { name: tool.name.clone(), description: tool.description.clone(), parameters }
}

/// The parts as a client is told them.
fn words(parts: &[Part]) -> String {
    let word = |part: &Part| match part {
        Part::Text(words) => words.clone(),
        Part::Image { media_type, data } => format!("({media_type}, {} bytes)", data.len()),
    };
    parts.iter().map(word).collect::<Vec<_>>().join("\n")
}
