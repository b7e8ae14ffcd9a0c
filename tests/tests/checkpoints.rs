//! Real sandboxes whose files go with them: the gateway saves and restores, and nobody notices but for the variables.
use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use kernelbox_gateway::{
    Bound, ServeConfig, Shutdown,
    sandbox::{Claim, NoSandbox, Sandbox, SandboxProvider, process::ProcessProvider},
    serve_with,
};
use kernelbox_proto::{
    Error, SessionId,
    v1::{GetSessionRequest, SandboxStage, SandboxState, Stage, execution_event::Kind},
};
use kernelbox_tests::{Client, eventually, mentions, program, python};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Sandboxes of this machine that begin with nothing.
struct Forgetful(ProcessProvider);

#[async_trait]
impl SandboxProvider for Forgetful {
    async fn acquire(&self, claim: Claim, stages: mpsc::Sender<SandboxStage>) -> Result<Arc<dyn Sandbox>, NoSandbox> {
        self.0.forget(&claim.session).await?;
        self.0.acquire(claim, stages).await
    }

    fn keeps_workspaces(&self) -> bool {
        false
    }

    fn isolation(&self) -> String {
        self.0.isolation()
    }

    async fn forget(&self, session: &SessionId) -> Result<(), Error> {
        self.0.forget(session).await
    }

    async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

struct Server {
    folder: TempDir,
    client: Client,
    shutdown: Shutdown,
    served: JoinHandle<()>,
}

impl Server {
    async fn start(change: impl FnOnce(&mut ServeConfig)) -> Self {
        kernelbox_gateway::install_crypto();
        // Short, as paths of Unix sockets are limited.
        let folder = tempfile::Builder::new().prefix("kbt-").tempdir_in("/tmp").unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        let mut config = ServeConfig::new(&data, python()).on_free_ports();
        config.run_dir = Some(folder.path().join("run"));
        config.process.supervisor = Some(program("kernelbox-supervisor"));
        config.process.warm_up = Vec::new();
        config.process.warm_sandboxes = 0;
        change(&mut config);
        let settings = config.clone();
        let provider = tokio::task::spawn_blocking(move || ProcessProvider::start(&settings)).await.unwrap().unwrap();
        let key = config.key_file();
        let (tell, bound) = oneshot::channel::<Bound>();
        let shutdown = Shutdown::default();
        let serving = serve_with(config, Arc::new(Forgetful(provider)), tell, shutdown.clone());
        let served = tokio::spawn(async move { serving.await.unwrap() });
        let bound = bound.await.unwrap();
        let key = fs::read_to_string(key).unwrap();
        let client = Client::connect(&bound.endpoint(), key.trim()).await;
        Self { folder, client, shutdown, served }
    }

    async fn reclaimed(&mut self, session: &str) {
        for _ in 0..1000 {
            let request = GetSessionRequest { name: session.into() };
            let session = self.client.sessions.get_session(request).await.unwrap().into_inner();
            if session.sandbox_state() == SandboxState::None {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{session} was not reclaimed");
    }

    async fn stop(self) {
        self.shutdown.drain.cancel();
        self.served.await.unwrap();
    }
}

const MAKE: &str =
    "import os\nx = 1\nos.makedirs('d')\nopen('d/kept', 'w').write('k' * 3_000_000)\nos.chmod('d/kept', 0o600)";
const LOOK: &str =
    "import os\nprint(len(open('d/kept').read()), oct(os.stat('d/kept').st_mode & 0o777), 'x' in globals())";

async fn comes_back(server: &mut Server, session: &str) {
    let again = server.client.run(session, LOOK).await;
    assert_eq!(again.ok(), "3000000 0o600 False\n");
    let stages: Vec<_> =
        again.kinds().filter_map(|kind| if let Kind::Stage(stage) = kind { Some(stage) } else { None }).collect();
    assert!(stages.iter().any(|stage| stage.stage() == Stage::Restoring), "{stages:?}");
    let told = stages.iter().find(|stage| stage.stage() == Stage::Ready).unwrap();
    assert!(told.message.contains("the files are there") && !told.message.contains("lost"), "{}", told.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_reclaimed_has_its_files_in_the_next_sandbox() {
    let mut server = Server::start(|config| config.idle_timeout = Duration::from_secs(1)).await;
    let session = server.client.session().await;
    server.client.run(&session, MAKE).await.ok();
    server.reclaimed(&session).await;
    comes_back(&mut server, &session).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_told_to_end_is_saved_first() {
    let mut server = Server::start(|_| {}).await;
    let session = server.client.session().await;
    server.client.run(&session, MAKE).await.ok();
    let supervisors = || {
        let all = mentions(server.folder.path());
        let pids = all.iter().filter(|process| process.contains("kernelbox-supervisor serve"));
        pids.map(|process| process.split(' ').next().unwrap().parse().unwrap()).collect::<Vec<i32>>()
    };
    kill(Pid::from_raw(supervisors()[0]), Signal::SIGTERM).unwrap();
    eventually("it ends", || match supervisors() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    comes_back(&mut server, &session).await;
    server.stop().await;
}
