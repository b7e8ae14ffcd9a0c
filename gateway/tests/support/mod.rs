//! A gateway on a free port, with sandboxes that are played by a service in this process on real Unix sockets.
#![allow(dead_code, reason = "each test binary uses a part of it")]
pub mod metrics;
pub mod supervisor;
pub mod world;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use kernelbox_gateway::{Bound, ServeConfig, ServeError, Shutdown, serve_with};
use kernelbox_proto::v1::{
    CreateSessionRequest, ExecuteRequest, ExecutionEvent, Session, code_service_client::CodeServiceClient,
    execution_event::Kind, file_service_client::FileServiceClient, session_service_client::SessionServiceClient,
    turn_service_client::TurnServiceClient,
};
use sha2::{Digest as _, Sha256};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub use world::World;

/// Puts an API key into each call.
#[derive(Clone)]
pub struct ApiKey(pub String);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("x-api-key", MetadataValue::try_from(&self.0).unwrap());
        Ok(request)
    }
}

pub type Keyed = InterceptedService<Channel, ApiKey>;

pub struct Gateway {
    pub world: Arc<World>,
    pub bound: Bound,
    pub shutdown: Shutdown,
    pub channel: Channel,
    pub served: JoinHandle<Result<(), ServeError>>,
    pub dir: tempfile::TempDir,
}

/// Two tenants: `kbx_one` and `kbx_two`.
fn write_keys(path: &Path) {
    let entry = |name: &str| {
        let hash = hex::encode(Sha256::digest(format!("kbx_{name}")));
        format!("- id: {name}\n  tenant: {name}\n  sha256: {hash}\n")
    };
    std::fs::write(path, entry("one") + &entry("two")).unwrap();
}

impl Gateway {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), World::new(), change).await
    }

    /// A gateway where an earlier one may have been, in a world that may have sandboxes.
    pub async fn start_in(dir: tempfile::TempDir, world: Arc<World>, change: impl FnOnce(&mut ServeConfig)) -> Self {
        kernelbox_gateway::install_crypto();
        let keys = dir.path().join("keys.yaml");
        write_keys(&keys);
        let mut config = ServeConfig::new(dir.path().join("data"), "python3").on_free_ports();
        config.keys = Some(keys);
        config.admin_listen = Some(([127, 0, 0, 1], 0).into());
        change(&mut config);
        let (tell, bound) = oneshot::channel();
        let shutdown = Shutdown::default();
        let tls = config.tls.is_some();
        let served = tokio::spawn(serve_with(config, world.provider(), tell, shutdown.clone()));
        let bound = match bound.await {
            Ok(bound) => bound,
            Err(_) => panic!("the gateway did not start: {:?}", served.await),
        };
        assert_eq!(bound.tls, tls);
        let channel = Endpoint::from_shared(format!("http://{}", bound.address)).unwrap().connect_lazy();
        Self { world, bound, shutdown, channel, served, dir }
    }

    fn keyed(&self, key: &str) -> Keyed {
        InterceptedService::new(self.channel.clone(), ApiKey(key.to_owned()))
    }

    pub fn sessions(&self) -> SessionServiceClient<Keyed> {
        self.sessions_of("kbx_one")
    }

    pub fn sessions_of(&self, key: &str) -> SessionServiceClient<Keyed> {
        SessionServiceClient::new(self.keyed(key))
    }

    pub fn code(&self) -> CodeServiceClient<Keyed> {
        CodeServiceClient::new(self.keyed("kbx_one")).max_encoding_message_size(64 << 20)
    }

    pub fn files(&self) -> FileServiceClient<Keyed> {
        FileServiceClient::new(self.keyed("kbx_one"))
    }

    pub async fn open(&self, id: &str) -> Session {
        self.open_with(id, Session::default()).await
    }

    pub async fn open_with(&self, id: &str, session: Session) -> Session {
        let request = CreateSessionRequest { session: Some(session), session_id: id.to_owned(), ..Default::default() };
        self.sessions().create_session(request).await.unwrap().into_inner()
    }

    /// Runs code to its end.
    pub async fn run(&self, session: &str, code: &str) -> Result<Vec<ExecutionEvent>, Status> {
        let request =
            ExecuteRequest { session: format!("sessions/{session}"), code: code.to_owned(), ..Default::default() };
        let stream = self.code().execute(request).await?.into_inner();
        collect(stream).await
    }

    /// What its admin port tells.
    pub async fn metrics(&self) -> metrics::Scrape {
        let url = format!("http://{}/metrics", self.bound.admin.unwrap());
        let answer = self.http().get(url).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        metrics::Scrape::parse(&answer.text().await.unwrap())
    }

    /// Waits until it tells all of this: a call is counted when its last byte is gone, which its client may see before.
    pub async fn told(&self, expected: &[(&str, f64)]) -> metrics::Scrape {
        let begun = std::time::Instant::now();
        loop {
            let scrape = self.metrics().await;
            let wrong = expected.iter().find(|(series, value)| scrape.of(series) != *value);
            match wrong {
                None => return scrape,
                Some((series, value)) if begun.elapsed() > Duration::from_secs(20) => {
                    panic!("{series} is {} and not {value}", scrape.of(series))
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub fn turns(&self) -> TurnServiceClient<Keyed> {
        TurnServiceClient::new(self.keyed("kbx_one"))
    }

    pub async fn stop(self) {
        self.shutdown.drain.cancel();
        self.served.await.unwrap().unwrap();
        assert_eq!(self.world.living(), 0, "sandboxes outlived the server");
    }

    /// Stops it and leaves its sandboxes to the next.
    pub async fn leave(self) -> (tempfile::TempDir, Arc<World>) {
        self.shutdown.drain.cancel();
        self.served.await.unwrap().unwrap();
        (self.dir, self.world)
    }

    pub async fn upload(&self, session: &str, path: &str, content: &str) {
        let url = self.url(&format!("/v1/sessions/{session}/files/{path}"));
        let answer = self.http().put(url).body(content.to_owned()).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// The file's content, if there is one.
    pub async fn download(&self, session: &str, path: &str) -> Option<String> {
        let answer = self.http().get(self.url(&format!("/v1/sessions/{session}/files/{path}"))).send().await.unwrap();
        if answer.status().is_success() { Some(answer.text().await.unwrap()) } else { None }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.bound.endpoint())
    }

    pub fn http(&self) -> reqwest::Client {
        let headers = HashMap::from([("x-api-key".to_owned(), "kbx_one".to_owned())]);
        let client = reqwest::Client::builder().default_headers((&headers).try_into().unwrap());
        client.no_proxy().build().unwrap()
    }
}

pub async fn collect<T>(mut stream: Streaming<T>) -> Result<Vec<T>, Status> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(message);
    }
    Ok(all)
}

/// The execution's own events, without the stages before them.
pub fn own(events: &[ExecutionEvent]) -> Vec<i64> {
    events.iter().map(|it| it.sequence).filter(|it| *it > 0).collect()
}

/// The messages of the READY stages.
pub fn ready(events: &[ExecutionEvent]) -> Vec<String> {
    let stage = |event: &ExecutionEvent| match &event.kind {
        Some(Kind::Stage(stage)) if stage.stage() == kernelbox_proto::v1::Stage::Ready => Some(stage.message.clone()),
        _ => None,
    };
    events.iter().filter_map(stage).collect()
}

pub fn reason(status: &Status) -> String {
    kernelbox_proto::Error::from_status(status).reason().to_owned()
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
