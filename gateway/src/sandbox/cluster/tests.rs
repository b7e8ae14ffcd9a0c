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

/// What a session gets, which stages it hears of, and what the controller was asked.
async fn acquire(fates: Vec<Fate>) -> (Result<(), Error>, Vec<String>, Vec<AcquireRequest>) {
    let scripted = Scripted::default();
    scripted.0.lock().unwrap_or_else(PoisonError::into_inner).0 = fates.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let controller = format!("http://{}", listener.local_addr().unwrap());
    let service = AllocatorServiceServer::new(scripted.clone());
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let provider = ClusterProvider::start(&ClusterConfig { controller, token }).unwrap();
    let (stages, mut told) = mpsc::channel(16);
    let claim = Claim {
        session: "s".parse().unwrap(),
        generation: 7,
        tenant: "t".into(),
        template: String::new(),
        idle_timeout: None,
    };

    let acquired = provider.acquire(claim, stages).await.map(|_| ());

    let mut heard = Vec::new();
    while let Some(stage) = told.recv().await {
        heard.push(stage.message);
    }
    let asked = scripted.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
    (acquired, heard, asked)
}

#[tokio::test]
async fn a_question_whose_answer_is_lost_is_asked_again_and_is_the_same() {
    let (acquired, heard, asked) = acquire(vec![Fate::Lost, Fate::Ending, Fate::Answered]).await;

    assert_eq!(acquired, Ok(()));
    assert_eq!(heard.iter().filter(|words| words.contains("does not answer")).count(), 2, "{heard:?}");
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|it| *it == asked[0] && it.generation == 7), "{asked:?}");
}

#[tokio::test]
async fn a_refusal_is_told_and_not_asked_again() {
    let (acquired, _, asked) = acquire(vec![Fate::Refused]).await;

    assert_eq!(acquired.map_err(|error| error.message), Err("no image".to_owned()));
    assert_eq!(asked.len(), 1);
}
