//! The clients of turns: whose they are, how many at once, how long they can be followed, and what becomes of them when a client leaves.
use std::time::Duration;

use kernelbox_proto::v1::{
    CancelTurnRequest, CreateSessionRequest, ErrorCode, ExecutionStatus, GetTurnRequest, ListExecutionsRequest,
    ListTurnsRequest, Session, StartTurnRequest, SubmitToolResultRequest, Tool, Turn, TurnEvent, TurnOptions,
    TurnStatus, execution_event, turn_event::Kind,
};
use kernelbox_tests::{Client, ModelServer, Reply, Stack, StackBuilder, Turned, ask, code_of};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Streaming};

/// Runs until the session has a file `go`.
const WAITS: &str =
    "import os, time\nprint('on', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('went')";
const PATIENCE: Duration = Duration::from_secs(20);

trait Tenants {
    /// A tenant with a key that is `{tenant}-key`.
    fn tenant(self, tenant: &str, limits: &str) -> Self;
}

impl Tenants for StackBuilder {
    fn tenant(self, tenant: &str, limits: &str) -> Self {
        let hash = hex::encode(Sha256::digest(format!("{tenant}-key")));
        self.key(&format!("- {{id: {tenant}, tenant: {tenant}, sha256: {hash}, limits: {{{limits}}}}}\n"))
    }
}

async fn client_of(stack: &Stack, tenant: &str) -> Client {
    Client::connect(&stack.endpoint, &format!("{tenant}-key")).await
}

fn cancelling(session: &str) -> StartTurnRequest {
    let options = TurnOptions { cancel_on_disconnect: true, ..Default::default() };
    StartTurnRequest { options: Some(options), ..ask(session, "go") }
}

/// Starts a turn and reads it to the first event that `is` one.
async fn until(
    client: &mut Client,
    request: StartTurnRequest,
    is: impl Fn(&Kind) -> bool,
) -> (TurnEvent, Streaming<TurnEvent>) {
    let mut stream = client.turns.start_turn(request).await.unwrap().into_inner();
    loop {
        let event = stream.message().await.unwrap().expect("the turn goes on");
        if event.kind.as_ref().is_some_and(&is) {
            return (event, stream);
        }
    }
}

fn printed(kind: &Kind) -> bool {
    matches!(kind, Kind::Execution(it) if matches!(it.kind, Some(execution_event::Kind::Stdout(_))))
}

async fn turn(client: &mut Client, name: &str) -> Turn {
    client.turns.get_turn(GetTurnRequest { name: name.into() }).await.unwrap().into_inner()
}

/// Asks until there is something.
async fn wait<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_turn_is_not_found() {
    let model = ModelServer::start([Reply::call("salary", serde_json::json!({})), Reply::text("It is 100.")]).await;
    let stack = Stack::with_model(&model).tenant("one", "").tenant("two", "").start().await;
    let (mut owner, mut other) = (client_of(&stack, "one").await, client_of(&stack, "two").await);
    let tool = Tool { name: "salary".into(), ..Default::default() };
    let session = Session { tools: vec![tool], ..Default::default() };
    let request = CreateSessionRequest { session: Some(session), ..Default::default() };
    let session = owner.sessions.create_session(request).await.unwrap().into_inner().name;
    // given: a turn that waits for its client's tool
    let (event, stream) = until(&mut owner, ask(&session, "go"), |it| matches!(it, Kind::ToolCallRequested(_))).await;
    let (name, Some(Kind::ToolCallRequested(call))) = (event.turn, event.kind) else { unreachable!() };
    let answer =
        SubmitToolResultRequest { name: name.clone(), tool_call: call.tool_call, content: "100".into(), failed: false };

    // when: the other tenant tries everything on it
    let list = ListTurnsRequest { parent: session.clone(), ..Default::default() };
    let refused = [
        other.turns.get_turn(GetTurnRequest { name: name.clone() }).await.unwrap_err(),
        other.resume(&name, 0).await.unwrap_err(),
        other.turns.cancel_turn(CancelTurnRequest { name: name.clone() }).await.unwrap_err(),
        other.turns.submit_tool_result(answer.clone()).await.unwrap_err(),
        other.turns.list_turns(list.clone()).await.unwrap_err(),
        other.turns.start_turn(ask(&session, "go")).await.unwrap_err(),
    ];

    // then: it is as if neither the turn nor its session were there
    for status in &refused {
        assert_eq!((status.code(), code_of(status)), (Code::NotFound, ErrorCode::SessionNotFound), "{status}");
    }
    let never = other.turns.get_turn(GetTurnRequest { name: "sessions/never/turns/never".into() }).await.unwrap_err();
    let id = session.trim_start_matches("sessions/");
    assert_eq!(refused[0].message().replace(id, "never"), never.message());
    // and: its id leads nowhere in a session of the other's own
    let own = other.session().await;
    let moved = name.replace(&session, &own);
    let moved = other.turns.get_turn(GetTurnRequest { name: moved }).await.unwrap_err();
    assert_eq!(code_of(&moved), ErrorCode::TurnNotFound);
    let listed = ListTurnsRequest { parent: own, ..Default::default() };
    assert!(other.turns.list_turns(listed).await.unwrap().into_inner().turns.is_empty());

    // and: the turn goes on as its owner wants
    owner.turns.submit_tool_result(answer).await.unwrap();
    assert_eq!(Turned::read(stream).await.unwrap().answer(), "It is 100.");
    assert_eq!(owner.turns.list_turns(list).await.unwrap().into_inner().turns[0].name, name);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_so_many_turns_at_once() {
    let model = ModelServer::answering(|seen| match seen.results().is_empty() {
        true => Reply::python(WAITS),
        false => Reply::text("done"),
    })
    .await;
    let stack = Stack::with_model(&model).tenant("small", "turns: 1").tenant("big", "").start().await;
    let (mut small, mut big) = (client_of(&stack, "small").await, client_of(&stack, "big").await);
    let (first, second, third) = (small.session().await, small.session().await, big.session().await);
    let request = StartTurnRequest { request_id: "t1".into(), ..ask(&first, "go") };
    let (_, stream) = until(&mut small, request.clone(), printed).await;

    // when: it starts one more, in another session
    let refused = small.turns.start_turn(ask(&second, "go")).await.unwrap_err();

    // then: it is told which limit that was, and has no turn
    let refused = kernelbox_proto::Error::from_status(&refused);
    assert_eq!(refused.code, ErrorCode::QuotaExceeded);
    assert!(refused.message.starts_with("1 turns") && refused.message.contains("--max-turns"), "{refused}");
    assert!(refused.retry_after.is_some());
    let none = ListTurnsRequest { parent: second.clone(), ..Default::default() };
    assert!(small.turns.list_turns(none).await.unwrap().into_inner().turns.is_empty());
    // and: the same call again still finds its own, and another tenant is not concerned
    let mut again = small.turns.start_turn(request).await.unwrap().into_inner();
    assert_eq!(again.message().await.unwrap().unwrap().sequence, 1);
    big.upload(&third, "go", b"").await.unwrap();
    assert_eq!(big.turn(&third, "go").await.answer(), "done");

    // when: the first has ended
    small.upload(&first, "go", b"").await.unwrap();
    assert_eq!(Turned::read(stream).await.unwrap().answer(), "done");

    // then: there is room, and once it is known to have ended
    small.upload(&second, "go", b"").await.unwrap();
    let next = wait("there is room", || {
        let (mut small, request) = (small.clone(), ask(&second, "go"));
        async move { small.try_turn(request).await.ok() }
    });
    assert_eq!(next.await.answer(), "done");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_retention_a_turn_has_its_answer_but_no_events() {
    let model = ModelServer::start([Reply::python("print(17*23)"), Reply::text("391.")]).await;
    let stack = Stack::with_model(&model).flag("--turn-event-retention=1s").start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let request = StartTurnRequest { request_id: "t1".into(), ..ask(&session, "17*23?") };
    let turned = client.try_turn(request.clone()).await.unwrap();
    // given: one that runs for longer than that
    let busy = client.session().await;
    model.push(Reply::python(WAITS));
    let (running, stream) = until(&mut client, ask(&busy, "go"), printed).await;

    // when: the events of the first are gone
    let refused = wait("its events are gone", || {
        let (mut client, name) = (client.clone(), turned.name().to_owned());
        async move { client.resume(&name, 1).await.err() }
    })
    .await;

    // then: who asks for them is told why, and where the answer is
    assert_eq!((refused.code(), code_of(&refused)), (Code::OutOfRange, ErrorCode::OutOfRange));
    let words = refused.message();
    assert!(words.contains("--turn-event-retention") && words.contains("GetTurn"), "{words}");
    assert_eq!(code_of(&client.try_turn(request).await.unwrap_err()), ErrorCode::OutOfRange);
    let last = turned.events.last().unwrap().sequence;
    assert_eq!(client.resume(turned.name(), last).await.unwrap().events, [], "who has all of them misses none");
    let told = turn(&mut client, turned.name()).await;
    assert_eq!((told.status(), told.answer.as_str(), told.last_sequence), (TurnStatus::Completed, "391.", last));
    assert_eq!(told.usage, turned.completed().usage);

    // and: the turn that runs has all of its own
    model.push(Reply::text("went"));
    client.upload(&busy, "go", b"").await.unwrap();
    let rest = Turned::read(stream).await.unwrap();
    assert_eq!((rest.answer(), rest.events[0].sequence), ("went", running.sequence + 1));

    // and: the model still knows what was said
    model.push(Reply::text("As I said."));
    client.turn(&session, "Again?").await.completed();
    let history = model.take_requests().pop().unwrap().body.to_string();
    assert!(history.contains("17*23?") && history.contains("391"), "{history}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_turn_of_a_client_that_left_is_cancelled_and_no_other() {
    let model = ModelServer::answering(|seen| match seen.results().is_empty() {
        true => Reply::python(&format!("kept = 7\n{WAITS}")),
        false => Reply::text("done"),
    })
    .await;
    let stack = Stack::with_model(&model).start().await;
    let mut watching = stack.client().await;
    let mut turns = Vec::new();
    for cancels in [true, true, true, false] {
        let mut client = stack.client().await;
        let session = client.session().await;
        let request = if cancels { cancelling(&session) } else { ask(&session, "go") };
        let (event, stream) = until(&mut client, request, printed).await;
        turns.push((session, event.turn, stream, client));
    }
    let (without, goes_on, stream, client) = turns.pop().unwrap();
    let stays = turns.pop().unwrap();

    // when: the first leaves its stream, the second its connection, and so does one whose turn needs no client
    let (first, first_turn, first_stream, _client) = turns.remove(0);
    drop(first_stream);
    let (second, second_turn, second_stream, second_client) = turns.remove(0);
    drop((second_stream, second_client, stream, client));

    // then: the turns of the first two end as cancelled, their code is interrupted, and their sessions are as before
    for (session, name) in [(&first, &first_turn), (&second, &second_turn)] {
        let rest = tokio::time::timeout(PATIENCE, watching.resume(name, 0)).await.expect("the turn ends").unwrap();
        match rest.kinds().last() {
            Some(Kind::Cancelled(cancelled)) => assert!(cancelled.reason.contains("client"), "{cancelled:?}"),
            other => panic!("{other:?}"),
        }
        let interrupted = wait("its code is interrupted", || {
            let (mut client, parent) = (watching.clone(), session.clone());
            async move {
                let list = ListExecutionsRequest { parent, ..Default::default() };
                let executions = client.code.list_executions(list).await.unwrap().into_inner().executions;
                executions.first().map(|it| it.status()).filter(|it| *it != ExecutionStatus::Running)
            }
        });
        assert_eq!(interrupted.await, ExecutionStatus::Interrupted);
        assert_eq!(watching.run(session, "print(kept)").await.ok(), "7\n");
    }
    // and: the others know nothing of it, nor of a call that came too late to be theirs
    let (_, id) = stays.1.split_once("/turns/").unwrap();
    let other = StartTurnRequest { request_id: id.into(), message: "else".into(), ..cancelling(&stays.0) };
    assert_eq!(code_of(&watching.turns.start_turn(other).await.unwrap_err()), ErrorCode::RequestIdReused);
    for (session, name) in [(&stays.0, &stays.1), (&without, &goes_on)] {
        assert_eq!(turn(&mut watching, name).await.status(), TurnStatus::Running);
        watching.upload(session, "go", b"").await.unwrap();
        assert_eq!(watching.resume(name, 0).await.unwrap().answer(), "done");
    }
    assert_eq!(Turned::read(stays.2).await.unwrap().stdout(), "went\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_at_once_leaves_no_turn_behind() {
    const CLIENTS: u64 = 60;
    // What is not cancelled goes on for ever.
    let model = ModelServer::answering(|_| Reply::silent()).await;
    // Nothing runs in a sandbox here.
    let stack = Stack::with_model(&model).flag("--max-sandboxes=1").start().await;
    let mut client = stack.client().await;
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        let session = client.session().await;
        // Each leaves a little later: before, while and after its turn begins.
        let start = client.turns.start_turn(cancelling(&session));
        drop(tokio::time::timeout(Duration::from_micros(200 * number), start).await);
        sessions.push(session);
    }
    let mut begun = 0;
    for session in sessions {
        let all_ended = wait("its turns end", || {
            let (mut client, parent) = (client.clone(), session.clone());
            async move {
                let list = ListTurnsRequest { parent, ..Default::default() };
                let turns = client.turns.list_turns(list).await.unwrap().into_inner().turns;
                turns.iter().all(|turn| turn.status() != TurnStatus::Running).then_some(turns)
            }
        });
        let turns = all_ended.await;
        assert!(turns.iter().all(|turn| turn.status() == TurnStatus::Cancelled), "{turns:?}");
        begun += turns.len();
    }
    assert!(begun > 0, "no client was slow enough");
    stack.stop().await;
}
