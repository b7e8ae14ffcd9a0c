//! Turns: the model is asked, its code runs, it answers; followed from any event, one at a time, cancelled, limited.
use std::time::Duration;

use kernelbox_proto::v1::{
    CancelTurnRequest, ErrorCode, ExecutionStatus, GetTurnRequest, ListTurnsRequest, StartTurnRequest, TurnOptions,
    TurnStatus, execution_event, turn_event::Kind,
};
use kernelbox_tests::{Client, ModelServer, Reply, Stack, Turned, ask, code_of, eventually};

const FOREVER: &str = "import time\nprint('on', flush=True)\ntime.sleep(600)";

async fn stack(replies: impl IntoIterator<Item = Reply>) -> (ModelServer, Stack, Client, String) {
    let model = ModelServer::start(replies).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    (model, stack, client, session)
}

/// Starts a turn and reads it until its code has printed something.
async fn until_output(
    client: &mut Client,
    request: StartTurnRequest,
) -> (String, tonic::Streaming<kernelbox_proto::v1::TurnEvent>) {
    let mut stream = client.turns.start_turn(request).await.unwrap().into_inner();
    loop {
        let event = stream.message().await.unwrap().expect("the turn goes on");
        if let Some(Kind::Execution(execution)) = &event.kind
            && matches!(execution.kind, Some(execution_event::Kind::Stdout(_)))
        {
            return (event.turn, stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_by_code() {
    let replies = [
        Reply::python("print(17*23)").usage(100, 20),
        Reply::text("17 times 23 is 391.").usage(150, 10),
        Reply::text("Hello."),
    ];
    let (model, stack, mut client, session) = stack(replies).await;

    // when
    let turned = client.turn(&session, "How much is 17*23?").await;

    // then: each thing is told once, in order, numbered without a gap
    assert_eq!((turned.answer(), turned.stdout().as_str()), ("17 times 23 is 391.", "391\n"));
    assert_eq!(turned.text(), "17 times 23 is 391.");
    let numbers: Vec<_> = turned.events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=i64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
    let completed = turned.completed();
    assert_eq!(completed.code_log, ["print(17*23)"]);
    let usage = completed.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (250, 30));
    let steps: Vec<_> = turned.events.iter().map(|event| event.step).collect();
    assert!(steps.is_sorted() && steps.first() == Some(&0) && steps.last() == Some(&2), "{steps:?}");

    // and: the model was shown the question, then the result
    let requests = model.take_requests();
    assert!(requests[0].last_text().contains("How much is 17*23?"), "{:?}", requests[0].body);
    assert_eq!(requests[0].tools(), ["python"]);
    assert!(requests[1].results()[0].contains("391"), "{:?}", requests[1].body);
    assert!(requests[0].system().contains("Jupyter"));

    // and: the turn is there afterwards, and the next one knows of it
    let turn = client.turns.get_turn(GetTurnRequest { name: turned.name().into() }).await.unwrap().into_inner();
    assert_eq!((turn.status(), turn.answer.as_str()), (TurnStatus::Completed, "17 times 23 is 391."));
    assert_eq!(turn.last_sequence, *numbers.last().unwrap());
    assert_eq!(client.turn(&session, "Hi").await.answer(), "Hello.");
    let listed =
        client.turns.list_turns(ListTurnsRequest { parent: session.clone(), page_size: 1, ..Default::default() });
    let listed = listed.await.unwrap().into_inner();
    assert_eq!(listed.turns[0].message, "Hi");
    let next = ListTurnsRequest { parent: session.clone(), page_size: 1, page_token: listed.next_page_token };
    let listed = client.turns.list_turns(next).await.unwrap().into_inner();
    assert_eq!((listed.turns[0].name.as_str(), listed.next_page_token.as_str()), (turned.name(), ""));
    let history = model.take_requests()[0].body.to_string();
    assert!(history.contains("17*23") && history.contains("391"), "{history}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_the_same_over_the_other_wire_format() {
    let model = ModelServer::start([Reply::python("print(6*7)").reasoning("Let me see."), Reply::text("42")]).await;
    let stack = Stack::builder()
        .flag(format!("--model-url={}", model.url()))
        .flag("--model-api=anthropic")
        .flag("--model=scripted")
        .start()
        .await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let turned = client.turn(&session, "6*7?").await;
    assert_eq!((turned.answer(), turned.stdout().as_str()), ("42", "42\n"));
    assert!(turned.has(|kind| matches!(kind, Kind::Reasoning(delta) if delta.text.contains("Let me"))));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_resumes_after_every_event() {
    let (_model, stack, mut client, session) = stack([
        Reply::text("Let me look.")
            .and_call("python", serde_json::json!({"code": "print('a'); open('f.txt', 'w').write('x'); 1"})),
        Reply::text("Done: see f.txt."),
    ])
    .await;
    let whole = client.turn(&session, "go").await;
    assert!(whole.events.len() > 8, "{:#?}", whole.events);
    for at in 0..=whole.events.len() {
        let after = i64::try_from(at).unwrap();
        let rest = client.resume(whole.name(), after).await.unwrap();
        assert_eq!(rest.events, whole.events[at..], "after {after}");
    }
    let beyond = client.resume(whole.name(), 10_000).await.unwrap_err();
    assert_eq!(code_of(&beyond), ErrorCode::OutOfRange);
    let unknown = client.resume(&format!("{session}/turns/none"), 0).await.unwrap_err();
    assert_eq!(code_of(&unknown), ErrorCode::TurnNotFound);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cut_off_after_any_event_finds_the_rest_while_the_turn_runs_on() {
    let script = || {
        [
            Reply::text("First ").and_call("python", serde_json::json!({"code": "for n in range(3): print(n)"})),
            Reply::text("and last."),
        ]
    };
    let model = ModelServer::start(script()).await;
    let stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    // Times, ids and the cut between pieces of text differ from run to run; what was said and done does not.
    let said = |turned: &Turned| {
        let kinds = turned.kinds().filter(|kind| !matches!(kind, Kind::Text(_) | Kind::Stage(_)));
        (turned.text(), turned.stdout(), kinds.map(std::mem::discriminant).collect::<Vec<_>>())
    };
    let uncut = client.turn(&session, "go").await;
    for cut in 1..uncut.events.len() {
        script().into_iter().for_each(|reply| model.push(reply));
        let mut stream = client.turns.start_turn(ask(&session, "go")).await.unwrap().into_inner();
        let mut events = Vec::new();
        while events.len() < cut
            && let Some(event) = stream.message().await.unwrap()
        {
            events.push(event);
        }
        drop(stream);
        let last = events.last().unwrap();
        let rest = client.resume(&last.turn.clone(), last.sequence).await.unwrap();
        events.extend(rest.events);
        let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..=i64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>(), "cut after {cut}");
        let mut joined = said(&Turned { events });
        let mut whole = said(&uncut);
        // Pieces of output come in one event or in several.
        joined.2.dedup();
        whole.2.dedup();
        assert_eq!(joined, whole, "cut after {cut}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_turn_runs_at_a_time_and_the_same_call_finds_its_own() {
    let (model, stack, mut client, session) = stack([Reply::python(FOREVER)]).await;
    let request = StartTurnRequest { request_id: "t1".into(), ..ask(&session, "go") };
    let (name, stream) = until_output(&mut client, request.clone()).await;

    // when: another turn is started
    let refused = client.turns.start_turn(ask(&session, "me, too")).await.unwrap_err();
    let refused = kernelbox_proto::Error::from_status(&refused);
    assert_eq!((refused.code, refused.metadata.get("turn")), (ErrorCode::TurnRunning, Some(&name)));

    // and: the same call again, after its stream was lost
    drop(stream);
    let mut again = client.turns.start_turn(request.clone()).await.unwrap().into_inner();
    assert_eq!(again.message().await.unwrap().unwrap().sequence, 1);

    // and: the id for something else
    let other = StartTurnRequest { message: "else".into(), ..request };
    assert_eq!(code_of(&client.turns.start_turn(other).await.unwrap_err()), ErrorCode::RequestIdReused);

    // when: it is cancelled
    let turn = client.turns.cancel_turn(CancelTurnRequest { name: name.clone() }).await.unwrap().into_inner();
    assert_eq!(turn.status(), TurnStatus::Cancelled);
    let rest = Turned::read(again).await.unwrap();
    assert!(matches!(rest.kinds().last(), Some(Kind::Cancelled(_))), "{:#?}", rest.events);

    // then: its code does not run on, and the session works
    model.push(Reply::python("print('free')"));
    model.push(Reply::text("ok"));
    let next = client.turn(&session, "and now?").await;
    assert_eq!((next.stdout().as_str(), next.answer()), ("free\n", "ok"));
    let history = model.take_requests().last().unwrap().body.to_string();
    assert!(history.contains("interrupted") && history.contains("cancelled"), "{history}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_goes_on_without_its_client_unless_asked_not_to() {
    let code =
        "import os, time\nprint('on', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('went')";
    let (model, stack, mut client, session) = stack([Reply::python(code), Reply::text("went on")]).await;
    let (name, stream) = until_output(&mut client, ask(&session, "go")).await;
    drop(stream);
    client.upload(&session, "go", b"").await.unwrap();
    assert_eq!(client.resume(&name, 0).await.unwrap().answer(), "went on");

    // given: one that ends with its client
    model.push(Reply::python(FOREVER));
    let options = TurnOptions { cancel_on_disconnect: true, ..Default::default() };
    let request = StartTurnRequest { options: Some(options), ..ask(&session, "go") };
    let (name, stream) = until_output(&mut client, request).await;
    drop(stream);
    let rest = client.resume(&name, 0).await.unwrap();
    match rest.kinds().last() {
        Some(Kind::Cancelled(cancelled)) => assert!(cancelled.reason.contains("client"), "{cancelled:?}"),
        other => panic!("{other:?}"),
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_ends_a_turn_with_an_honest_answer() {
    let (model, stack, mut client, session) = stack([]).await;
    let limited = |options: TurnOptions| StartTurnRequest { options: Some(options), ..ask(&session, "go") };

    // Other code each time: the same again would be remarked on.
    let mut number = 0;
    model.script(move |_| {
        number += 1;
        Reply::text("Still at it.").and_call("python", serde_json::json!({"code": number.to_string()}))
    });
    let options = TurnOptions { max_iterations: Some(3), ..Default::default() };
    let turned = client.try_turn(limited(options)).await.unwrap();
    assert_eq!(turned.limit(), Some("iterations"));
    assert!(
        turned.answer().starts_with("Stopped after 3 steps") && turned.answer().contains("Still at it."),
        "{}",
        turned.answer()
    );
    assert_eq!(turned.completed().code_log.len(), 3);

    model.script(|_| Reply::python("1").usage(400, 100));
    let options = TurnOptions { max_tokens: Some(900), ..Default::default() };
    let turned = client.try_turn(limited(options)).await.unwrap();
    assert_eq!((turned.limit(), turned.completed().code_log.len()), (Some("tokens"), 2));

    model.script(|_| Reply::python(FOREVER));
    let options = TurnOptions { timeout: Duration::from_secs(3).try_into().ok(), ..Default::default() };
    let turned = client.try_turn(limited(options)).await.unwrap();
    assert_eq!(turned.limit(), Some("time"));
    assert_eq!(client.run(&session, "print('free')").await.ok(), "free\n");

    model.script(|_| Reply::python("1/0"));
    let turned = client.try_turn(ask(&session, "go")).await.unwrap();
    assert_eq!((turned.limit(), turned.completed().code_log.len()), (Some("repetition"), 3));
    let warned = model.take_requests().last().unwrap().body.to_string();
    assert!(warned.contains("failed twice"), "{warned}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_the_limit_ends_a_turn() {
    let model = ModelServer::answering(|_| Reply::python("print('x' * 600_000)")).await;
    let stack = Stack::with_model(&model).flag("--max-turn-output-bytes=1MiB").start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let turned = client.turn(&session, "go").await;
    assert_eq!((turned.limit(), turned.completed().code_log.len()), (Some("output"), 2));
    // and: the model was shown a part
    let shown = model.take_requests()[1].results()[0].clone();
    assert!(shown.len() < 16 << 10 && shown.contains("left out"), "{} bytes", shown.len());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_has_a_timeout_of_its_own() {
    let (model, stack, mut client, session) = stack([Reply::python(FOREVER), Reply::text("It took too long.")]).await;
    let options = TurnOptions { execution_timeout: Duration::from_secs(1).try_into().ok(), ..Default::default() };
    let turned = client.try_turn(StartTurnRequest { options: Some(options), ..ask(&session, "go") }).await.unwrap();
    let ended = turned.executions().find_map(|event| match &event.kind {
        Some(execution_event::Kind::Finished(finished)) => Some(finished.status()),
        _ => None,
    });
    assert_eq!((ended, turned.answer()), (Some(ExecutionStatus::TimedOut), "It took too long."));
    assert!(model.requests()[1].results()[0].contains("timeout"), "{:?}", model.requests()[1].results());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_killed_ends_its_turns_when_it_is_back() {
    let model =
        ModelServer::start([Reply::text("I look. ").and_call("python", serde_json::json!({"code": FOREVER}))]).await;
    let mut stack = Stack::with_model(&model).start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let (name, stream) = until_output(&mut client, ask(&session, "go")).await;
    drop(stream);

    stack.kill();
    stack.restart().await;

    // then: what was told is there, and its end
    let mut client = stack.client().await;
    let turned = client.resume(&name, 0).await.unwrap();
    assert_eq!((turned.text().as_str(), turned.stdout().as_str()), ("I look. ", "on\n"));
    assert_eq!(turned.failure().0, ErrorCode::ShuttingDown);
    // and: the session works at once
    model.push(Reply::python("print(1)"));
    model.push(Reply::text("one"));
    assert_eq!(client.turn(&session, "again").await.answer(), "one");
    let history = model.take_requests().last().unwrap().body.to_string();
    assert!(history.contains("interrupted"), "{history}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_at_any_point_of_a_turn_loses_nothing_that_was_told() {
    const POINTS: u32 = 20;
    let first = "for n in range(3):\n    print(n, flush=True)\nopen('made.txt', 'w').write('x')";
    let script = || {
        [
            Reply::text("I count. ")
                .reasoning("Three times.")
                .and_call("python", serde_json::json!({"code": first}))
                .pieces_of(2),
            Reply::python("import time; time.sleep(0.05); 1/0"),
            Reply::text("Counted to three."),
        ]
    };
    let model = ModelServer::start([]).await;
    let mut stack = Stack::with_model(&model).start().await;
    let session = stack.client().await.session().await;
    let mut interrupted = 0;
    for point in 0..POINTS {
        model.clear();
        script().into_iter().for_each(|reply| model.push(reply));
        let mut client = stack.client().await;
        let mut stream = client.turns.start_turn(ask(&session, "Count")).await.unwrap().into_inner();
        // given: so many events were told
        let mut told = Vec::new();
        while told.len() <= point as usize
            && let Some(event) = stream.message().await.unwrap()
        {
            told.push(event);
        }
        stack.kill();
        stack.restart().await;

        // then: all of it is there, once, and an end
        let mut client = stack.client().await;
        let turned = client.resume(&told[0].turn, 0).await.unwrap();
        assert_eq!(turned.events[..told.len()], told, "point {point}");
        let numbers: Vec<_> = turned.events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..=i64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>(), "point {point}");
        match turned.kinds().last() {
            Some(Kind::Failed(failed)) => {
                assert_eq!(failed.code(), ErrorCode::ShuttingDown);
                interrupted += 1;
            }
            Some(Kind::Completed(_)) => {}
            other => panic!("point {point}: {other:?}"),
        }
        // and: the session works at once
        model.clear();
        model.push(Reply::text("Here I am."));
        assert_eq!(client.turn(&session, "Are you there?").await.answer(), "Here I am.", "point {point}");
    }
    assert!(interrupted > POINTS / 2, "{interrupted} of {POINTS} turns were interrupted");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_everything_but_turns_works() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let refused = kernelbox_proto::Error::from_status(&client.turns.start_turn(ask(&session, "hi")).await.unwrap_err());
    assert_eq!(refused.code, ErrorCode::ModelUnavailable);
    assert!(refused.message.contains("OPENAI_API_KEY"), "{refused}");
    assert_eq!(client.run(&session, "print(1)").await.ok(), "1\n");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_session_takes_its_turn_along() {
    let (_model, stack, mut client, session) = stack([Reply::python(FOREVER)]).await;
    let (name, stream) = until_output(&mut client, ask(&session, "go")).await;
    client.delete(&session).await;
    let rest = Turned::read(stream).await;
    assert!(rest.is_ok_and(|rest| matches!(rest.kinds().last(), Some(Kind::Cancelled(_)))));
    assert_eq!(code_of(&client.resume(&name, 0).await.unwrap_err()), ErrorCode::SessionNotFound);
    eventually("nothing of it runs", || match kernelbox_tests::mentions(&stack.workspace(&session)) {
        none if none.is_empty() => Ok(()),
        more => Err(format!("{more:?}")),
    })
    .await;
    stack.stop().await;
}
