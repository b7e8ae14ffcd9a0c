//! FetchUrl against real local servers.
use super::*;
use std::net::IpAddr;

use axum::{Router, extract::Path, http::StatusCode, response::Redirect, routing::get};

/// A server on an address of the loopback network; its port.
async fn server(ip: &str) -> (u16, tokio::task::JoinHandle<()>) {
    let app = Router::new()
        .route("/file.csv", get(|| async { "a,b\n" }))
        .route("/missing", get(|| async { StatusCode::NOT_FOUND }))
        .route("/to/{*target}", get(|Path(target): Path<String>| async move { Redirect::temporary(&target) }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }));
    let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

/// 127.0.0.1 plays the public internet here; the rest is private.
fn fetcher() -> Fetcher {
    crate::install_crypto();
    Fetcher::new(Reach::with_policy(|ip| ip == IpAddr::from([127, 0, 0, 1]))).unwrap()
}

async fn code(fetcher: &Fetcher, url: &str) -> ErrorCode {
    match fetcher.open(url, 1 << 20).await {
        Err(error) => error.code,
        Ok(fetched) => panic!("{url} was fetched as {}", fetched.name),
    }
}

async fn body(fetched: Fetched) -> Vec<u8> {
    fetched.parts.fold(Vec::new(), |all, part| async move { [all, part.unwrap().to_vec()].concat() }).await
}

#[tokio::test]
async fn a_redirect_is_followed_to_what_may_be_fetched() {
    let (port, task) = server("127.0.0.1").await;
    let fetched = fetcher().open(&format!("http://127.0.0.1:{port}/to/%2Ffile.csv"), 1 << 20).await.unwrap();
    assert_eq!(fetched.name, "file.csv");
    assert_eq!(body(fetched).await, b"a,b\n");
    // A name, which the resolver checks.
    let fetched = fetcher().open(&format!("http://localhost:{port}/file.csv"), 1 << 20).await.unwrap();
    assert_eq!(body(fetched).await, b"a,b\n");
    assert_eq!(code(&fetcher(), &format!("http://127.0.0.1:{port}/loop")).await, ErrorCode::UrlFailed);
    assert_eq!(code(&fetcher(), &format!("http://127.0.0.1:{port}/missing")).await, ErrorCode::UrlFailed);
    assert!(
        fetcher()
            .open(&format!("http://127.0.0.1:{port}/file.csv"), 3)
            .await
            .is_err_and(|e| e.code == ErrorCode::TooLarge)
    );
    task.abort();
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused_and_never_connected_to() {
    let (public, one) = server("127.0.0.1").await;
    let (private, two) = server("127.0.0.2").await;
    let allowed =
        Fetcher::new(Reach::new(true)).unwrap().open(&format!("http://127.0.0.2:{private}/file.csv"), 1 << 20).await;
    assert_eq!(body(allowed.unwrap()).await, b"a,b\n", "the private server answers those who may ask");
    for target in [
        format!("http://127.0.0.2:{private}/file.csv"),
        format!("http://0x7f.2:{private}/file.csv"),
        format!("http://2130706434:{private}/file.csv"),
        format!("http://[::ffff:127.0.0.2]:{private}/file.csv"),
        format!("//127.0.0.2:{private}/file.csv"),
        "file:///etc/passwd".to_owned(),
        format!("http://user@127.0.0.1:{public}/file.csv"),
    ] {
        let target = url::form_urlencoded::byte_serialize(target.as_bytes()).collect::<String>();
        let refused = code(&fetcher(), &format!("http://127.0.0.1:{public}/to/{target}")).await;
        assert_eq!(refused, ErrorCode::UrlRefused, "{target}");
    }
    one.abort();
    two.abort();
}

#[tokio::test]
async fn private_names_and_odd_notations_are_refused() {
    crate::install_crypto();
    let fetcher = Fetcher::new(Reach::new(false)).unwrap();
    for url in [
        "http://localhost/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://127.0.0.1.:80/",
        "http://[::1]/",
        "http://[::ffff:7f00:1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://user:pass@1.1.1.1/",
        "ftp://1.1.1.1/",
        "file:///etc/passwd",
        "http://0/",
    ] {
        assert_eq!(code(&fetcher, url).await, ErrorCode::UrlRefused, "{url}");
    }
    assert_eq!(code(&fetcher, "not an address").await, ErrorCode::InvalidArgument);
}
