//! Files stay inside the workspace, over gRPC and HTTP; odd ones are a clear error, and nothing hangs.
use std::{fs, io::Write as _, time::Duration};

use kernelbox_proto::v1::{
    DeleteFileRequest, DownloadRequest, ErrorCode, FileType, ListFilesRequest, MakeDirectoryRequest, MoveFileRequest,
    StatFileRequest, UploadHeader, UploadRequest, upload_request::Part,
};
use kernelbox_tests::{Client, Stack, code_of};
use sha2::{Digest as _, Sha256};
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(20);

fn http() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().timeout(PATIENCE).build().unwrap()
}

/// The error codes of every file call on `path`, by the call's name; none may hang.
async fn every_call(client: &mut Client, session: &str, path: &str) -> Vec<(&'static str, Option<ErrorCode>)> {
    let (session, path) = (session.to_owned(), path.to_owned());
    let error = |result: Result<(), Status>| result.err().map(|status| code_of(&status));
    let stat = StatFileRequest { session: session.clone(), path: path.clone(), digest: true };
    let delete = DeleteFileRequest { session: session.clone(), path: path.clone(), recursive: true };
    let list = ListFilesRequest { parent: session.clone(), path: path.clone(), ..Default::default() };
    let make = MakeDirectoryRequest { session: session.clone(), path: path.clone() };
    let from =
        MoveFileRequest { session: session.clone(), path: path.clone(), new_path: "moved".into(), overwrite: true };
    let to =
        MoveFileRequest { session: session.clone(), path: "own.txt".into(), new_path: path.clone(), overwrite: true };
    let all = async {
        let mut codes = vec![
            ("stat", error(client.files.stat_file(stat).await.map(drop))),
            ("list", error(client.files.list_files(list).await.map(drop))),
            ("make", error(client.files.make_directory(make).await.map(drop))),
            ("move from", error(client.files.move_file(from).await.map(drop))),
            ("move to", error(client.files.move_file(to).await.map(drop))),
            ("delete", error(client.files.delete_file(delete).await.map(drop))),
        ];
        codes.push(("download", error(client.download(&session, &path).await.map(drop))));
        codes.push(("upload", error(client.upload(&session, &path, b"evil").await.map(drop))));
        codes
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("a call on {path:?} hangs"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leaves_the_workspace() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.upload(&session, "own.txt", b"own").await.unwrap();
    // given: a secret beside the workspace, and links to it made by code
    let outside = stack.workspace(&session).parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret.txt"), "secret").unwrap();
    let code = format!(
        "import os
os.symlink('{0}', 'link_to_folder')
os.symlink('{0}/secret.txt', 'link_to_file')
os.symlink('../outside', 'relative_link')
os.symlink('/etc', 'etc')
os.makedirs('a/b')
os.symlink('../../..', 'a/b/up')",
        outside.display()
    );
    client.run(&session, &code).await.ok();

    let long = "x".repeat(300);
    for path in [
        "..",
        "../outside/secret.txt",
        "a/../../outside/secret.txt",
        "/etc/passwd",
        "link_to_folder/secret.txt",
        "relative_link/secret.txt",
        "etc/passwd",
        "a/b/up/outside/secret.txt",
        "/workspace/../outside/secret.txt",
        "a\0b",
        &long,
        "//etc/passwd",
        "./../outside/secret.txt",
    ] {
        for (call, code) in every_call(&mut client, &session, path).await {
            assert!(
                matches!(code, Some(ErrorCode::InvalidPath | ErrorCode::FileNotFound | ErrorCode::NotADirectory)),
                "{call} of {path:?}: {code:?}"
            );
        }
    }
    // and: a link itself is told, not followed
    for link in ["link_to_file", "link_to_folder"] {
        let request = StatFileRequest { session: session.clone(), path: link.into(), digest: true };
        let told = client.files.stat_file(request).await.unwrap().into_inner();
        assert_eq!((told.r#type(), told.sha256.as_str()), (FileType::Symlink, ""), "{link}");
        assert!(told.link_target.starts_with(outside.to_str().unwrap()), "{told:?}");
        let refused = client.download(&session, link).await.unwrap_err();
        assert!(matches!(code_of(&refused), ErrorCode::NotARegularFile | ErrorCode::InvalidPath), "{refused}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret.txt")).unwrap(), "secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was written outside");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leaves_the_workspace_over_http() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.run(&session, "import os; os.symlink('/etc', 'etc')").await.ok();
    // Written by hand: clients tidy ".." away before they send it.
    let address = stack.endpoint.strip_prefix("http://").unwrap().to_owned();
    for path in [
        "../keys.yaml",
        "..%2f..%2f..%2fkey",
        "%2e%2e/%2e%2e/key",
        "a/../../../key",
        "etc/passwd",
        "%2fetc%2fpasswd",
        "%00",
    ] {
        for method in ["GET", "PUT"] {
            let request = format!(
                "{method} /v1/{session}/files/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                stack.key
            );
            let address = address.clone();
            let answer = tokio::task::spawn_blocking(move || {
                let mut stream = std::net::TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                std::io::read_to_string(stream).unwrap()
            });
            let answer = answer.await.unwrap();
            let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            assert!(["400", "404"].contains(&status.as_str()), "{method} {path}: {answer}");
        }
    }
    assert!(fs::read_to_string(stack.data().join("key")).unwrap().trim() == stack.key);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_files_are_listed_and_never_opened() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.upload(&session, "own.txt", b"own").await.unwrap();
    let code = r"
import os, socket
os.mkfifo('fifo')
server = socket.socket(socket.AF_UNIX); server.bind('socket')
os.symlink('loop', 'loop')
os.symlink('nowhere', 'dangling')
open(b'not-\xff-utf8', 'w').close()
open('new\nline', 'w').write('content')
open('n' * 255, 'w').close()
if os.geteuid() == 0:
    import stat
    try: os.mknod('device', stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError: pass
";
    // the execution ends: its scan for changed files hangs on none of them
    client.run(&session, code).await.ok();

    for path in ["fifo", "socket", "loop", "dangling"] {
        let request = DownloadRequest { session: session.clone(), path: path.into(), ..Default::default() };
        let opened = tokio::time::timeout(PATIENCE, client.files.download(request)).await;
        let refused = match opened.unwrap_or_else(|_| panic!("{path} hangs")) {
            Err(status) => status,
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        };
        assert!(
            matches!(code_of(&refused), ErrorCode::NotARegularFile | ErrorCode::FileNotFound | ErrorCode::InvalidPath),
            "{path}: {refused}"
        );
    }
    let request = ListFilesRequest { parent: session.clone(), ..Default::default() };
    let listed = client.files.list_files(request).await.unwrap().into_inner().files;
    let kind = |path: &str| listed.iter().find(|file| file.path == path).map(|file| file.r#type());
    assert_eq!(kind("fifo"), Some(FileType::Other));
    assert_eq!(kind("socket"), Some(FileType::Other));
    assert_eq!(kind("loop"), Some(FileType::Symlink));
    assert_eq!(kind("not-\u{fffd}-utf8"), Some(FileType::File));
    assert_eq!(client.download(&session, "new\nline").await.unwrap(), b"content");
    // and: an upload onto a FIFO replaces it or is refused, but is not written into it
    let written = tokio::time::timeout(PATIENCE, client.upload(&session, "fifo", b"x")).await.expect("no hang");
    if let Err(refused) = written {
        assert_eq!(code_of(&refused), ErrorCode::NotARegularFile);
    }
    for odd in ["n".repeat(256), format!("{}/x", "n".repeat(300))] {
        let refused = client.upload(&session, &odd, b"x").await.unwrap_err();
        assert_eq!(code_of(&refused), ErrorCode::InvalidPath);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_whole_or_not_at_all() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    client.upload(&session, "a.txt", b"before").await.unwrap();
    let header = |path: &str, sha256: &str, offset: i64, overwrite: bool| UploadRequest {
        part: Some(Part::Header(UploadHeader {
            session: session.clone(),
            path: path.into(),
            sha256: sha256.into(),
            offset,
            overwrite,
            ..Default::default()
        })),
    };
    let chunk = |bytes: &'static [u8]| UploadRequest { part: Some(Part::Chunk(bytes.to_vec().into())) };

    let wrong = hex::encode(Sha256::digest(b"something else"));
    let refused = client.files.upload(tokio_stream::iter([header("a.txt", &wrong, 0, true), chunk(b"after")])).await;
    assert_eq!(code_of(&refused.unwrap_err()), ErrorCode::DigestMismatch);
    let refused = client.files.upload(tokio_stream::iter([header("a.txt", "", 0, false), chunk(b"after")])).await;
    assert_eq!(code_of(&refused.unwrap_err()), ErrorCode::AlreadyExists);
    assert_eq!(client.download(&session, "a.txt").await.unwrap(), b"before");

    let whole = hex::encode(Sha256::digest(b"before and after"));
    let parts = [header("a.txt", &whole, 6, false), chunk(b" and "), chunk(b"after")];
    let written = client.files.upload(tokio_stream::iter(parts)).await.unwrap().into_inner();
    assert_eq!((written.size, written.sha256), (16, whole));
    let refused = client.files.upload(tokio_stream::iter([header("a.txt", "", 99, false), chunk(b"x")])).await;
    assert_eq!(code_of(&refused.unwrap_err()), ErrorCode::OutOfRange);
    let names = client.run(&session, "import os; print([f for _, _, files in os.walk('.') for f in files])").await;
    assert_eq!(names.ok(), "['a.txt']\n", "temporary files are left");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out_over_http_with_ranges() {
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    let http = http();
    let url = format!("{}/v1/{session}/files/folder/data%20file.csv", stack.endpoint);
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();

    let put = http.put(&url).bearer_auth(&stack.key).body(content.clone()).send().await.unwrap();
    assert!(put.status().is_success(), "{} {}", put.status(), put.text().await.unwrap());
    assert_eq!(client.download(&session, "folder/data file.csv").await.unwrap(), content);

    let whole = http.get(&url).bearer_auth(&stack.key).send().await.unwrap();
    let etag = whole.headers().get("etag").expect("an etag").clone();
    assert_eq!(whole.headers()["content-type"].to_str().unwrap().split(';').next(), Some("text/csv"));
    assert_eq!(whole.bytes().await.unwrap(), content);
    let part = http.get(&url).bearer_auth(&stack.key).header("range", "bytes=10-19").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 10-19/3000000");
    assert_eq!(part.bytes().await.unwrap(), content[10..20]);
    let last = http.get(&url).bearer_auth(&stack.key).header("range", "bytes=-5").send().await.unwrap();
    assert_eq!(last.bytes().await.unwrap(), content[content.len() - 5..]);
    let beyond = http.get(&url).bearer_auth(&stack.key).header("range", "bytes=3000000-").send().await.unwrap();
    assert_eq!(beyond.status(), 416);
    let same = http.get(&url).bearer_auth(&stack.key).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    let missing = http.get(format!("{url}.no")).bearer_auth(&stack.key).send().await.unwrap();
    assert_eq!(missing.status(), 404);
    assert!(missing.text().await.unwrap().contains("FILE_NOT_FOUND"));
    stack.stop().await;
}
