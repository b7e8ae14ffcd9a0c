//! When what a turn tells is written.
use super::*;
use crate::store::{Begun, NewSession, NewTurn, Store};

async fn recorder() -> (Recorder, Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("t.db"), crate::metrics::Metrics::new().unwrap().store).await.unwrap();
    let name: TurnName = "sessions/s/turns/t".parse().unwrap();
    let settings = v1::Session::default();
    let session = NewSession { id: name.session.clone(), tenant: "t".into(), settings, request: None, limit: 1 };
    store.create(session).await.unwrap();
    let new = NewTurn { name: name.clone(), digest: String::new(), lease: "here".into(), message: String::new() };
    let Begun::New(_, turn) = store.begin_turn(&new).await.unwrap() else { panic!() };
    let (journal, _) = Journal::start(store.clone());
    (Recorder::new(*turn, name, "here".into(), journal), store, dir)
}

async fn is_due(recorder: &Recorder) -> bool {
    recorder.due().await.unwrap() <= Instant::now()
}

fn piece(text: &str) -> Kind {
    Kind::Text(TextDelta { text: text.to_owned(), ..Default::default() })
}

#[tokio::test]
async fn the_first_piece_goes_out_at_once_whatever_was_just_told_and_the_next_waits() {
    let (recorder, _store, _dir) = recorder().await;
    recorder.tell(Kind::Started(v1::TurnStarted::default())).await.unwrap();
    recorder.add_piece(piece("a")).await;
    assert!(is_due(&recorder).await);
    // A slow machine may take longer than the pieces' interval for a write: then it is tried again.
    let mut waits = false;
    for _ in 0..100 {
        recorder.flush().await.unwrap();
        recorder.add_piece(piece("b")).await;
        waits |= !is_due(&recorder).await;
    }
    assert!(waits);
}

#[tokio::test]
async fn what_a_model_call_used_is_written_with_the_next_event() {
    let (recorder, store, _dir) = recorder().await;
    recorder.spend(Usage { input_tokens: 7, ..Usage::default() }).await;
    assert_eq!(recorder.due().await, None);
    assert!(store.turn_events(&recorder.name, 0).await.unwrap().unwrap().events.is_empty());
    recorder.tell(Kind::Started(v1::TurnStarted::default())).await.unwrap();
    let written = store.turn_events(&recorder.name, 0).await.unwrap().unwrap().events;
    assert_eq!(written.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    assert!(matches!(written[0].kind, Some(Kind::ModelUsage(usage)) if usage.input_tokens == 7));
    assert_eq!(store.turn(&recorder.name).await.unwrap().unwrap().usage.unwrap().input_tokens, 7);
}
