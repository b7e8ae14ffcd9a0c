//! Files that go in and come out, whole or not at all.
use std::{fs, pin::pin};

use cap_std::{ambient_authority, fs::Dir};
use futures::future::join_all;
use kernelbox_proto::v1::{SessionEvent, UploadHeader};
use upload_request::Part;

use super::*;
use crate::{
    testing::{Door, Place, SESSION},
    workspace::Quota,
};

struct Calls {
    door: Door,
    place: Place,
    artifacts: Arc<Artifacts>,
    events: SessionEvents,
    files: Files,
}

impl Calls {
    fn new() -> Self {
        let (door, place) = (Door::bound(), Place::new());
        let root = Arc::new(Dir::open_ambient_dir(&place.workspace, ambient_authority()).unwrap());
        let artifacts = Arc::new(Artifacts::new(Arc::clone(&root)).unwrap());
        let events = SessionEvents::new();
        let workspace = Workspace::new(root, Quota::unlimited());
        let files = Files::new(workspace, Arc::clone(&door.access), Arc::clone(&artifacts), events.clone());
        Self { door, place, artifacts, events, files }
    }

    async fn upload(&self, path: &str, parts: Vec<Result<Part, Status>>) -> Result<File, Error> {
        let header = UploadHeader { session: SESSION.into(), path: path.into(), overwrite: true, ..Default::default() };
        self.upload_parts([vec![Ok(Part::Header(header))], parts].concat()).await
    }

    async fn upload_parts(&self, parts: Vec<Result<Part, Status>>) -> Result<File, Error> {
        let parts = parts.into_iter().map(|part| part.map(|part| UploadRequest { part: Some(part) }));
        let request = self.door.request("session", stream::iter(parts));
        self.files.upload(request).await.map(Response::into_inner).map_err(|status| Error::from_status(&status))
    }

    async fn download(&self, path: &str) -> Result<(File, Vec<u8>), Error> {
        let request = DownloadRequest { session: SESSION.into(), path: path.into(), ..Default::default() };
        let refused = |status: Status| Error::from_status(&status);
        let mut stream =
            self.files.download(self.door.request("session", request)).await.map_err(refused)?.into_inner();
        let Some(download_response::Part::File(file)) = stream.next().await.unwrap().map_err(refused)?.part else {
            panic!("the file comes first");
        };
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            match part.map_err(refused)?.part {
                Some(download_response::Part::Chunk(chunk)) => bytes.extend(chunk),
                other => panic!("not a chunk: {other:?}"),
            }
        }
        Ok((file, bytes))
    }
}

fn chunk(bytes: &'static [u8]) -> Result<Part, Status> {
    Ok(Part::Chunk(bytes.into()))
}

fn change(event: Option<SessionEvent>) -> (String, ArtifactChange) {
    match event.unwrap().kind {
        Some(Kind::Artifact(artifact)) => (artifact.path.clone(), artifact.change()),
        other => panic!("not an artifact: {other:?}"),
    }
}

#[tokio::test]
async fn a_file_comes_back_and_watchers_hear_of_it() {
    let calls = Calls::new();
    let mut watcher = pin!(calls.events.watch());
    let file = calls.upload("in/a.txt", vec![chunk(b"hello "), chunk(b"world")]).await.unwrap();
    assert_eq!((file.size, file.sha256.len()), (11, 64));
    let (stat, bytes) = calls.download("/workspace/in/a.txt").await.unwrap();
    assert_eq!((stat.size, bytes.as_slice()), (11, b"hello world".as_slice()));
    calls.upload("in/a.txt", vec![chunk(b"again")]).await.unwrap();
    let moved =
        MoveFileRequest { session: SESSION.into(), path: "in/a.txt".into(), new_path: "b".into(), overwrite: false };
    calls.files.move_file(calls.door.request("session", moved)).await.unwrap();
    let delete = DeleteFileRequest { session: SESSION.into(), path: "b".into(), recursive: false };
    calls.files.delete_file(calls.door.request("session", delete)).await.unwrap();
    for (path, kind) in [
        ("in/a.txt", ArtifactChange::Created),
        ("in/a.txt", ArtifactChange::Modified),
        ("in/a.txt", ArtifactChange::Deleted),
        ("b", ArtifactChange::Created),
        ("b", ArtifactChange::Deleted),
    ] {
        assert_eq!(change(watcher.next().await), (path.to_owned(), kind));
    }
    assert!(calls.artifacts.changes().unwrap().artifacts.is_empty(), "what a client did is no execution's");
    assert!(calls.door.access.lifecycle().retire(Duration::ZERO).unsaved);
}

#[tokio::test]
async fn an_upload_that_is_cut_or_malformed_changes_nothing() {
    let calls = Calls::new();
    calls.upload("a", vec![chunk(b"old")]).await.unwrap();
    let header = Part::Header(UploadHeader { session: SESSION.into(), path: "a".into(), ..Default::default() });
    let large = Ok(Part::Chunk(vec![0; MAX_CHUNK + 1].into()));
    for parts in [
        vec![chunk(b"new"), Err(Status::cancelled("gone"))],
        vec![chunk(b"new"), Ok(header)],
        vec![chunk(b"new"), large],
    ] {
        calls.upload("a", parts).await.unwrap_err();
    }
    assert_eq!(calls.upload_parts(vec![]).await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(calls.upload_parts(vec![chunk(b"x")]).await.unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(calls.download("a").await.unwrap().1, b"old");
    assert_eq!(fs::read_dir(calls.place.workspace.join(".kernelbox/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_caller_who_leaves_leaves_nothing() {
    let calls = Calls::new();
    let header = UploadHeader { session: SESSION.into(), path: "a".into(), ..Default::default() };
    let parts = [Part::Header(header), Part::Chunk("half".into())].map(|part| Ok(UploadRequest { part: Some(part) }));
    let stream = stream::iter(parts).chain(stream::pending());
    let upload = calls.files.upload(calls.door.request("session", stream));
    let temporary = calls.place.workspace.join(".kernelbox/tmp");
    let count = || fs::read_dir(&temporary).map_or(0, Iterator::count);
    let begun = async {
        while count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        done = upload => panic!("it ended: {done:?}"),
        () = begun => {}
    }
    let gone = async {
        while count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the temporary file goes");
    let retirement = calls.door.access.lifecycle().retire(Duration::from_nanos(1));
    assert!(retirement.retired, "nothing runs any more");
}

#[tokio::test]
async fn every_call_needs_a_token_its_session_and_a_sandbox_that_takes_calls() {
    async fn codes(calls: &Calls, scope: &str, session: &str) -> Vec<ErrorCode> {
        let (files, door, session) = (&calls.files, &calls.door, session.to_owned());
        let part = Part::Header(UploadHeader { session: session.clone(), path: "a".into(), ..Default::default() });
        let upload = stream::iter([Ok(UploadRequest { part: Some(part) })]);
        let path = "a".to_owned();
        macro_rules! request {
            ($name:ident { $($field:ident : $value:expr),* }) => {
                door.request(scope, $name { $($field: $value.clone(),)* ..Default::default() })
            };
        }
        let answers = [
            files.upload(door.request(scope, upload)).await.err(),
            files.download(request!(DownloadRequest { session: session, path: path })).await.err(),
            files.list_files(request!(ListFilesRequest { parent: session })).await.err(),
            files.stat_file(request!(StatFileRequest { session: session, path: path })).await.err(),
            files.delete_file(request!(DeleteFileRequest { session: session, path: path })).await.err(),
            files.move_file(request!(MoveFileRequest { session: session, path: path, new_path: path })).await.err(),
            files.make_directory(door.request(scope, MakeDirectoryRequest { session, path })).await.err(),
        ];
        answers.into_iter().map(|status| Error::from_status(&status.expect("refused")).code).collect()
    }
    let calls = Calls::new();
    assert_eq!(codes(&calls, "lifecycle", SESSION).await, [ErrorCode::PermissionDenied; 7]);
    assert_eq!(codes(&calls, "session", "sessions/b").await, [ErrorCode::SandboxBound; 7]);
    assert_eq!(codes(&calls, "session", "b").await, [ErrorCode::InvalidArgument; 7]);
    calls.door.access.lifecycle().retire(Duration::ZERO);
    assert_eq!(codes(&calls, "session", SESSION).await, [ErrorCode::SandboxRetired; 7]);
    assert_eq!(fs::read_dir(&calls.place.workspace).unwrap().count(), 0);
    let request = Request::new(StatFileRequest { session: SESSION.into(), ..Default::default() });
    let status = calls.files.stat_file(request).await.unwrap_err();
    assert_eq!(Error::from_status(&status).code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn every_call_refuses_paths_that_leave() {
    let calls = Calls::new();
    for path in ["../outside/secret", "/etc/passwd", "a/../../outside/secret", "a\0b", &"n".repeat(300)] {
        let (files, door, path, session) = (&calls.files, &calls.door, path.to_owned(), SESSION.to_owned());
        let to = |path: &String, new_path: &String| MoveFileRequest {
            session: session.clone(),
            path: path.clone(),
            new_path: new_path.clone(),
            overwrite: true,
        };
        let good = "good".to_owned();
        macro_rules! request {
            ($name:ident) => {
                door.request("session", $name { session: session.clone(), path: path.clone(), ..Default::default() })
            };
        }
        let list = ListFilesRequest { parent: session.clone(), path: path.clone(), ..Default::default() };
        let statuses = [
            files.download(request!(DownloadRequest)).await.err(),
            files.list_files(door.request("session", list)).await.err(),
            files.stat_file(request!(StatFileRequest)).await.err(),
            files.delete_file(request!(DeleteFileRequest)).await.err(),
            files.move_file(door.request("session", to(&path, &good))).await.err(),
            files.move_file(door.request("session", to(&good, &path))).await.err(),
            files
                .make_directory(
                    door.request("session", MakeDirectoryRequest { session: session.clone(), path: path.clone() }),
                )
                .await
                .err(),
        ];
        for (n, status) in statuses.into_iter().enumerate() {
            assert_eq!(Error::from_status(&status.unwrap()).code, ErrorCode::InvalidPath, "{n} {path:?}");
        }
        assert_eq!(calls.upload(&path, vec![chunk(b"x")]).await.unwrap_err().code, ErrorCode::InvalidPath, "{path:?}");
    }
    calls.place.assert_nothing_left();
}

/// 900 uploads race the sandbox's end, and 100 come after it: a file stands for each that was admitted, and for no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn uploads_that_race_the_end_are_done_or_not_begun() {
    let calls = Arc::new(Calls::new());
    let upload = |n| {
        let calls = Arc::clone(&calls);
        tokio::spawn(async move { calls.upload(&format!("f{n}"), vec![chunk(b"x")]).await.map(|_| n) })
    };
    let racing: Vec<_> = (0..900).map(upload).collect();
    while fs::read_dir(&calls.place.workspace).unwrap().count() < 100 {
        tokio::task::yield_now().await;
    }
    calls.door.access.lifecycle().retire(Duration::ZERO);
    let late: Vec<_> = (900..1000).map(upload).collect();
    let mut done = 0;
    for upload in join_all(racing.into_iter().chain(late)).await {
        match upload.unwrap() {
            Ok(n) => {
                assert!(n < 900, "f{n} came after the end");
                assert!(calls.place.workspace.join(format!("f{n}")).is_file());
                done += 1;
            }
            Err(error) => assert_eq!(error.code, ErrorCode::SandboxRetired),
        }
    }
    assert_eq!(
        fs::read_dir(&calls.place.workspace).unwrap().count() - 1,
        done,
        "files stand whose uploads were refused"
    );
}
