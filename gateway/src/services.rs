//! The public gRPC services: thin. They check, find the session's sandbox, pass the message on as it came, and stream what comes back.
mod code;
mod file;
mod session;
mod turn;
mod upload;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use kernelbox_proto::{Error, SessionId, v1::ErrorCode};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::{
    code::Code,
    file::File,
    session::Sessions,
    turn::TurnService,
    upload::{Parts, limited, too_large},
};
use crate::{
    fetch::Fetcher,
    limits::{Gate, Permit, TenantLimits, Work},
    sandbox::{SandboxClient, long_ended},
    sessions::{Live, SessionRouter, Slot, Verdict, broken},
};

const LAST_WORD: Duration = Duration::from_secs(2);

pub(crate) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What every service works with.
#[derive(Clone)]
pub(crate) struct Services {
    pub router: SessionRouter,
    pub gate: Arc<Gate>,
    pub fetcher: Arc<Fetcher>,
    /// Bytes of a file, at most, where it comes over HTTP or from an address.
    pub file_bytes: u64,
}

/// Who makes a call. Put into every request by the door (`server/door.rs`).
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub tenant: String,
    pub limits: TenantLimits,
    pub request_id: String,
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Status::internal("a call came in past the door"))
    }

    /// The error as this caller gets it: with the request id.
    pub(crate) fn status(&self, error: Error) -> Status {
        error.with("request_id", &self.request_id).into()
    }
}

/// A fault of ours: the client learns which part failed, the log why.
pub(crate) fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    tracing::error!(error, "{what} failed");
    Error::new(ErrorCode::Internal, format!("{what} failed; the server's log says more under this request id"))
}

impl Services {
    /// The session, and a permit for work on it. A session without a sandbox gets none during a drain.
    pub(crate) async fn enter(
        &self,
        caller: &Caller,
        id: &SessionId,
        work: Work,
    ) -> Result<(Arc<Slot>, Permit), Error> {
        let permit = self.gate.begin(&caller.tenant, &caller.limits, work)?;
        Ok((self.find(caller, id).await?, permit))
    }

    async fn find(&self, caller: &Caller, id: &SessionId) -> Result<Arc<Slot>, Error> {
        let slot = self.router.find(&caller.tenant, id).await?;
        if slot.live().is_none() {
            self.gate.admits()?;
        }
        Ok(slot)
    }

    /// Passes on a call with one answer.
    async fn unary<M, T, F, Fut>(
        &self,
        request: Request<M>,
        session: impl FnOnce(&M) -> Result<SessionId, Error>,
        send: F,
    ) -> Result<Response<T>, Status>
    where
        M: Clone,
        F: Fn(SandboxClient, M) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let answer = async {
            let slot = self.find(&caller, &session(&message)?).await?;
            self.router.call(&slot, |client| send(client, message.clone())).await
        };
        answer.await.map(|(answer, _)| Response::new(answer)).map_err(|error| caller.status(error))
    }

    /// Passes on a call with a stream of answers that cannot be taken up again.
    async fn streaming<M, T, F, Fut>(
        &self,
        request: Request<M>,
        work: Work,
        session: impl FnOnce(&M) -> Result<SessionId, Error>,
        send: F,
    ) -> Result<Response<Events<T>>, Status>
    where
        M: Clone,
        T: Send + 'static,
        F: Fn(SandboxClient, M) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let opened = async {
            let (slot, permit) = self.enter(&caller, &session(&message)?, work).await?;
            let (stream, live) = self.router.call(&slot, |client| send(client, message.clone())).await?;
            Ok((slot, live, stream, permit))
        };
        let (slot, live, stream, permit) = opened.await.map_err(|error: Error| caller.status(error))?;
        Ok(Response::new(self.relay(caller, slot, live, stream, permit)))
    }

    /// A sandbox's stream as the client gets it.
    pub(crate) fn relay<T: Send + 'static>(
        &self,
        caller: Caller,
        slot: Arc<Slot>,
        live: Arc<Live>,
        stream: Streaming<T>,
        permit: Permit,
    ) -> Events<T> {
        let router = self.router.clone();
        let start = Some((stream, permit, Box::pin(long_ended(Arc::clone(&live.sandbox)))));
        Box::pin(futures::stream::unfold(start, move |open| {
            let (router, slot, live, caller) = (router.clone(), Arc::clone(&slot), Arc::clone(&live), caller.clone());
            async move {
                let (mut stream, permit, mut ended) = open?;
                let next = tokio::select! {
                    biased;
                    next = stream.message() => next,
                    () = &mut ended => Err(Status::unavailable("the sandbox ended")),
                    () = router.stopping().cancelled() => Err(stopped().into()),
                };
                match next {
                    Ok(None) => None,
                    Ok(Some(event)) => Some((Ok(event), Some((stream, permit, ended)))),
                    Err(status) => {
                        let error = match router.verdict(&slot, &live, &status, true).await {
                            Verdict::Refused(error) | Verdict::Lost(error) => error,
                            Verdict::NotRun | Verdict::Broken => broken(),
                        };
                        Some((Err(caller.status(error)), None))
                    }
                }
            }
        }))
    }
}

/// How many a page of a list has.
fn page_size(asked: i32) -> Result<u32, Error> {
    match asked {
        0 => Ok(50),
        size @ 1..=1000 => Ok(size.unsigned_abs()),
        _ => Err(Error::invalid("page_size", "must be 0 to 1000")),
    }
}

/// The error that ends a stream. A client that does not read is not waited for long.
pub(crate) async fn last_word<T>(out: &mpsc::Sender<Result<T, Status>>, status: Status) {
    // Elapsed or closed: there is nobody to tell.
    let _ = tokio::time::timeout(LAST_WORD, out.send(Err(status))).await;
}

/// For streams that the end of the server cuts off.
pub(crate) fn stopped() -> Error {
    Error::new(ErrorCode::ShuttingDown, "the server is stopped; what still ran was ended")
}
