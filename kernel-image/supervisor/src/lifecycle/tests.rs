//! What a sandbox admits in each state of its life.
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

fn session(id: &str) -> SessionId {
    id.parse().unwrap()
}

fn warm() -> Lifecycle {
    let lifecycle = Lifecycle::new();
    lifecycle.ready();
    lifecycle
}

fn bound_to(id: &str) -> Lifecycle {
    let lifecycle = warm();
    lifecycle.bind(&session(id), 1).unwrap();
    lifecycle
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> ErrorCode {
    result.unwrap_err().code
}

#[test]
fn it_is_bound_once_and_by_later_generations() {
    let lifecycle = Lifecycle::new();
    assert_eq!(code(lifecycle.bind(&session("a"), 1)), ErrorCode::SandboxStartFailed);
    lifecycle.ready();
    assert_eq!(code(lifecycle.admit(&session("a"))), ErrorCode::SandboxBound);
    assert_eq!(code(lifecycle.bind(&session("a"), 0)), ErrorCode::InvalidArgument);
    assert_eq!(lifecycle.bind(&session("a"), 2).unwrap(), Binding::New);
    assert_eq!(lifecycle.bind(&session("a"), 2).unwrap(), Binding::Same);
    assert_eq!(code(lifecycle.bind(&session("a"), 1)), ErrorCode::SandboxBound);
    assert_eq!(code(lifecycle.bind(&session("b"), 9)), ErrorCode::SandboxBound);
    assert_eq!(lifecycle.bind(&session("a"), 3).unwrap(), Binding::New);
    assert_eq!(lifecycle.phase(), Phase::Bound { session: session("a"), generation: 3 });
    assert_eq!(code(lifecycle.admit(&session("b"))), ErrorCode::SandboxBound);
    lifecycle.admit(&session("a")).unwrap();
}

#[test]
fn readiness_after_a_bind_takes_nothing_back() {
    let lifecycle = bound_to("a");
    lifecycle.ready();
    assert_eq!(lifecycle.phase().name(), LifecycleName::Bound);
}

#[test]
fn what_runs_keeps_it_from_retiring_but_not_at_once() {
    let lifecycle = bound_to("a");
    let guard = lifecycle.admit(&session("a")).unwrap();
    let answer = lifecycle.retire(Duration::from_nanos(1));
    assert_eq!((answer.retired, answer.idle), (false, Duration::ZERO));
    assert!(lifecycle.retire(Duration::ZERO).retired);
    drop(guard);
    assert_eq!(code(lifecycle.admit(&session("a"))), ErrorCode::SandboxRetired);
    assert_eq!(code(lifecycle.bind(&session("a"), 1)), ErrorCode::SandboxRetired);
    assert!(lifecycle.retire(Duration::from_hours(1)).retired, "an earlier call retired it");
}

#[test]
fn idle_time_runs_from_the_end_of_the_last_activity() {
    let lifecycle = bound_to("a");
    lifecycle.lock().last_activity -= Duration::from_secs(100);
    assert!(lifecycle.retire(Duration::from_secs(1000)).idle >= Duration::from_secs(100));
    drop(lifecycle.admit(&session("a")).unwrap());
    let answer = lifecycle.retire(Duration::from_secs(60));
    assert!(!answer.retired && answer.idle < Duration::from_secs(60));
    lifecycle.lock().last_activity -= Duration::from_secs(60);
    assert!(lifecycle.retire(Duration::from_secs(60)).retired);
}

#[test]
fn changes_are_told_when_it_retires() {
    let lifecycle = bound_to("a");
    assert!(!lifecycle.retire(Duration::from_hours(1)).unsaved);
    lifecycle.mark_unsaved();
    assert!(lifecycle.retire(Duration::ZERO).unsaved);
}

#[test]
fn only_what_changed_after_a_checkpoint_began_is_unsaved_after_it() {
    let lifecycle = bound_to("a");
    let unsaved = || lifecycle.retire(Duration::from_hours(1)).unsaved;
    assert_eq!(code(warm().begin_checkpoint()), ErrorCode::SandboxBound);
    assert_eq!(code(lifecycle.confirm(1)), ErrorCode::InvalidArgument);
    lifecycle.mark_unsaved();
    let first = lifecycle.begin_checkpoint().unwrap();
    lifecycle.mark_unsaved();
    let second = lifecycle.begin_checkpoint().unwrap();
    lifecycle.confirm(first).unwrap();
    assert!(unsaved(), "it was written to after the first began");
    lifecycle.confirm(second).unwrap();
    assert!(!unsaved());
    lifecycle.confirm(first).unwrap();
    assert!(!unsaved(), "an older one takes nothing back");

    let writing = lifecycle.writing();
    let during = lifecycle.begin_checkpoint().unwrap();
    lifecycle.confirm(during).unwrap();
    assert!(unsaved(), "what runs may write again");
    drop(writing);
    lifecycle.confirm(during).unwrap();
    assert!(unsaved(), "it wrote after the checkpoint");
}

#[tokio::test]
async fn who_can_save_it_is_waited_for_and_nobody_else() {
    let (clean, alone, watched) = (bound_to("a"), bound_to("a"), bound_to("a"));
    let _looks = clean.notices();
    assert!(!clean.terminate(), "there is nothing to save");
    alone.mark_unsaved();
    assert!(!alone.terminate(), "there is nobody to save it");

    let mut notices = watched.notices();
    let writing = watched.writing();
    let before = watched.begin_checkpoint().unwrap();
    assert!(watched.terminate());
    let notice = notices.wait_for(|notice| notice.is_some_and(|notice| notice.terminating)).await.unwrap().unwrap();
    assert_eq!(notice, Notice { phase: LifecycleName::Retired, terminating: true, unsaved: true });
    assert_eq!(code(watched.admit(&session("a"))), ErrorCode::SandboxRetired);
    watched.confirm(before).unwrap();
    let mut saved = std::pin::pin!(watched.saved());
    assert!(futures::poll!(&mut saved).is_pending(), "what wrote meanwhile is not in that checkpoint");
    let after = watched.begin_checkpoint().unwrap();
    watched.confirm(after).unwrap();
    tokio::time::timeout(Duration::from_secs(10), saved).await.unwrap();
    drop(writing);
    watched.end();
    assert!(notices.wait_for(Option::is_none).await.is_ok());
}

#[test]
fn files_come_back_to_their_generation_before_its_first_call() {
    let lifecycle = warm();
    assert_eq!(code(lifecycle.restore(&session("a"), 1)), ErrorCode::SandboxBound);
    lifecycle.bind(&session("a"), 2).unwrap();
    drop(lifecycle.prepare(&session("a")).unwrap());
    assert_eq!(code(lifecycle.restore(&session("a"), 1)), ErrorCode::SandboxBound);
    assert_eq!(code(lifecycle.restore(&session("b"), 2)), ErrorCode::SandboxBound);
    drop(lifecycle.restore(&session("a"), 2).unwrap());
    drop(lifecycle.restore(&session("a"), 2).unwrap());
    drop(lifecycle.admit(&session("a")).unwrap());
    assert_eq!(code(lifecycle.restore(&session("a"), 2)), ErrorCode::SandboxBound);
}

/// Each of 1,000 calls either ran before the sandbox retired or was refused and did not run: never both, never neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_thousand_calls_race_its_end() {
    for _ in 0..20 {
        let lifecycle = bound_to("a");
        let ran = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(tokio::sync::Barrier::new(1001));
        let calls: Vec<_> = (0..1000)
            .map(|_| {
                let (lifecycle, ran, running, start) = (lifecycle.clone(), ran.clone(), running.clone(), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    let guard = lifecycle.admit(&session("a"))?;
                    running.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                    ran.fetch_add(1, SeqCst);
                    running.fetch_sub(1, SeqCst);
                    drop(guard);
                    Ok::<_, Error>(())
                })
            })
            .collect();
        start.wait().await;
        // Idle for a moment is enough, so that it retires between calls, never during one.
        while !lifecycle.retire(Duration::from_nanos(1)).retired {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.load(SeqCst), 0, "nothing ran when it retired");
        let ran_before = ran.load(SeqCst);
        let mut refused = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::SandboxRetired);
                    refused += 1;
                }
            }
        }
        assert_eq!(ran.load(SeqCst), ran_before, "nothing ran after it retired");
        assert_eq!(ran_before + refused, 1000);
    }
}
