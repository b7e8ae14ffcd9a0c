//! The MCP servers of a session, as a source of tools: for a turn they are connected to, asked what they offer, called, and left.
//!
//! Their addresses come from the API's callers and are reached from this machine, so they are checked like those of FetchUrl. Headers are
//! secrets: they are sent, and never told or logged.
use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use kernelbox_proto::{
    Error,
    v1::{ErrorCode, McpServer},
};
use reqwest::{StatusCode, redirect};
use rmcp::{
    RoleClient, ServiceExt as _,
    model::{CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, PaginatedRequestParams, Tool},
    service::RunningService,
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::text::end_cut;
use crate::{
    fetch::Reach,
    model::{Part, ToolSpec},
};

mod answered;
mod failure;
mod name;

use failure::Failure;

/// To connect to a server and list its tools.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a call may take, where the server's settings do not say.
const CALL: Duration = Duration::from_secs(300);
/// To take leave of a server.
const CLOSE: Duration = Duration::from_secs(2);
const MAX_REDIRECTS: usize = 5;
/// Tools of all servers.
const MAX_TOOLS: usize = 256;
/// Pages of a server's list of tools.
const MAX_PAGES: usize = 32;
const MAX_DESCRIPTION: usize = 4 << 10;
const MAX_SCHEMA: usize = 64 << 10;
/// One message of a server's; a picture that a model may see fits in it.
const MAX_MESSAGE: usize = 8 << 20;

/// Connects to MCP servers.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    client: reqwest::Client,
    reach: Reach,
    connect: Duration,
}

/// The servers that a turn is connected to, and their tools.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    servers: Vec<Connection>,
    offers: Vec<Offer>,
}

#[derive(Debug)]
struct Connection {
    service: RunningService<RoleClient, ClientConfig>,
    failure: Failure,
    /// Of a call.
    timeout: Duration,
}

#[derive(Debug)]
struct Offer {
    spec: ToolSpec,
    /// Which server, and how it calls the tool.
    server: usize,
    name: String,
}

/// How a tool is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallOptions {
    /// Bytes of text in the result.
    pub(crate) limit: usize,
    pub(crate) sees_images: bool,
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    pub(crate) parts: Vec<Part>,
    pub(crate) failed: bool,
}

impl Answered {
    fn failed(words: impl Into<String>) -> Self {
        Self { parts: vec![Part::Text(words.into())], failed: true }
    }
}

impl Connector {
    pub(crate) fn new(reach: Reach) -> Result<Self, reqwest::Error> {
        let client = reach.client().redirect(redirect::Policy::custom(follow)).build()?;
        Ok(Self { client, reach, connect: CONNECT })
    }

    /// Connects to all servers. One that cannot be used is an error for the turn. `taken`: the names of other tools.
    pub(crate) async fn connect(&self, servers: &[McpServer], taken: &[&str]) -> Result<Tools, Error> {
        let connected = join_all(servers.iter().map(|server| self.open(server))).await;
        let mut tools = Tools::default();
        let mut names: HashSet<String> = taken.iter().map(|name| (*name).to_owned()).collect();
        let mut problem = None;
        for (server, connected) in servers.iter().zip(connected) {
            match connected {
                Ok((connection, offered)) => tools.add(&server.name, connection, offered, &mut names),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        if problem.is_none() && tools.offers.len() > MAX_TOOLS {
            let words = format!("the MCP servers have {} tools; at most {MAX_TOOLS} can be used", tools.offers.len());
            problem = Some(Error::new(ErrorCode::TooLarge, words));
        }
        match problem {
            None => Ok(tools),
            Some(error) => {
                tools.close().await;
                Err(error)
            }
        }
    }

    async fn open(&self, server: &McpServer) -> Result<(Connection, Vec<Tool>), Error> {
        let failure = Failure::new(server);
        let timeout = server.timeout.and_then(|it| it.try_into().ok()).unwrap_or(CALL);
        let url =
            Url::parse(&server.url).map_err(|_| failure.error(ErrorCode::UrlRefused, "its address is not valid"))?;
        self.reach.check(&url).map_err(|error| failure.error(error.code, &error.message))?;
        let opening = async {
            let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
                .custom_headers(failure::headers(server)?)
                .max_sse_event_size(MAX_MESSAGE)
                .max_json_response_size(MAX_MESSAGE);
            // A call whose session is gone may have run.
            config.reinit_on_expired_session = false;
            let transport = StreamableHttpClientTransport::with_client(self.client.clone(), config);
            let ours = Implementation::new("kernelbox", env!("CARGO_PKG_VERSION"));
            let service = ClientConfig::new(ClientCapabilities::default(), ours).serve(transport);
            let service = service.await.map_err(|error| failure.connecting(&error))?;
            let tools = list(&service, &failure).await?;
            Ok((service, tools))
        };
        // A caller who waits less for an answer waits no longer for the first one.
        match tokio::time::timeout(self.connect.min(timeout), opening).await {
            Ok(opened) => opened.map(|(service, tools)| (Connection { service, failure, timeout }, tools)),
            Err(_) => Err(failure.error(ErrorCode::UrlFailed, "does not answer in time")),
        }
    }
}

/// To the same server alone: headers are meant for it, and its address was checked.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let keeps_body = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    let is_same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    match keeps_body && is_same && attempt.previous().len() <= MAX_REDIRECTS {
        true => attempt.follow(),
        false => attempt.stop(),
    }
}

/// All pages of a server's list.
async fn list(service: &RunningService<RoleClient, ClientConfig>, failure: &Failure) -> Result<Vec<Tool>, Error> {
    let mut tools = Vec::new();
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let asked = PaginatedRequestParams::default().with_cursor(cursor);
        let page = service.list_tools(Some(asked)).await.map_err(|error| failure.listing(&error))?;
        tools.extend(page.tools);
        cursor = page.next_cursor;
        if cursor.is_none() || tools.len() > MAX_TOOLS {
            return Ok(tools);
        }
    }
    Err(failure.error(ErrorCode::UrlFailed, "its list of tools does not end"))
}

impl Tools {
    pub(crate) fn specs(&self) -> impl Iterator<Item = &ToolSpec> {
        self.offers.iter().map(|offer| &offer.spec)
    }

    /// Calls a tool by the name of its spec. What goes wrong is a result too, in words for the model.
    pub(crate) async fn call(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        options: CallOptions,
        cancel: &CancellationToken,
    ) -> Answered {
        let offer = self.offers.iter().find(|offer| offer.spec.name == name);
        let Some((offer, server)) = offer.and_then(|offer| Some((offer, self.servers.get(offer.server)?))) else {
            return Answered::failed(format!("There is no tool {name:?}."));
        };
        let asked = CallToolRequestParams::new(offer.name.clone()).with_arguments(arguments);
        // A call that is dropped is cancelled at the server too.
        tokio::select! {
            biased;
            () = cancel.cancelled() => Answered::failed("The call was cancelled."),
            answer = tokio::time::timeout(server.timeout, server.service.call_tool(asked)) => match answer {
                Ok(Ok(result)) => answered::read(result, options),
                Ok(Err(error)) => Answered::failed(server.failure.calling(&error)),
                Err(_) => {
                    let limit = humantime::format_duration(server.timeout);
                    Answered::failed(format!("The tool gave no answer within {limit}; the call was cancelled."))
                }
            },
        }
    }

    /// Takes leave of all servers.
    pub(crate) async fn close(self) {
        join_all(self.servers.into_iter().map(|mut server| async move {
            // What goes wrong now is of no interest to anybody.
            let _ = server.service.close_with_timeout(CLOSE).await;
        }))
        .await;
    }

    fn add(&mut self, server: &str, connection: Connection, offered: Vec<Tool>, names: &mut HashSet<String>) {
        for tool in offered {
            let schema = Value::Object(tool.input_schema.as_ref().clone());
            if schema.to_string().len() > MAX_SCHEMA {
                tracing::warn!(server, tool = %tool.name, "a tool with too large a schema is left out");
                continue;
            }
            let spec = ToolSpec {
                name: name::unique(server, &tool.name, names),
                description: end_cut(tool.description.as_deref().unwrap_or_default(), MAX_DESCRIPTION),
                parameters: schema,
            };
            self.offers.push(Offer { spec, server: self.servers.len(), name: tool.name.into_owned() });
        }
        self.servers.push(connection);
    }
}

#[cfg(test)]
mod tests;
