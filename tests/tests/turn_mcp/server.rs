//! A real MCP server on the loopback interface: it has a tool for each way that a call can go, and counts what it sees.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use kernelbox_proto::v1::McpServer;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::json;
use tokio::{net::TcpListener, task::AbortHandle};

/// The header that every request must have, and nobody else may see.
pub const KEY: &str = "Bearer a-key-that-nobody-may-see";

/// What its tools are called, and do: give their arguments back, fail, break the protocol's rules, break down, never answer.
pub const TOOLS: [&str; 6] = ["lookup", "fail", "refuse", "break", "stall", "python"];

/// The server. It ends when it is dropped.
pub struct Staff {
    port: u16,
    seen: Arc<Seen>,
    sessions: Arc<LocalSessionManager>,
    task: AbortHandle,
}

#[derive(Default)]
struct Seen {
    stalled: AtomicUsize,
    cancelled: AtomicUsize,
}

#[derive(Clone)]
struct Handler(Arc<Seen>);

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        let tool = |name| Tool::new(name, format!("Does {name}."), schema.as_object().unwrap().clone());
        Ok(ListToolsResult::with_all_items(TOOLS.into_iter().map(tool).collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let given = format!("{} got {}", request.name, json!(request.arguments));
        let result = match request.name.as_ref() {
            "fail" => CallToolResult::error(vec![ContentBlock::text("there is no such person")]),
            "refuse" => return Err(ErrorData::invalid_params(format!("not with {KEY}"), None)),
            "stall" => {
                self.0.stalled.fetch_add(1, Ordering::SeqCst);
                context.ct.cancelled().await;
                self.0.cancelled.fetch_add(1, Ordering::SeqCst);
                return Err(ErrorData::internal_error("cancelled", None));
            }
            _ => CallToolResult::success(vec![ContentBlock::text(given)]),
        };
        Ok(result.into())
    }
}

impl Staff {
    pub async fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let sessions = Arc::new(LocalSessionManager::default());
        let handler = Handler(Arc::clone(&seen));
        let config = StreamableHttpServerConfig::default();
        let service = StreamableHttpService::new(move || Ok(handler.clone()), Arc::clone(&sessions), config);
        let app = Router::new().route_service("/mcp", service).layer(middleware::from_fn(guard));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }).abort_handle();
        Self { port, seen, sessions, task }
    }

    /// As a session has it.
    pub fn settings(&self) -> McpServer {
        McpServer {
            name: "staff".into(),
            url: format!("http://127.0.0.1:{}/mcp", self.port),
            headers: [("authorization".to_owned(), KEY.to_owned())].into(),
            timeout: None,
        }
    }

    /// Calls that never got an answer, and those of them that were cancelled.
    pub fn stalled(&self) -> (usize, usize) {
        (self.seen.stalled.load(Ordering::SeqCst), self.seen.cancelled.load(Ordering::SeqCst))
    }

    /// Clients that did not take their leave.
    pub async fn clients(&self) -> usize {
        self.sessions.sessions.read().await.len()
    }
}

impl Drop for Staff {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Wants the key; a call of `break` is answered with a status alone.
async fn guard(request: Request, next: Next) -> Response {
    let given = request.headers().get("authorization").and_then(|it| it.to_str().ok());
    if given != Some(KEY) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let call: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    if call["params"]["name"] == "break" {
        return (StatusCode::INTERNAL_SERVER_ERROR, "out of order").into_response();
    }
    next.run(Request::from_parts(head, Body::from(body))).await
}
