//! What a turn works with besides Python: the client's own tools, files, and what the session remembers.
use std::time::Duration;

use kernelbox_proto::v1::{
    CreateSessionRequest, ErrorCode, GetSessionRequest, Session, SubmitToolResultRequest, Tool, ToolCallRequested,
    turn_event::Kind,
};
use kernelbox_tests::{Client, ModelServer, Reply, Stack, ask, code_of};
use prost_types::{Struct, Value, value};

fn schema() -> Struct {
    let text = |text: &str| Value { kind: Some(value::Kind::StringValue(text.into())) };
    Struct { fields: [("type".to_owned(), text("object"))].into() }
}

async fn session_with(client: &mut Client, session: Session) -> String {
    let request = CreateSessionRequest { session: Some(session), ..Default::default() };
    client.sessions.create_session(request).await.unwrap().into_inner().name
}

fn salaries(timeout: Duration) -> Session {
    let tool = Tool {
        name: "salary".into(),
        description: "Looks up a salary.".into(),
        parameters: Some(schema()),
        timeout: timeout.try_into().ok(),
    };
    Session { tools: vec![tool], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_tool_is_asked_and_answered() {
    let both = || {
        Reply::call("salary", serde_json::json!({"name": "Ada", "year": 2025}))
            .and_call("salary", serde_json::json!({"name": "Bob"}))
            .and_call("python", serde_json::json!({"code": "print('meanwhile')"}))
    };
    let model = ModelServer::start([both(), Reply::text("Ada earns 100, Bob is unknown.")]).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = session_with(&mut client, salaries(Duration::from_secs(60))).await;

    let mut stream = client.turns.start_turn(ask(&session, "Who earns what?")).await.unwrap().into_inner();
    let mut asked: Vec<ToolCallRequested> = Vec::new();
    let (mut name, mut answer) = (String::new(), String::new());
    while let Some(event) = stream.message().await.unwrap() {
        name.clone_from(&event.turn);
        match event.kind {
            Some(Kind::ToolCallRequested(call)) => asked.push(call),
            Some(Kind::Completed(completed)) => answer = completed.answer,
            _ => {}
        }
        // The second is answered first: both are asked side by side.
        if asked.len() == 2 && answer.is_empty() {
            for (call, content, failed) in
                [(&asked[1], "no such person", true), (&asked[0], "{\"salary\": 100}", false)]
            {
                let request = SubmitToolResultRequest {
                    name: name.clone(),
                    tool_call: call.tool_call.clone(),
                    content: content.into(),
                    failed,
                };
                let submitted = client.turns.submit_tool_result(request.clone()).await;
                let again = client.turns.submit_tool_result(request).await;
                assert_eq!(code_of(&again.unwrap_err()), ErrorCode::ToolCallNotWaiting);
                assert!(submitted.is_ok(), "{submitted:?}");
            }
            answer = "being made".into();
        }
    }
    assert_eq!(answer, "Ada earns 100, Bob is unknown.");
    let arguments = asked[0].arguments.as_ref().unwrap();
    assert_eq!(arguments.fields["name"].kind, Some(value::Kind::StringValue("Ada".into())));
    // then: results are in the calls' order
    let results = model.requests()[1].results();
    assert!(
        results[0].contains("100") && results[1].contains("no such person") && results[2].contains("meanwhile"),
        "{results:?}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_is_not_waited_for_for_ever() {
    let model = ModelServer::start([Reply::call("salary", serde_json::json!({})), Reply::text("nobody knows")]).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = session_with(&mut client, salaries(Duration::from_secs(1))).await;
    let turned = client.turn(&session, "Who earns what?").await;
    assert_eq!(turned.answer(), "nobody knows");
    assert!(
        model.requests()[1].results()[0].contains("did not answer within 1s"),
        "{:?}",
        model.requests()[1].results()
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_turn_made_are_attached_and_inputs_are_not() {
    let code = "rows = open('in.csv').read()\nopen('out.txt', 'w').write(rows.upper())";
    let answer =
        "See [out.txt](sandbox:/mnt/data/out.txt), ![plot](sandbox:/plot.png) and [docs](https://example.org/x).";
    let model = ModelServer::start([Reply::python(code), Reply::text(answer)]).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.upload(&session, "in.csv", b"a,b\n").await.unwrap();
    let request =
        kernelbox_proto::v1::StartTurnRequest { attachments: vec!["in.csv".into()], ..ask(&session, "Shout it") };
    let turned = client.try_turn(request).await.unwrap();
    let made: Vec<_> = turned.completed().artifacts.iter().map(|it| (it.path.as_str(), it.size)).collect();
    assert_eq!(made, [("out.txt", 4)]);
    assert!(!turned.answer().contains("sandbox:") && !turned.answer().contains("!["), "{}", turned.answer());
    assert!(
        turned.answer().contains("out.txt") && turned.answer().contains("https://example.org/x"),
        "{}",
        turned.answer()
    );
    assert!(model.requests()[0].last_text().contains("in.csv"), "{}", model.requests()[0].last_text());

    let request =
        kernelbox_proto::v1::StartTurnRequest { attachments: vec!["none.csv".into()], ..ask(&session, "And this") };
    let (code, message) = client
        .try_turn(request)
        .await
        .map(|turned| {
            let (c, m) = turned.failure();
            (c, m.to_owned())
        })
        .unwrap();
    assert!(code == ErrorCode::FileNotFound && message.contains("none.csv"), "{message}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_model_is_told_what_is_left() {
    let model =
        ModelServer::start([Reply::python("x = 1; open('kept.csv', 'w').write('a')"), Reply::text("done")]).await;
    let mut stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.turn(&session, "Make x").await.completed();
    model.take_requests();

    stack.signal(nix::sys::signal::Signal::SIGTERM);
    stack.ended().await;
    stack.restart().await;

    model.push(Reply::text("I know"));
    let mut client = stack.client().await;
    client.turn(&session, "Go on").await.completed();
    let seen = model.take_requests().pop().unwrap();
    let last = seen.last_text();
    assert!(last.contains("kept.csv") && last.contains("gone") && last.contains("Go on"), "{last}");
    assert!(seen.body.to_string().contains("Make x"), "the history is there, too");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prompt_can_be_replaced_and_added_to_and_is_shown() {
    let model = ModelServer::start([Reply::text("aye")]).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let own = Session {
        system_prompt: "Be a pirate.".into(),
        system_prompt_suffix: "Be brief.".into(),
        ..Default::default()
    };
    let session = session_with(&mut client, own).await;
    client.turn(&session, "hi").await.completed();
    assert_eq!(model.requests()[0].system(), "Be a pirate.\n\nBe brief.");
    let told = client.sessions.get_session(GetSessionRequest { name: session }).await.unwrap().into_inner();
    assert_eq!(told.effective_system_prompt, "Be a pirate.\n\nBe brief.");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_conversation_is_summarised_once_and_fits() {
    const CONTEXT: usize = 4000;
    let model = ModelServer::answering(|seen| {
        if seen.system().starts_with("Summarise") {
            return Reply::text("THE SUMMARY: the number was 7.");
        }
        Reply::text(format!("noted. {}", "blah ".repeat(300)))
    })
    .await;
    let stack = Stack::with_model(&model).flag(format!("--model-context={CONTEXT}")).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let mut summaries = 0;
    for number in 0..12 {
        let turned = client.turn(&session, &format!("Message {number}: {}", "words ".repeat(60))).await;
        summaries += turned.kinds().filter(|kind| matches!(kind, Kind::ContextSummarised(_))).count();
        assert!(turned.answer().starts_with("noted"));
    }
    let requests = model.take_requests();
    let asked = requests.iter().filter(|seen| seen.system().starts_with("Summarise")).count();
    assert_eq!(asked, summaries);
    assert!((1..6).contains(&summaries), "{summaries} summaries in 12 turns");
    for seen in &requests {
        assert!(seen.body["messages"].to_string().len() / 4 < CONTEXT, "{} bytes", seen.body.to_string().len());
    }
    let last = requests.last().unwrap().body.to_string();
    assert!(last.contains("THE SUMMARY") && last.contains("Message 11") && !last.contains("Message 0:"), "{last}");
    stack.stop().await;
}
