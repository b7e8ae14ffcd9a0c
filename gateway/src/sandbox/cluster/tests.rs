//! The provider before a controller that is not always there.
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use futures::stream::{self, BoxStream};
use kernelbox_proto::controller::v1::{
    AcquireEvent, ReleaseRequest, ReleaseResponse, RenewTokenRequest, RenewTokenResponse, SandboxGone, WatchRequest,
    allocator_service_server::{AllocatorService, AllocatorServiceServer},
};
use kernelbox_proto::v1::Stage;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;

/// What becomes of a question.
enum Fate {
    /// It is heard, and the answer does not arrive.
    Lost,
    /// The replica ends.
    Ending,
    Refused,
    Answered,
}

/// A controller for which each question has a fate of its own.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<(VecDeque<Fate>, Vec<AcquireRequest>)>>);

#[tonic::async_trait]
impl AllocatorService for Scripted {
    type AcquireStream = BoxStream<'static, Result<AcquireEvent, Status>>;
    type WatchStream = BoxStream<'static, Result<SandboxGone, Status>>;

    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<Self::AcquireStream>, Status> {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        script.1.push(request.into_inner());
        let stage = SandboxStage { stage: Stage::Starting.into(), ..Default::default() };
        let acquired = AcquiredSandbox { sandbox: "s".into(), address: "127.0.0.1:1".into(), ..Default::default() };
        let last = match script.0.pop_front().expect("it is asked too often") {
            Fate::Lost => Err(Status::unavailable("the connection broke")),
            Fate::Ending => return Err(Error::new(ErrorCode::ShuttingDown, "another answers").into()),
            Fate::Refused => Err(Error::new(ErrorCode::SandboxStartFailed, "no image").into()),
            Fate::Answered => Ok(AcquireEvent { kind: Some(Kind::Acquired(acquired)) }),
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(AcquireEvent { kind: Some(Kind::Stage(stage)) }), last]))))
    }

    async fn renew_token(&self, _: Request<RenewTokenRequest>) -> Result<Response<RenewTokenResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(stream::pending())))
    }
}

/// A provider whose questions have these fates, the script that they are noted in, and where its token is.
async fn provider(fates: Vec<Fate>) -> (ClusterProvider, Scripted, tempfile::TempDir) {
    let scripted = Scripted::default();
    scripted.0.lock().unwrap_or_else(PoisonError::into_inner).0 = fates.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let controller = format!("http://{}", listener.local_addr().unwrap());
    let service = AllocatorServiceServer::new(scripted.clone());
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t").unwrap();
    (ClusterProvider::start(&ClusterConfig { controller, token }).unwrap(), scripted, dir)
}

fn claim() -> Claim {
    Claim {
        session: "s".parse().unwrap(),
        generation: 7,
        tenant: "t".into(),
        template: String::new(),
        idle_timeout: None,
        unanswered: Some(5),
    }
}

async fn acquire(fate: Fate) -> Result<(), NoSandbox> {
    let (provider, scripted, _dir) = provider(vec![fate]).await;
    let (stages, _told) = mpsc::channel(16);
    let acquired = provider.acquire(claim(), stages).await.map(|_| ());
    let asked = scripted.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
    assert_eq!(asked.iter().map(|it| (it.generation, it.unanswered_generation)).collect::<Vec<_>>(), [(7, 5)]);
    acquired
}

#[tokio::test]
async fn an_answer_that_is_lost_is_told_from_a_refusal() {
    assert_eq!(acquire(Fate::Answered).await, Ok(()));
    for fate in [Fate::Lost, Fate::Ending] {
        assert!(
            matches!(acquire(fate).await, Err(NoSandbox::Unanswered(error)) if error.message.contains("does not answer"))
        );
    }
    assert!(matches!(acquire(Fate::Refused).await, Err(NoSandbox::Refused(error)) if error.message == "no image"));
}

#[tokio::test]
async fn what_is_only_looked_for_is_looked_for_again() {
    let (provider, scripted, _dir) = provider(vec![Fate::Lost, Fate::Ending, Fate::Answered]).await;

    assert!(provider.find(&claim()).await.unwrap().is_some());

    let asked = scripted.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
    assert!(asked.len() == 3 && asked.iter().all(|it| it.existing_only && *it == asked[0]), "{asked:?}");
}
