//! MCP servers of a session: their tools as the model and the client see them, and what becomes of a turn when a server misbehaves.
mod turn_mcp {
    pub mod server;
}

use std::time::Duration;

use kernelbox_proto::v1::{
    CancelTurnRequest, CreateSessionRequest, ErrorCode, GetSessionRequest, GetTurnRequest, McpServer, Session, Tool,
    ToolCalled, ToolResult, TurnStatus, UpdateSessionRequest, turn_event::Kind,
};
use kernelbox_tests::{Client, ModelServer, Reply, Stack, Turned, ask, code_of, eventually};
use prost_types::value;
use serde_json::json;
use tokio::net::TcpListener;
use turn_mcp::server::{KEY, Staff, TOOLS};

/// A server whose sessions may use MCP servers of this machine.
async fn stack(replies: impl IntoIterator<Item = Reply>) -> (ModelServer, Stack, Client) {
    let model = ModelServer::start(replies).await;
    let stack = Stack::with_model(&model).flag("--allow-private-fetch").start().await;
    let client = stack.client().await;
    (model, stack, client)
}

fn with(server: McpServer) -> Session {
    Session { mcp_servers: vec![server], ..Default::default() }
}

async fn session_of(client: &mut Client, session: Session) -> String {
    let request = CreateSessionRequest { session: Some(session), ..Default::default() };
    client.sessions.create_session(request).await.unwrap().into_inner().name
}

/// The key is nobody's but the server's.
async fn stop(stack: Stack, turns: &[&Turned]) {
    let key = KEY.split(' ').next_back().unwrap();
    assert!(!format!("{turns:?}").contains(key), "the key was told");
    assert!(!stack.log().contains(key), "the key was logged");
    stack.stop().await;
}

fn called(turned: &Turned) -> Vec<&ToolCalled> {
    turned.kinds().filter_map(|kind| if let Kind::ToolCalled(it) = kind { Some(it) } else { None }).collect()
}

fn results(turned: &Turned) -> Vec<&ToolResult> {
    turned.kinds().filter_map(|kind| if let Kind::ToolResult(it) = kind { Some(it) } else { None }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_of_a_server_is_called_and_both_are_told_what_came_of_it() {
    let staff = Staff::start().await;
    let both = Reply::call("staff_lookup", json!({"name": "Ada"})).and_call("python", json!({"code": "print(6*7)"}));
    let (model, stack, mut client) = stack([both, Reply::text("Ada is 42.")]).await;
    let session = session_of(&mut client, with(staff.settings())).await;

    let turned = client.turn(&session, "How old is Ada?").await;

    // then: the client sees the call, then its result, in the same step
    assert_eq!(turned.answer(), "Ada is 42.");
    let ([call], [result]) = (&called(&turned)[..], &results(&turned)[..]) else { panic!("{:#?}", turned.events) };
    assert_eq!((call.tool.as_str(), &call.tool_call), ("staff_lookup", &result.tool_call));
    let arguments = &call.arguments.as_ref().unwrap().fields;
    assert_eq!(arguments["name"].kind, Some(value::Kind::StringValue("Ada".into())));
    assert_eq!((result.tool.as_str(), result.failed), ("staff_lookup", false));
    assert_eq!(result.content, r#"lookup got {"name":"Ada"}"#);
    let at = |is: fn(&Kind) -> bool| turned.kinds().position(is).unwrap();
    assert!(at(|it| matches!(it, Kind::ToolCalled(_))) < at(|it| matches!(it, Kind::ToolResult(_))));
    // and: nobody is asked for an answer
    assert!(!turned.has(|kind| matches!(kind, Kind::ToolCallRequested(_))));

    // then: the model was offered all tools, and got both results in the calls' order
    let requests = model.take_requests();
    let offered = TOOLS.map(|tool| format!("staff_{tool}"));
    assert_eq!(requests[0].tools(), [&["python".to_owned()][..], &offered].concat());
    let shown = requests[1].results();
    assert!(shown[0].contains(r#"lookup got {"name":"Ada"}"#) && shown[1].contains("42"), "{shown:?}");
    assert_eq!(turned.stdout(), "42\n");

    // and: the server was left, and its headers are shown to nobody
    assert_eq!(staff.clients().await, 0);
    let told = client.sessions.get_session(GetSessionRequest { name: session }).await.unwrap().into_inner();
    assert_eq!(told.mcp_servers[0].headers["authorization"], "");
    stop(stack, &[&turned]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tool_takes_the_name_of_another() {
    let staff = Staff::start().await;
    let calls = Reply::call("staff_python", json!({"code": "1"})).and_call("python", json!({"code": "print('here')"}));
    let (model, stack, mut client) = stack([calls, Reply::text("done")]).await;
    let own = |name: &str| Tool { name: name.into(), ..Default::default() };
    let session = Session { tools: vec![own("staff_lookup")], ..with(staff.settings()) };
    let session = session_of(&mut client, session).await;

    // when: a server has a tool that is called python
    let turned = client.turn(&session, "go").await;

    // then: each name is one tool's
    assert_eq!(
        (turned.stdout().as_str(), results(&turned)[0].content.as_str()),
        ("here\n", r#"python got {"code":"1"}"#)
    );
    let mut offered = model.requests()[0].tools();
    assert!(offered.contains(&"staff_lookup".into()) && offered.contains(&"staff_lookup_2".into()), "{offered:?}");
    offered.sort();
    offered.dedup();
    assert_eq!(offered.len(), 1 + 1 + TOOLS.len());

    // and: a client's own may not be called so
    let taken = Session { tools: vec![own("python")], ..Default::default() };
    let request = CreateSessionRequest { session: Some(taken), ..Default::default() };
    let refused = client.sessions.create_session(request).await.unwrap_err();
    assert!(
        code_of(&refused) == ErrorCode::InvalidArgument && refused.message().contains("tools[0].name"),
        "{refused}"
    );
    stop(stack, &[&turned]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_told_and_the_turn_goes_on() {
    let staff = Staff::start().await;
    let (model, stack, mut client) = stack([]).await;
    let session = session_of(&mut client, with(staff.settings())).await;
    let mut turns = Vec::new();
    for (tool, words) in [
        // The tool says so itself; the server refuses, and repeats the key; it is broken.
        ("staff_fail", "there is no such person"),
        ("staff_refuse", "The call failed: not with ***"),
        ("staff_break", "500"),
    ] {
        model.push(Reply::call(tool, json!({})));
        model.push(Reply::text("I see."));
        let turned = client.turn(&session, "go").await;
        let [result] = &results(&turned)[..] else { panic!("{:#?}", turned.events) };
        assert!(result.failed && result.content.contains(words), "{tool}: {result:?}");
        assert_eq!(turned.answer(), "I see.");
        let shown = model.take_requests().pop().unwrap().results().pop().unwrap();
        assert!(shown.contains(words), "{tool}: {shown}");
        turns.push(turned);
    }
    stop(stack, &turns.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_stalls_is_given_up_at_its_timeout() {
    let staff = Staff::start().await;
    let (model, stack, mut client) = stack([Reply::call("staff_stall", json!({})), Reply::text("Too slow.")]).await;
    let server = McpServer { timeout: Duration::from_secs(2).try_into().ok(), ..staff.settings() };
    let session = session_of(&mut client, with(server)).await;

    let turned = client.turn(&session, "go").await;

    let [result] = &results(&turned)[..] else { panic!("{:#?}", turned.events) };
    assert!(result.failed && result.content.contains("no answer within 2s"), "{result:?}");
    assert_eq!(turned.answer(), "Too slow.");
    assert!(model.requests()[1].results()[0].contains("no answer within 2s"));
    eventually("the server learns of it", || match staff.stalled() {
        (1, 1) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    stop(stack, &[&turned]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_turn_takes_its_call_back() {
    let staff = Staff::start().await;
    let (model, stack, mut client) = stack([Reply::call("staff_stall", json!({}))]).await;
    let session = session_of(&mut client, with(staff.settings())).await;
    let mut stream = client.turns.start_turn(ask(&session, "go")).await.unwrap().into_inner();
    let name = loop {
        let event = stream.message().await.unwrap().expect("the turn goes on");
        if matches!(event.kind, Some(Kind::ToolCalled(_))) {
            break event.turn;
        }
    };
    eventually("the call is there", || (staff.stalled().0 == 1).then_some(()).ok_or("not yet".into())).await;

    client.turns.cancel_turn(CancelTurnRequest { name }).await.unwrap();

    let rest = Turned::read(stream).await.unwrap();
    assert!(matches!(rest.kinds().last(), Some(Kind::Cancelled(_))), "{:#?}", rest.events);
    eventually("the server learns of it", || (staff.stalled().1 == 1).then_some(()).ok_or("not yet".into())).await;
    assert_eq!(staff.clients().await, 0);
    // and: in the next turn every call has a result
    model.push(Reply::text("Here."));
    assert_eq!(client.turn(&session, "Still there?").await.answer(), "Here.");
    let shown = model.take_requests().pop().unwrap().results();
    assert!(shown.len() == 1 && shown[0].contains("interrupted"), "{shown:?}");
    stop(stack, &[&rest]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_used_fails_the_turn_and_not_the_session() {
    let staff = Staff::start().await;
    let (model, stack, mut client) = stack([]).await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = |port: u16| McpServer { url: format!("http://127.0.0.1:{port}/mcp"), ..staff.settings() };
    let stalls = at(silent.local_addr().unwrap().port());
    let stranger =
        McpServer { headers: [("authorization".to_owned(), "Bearer x".to_owned())].into(), ..staff.settings() };
    let session = session_of(&mut client, with(staff.settings())).await;
    let update = |server: McpServer| UpdateSessionRequest {
        session: Some(Session { name: session.clone(), ..with(server) }),
        ..Default::default()
    };
    let mut turns = Vec::new();
    for (server, words) in [
        // Nobody listens there; nobody answers there; it does not know the key.
        (at(1), "Connection refused"),
        (McpServer { timeout: Duration::from_millis(300).try_into().ok(), ..stalls }, "does not answer in time"),
        (stranger, "401"),
    ] {
        client.sessions.update_session(update(server)).await.unwrap();
        let turned = client.turn(&session, "go").await;
        let (code, message) = turned.failure();
        assert!(code == ErrorCode::UrlFailed && message.contains("\"staff\"") && message.contains(words), "{message}");
        let turn = client.turns.get_turn(GetTurnRequest { name: turned.name().into() }).await.unwrap().into_inner();
        assert_eq!(turn.status(), TurnStatus::Failed);
        turns.push(turned);
    }
    // then: the model was never asked, and once the server can be used so can the session
    assert!(model.requests().is_empty());
    client.sessions.update_session(update(staff.settings())).await.unwrap();
    model.push(Reply::text("Here."));
    assert_eq!(client.turn(&session, "go").await.answer(), "Here.");
    stop(stack, &turns.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_refused_unless_allowed() {
    let staff = Staff::start().await;
    let model = ModelServer::start([]).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = session_of(&mut client, with(staff.settings())).await;
    let turned = client.turn(&session, "go").await;
    let (code, message) = turned.failure();
    assert!(code == ErrorCode::UrlRefused && message.contains("--allow-private-fetch"), "{message}");
    assert_eq!(staff.clients().await, 0);
    stop(stack, &[&turned]).await;
}
