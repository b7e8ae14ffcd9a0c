//! Bind and Retire, as their callers meet them.
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use kernelbox_proto::{sandbox::v1::Lifecycle as Name, v1::ErrorCode};

use super::*;
use crate::testing::{Door, SESSION, UID};

fn calls(door: &Door) -> LifecycleCalls {
    LifecycleCalls::new(UID, Arc::clone(&door.access))
}

fn bind(door: &Door, session: &str, generation: i64) -> Request<BindRequest> {
    door.request("lifecycle", BindRequest { session: session.into(), generation, ..BindRequest::default() })
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> ErrorCode {
    Error::from_status(&result.unwrap_err()).code
}

async fn nothing(_: BindRequest) -> Result<()> {
    Ok(())
}

#[tokio::test]
async fn env_and_packages_are_applied_once_for_each_generation() {
    let door = Door::new();
    let calls = calls(&door);
    let applied = AtomicUsize::new(0);
    let apply = async |request: BindRequest| {
        assert_eq!(request.session, SESSION);
        tokio::task::yield_now().await;
        applied.fetch_add(1, SeqCst);
        Ok(())
    };
    let (first, again) =
        tokio::join!(calls.bind(bind(&door, SESSION, 1), apply), calls.bind(bind(&door, SESSION, 1), apply));
    first.unwrap();
    again.unwrap();
    assert_eq!(applied.load(SeqCst), 1);
    calls.bind(bind(&door, SESSION, 2), apply).await.unwrap();
    assert_eq!(applied.load(SeqCst), 2);
    assert_eq!(code(calls.bind(bind(&door, SESSION, 1), apply).await), ErrorCode::SandboxBound);
    assert_eq!(code(calls.bind(bind(&door, "sessions/b", 3), apply).await), ErrorCode::SandboxBound);
    assert_eq!(code(calls.bind(bind(&door, "b", 3), apply).await), ErrorCode::InvalidArgument);
    assert_eq!(applied.load(SeqCst), 2);
}

#[tokio::test]
async fn a_bind_that_failed_is_applied_again() {
    let door = Door::new();
    let calls = calls(&door);
    let fail = async |_| Err(Error::new(ErrorCode::PackageInstallFailed, "no such package"));
    assert_eq!(code(calls.bind(bind(&door, SESSION, 1), fail).await), ErrorCode::PackageInstallFailed);
    let applied = AtomicUsize::new(0);
    let apply = async |_| {
        applied.fetch_add(1, SeqCst);
        Ok(())
    };
    calls.bind(bind(&door, SESSION, 1), apply).await.unwrap();
    assert_eq!(applied.load(SeqCst), 1);
}

#[tokio::test]
async fn it_tells_how_it_stands_and_retires() {
    let door = Door::new();
    let calls = calls(&door);
    let status = |figures| calls.get_status(&door.metadata("session"), figures).map(Response::into_inner);
    assert_eq!(status(Figures::default()).unwrap().lifecycle(), Name::Warm);
    calls.bind(bind(&door, SESSION, 7), nothing).await.unwrap();
    let bound = status(Figures { memory: 1 << 20, processes: 3, ..Figures::default() }).unwrap();
    assert_eq!((bound.uid.as_str(), bound.lifecycle(), bound.session.as_str()), (UID, Name::Bound, SESSION));
    assert_eq!((bound.generation, bound.memory_bytes, bound.processes), (7, 1 << 20, 3));

    calls.keep_alive(&door.request("session", KeepAliveRequest { name: SESSION.into() })).unwrap();
    let idle_for = |seconds| prost_types::Duration { seconds, nanos: 0 };
    let retire =
        |idle_for| calls.retire(door.request("lifecycle", RetireRequest { idle_for })).map(Response::into_inner);
    assert!(!retire(Some(idle_for(3600))).unwrap().retired);
    assert_eq!(code(retire(Some(idle_for(-1)))), ErrorCode::InvalidArgument);
    assert!(retire(None).unwrap().retired);
    assert_eq!(status(Figures::default()).unwrap().lifecycle(), Name::Retired);
    assert_eq!(code(calls.bind(bind(&door, SESSION, 7), nothing).await), ErrorCode::SandboxRetired);
    let keep = door.request("session", KeepAliveRequest { name: SESSION.into() });
    assert_eq!(code(calls.keep_alive(&keep)), ErrorCode::SandboxRetired);
}

#[tokio::test]
async fn each_call_has_its_scope() {
    let door = Door::bound();
    let calls = calls(&door);
    let request = BindRequest { session: SESSION.into(), generation: 1, ..BindRequest::default() };
    assert_eq!(code(calls.bind(door.request("session", request), nothing).await), ErrorCode::PermissionDenied);
    let retire = door.request("session", RetireRequest::default());
    assert_eq!(code(calls.retire(retire)), ErrorCode::PermissionDenied);
    let keep = door.request("lifecycle", KeepAliveRequest { name: SESSION.into() });
    assert_eq!(code(calls.keep_alive(&keep)), ErrorCode::PermissionDenied);
    calls.get_status(&door.metadata("lifecycle"), Figures::default()).unwrap();
    assert_eq!(code(calls.get_status(&MetadataMap::new(), Figures::default())), ErrorCode::Unauthenticated);
}
