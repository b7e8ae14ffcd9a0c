//! Sessions whose sandboxes do not keep their files: the gateway does, whatever becomes of sandboxes, of itself, and of where it saves.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test and its helpers fail by panicking"
)]
mod support;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use kernelbox_gateway::ServeConfig;
use kernelbox_proto::v1::{
    DeleteSessionRequest, ExecuteRequest, ExecutionEvent, GetSessionRequest, SandboxState, Session, Stage,
    UpdateSessionRequest, execution_event::Kind,
};
use support::{Gateway, World, ready, until};

/// Sessions are saved almost at once.
fn soon(config: &mut ServeConfig) {
    config.quiet = Duration::from_millis(20);
}

/// Sessions are not saved before they must be.
fn late(config: &mut ServeConfig) {
    config.quiet = Duration::from_secs(3600);
}

async fn start(change: impl FnOnce(&mut ServeConfig)) -> Gateway {
    let world = World::new();
    world.volatile.store(true, SeqCst);
    Gateway::start_in(tempfile::tempdir().unwrap(), world, change).await
}

/// Files below a folder.
fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

fn objects(gateway: &Gateway) -> PathBuf {
    gateway.dir.path().join("data/objects")
}

fn unsaved(gateway: &Gateway) -> bool {
    gateway.world.newest().life.lock().unwrap().unsaved()
}

async fn saved(gateway: &Gateway) {
    until("the session is saved", || !unsaved(gateway)).await;
}

async fn database(gateway: &Gateway) -> sqlx::SqlitePool {
    let url = format!("sqlite://{}", gateway.dir.path().join("data/kernelbox.db").display());
    sqlx::SqlitePool::connect(&url).await.unwrap()
}

async fn state(gateway: &Gateway) -> (SandboxState, i64) {
    let request = GetSessionRequest { name: "sessions/s".into() };
    let session = gateway.sessions().get_session(request).await.unwrap().into_inner();
    (session.sandbox_state(), session.generation)
}

/// The metric of saves that ended like this.
fn saves(outcome: &str) -> String {
    format!("kernelbox_checkpoint_seconds_count{{operation=\"save\",outcome=\"{outcome}\"}}")
}

fn restoring(events: &[ExecutionEvent]) -> bool {
    let is =
        |event: &ExecutionEvent| matches!(&event.kind, Some(Kind::Stage(stage)) if stage.stage() == Stage::Restoring);
    events.iter().any(is)
}

#[tokio::test]
async fn files_are_saved_after_a_quiet_moment_and_come_back_in_the_next_sandbox() {
    let gateway = start(soon).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    saved(&gateway).await;
    gateway.upload("s", "big.txt", &"x".repeat(700_000)).await;
    saved(&gateway).await;
    until("the older object is removed", || count(&objects(&gateway)) == 1).await;

    *gateway.world.skipped.lock().unwrap() = vec!["fifo: a FIFO".into()];
    gateway.upload("s", "b.txt", "two").await;
    saved(&gateway).await;
    gateway.world.newest().crash();
    let events = gateway.run("s", "x").await.unwrap();
    assert!(restoring(&events), "{events:?}");
    let news = ready(&events);
    assert!(news.len() == 1 && news[0].contains("the files are there but for fifo: a FIFO"), "{news:?}");
    assert!(news[0].contains("variables of the earlier sandbox are gone") && !news[0].contains("lost"), "{news:?}");
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("one"));
    assert_eq!(gateway.download("s", "b.txt").await.as_deref(), Some("two"));
    assert_eq!(gateway.download("s", "big.txt").await.map(|it| it.len()), Some(700_000));
    assert_eq!(ready(&gateway.run("s", "x").await.unwrap()).len(), 0, "it is told once");
    gateway.leave().await;
}

#[tokio::test]
async fn a_session_with_another_template_goes_on_in_another_sandbox_with_its_files() {
    let gateway = start(late).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    let first = gateway.world.newest();
    let change = UpdateSessionRequest {
        session: Some(Session { name: "sessions/s".into(), template: "gpu".into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["template".into()] }),
    };

    gateway.sessions().update_session(change).await.unwrap();

    let news = ready(&gateway.run("s", "x").await.unwrap());
    assert!(
        news[0].contains("the files are there") && news[0].contains("variables of the earlier sandbox are gone"),
        "{news:?}"
    );
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("one"));
    assert!(!first.lives());
    let templates: Vec<_> = gateway.world.acquired.lock().unwrap().iter().map(|it| it.template.clone()).collect();
    assert_eq!(templates, ["", "gpu"]);
    gateway.leave().await;
}

#[tokio::test]
async fn what_was_not_saved_is_told_as_lost() {
    let gateway = start(late).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    let pool = database(&gateway).await;
    let noted = async {
        while sqlx::query_scalar::<_, i64>("SELECT unsaved_generation FROM sessions").fetch_one(&pool).await.unwrap()
            != 1
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), noted).await.expect("it is never noted");
    pool.close().await;
    gateway.world.newest().crash();
    let news = ready(&gateway.run("s", "x").await.unwrap());
    assert!(news[0].contains("were not saved yet and are lost"), "{news:?}");
    assert_eq!(gateway.download("s", "a.txt").await, None);
    gateway.leave().await;
}

#[tokio::test]
async fn a_sandbox_that_is_told_to_end_or_retired_is_saved_at_once() {
    let gateway = start(late).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    let first = gateway.world.newest();
    first.life.lock().unwrap().terminate();
    until("it is saved", || !first.life.lock().unwrap().unsaved()).await;
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("one"));
    assert!(!first.lives());

    gateway.upload("s", "a.txt", "two").await;
    let second = gateway.world.newest();
    second.life.lock().unwrap().retire();
    until("it is saved", || !second.life.lock().unwrap().unsaved()).await;
    assert!(second.lives(), "whoever had it retire ends it");
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("two"));
    assert!(!second.lives(), "the session has the next");
    assert_eq!(state(&gateway).await, (SandboxState::Ready, 3));
    gateway.leave().await;
}

#[tokio::test]
async fn a_gateway_that_starts_again_goes_on_with_the_sandbox_that_runs() {
    let gateway = start(late).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    let (dir, world) = gateway.leave().await;
    assert_eq!(world.living(), 1);
    assert!(!world.newest().life.lock().unwrap().unsaved(), "the server saves before it stops");

    let gateway = Gateway::start_in(dir, world, late).await;
    let events = gateway.run("s", "x").await.unwrap();
    assert_eq!((ready(&events).len(), restoring(&events)), (0, false), "the variables are there: {events:?}");
    assert_eq!((state(&gateway).await, gateway.world.acquisitions()), ((SandboxState::Ready, 1), 1));
    assert_eq!(gateway.world.binds.lock().unwrap().len(), 2);

    // One that retired meanwhile is saved and ended, and the session has the next.
    gateway.upload("s", "a.txt", "two").await;
    let (dir, world) = gateway.leave().await;
    let first = world.newest();
    {
        let mut life = first.life.lock().unwrap();
        life.change();
        life.retire();
    }
    world.files.lock().unwrap().get_mut("sessions/s").unwrap().insert("late.txt".into(), b"three".to_vec());
    let gateway = Gateway::start_in(dir, world, late).await;
    assert_eq!(ready(&gateway.run("s", "x").await.unwrap()).len(), 1);
    assert!(!first.lives());
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("two"));
    assert_eq!(gateway.download("s", "late.txt").await.as_deref(), Some("three"));
    gateway.leave().await;
}

#[tokio::test]
async fn where_nothing_can_be_saved_the_older_checkpoint_stays_and_it_is_said() {
    let gateway = start(soon).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    saved(&gateway).await;
    let (place, aside) = (objects(&gateway), gateway.dir.path().join("aside"));
    until("the older objects are gone", || count(&place) == 1).await;
    std::fs::rename(&place, &aside).unwrap();
    std::fs::write(&place, "in the way").unwrap();
    let before = gateway.world.checkpoints.load(SeqCst);
    gateway.upload("s", "a.txt", "two").await;
    until("it is tried, and tried again", || gateway.world.checkpoints.load(SeqCst) > before + 1).await;
    assert!(unsaved(&gateway));
    let told = gateway.metrics().await;
    assert!(told.of(&saves("failed")) >= 1.0 && told.of(&saves("unreachable")) == 0.0);
    gateway.world.newest().crash();
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    let news = ready(&gateway.run("s", "x").await.unwrap());
    assert!(news[0].contains("changed files since the last save at 20"), "{news:?}");
    assert_eq!(gateway.download("s", "a.txt").await.as_deref(), Some("one"));
    gateway.leave().await;
}

#[tokio::test]
async fn a_sandbox_that_does_not_answer_is_told_from_files_that_cannot_be_kept() {
    let gateway = start(soon).await;
    gateway.open("s").await;
    gateway.world.cut_checkpoints.store(true, SeqCst);
    gateway.upload("s", "a.txt", "one").await;
    until("it is tried, and tried again", || gateway.world.checkpoints.load(SeqCst) > 1).await;
    let told = gateway.metrics().await;
    assert!(told.of(&saves("unreachable")) >= 1.0 && told.of(&saves("failed")) == 0.0);
    gateway.world.cut_checkpoints.store(false, SeqCst);
    saved(&gateway).await;
    gateway.leave().await;
}

#[tokio::test]
async fn an_earlier_generation_saves_nothing_more() {
    let gateway = start(late).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    // Another gateway takes the session on, and does not see this one's sandbox.
    let pool = database(&gateway).await;
    sqlx::query("UPDATE sessions SET generation = 2, bound_generation = 2").execute(&pool).await.unwrap();
    let first = gateway.world.newest();
    first.life.lock().unwrap().terminate();
    let objects = objects(&gateway);
    // Its end waits for the last try to save what it looks after.
    let (_dir, _world) = gateway.leave().await;
    let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM checkpoints").fetch_one(&pool).await.unwrap();
    assert_eq!((rows, count(&objects)), (0, 0), "its save is refused, and its object removed");
    pool.close().await;
}

#[tokio::test]
async fn a_session_takes_its_objects_along() {
    let gateway = start(soon).await;
    for id in ["s", "t"] {
        gateway.open(id).await;
        gateway.upload(id, "a.txt", "one").await;
        saved(&gateway).await;
    }
    until("each has an object", || count(&objects(&gateway)) == 2).await;
    gateway.sessions().delete_session(DeleteSessionRequest { name: "sessions/s".into() }).await.unwrap();
    assert_eq!(count(&objects(&gateway)), 1);

    // Also one whose end an earlier server began.
    let pool = database(&gateway).await;
    let (dir, world) = gateway.leave().await;
    sqlx::query("UPDATE sessions SET deleting = 1").execute(&pool).await.unwrap();
    pool.close().await;
    let gateway = Gateway::start_in(dir, Arc::clone(&world), soon).await;
    assert_eq!(count(&objects(&gateway)), 0);
    gateway.leave().await;
}

#[tokio::test]
async fn a_deleted_session_is_not_saved_first() {
    let gateway = start(late).await;
    gateway.open("s").await;
    gateway.upload("s", "a.txt", "one").await;
    let request = ExecuteRequest { session: "sessions/s".into(), code: "hang".into(), ..Default::default() };
    let mut running = gateway.code().execute(request).await.unwrap().into_inner();
    while running.message().await.unwrap().unwrap().sequence < 2 {}
    gateway.sessions().delete_session(DeleteSessionRequest { name: "sessions/s".into() }).await.unwrap();
    assert_eq!((gateway.world.living(), gateway.world.checkpoints.load(SeqCst)), (0, 0));
    gateway.leave().await;
}
