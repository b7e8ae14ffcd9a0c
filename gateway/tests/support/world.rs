//! All sandboxes of a test, and what happened in them.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use kernelbox_gateway::sandbox::{
    Authorized, Claim, Ended, NoSandbox, Sandbox, SandboxChannel, SandboxProvider, Scope, TokenSource,
};
use kernelbox_proto::{
    Error, SessionId,
    sandbox::v1::sandbox_service_server::SandboxServiceServer,
    v1::{ErrorCode, SandboxStage, Stage},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Server, Uri},
};

use super::supervisor::{Life, Supervisor};

/// The workspace of a session, by path.
pub type Files = HashMap<String, Vec<u8>>;

#[derive(Default)]
pub struct World {
    /// How often each request id ran.
    pub runs: Mutex<HashMap<String, usize>>,
    pub files: Mutex<HashMap<String, Files>>,
    /// Uploads that ended without their last byte.
    pub cut_off: AtomicUsize,
    pub acquired: Mutex<Vec<Claim>>,
    pub binds: Mutex<Vec<kernelbox_proto::sandbox::v1::BindRequest>>,
    /// The newest sandbox.
    pub now: Mutex<Option<Arc<FakeSandbox>>>,
    living: AtomicUsize,
    /// The most that lived at once, by session.
    pub most: Mutex<HashMap<String, usize>>,
    pub forgotten: Mutex<Vec<SessionId>>,
    /// Files go with their sandbox, which somebody else reclaims and which outlives the gateway.
    pub volatile: AtomicBool,
    /// Checkpoints that were asked for.
    pub checkpoints: AtomicUsize,
    /// Checkpoints are cut off.
    pub cut_checkpoints: AtomicBool,
    /// What checkpoints say they do not hold.
    pub skipped: Mutex<Vec<String>>,
    /// How many of the next acquisitions fail.
    pub fail: AtomicUsize,
    /// How many of the next acquisitions are not answered.
    pub ignore: AtomicUsize,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn provider(self: &Arc<Self>) -> Arc<dyn SandboxProvider> {
        Arc::new(FakeProvider(Arc::clone(self)))
    }

    pub fn living(&self) -> usize {
        self.living.load(Ordering::SeqCst)
    }

    pub fn newest(&self) -> Arc<FakeSandbox> {
        self.now.lock().unwrap().clone().expect("no sandbox was made")
    }

    pub fn acquisitions(&self) -> usize {
        self.acquired.lock().unwrap().len()
    }
}

struct FakeProvider(Arc<World>);

#[async_trait]
impl SandboxProvider for FakeProvider {
    async fn acquire(&self, claim: Claim, stages: mpsc::Sender<SandboxStage>) -> Result<Arc<dyn Sandbox>, NoSandbox> {
        let stage = SandboxStage { stage: Stage::Starting.into(), message: "fake".into(), ..Default::default() };
        stages.send(stage).await.unwrap();
        let world = &self.0;
        world.acquired.lock().unwrap().push(claim.clone());
        if world.ignore.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(NoSandbox::Unanswered(Error::new(ErrorCode::SandboxStartFailed, "no answer")));
        }
        if world.fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::new(ErrorCode::SandboxStartFailed, "as told").into());
        }
        *world.most.lock().unwrap().entry(claim.session.to_string()).or_default() += 1;
        assert_eq!(world.most.lock().unwrap()[claim.session.as_str()], 1, "two sandboxes of one session at once");
        world.living.fetch_add(1, Ordering::SeqCst);
        let sandbox = Arc::new(FakeSandbox::start(Arc::clone(world), claim));
        *world.now.lock().unwrap() = Some(Arc::clone(&sandbox));
        Ok(sandbox)
    }

    fn has_templates(&self) -> bool {
        self.0.volatile.load(Ordering::SeqCst)
    }

    fn keeps_workspaces(&self) -> bool {
        !self.0.volatile.load(Ordering::SeqCst)
    }

    fn reclaims_idle(&self) -> bool {
        self.0.volatile.load(Ordering::SeqCst)
    }

    async fn find(&self, claim: &Claim) -> Result<Option<Arc<dyn Sandbox>>, Error> {
        let now = self.0.now.lock().unwrap().clone();
        let found = now.filter(|it| it.lives() && it.claim.session == claim.session);
        Ok(found.filter(|it| it.claim.generation == claim.generation).map(|it| it as _))
    }

    fn isolation(&self) -> String {
        "none: a test".into()
    }

    async fn forget(&self, session: &SessionId) -> Result<(), Error> {
        self.0.forgotten.lock().unwrap().push(session.clone());
        self.0.files.lock().unwrap().remove(&session.name());
        Ok(())
    }

    async fn shutdown(&self) {}
}

pub struct FakeSandbox {
    uid: String,
    claim: Claim,
    pub life: Arc<Mutex<Life>>,
    channel: Channel,
    world: Arc<World>,
    ended: watch::Sender<Option<Ended>>,
    server: Mutex<Option<tokio::task::JoinHandle<()>>>,
    _dir: tempfile::TempDir,
}

struct Token;

impl TokenSource for Token {
    fn token(&self, scope: Scope) -> Result<String, Error> {
        Ok(format!("{scope:?}"))
    }
}

impl FakeSandbox {
    fn start(world: Arc<World>, claim: Claim) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let supervisor = Supervisor::new(Arc::clone(&world));
        let life = Arc::clone(&supervisor.life);
        let service = SandboxServiceServer::new(supervisor);
        let server = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel = Endpoint::from_static("http://sandbox").connect_with_connector_lazy(connect);
        Self {
            uid: uuid::Uuid::new_v4().to_string(),
            claim,
            life,
            channel,
            world,
            ended: watch::Sender::new(None),
            server: Mutex::new(Some(server)),
            _dir: dir,
        }
    }

    pub fn lives(&self) -> bool {
        self.server.lock().unwrap().is_some()
    }

    /// Ends it as a crash would.
    pub fn crash(&self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.abort();
            if self.world.volatile.load(Ordering::SeqCst) {
                self.world.files.lock().unwrap().remove(&self.claim.session.name());
            }
            self.world.living.fetch_sub(1, Ordering::SeqCst);
            *self.world.most.lock().unwrap().get_mut(self.claim.session.as_str()).unwrap() -= 1;
            self.ended.send_replace(Some(Ended { reason: "OOMKilled".into(), message: "it was too much".into() }));
        }
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    fn name(&self) -> &str {
        &self.uid
    }

    fn channel(&self, scope: Scope) -> SandboxChannel {
        InterceptedService::new(self.channel.clone(), Authorized::new(Arc::new(Token), scope))
    }

    async fn ended(&self) -> Ended {
        self.ended.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    async fn destroy(&self) {
        self.crash();
    }
}
