//! FetchUrl against a server of the test's own: private addresses are refused, at redirects too, unless allowed.
use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use kernelbox_proto::v1::{ErrorCode, FetchUrlRequest};
use kernelbox_tests::{Client, Stack, code_of};

const PATIENCE: Duration = Duration::from_secs(20);

/// A web server on the loopback interface: `/file` is a file, `/to?ADDRESS` a redirect.
fn web() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let answer = match path.split_once('?') {
                Some(("/to", to)) => format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"),
                _ if path == "/missing" => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(),
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nfetched".into(),
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

async fn fetch(client: &mut Client, session: &str, url: &str) -> Result<String, ErrorCode> {
    let request = FetchUrlRequest { session: session.into(), url: url.into(), overwrite: true, ..Default::default() };
    let fetched = tokio::time::timeout(PATIENCE, client.files.fetch_url(request)).await.expect("no hang");
    fetched.map(|file| file.into_inner().path).map_err(|status| code_of(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_not_fetched_unless_allowed() {
    let web = web();
    let port = web.rsplit_once(':').unwrap().1.to_owned();
    let stack = Stack::start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{port}/file");
        assert_eq!(fetch(&mut client, &session, &url).await, Err(ErrorCode::UrlRefused), "{url}");
    }
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://100.64.0.1/",
        "http://192.168.0.1/",
    ] {
        assert_eq!(fetch(&mut client, &session, url).await, Err(ErrorCode::UrlRefused), "{url}");
    }
    for url in ["file:///etc/passwd", "ftp://example.com/x", "gopher://example.com/"] {
        let refused = fetch(&mut client, &session, url).await;
        assert!(matches!(refused, Err(ErrorCode::UrlRefused | ErrorCode::InvalidArgument)), "{url}: {refused:?}");
    }
    stack.stop().await;

    let stack = Stack::builder().flag("--allow-private-fetch").start().await;
    let mut client = stack.client().await;
    let session = client.session().await;
    assert_eq!(fetch(&mut client, &session, &format!("{web}/file")).await.as_deref(), Ok("file"));
    assert_eq!(client.download(&session, "file").await.unwrap(), b"fetched");
    let redirected = fetch(&mut client, &session, &format!("{web}/to?{web}/other")).await;
    assert!(redirected.is_ok(), "{redirected:?}");
    assert_eq!(fetch(&mut client, &session, &format!("{web}/missing")).await, Err(ErrorCode::UrlFailed));
    let away = fetch(&mut client, &session, &format!("{web}/to?file:///etc/passwd")).await;
    assert!(matches!(away, Err(ErrorCode::UrlRefused | ErrorCode::UrlFailed)), "{away:?}");
    stack.stop().await;
}
