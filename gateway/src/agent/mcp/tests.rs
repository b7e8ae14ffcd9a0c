//! Against a real MCP server, in this process, over real HTTP.
use super::*;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::{IntoResponse as _, Redirect},
    routing::any,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, ServerCapabilities, ServerConfig},
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::agent::picture::tests::png_of;

const KEY: &str = "Bearer secret-key-123";

/// What the server has seen.
#[derive(Debug, Default)]
struct Seen {
    waiting: AtomicUsize,
    cancelled: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Weather(Arc<Seen>);

impl ServerHandler for Weather {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    /// Two tools on each of three pages.
    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let page: usize = request.and_then(|it| it.cursor).map_or(0, |cursor| cursor.parse().unwrap());
        let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
        let tool = |name: &&'static str| Tool::new(*name, format!("does {name}"), schema.as_object().unwrap().clone());
        let names = ["echo", "slow", "fail", "refuse", "picture", "get.weather/now"];
        let mut list = ListToolsResult::with_all_items(names[page * 2..page * 2 + 2].iter().map(tool).collect());
        list.next_cursor = (page < 2).then(|| (page + 1).to_string());
        Ok(list)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let result = match request.name.as_ref() {
            "echo" => CallToolResult::success(vec![ContentBlock::text(json!(request.arguments).to_string())]),
            "slow" => {
                self.0.waiting.fetch_add(1, Ordering::SeqCst);
                context.ct.cancelled().await;
                self.0.cancelled.fetch_add(1, Ordering::SeqCst);
                return Err(ErrorData::internal_error("cancelled", None));
            }
            "fail" => CallToolResult::error(vec![ContentBlock::text("no such city")]),
            "picture" => CallToolResult::success(vec![
                ContentBlock::text("a map"),
                ContentBlock::image(STANDARD.encode(png_of(6, 5)), "image/png"),
            ]),
            name => return Err(ErrorData::invalid_params(format!("{name} refuses you, {KEY}"), None)),
        };
        Ok(result.into())
    }
}

/// The server; it wants the key, and ends with its value.
struct Fake {
    port: u16,
    seen: Arc<Seen>,
    sessions: Arc<LocalSessionManager>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keyed(request: Request, next: Next) -> axum::response::Response {
    let given = request.headers().get("authorization").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    match given == KEY {
        true => next.run(request).await,
        false => (http::StatusCode::UNAUTHORIZED, format!("not with {given}")).into_response(),
    }
}

impl Fake {
    async fn start() -> Self {
        let seen = Arc::new(Seen::default());
        let sessions = Arc::new(LocalSessionManager::default());
        let weather = Weather(Arc::clone(&seen));
        let config = StreamableHttpServerConfig::default();
        let service = StreamableHttpService::new(move || Ok(weather.clone()), Arc::clone(&sessions), config);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let elsewhere = format!("http://127.0.0.2:{port}/mcp");
        let app = Router::new()
            .route_service("/mcp", service)
            .layer(middleware::from_fn(keyed))
            .route("/moved", any(|| async { Redirect::temporary("/mcp") }))
            .route("/away", any(move || async move { Redirect::temporary(&elsewhere) }))
            .route("/page", any(|| async { "<html>hello</html>" }));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, seen, sessions, task }
    }

    fn at(&self, path: &str) -> McpServer {
        McpServer {
            name: "weather".into(),
            url: format!("http://127.0.0.1:{}{path}", self.port),
            headers: [("authorization".to_owned(), KEY.to_owned())].into(),
            timeout: None,
        }
    }
}

fn connector() -> Connector {
    crate::install_crypto();
    Connector::new(Reach::new(true)).unwrap()
}

async fn refused(connector: &Connector, server: McpServer) -> Error {
    let error = connector.connect(&[server], &[]).await.unwrap_err();
    assert!(error.message.contains("\"weather\"") && !error.message.contains("secret-key"), "{error}");
    error
}

fn options() -> CallOptions {
    CallOptions { limit: 1000, sees_images: true }
}

async fn call(tools: &Tools, name: &str, arguments: Value) -> Answered {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    tools.call(name, arguments, options(), &CancellationToken::new()).await
}

fn words(answered: &Answered) -> &str {
    match &answered.parts[0] {
        Part::Text(text) => text,
        Part::Image { .. } => panic!("text comes first"),
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn all_tools_of_all_pages_are_offered_under_valid_names() {
    let fake = Fake::start().await;
    let tools = connector().connect(&[fake.at("/mcp")], &["python", "weather_echo"]).await.unwrap();
    let names: Vec<_> = tools.specs().map(|spec| spec.name.as_str()).collect();
    let expected =
        ["echo_2", "slow", "fail", "refuse", "picture", "get_weather_now"].map(|name| format!("weather_{name}"));
    assert_eq!(names, expected);
    let first = tools.specs().next().unwrap();
    assert_eq!(first.description, "does echo");
    assert_eq!(first.parameters["properties"]["city"]["type"], "string");
    tools.close().await;
}

#[tokio::test]
async fn calls_answer_with_text_images_and_failures() {
    let fake = Fake::start().await;
    let tools = connector().connect(&[fake.at("/mcp")], &[]).await.unwrap();
    let echo = call(&tools, "weather_echo", json!({ "city": "Oslo" })).await;
    assert_eq!((words(&echo), echo.failed), (r#"{"city":"Oslo"}"#, false));
    let picture = call(&tools, "weather_picture", json!({})).await;
    assert!(words(&picture).starts_with("a map\n[image 1, below: PNG, 6 x 5 pixels"), "{picture:?}");
    assert_eq!(picture.parts[1], Part::Image { media_type: "image/png".into(), data: png_of(6, 5) });
    let failed = call(&tools, "weather_fail", json!({})).await;
    assert_eq!((words(&failed), failed.failed), ("no such city", true));
    let refused = call(&tools, "weather_refuse", json!({})).await;
    assert_eq!((words(&refused), refused.failed), ("The call failed: refuse refuses you, ***", true));
    assert!(call(&tools, "weather_none", json!({})).await.failed);
    tools.close().await;
}

#[tokio::test]
async fn a_call_ends_at_its_timeout_and_when_it_is_cancelled_and_the_server_learns_of_it() {
    let fake = Fake::start().await;
    let short = Duration::from_millis(200).try_into().ok();
    let tools = connector().connect(&[McpServer { timeout: short, ..fake.at("/mcp") }], &[]).await.unwrap();
    let slow = tools.call("weather_slow", Map::new(), options(), &CancellationToken::new()).await;
    assert!(slow.failed && words(&slow).contains("no answer within 200ms"), "{slow:?}");
    until("the server cancels the first call", || fake.seen.cancelled.load(Ordering::SeqCst) == 1).await;

    let patient = connector().connect(&[fake.at("/mcp")], &[]).await.unwrap();
    let cancel = CancellationToken::new();
    let stop = async {
        until("the second call waits", || fake.seen.waiting.load(Ordering::SeqCst) == 2).await;
        cancel.cancel();
    };
    let (slow, ()) = tokio::join!(patient.call("weather_slow", Map::new(), options(), &cancel), stop);
    assert_eq!((words(&slow), slow.failed), ("The call was cancelled.", true));
    until("the server cancels the second call", || fake.seen.cancelled.load(Ordering::SeqCst) == 2).await;
    // The connections are as good as before.
    for tools in [tools, patient] {
        assert!(!call(&tools, "weather_echo", json!({})).await.failed);
        tools.close().await;
    }
}

#[tokio::test]
async fn a_turn_takes_leave_of_its_servers() {
    let fake = Fake::start().await;
    let tools = connector().connect(&[fake.at("/mcp")], &[]).await.unwrap();
    assert_eq!(fake.sessions.sessions.read().await.len(), 1);
    tools.close().await;
    assert_eq!(fake.sessions.sessions.read().await.len(), 0);
    // Also of those that worked, where another does not.
    let away = McpServer { url: "http://127.0.0.1:1/".into(), ..fake.at("/mcp") };
    connector().connect(&[fake.at("/mcp"), away], &[]).await.unwrap_err();
    assert_eq!(fake.sessions.sessions.read().await.len(), 0);
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_without_its_headers() {
    let fake = Fake::start().await;
    let connector = connector();
    let wrong =
        McpServer { headers: [("authorization".into(), "Bearer secret-key-999".into())].into(), ..fake.at("/mcp") };
    let error = refused(&connector, wrong).await;
    assert!(error.code == ErrorCode::UrlFailed && error.message.contains("401"), "{error}");
    let nobody = McpServer { url: "http://127.0.0.1:1/?api_key=secret-key-123".into(), ..fake.at("") };
    assert!(refused(&connector, nobody).await.message.contains("Connection refused"));
    assert_eq!(refused(&connector, fake.at("/page")).await.code, ErrorCode::UrlFailed);
    assert!(refused(&connector, fake.at("/none")).await.message.contains("404"));
    let reserved = McpServer { headers: [("accept".into(), "x".into())].into(), ..fake.at("/mcp") };
    assert!(refused(&connector, reserved).await.message.contains("'accept' is reserved"));
}

#[tokio::test]
async fn a_server_that_never_answers_is_not_waited_for() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = McpServer { name: "weather".into(), url, ..Default::default() };
    let hasty = Connector { connect: Duration::from_millis(200), ..connector() };
    assert!(refused(&hasty, server.clone()).await.message.contains("does not answer in time"));
    let server = McpServer { timeout: Duration::from_millis(200).try_into().ok(), ..server };
    let patient = connector();
    let told = tokio::time::timeout(Duration::from_secs(10), refused(&patient, server)).await.expect("its own timeout");
    assert!(told.message.contains("does not answer in time"));
}

#[tokio::test]
async fn only_addresses_that_may_be_are_connected_to() {
    let fake = Fake::start().await;
    crate::install_crypto();
    let public = Connector::new(Reach::new(false)).unwrap();
    for url in [
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://0x7f.1/",
    ] {
        let server = McpServer { url: url.into(), ..fake.at("") };
        let error = refused(&public, server).await;
        assert!(
            error.code == ErrorCode::UrlRefused && error.message.contains("--allow-private-fetch"),
            "{url}: {error}"
        );
    }
    // 127.0.0.1 plays the public internet here; the rest is private.
    let some = Connector::new(Reach::with_policy(|ip| ip == IpAddr::from([127, 0, 0, 1]))).unwrap();
    some.connect(&[fake.at("/moved")], &[]).await.unwrap().close().await;
    let error = refused(&some, fake.at("/away")).await;
    assert!(error.message.contains("307"), "{error}");
}
