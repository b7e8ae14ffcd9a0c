//! The server's door and its way down: HTTP twin, uploads, keys, limits, grpc-web, reflection, TLS, drain.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test and its helpers fail by panicking"
)]
mod support;

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use kernelbox_gateway::TlsConfig;
use kernelbox_proto::v1::{ExecuteRequest, UploadHeader, UploadRequest, execution_event::Kind, upload_request::Part};
use reqwest::StatusCode;
use support::{Gateway, collect, own, reason, until};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

fn header(path: &str) -> UploadRequest {
    let header = UploadHeader { session: "sessions/s".into(), path: path.into(), ..Default::default() };
    UploadRequest { part: Some(Part::Header(header)) }
}

fn chunk(byte: u8, size: usize) -> UploadRequest {
    UploadRequest { part: Some(Part::Chunk(vec![byte; size].into())) }
}

#[tokio::test]
async fn a_file_goes_in_and_out_over_http() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let (http, url) = (gateway.http(), gateway.url("/v1/sessions/s/files/a%20dir/b.txt"));
    let put = http.put(&url).body("0123456789").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let tag = put.headers()["etag"].to_str().unwrap().to_owned();
    let file: serde_json::Value = put.json().await.unwrap();
    assert_eq!((file["path"].as_str(), file["size"].as_str()), (Some("a dir/b.txt"), Some("10")));

    let get = http.get(&url).send().await.unwrap();
    assert_eq!(
        (get.headers()["etag"].to_str().unwrap(), get.headers()["content-length"].to_str().unwrap()),
        (&*tag, "10")
    );
    assert_eq!(get.headers()["x-content-type-options"], "nosniff");
    assert_eq!(get.text().await.unwrap(), "0123456789");
    let part = http.get(&url).header("range", "bytes=2-4").send().await.unwrap();
    assert_eq!(
        (part.status(), part.headers()["content-range"].to_str().unwrap()),
        (StatusCode::PARTIAL_CONTENT, "bytes 2-4/10")
    );
    assert_eq!(part.text().await.unwrap(), "234");
    let outside = http.get(&url).header("range", "bytes=10-").send().await.unwrap();
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let known = http.get(&url).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let head = http.head(&url).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "10");
    let lost_update = http.put(&url).header("if-match", "\"other\"").body("x").send().await.unwrap();
    assert_eq!(lost_update.status(), StatusCode::PRECONDITION_FAILED);
    let only_new = http.put(&url).header("if-none-match", "*").body("x").send().await.unwrap();
    assert_eq!(only_new.status(), StatusCode::CONFLICT);

    assert_eq!(http.delete(&url).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let gone = http.get(&url).header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(gone.headers()["x-request-id"], "mine-1");
    let error: serde_json::Value = gone.json().await.unwrap();
    assert_eq!(error["reason"], "FILE_NOT_FOUND");
    assert_eq!((error["code"].as_u64(), error["request_id"].as_str()), (Some(404), Some("mine-1")));

    let bare = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(bare.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let nowhere = http.get(gateway.url("/nowhere")).send().await.unwrap();
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    assert_eq!(nowhere.json::<serde_json::Value>().await.unwrap()["code"], 404);
    gateway.stop().await;
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_whether_its_length_is_told_or_not() {
    let gateway = Gateway::start_with(|config| config.limits.file_bytes = 1000).await;
    gateway.open("s").await;
    let (http, url) = (gateway.http(), gateway.url("/v1/sessions/s/files/big"));
    let told = http.put(&url).body(vec![0; 1001]).send().await.unwrap();
    assert_eq!(told.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let pieces = futures::stream::iter((0..4).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 300])));
    let untold = http.put(&url).body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    assert_eq!(untold.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(untold.text().await.unwrap().contains("--max-file-bytes"));
    until("the sandbox has seen the end", || gateway.world.cut_off.load(Ordering::SeqCst) == 1).await;
    assert!(gateway.world.files.lock().unwrap().is_empty(), "a part of a file was kept as the file");
    gateway.stop().await;
}

#[tokio::test]
async fn an_upload_meets_a_retired_sandbox_and_goes_whole_to_the_next() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    gateway.run("s", "x").await.unwrap();
    assert!(gateway.world.newest().life.lock().unwrap().retire_between_calls());
    let messages = [header("f")].into_iter().chain((0..16).map(|n| chunk(n, 512 << 10)));
    let file = gateway.files().upload(futures::stream::iter(messages)).await.unwrap().into_inner();
    assert_eq!(file.size, 8 << 20);
    let bytes = gateway.world.files.lock().unwrap()["sessions/s"]["f"].clone();
    assert!(bytes.chunks(512 << 10).enumerate().all(|(n, it)| it.iter().all(|b| usize::from(*b) == n)));
    assert_eq!(gateway.world.acquisitions(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn an_upload_that_its_client_leaves_writes_nothing() {
    use tokio::io::AsyncWriteExt as _;
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let mut client = tokio::net::TcpStream::connect(gateway.bound.address).await.unwrap();
    let head =
        "PUT /v1/sessions/s/files/f HTTP/1.1\r\nhost: x\r\nx-api-key: kbx_one\r\ncontent-length: 1000\r\n\r\nonly this";
    client.write_all(head.as_bytes()).await.unwrap();
    let life = || gateway.world.now.lock().unwrap().as_ref().map(|it| format!("{:?}", it.life.lock().unwrap()));
    until("the upload has begun", || life().is_some_and(|it| it.contains("running: 1"))).await;
    drop(client);
    until("the sandbox has seen the end", || gateway.world.cut_off.load(Ordering::SeqCst) == 1).await;
    assert!(gateway.world.files.lock().unwrap().is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn every_refusal_names_its_limit_and_its_request() {
    let gateway = Gateway::start_with(|config| {
        config.limits.message_bytes = 64 << 10;
        config.limits.tenant.sessions = 1;
        config.limits.tenant.executions = 1;
    })
    .await;
    gateway.open("s").await;
    let too_large = gateway.run("s", &"x".repeat(65 << 10)).await.unwrap_err();
    assert_eq!((too_large.code(), reason(&too_large).as_str()), (Code::ResourceExhausted, "TOO_LARGE"));
    assert!(kernelbox_proto::Error::from_status(&too_large).metadata.contains_key("request_id"));
    let too_many = gateway.sessions().create_session(kernelbox_proto::v1::CreateSessionRequest::default()).await;
    let too_many = too_many.unwrap_err();
    assert_eq!(reason(&too_many), "QUOTA_EXCEEDED");
    assert!(too_many.message().contains("--max-sessions"));

    let request = ExecuteRequest { session: "sessions/s".into(), code: "hang".into(), ..Default::default() };
    let mut running = gateway.code().execute(request).await.unwrap().into_inner();
    while running.message().await.unwrap().unwrap().sequence < 2 {}
    let busy = gateway.run("s", "x").await.unwrap_err();
    assert!(busy.message().contains("--max-executions"), "{busy}");
    drop(running);
    while gateway.run("s", "x").await.is_err() {}
    gateway.stop().await;
}

#[tokio::test]
async fn a_page_reads_by_grpc_web_and_reflection_needs_no_key() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let gateway = Gateway::start().await;
    let http = gateway.http();
    // An empty message in a grpc-web frame, over HTTP/1.1.
    let answer = http
        .post(gateway.url("/kernelbox.v1.SessionService/ListSessions"))
        .header("content-type", "application/grpc-web+proto")
        .body(vec![0_u8; 5])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    let body = answer.bytes().await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("grpc-status:0"), "{body:?}");

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(gateway.channel.clone());
    let answers = client.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
    let answer = collect(answers).await.unwrap().remove(0).message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
    assert!(names.contains(&"kernelbox.v1.CodeService".to_owned()), "{names:?}");
    assert!(!names.iter().any(|it| it.contains("sandbox")), "an internal service is shown: {names:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_drain_lets_what_runs_end_and_takes_nothing_new() {
    let gateway = Gateway::start_with(|config| config.admin_listen = Some(([127, 0, 0, 1], 0).into())).await;
    gateway.open("s").await;
    let request = ExecuteRequest { session: "sessions/s".into(), code: "slow".into(), ..Default::default() };
    let mut running = gateway.code().execute(request).await.unwrap().into_inner();
    while running.message().await.unwrap().unwrap().sequence < 1 {}
    let ready = format!("http://{}/readyz", gateway.bound.admin.unwrap());
    assert_eq!(gateway.http().get(&ready).send().await.unwrap().status(), StatusCode::OK);

    gateway.shutdown.drain.cancel();
    let mut health = HealthClient::new(gateway.channel.clone());
    loop {
        let ask = HealthCheckRequest { service: "kernelbox.v1.CodeService".into() };
        if health.check(ask).await.unwrap().into_inner().status() == ServingStatus::NotServing {
            break;
        }
    }
    assert_eq!(gateway.http().get(&ready).send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reason(&gateway.run("s", "x").await.unwrap_err()), "SHUTTING_DOWN");
    let rest = collect(running).await.unwrap();
    assert_eq!(own(&rest), [2, 3, 4, 5]);
    assert!(matches!(rest.last().unwrap().kind, Some(Kind::Finished(_))));
    gateway.stop().await;
}

#[tokio::test]
async fn the_second_signal_ends_what_the_first_waits_for() {
    let gateway = Gateway::start().await;
    gateway.open("s").await;
    let request = ExecuteRequest { session: "sessions/s".into(), code: "hang".into(), ..Default::default() };
    let mut running = gateway.code().execute(request).await.unwrap().into_inner();
    while running.message().await.unwrap().unwrap().sequence < 2 {}
    gateway.shutdown.drain.cancel();
    gateway.shutdown.abort.cancel();
    let status = collect(running).await.unwrap_err();
    assert_eq!(reason(&status), "SHUTTING_DOWN");
    gateway.stop().await;
}

#[tokio::test]
async fn a_server_that_nobody_asks_ends_by_itself() {
    let gateway = Gateway::start_with(|config| config.exit_when_idle = Some(Duration::from_millis(300))).await;
    gateway.open("s").await;
    gateway.run("s", "slow").await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(20), gateway.served).await;
    served.expect("it did not end").unwrap().unwrap();
    assert_eq!(gateway.world.living(), 0);
}

#[tokio::test]
async fn with_a_client_authority_only_known_clients_come_in() {
    let data = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let gateway = Gateway::start_with(|config| {
        config.tls =
            Some(TlsConfig { cert: data("server.pem"), key: data("server.key"), client_ca: Some(data("ca.pem")) });
        config.admin_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let read = |name: &str| std::fs::read(data(name)).unwrap();
    let client = |identity: bool| {
        let root = reqwest::Certificate::from_pem(&read("ca.pem")).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let pem = [read("client.key"), read("client.pem")].concat();
        let builder = if identity { builder.identity(reqwest::Identity::from_pem(&pem).unwrap()) } else { builder };
        builder.build().unwrap()
    };
    let url = gateway.url("/v1/sessions/none/files/x");
    assert!(url.starts_with("https://"));
    let known = client(true).get(&url).header("x-api-key", "kbx_one").send().await.unwrap();
    assert_eq!((known.status(), known.version()), (StatusCode::NOT_FOUND, reqwest::Version::HTTP_2));
    assert!(client(false).get(&url).send().await.is_err());

    // and: operators see when the certificate ends
    let metrics = format!("http://{}/metrics", gateway.bound.admin.unwrap());
    let metrics = client(false).get(metrics).send().await.unwrap().text().await.unwrap();
    let told = |credential: &str, end: u64| {
        format!("kernelbox_credential_end_timestamp_seconds{{credential=\"{credential}\"}} {end}\n")
    };
    assert!(metrics.contains(&told("certificate", 4_949_025_364)), "{metrics}");
    assert!(metrics.contains(&told("controller_token", 0)), "{metrics}");
    gateway.stop().await;
}
