//! A language model that says what a test tells it to: a server on the loopback interface that speaks the OpenAI and the Anthropic wire
//! formats, with every fault of a real one.
//!
//! A test queues replies, or answers with a function of the request; every request is kept for the test to look at. It checks nothing by
//! itself: a request that nothing was scripted for gets status 400.
mod anthropic;
mod body;
mod openai;
mod reply;
mod seen;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Extension, State},
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

use body::Open;
pub use reply::{Reply, StopReason};
pub use seen::{Seen, Wire};

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

/// The server. It ends when it is dropped.
pub struct ModelServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Mutex<Option<AbortHandle>>,
}

struct Shared {
    queue: Mutex<VecDeque<Reply>>,
    script: Mutex<Option<Script>>,
    /// GET pages and the like, by path.
    pages: Mutex<HashMap<String, (u16, Value)>>,
    seen: Mutex<Vec<Seen>>,
    pages_seen: Mutex<Vec<String>>,
    /// Requests are kept.
    keep: AtomicBool,
    open: Arc<Open>,
    calls: AtomicUsize,
}

/// Ends the connection that it belongs to.
#[derive(Clone)]
struct Line(Arc<Notify>);

impl ModelServer {
    /// Answers with these replies, in order.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let server = Self::listen(([127, 0, 0, 1], 0)).await;
        lock(&server.shared.queue).extend(replies);
        server
    }

    /// Answers with a function of the request, once the queue is empty.
    pub async fn answering(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let server = Self::start([]).await;
        *lock(&server.shared.script) = Some(Box::new(script));
        server
    }

    /// At this address; port 0 takes any that is free.
    pub async fn listen(address: impl Into<SocketAddr>) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            script: Mutex::default(),
            pages: Mutex::default(),
            seen: Mutex::default(),
            pages_seen: Mutex::default(),
            keep: AtomicBool::new(true),
            open: Arc::default(),
            calls: AtomicUsize::new(1),
        });
        let listener = TcpListener::bind(address.into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = Mutex::new(Some(serve(listener, Arc::clone(&shared))));
        Self { address, shared, running }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Queues one more reply.
    pub fn push(&self, reply: Reply) {
        lock(&self.shared.queue).push_back(reply);
    }

    /// Replaces the function that answers.
    pub fn script(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        *lock(&self.shared.script) = Some(Box::new(script));
    }

    /// Answers other requests for this path (`/props`, `/api/show`) with this JSON.
    pub fn page(&self, path: &str, status: u16, json: Value) {
        lock(&self.shared.pages).insert(path.to_owned(), (status, json));
    }

    /// The model requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Takes the model requests so far.
    pub fn take_requests(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.shared.seen))
    }

    /// Other requests so far: `GET /props`.
    pub fn pages_asked(&self) -> Vec<String> {
        lock(&self.shared.pages_seen).clone()
    }

    /// Replies that are still queued.
    pub fn queued(&self) -> usize {
        lock(&self.shared.queue).len()
    }

    /// Answers that are neither over nor given up by their client.
    pub fn open_answers(&self) -> usize {
        self.shared.open.answers()
    }

    /// From the moment that a request was read until its streamed answer was sent, all of them together.
    pub fn answering_time(&self) -> Duration {
        self.shared.open.time()
    }

    /// Keeps no requests from now on: for benchmarks.
    pub fn forget(&self) {
        self.shared.keep.store(false, Ordering::Relaxed);
    }

    /// Forgets the replies that wait.
    pub fn clear(&self) {
        lock(&self.shared.queue).clear();
    }

    /// From now on connections are refused; those that are open are cut.
    pub fn refuse(&self) {
        if let Some(running) = lock(&self.running).take() {
            running.abort();
        }
    }

    /// Ends [`Self::refuse`], on the same port.
    pub async fn accept(&self) {
        let mut tries = 0;
        // The old listener goes when its task is dropped, a moment after the abort.
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(tries < 1000, "cannot listen again: {error}"),
            }
            tries += 1;
            tokio::task::yield_now().await;
        };
        *lock(&self.running) = Some(serve(listener, Arc::clone(&self.shared)));
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// The connections belong to the task: they end with it.
fn serve(listener: TcpListener, shared: Arc<Shared>) -> AbortHandle {
    let task = async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let line = Line(Arc::default());
            let app = Router::new().fallback(handle).with_state(Arc::clone(&shared));
            let app = app.layer(Extension(line.clone())).layer(DefaultBodyLimit::disable());
            connections.spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
                tokio::select! { _ = connection => {}, () = line.0.notified() => {} }
            });
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::spawn(task).abort_handle()
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    Extension(line): Extension<Line>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(wire) = Wire::of(&method, uri.path()) else {
        lock(&shared.pages_seen).push(format!("{method} {}", uri.path()));
        let page = lock(&shared.pages).get(uri.path()).cloned();
        let (status, json) = page.unwrap_or_else(|| (404, serde_json::json!({"error": {"message": "no such page"}})));
        return body::json(status, &[], &json);
    };
    let since = Instant::now();
    let seen = Seen::new(wire, &uri, headers, &body);
    if shared.keep.load(Ordering::Relaxed) {
        lock(&shared.seen).push(seen.clone());
    }
    let queued = lock(&shared.queue).pop_front();
    let reply = match (queued, lock(&shared.script).as_mut()) {
        (Some(reply), _) => reply,
        (None, Some(script)) => script(&seen),
        (None, None) => Reply::error(400, "invalid_request_error", "nothing is scripted for this request"),
    };
    let mut next_id = || shared.calls.fetch_add(1, Ordering::Relaxed);
    match reply.respond(&seen, &mut next_id, shared.open.begin(since)) {
        Some(response) => response,
        None if reply.is_silent() => std::future::pending().await,
        None => {
            line.0.notify_one();
            std::future::pending().await
        }
    }
}
