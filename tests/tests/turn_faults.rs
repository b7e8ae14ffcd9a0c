//! Models that fail, break off, or say odd things: what a client sees of it.
use std::time::Duration;

use kernelbox_proto::v1::{ErrorCode, Retry, turn_event::Kind};
use kernelbox_tests::{Client, ModelServer, Reply, Stack, Turned};

const KEY: &str = "sk-a-key-that-nobody-may-see";

struct Faulty {
    model: ModelServer,
    stack: Stack,
    client: Client,
    session: String,
}

impl Faulty {
    async fn start() -> Self {
        let model = ModelServer::start([]).await;
        let stack = Stack::with_model(&model).env("KERNELBOX_MODEL_KEY", KEY).start().await;
        let mut client = stack.client().await;
        let session = client.session().await;
        Self { model, stack, client, session }
    }

    async fn turn(&mut self, replies: impl IntoIterator<Item = Reply>) -> Turned {
        replies.into_iter().for_each(|reply| self.model.push(reply));
        let session = self.session.clone();
        let turned = self.client.turn(&session, "go").await;
        assert_eq!(self.model.queued(), 0, "the model was not asked often enough");
        assert!(!format!("{turned:?}").contains(KEY), "the key was told");
        turned
    }

    async fn stop(self) {
        assert!(!self.stack.log().contains(KEY), "the key was logged");
        self.stack.stop().await;
    }
}

fn retries(turned: &Turned) -> Vec<&Retry> {
    turned.kinds().filter_map(|kind| if let Kind::Retry(retry) = kind { Some(retry) } else { None }).collect()
}

fn restarts(turned: &Turned) -> usize {
    turned.kinds().filter(|kind| matches!(kind, Kind::MessageRestarted(_))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_in_passing_is_tried_again_and_shown() {
    let mut faulty = Faulty::start().await;

    // 429 with Retry-After: no try before its time
    let turned = faulty.turn([Reply::too_many("2"), Reply::text("after all")]).await;
    let delay = Duration::try_from(retries(&turned)[0].delay.unwrap()).unwrap();
    assert!(delay >= Duration::from_secs(2), "{delay:?}");
    assert_eq!((turned.answer(), retries(&turned)[0].attempt, restarts(&turned)), ("after all", 2, 0));

    // 500, then overload as a status of its own
    let turned =
        faulty.turn([Reply::error(500, "server_error", "boom"), Reply::overloaded(), Reply::text("third")]).await;
    assert_eq!((turned.answer(), retries(&turned).len()), ("third", 2));
    assert!(retries(&turned)[0].reason.contains("boom"), "{:?}", retries(&turned));

    // a connection that is cut before the answer
    let turned = faulty.turn([Reply::hang_up(), Reply::text("again")]).await;
    assert_eq!((turned.answer(), retries(&turned).len(), restarts(&turned)), ("again", 1, 0));

    // what is no event stream
    let turned = faulty.turn([Reply::bad_json(), Reply::text("sense")]).await;
    assert_eq!((turned.answer(), retries(&turned).len()), ("sense", 1));
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_breaks_off_is_void_and_said_again() {
    let mut faulty = Faulty::start().await;
    for broken in [
        Reply::text("The first answer, which never").cut_after(700),
        Reply::text("The first answer, which never").end_after(700),
        Reply::text("The first answer, which never").then_error("server_error", "overloaded in between"),
    ] {
        let turned = faulty.turn([broken, Reply::text("The second answer.")]).await;
        assert_eq!((turned.answer(), turned.text().as_str()), ("The second answer.", "The second answer."));
        assert_eq!((retries(&turned).len(), restarts(&turned)), (1, 1), "{:#?}", turned.events);
        // Each message's pieces are where they say.
        let mut whole = std::collections::HashMap::<&str, String>::new();
        for kind in turned.kinds() {
            if let Kind::Text(delta) = kind {
                let before = whole.entry(&delta.message).or_default();
                assert_eq!(before.len(), usize::try_from(delta.offset).unwrap());
                before.push_str(&delta.text);
            }
        }
        assert_eq!(whole.len(), 2);
    }
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_keeps_failing_fails_the_turn_and_not_the_session() {
    let mut faulty = Faulty::start().await;
    let turned =
        faulty.turn(std::iter::repeat_with(|| Reply::error(503, "server_error", "no luck today")).take(5)).await;
    let (code, message) = turned.failure();
    assert_eq!((code, retries(&turned).len()), (ErrorCode::ModelFailed, 4));
    assert!(message.contains("no luck today") && message.contains('5'), "{message}");

    // what will never work is not tried again
    let turned = faulty.turn([Reply::error(401, "authentication_error", &format!("wrong key {KEY}"))]).await;
    assert_eq!((turned.failure().0, retries(&turned).len()), (ErrorCode::ModelUnavailable, 0));
    let turned = faulty.turn([Reply::error(400, "invalid_request_error", "no such thing")]).await;
    assert_eq!((turned.failure().0, retries(&turned).len()), (ErrorCode::ModelFailed, 0));
    let turned = faulty.turn([Reply::too_many("100000")]).await;
    assert_eq!((turned.failure().0, retries(&turned).len()), (ErrorCode::ModelFailed, 0));

    // and: the session is as before, and the model is told what happened
    assert_eq!(faulty.turn([Reply::text("well again")]).await.answer(), "well again");
    let seen = faulty.model.take_requests().pop().unwrap().body.to_string();
    assert!(seen.contains("ended before an answer"), "{seen}");
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_model_is_waited_for() {
    let mut faulty = Faulty::start().await;
    faulty.model.refuse();
    let (mut client, session) = (faulty.client.clone(), faulty.session.clone());
    let turn = tokio::spawn(async move { client.turn(&session, "go").await });
    let mut watching = faulty.client.clone();
    let list = || kernelbox_proto::v1::ListTurnsRequest { parent: faulty.session.clone(), ..Default::default() };
    // once it has told of a retry, the model comes back
    loop {
        let turns = watching.turns.list_turns(list()).await.unwrap().into_inner().turns;
        if turns.first().is_some_and(|turn| turn.last_sequence >= 2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    faulty.model.push(Reply::text("here I am"));
    faulty.model.accept().await;
    let turned = turn.await.unwrap();
    assert!(!retries(&turned).is_empty());
    assert_eq!(turned.answer(), "here I am");
    faulty.client = watching;
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_is_asked_for_once_more() {
    let mut faulty = Faulty::start().await;
    let turned = faulty.turn([Reply::empty(), Reply::text("sorry: 3")]).await;
    assert_eq!(turned.answer(), "sorry: 3");
    let turned = faulty.turn([Reply::empty(), Reply::empty()]).await;
    let (code, message) = turned.failure();
    assert!(code == ErrorCode::ModelFailed && message.contains("nothing"), "{message}");
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_single_bytes_or_of_megabytes_arrives() {
    let mut faulty = Faulty::start().await;
    let turned = faulty.turn([Reply::text("größer als ein Byte: ✓").by_the_byte()]).await;
    assert_eq!((turned.answer(), turned.text().as_str()), ("größer als ein Byte: ✓", "größer als ein Byte: ✓"));

    let turned = faulty.turn([Reply::huge(5 << 20)]).await;
    assert!(turned.answer().contains("(cut:") && turned.answer().len() < 1 << 20, "{} bytes", turned.answer().len());

    // In a session of its own, as what was said so far would be summarised first.
    faulty.session = faulty.client.session().await;
    // what would take a reader of nested links down
    let nested = format!("{}a{}", "[".repeat(50_000), "](x)".repeat(50_000));
    assert_eq!(faulty.turn([Reply::text(&nested).pieces_of(16 << 10)]).await.answer(), nested);
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_calls_are_understood_or_explained() {
    let mut faulty = Faulty::start().await;

    // arguments that are code
    let turned = faulty.turn([Reply::empty().and_raw_call("python", "print('bare')"), Reply::text("ok")]).await;
    assert_eq!(turned.stdout(), "bare\n");
    // an answer that is nothing but a call
    let fenced = "```json\n{\"name\": \"python\", \"arguments\": {\"code\": \"print('fenced')\"}}\n```";
    let turned = faulty.turn([Reply::text(fenced), Reply::text("ok")]).await;
    assert_eq!((turned.stdout().as_str(), turned.answer(), turned.text().as_str()), ("fenced\n", "ok", "ok"));
    // arguments that are neither
    let turned = faulty.turn([Reply::empty().and_raw_call("python", "{\"code\": 3}"), Reply::text("I see")]).await;
    assert_eq!(turned.answer(), "I see");
    // a tool that is not there
    faulty.model.take_requests();
    let call = Reply::call("browser", serde_json::json!({"url": "x"}));
    let turned = faulty.turn([call, Reply::text("then not")]).await;
    assert!(turned.has(|kind| matches!(kind, Kind::ToolResult(result) if result.failed && result.tool == "browser")));
    let shown = faulty.model.take_requests().pop().unwrap().results().pop().unwrap();
    assert!(shown.contains("no tool") && shown.contains("python"), "{shown}");
    // several at once run in order, and each gets its own result
    let both = Reply::python("import time; time.sleep(0.2); print('one')")
        .and_call("python", serde_json::json!({"code": "print('two')"}));
    let turned = faulty.turn([both, Reply::text("both")]).await;
    assert_eq!(turned.stdout(), "one\ntwo\n");
    let results = faulty.model.take_requests().pop().unwrap().results();
    let [.., first, second] = results.as_slice() else { panic!("{results:?}") };
    assert!(first.contains("one") && second.contains("two"), "{results:?}");
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_runs_the_same_code_again_is_asked_for_words() {
    let mut faulty = Faulty::start().await;
    faulty.model.script(|seen| match seen.words_only() {
        true => Reply::text("It is 7."),
        false => Reply::python("print(7)"),
    });
    let session = faulty.session.clone();
    let turned = faulty.client.turn(&session, "go").await;
    assert_eq!((turned.answer(), turned.completed().code_log.len(), turned.limit()), ("It is 7.", 2, None));
    faulty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_where_words_are_asked_for_is_not_run_and_ends_the_turn() {
    let mut faulty = Faulty::start().await;
    faulty.model.script(|seen| match seen.words_only() {
        true => Reply::text("{\"name\": \"python\", \"arguments\": {\"code\": \"print('not run')\"}}"),
        false => Reply::python("print(7)"),
    });
    let session = faulty.session.clone();
    let turned = faulty.client.turn(&session, "go").await;
    assert_eq!((turned.limit(), turned.completed().code_log.len()), (Some("repetition"), 2));
    assert!(turned.answer().starts_with("Stopped after 3 steps") && turned.text().is_empty(), "{}", turned.answer());
    faulty.stop().await;
}
