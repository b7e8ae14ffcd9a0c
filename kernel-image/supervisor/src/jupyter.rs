//! A client of one Jupyter kernel over its five channels.
//!
//! Messages are read raw and leniently: one that cannot be read is logged and skipped, it ends nothing. The iopub channel is drained by
//! a task that waits for nobody.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use jupyter_protocol::{ConnectionInfo, JupyterMessage, JupyterMessageContent, UnknownMessage};
use jupyter_zmq_client::{
    Connection, DealerSendConnection, RawMessage, create_client_control_connection, create_client_iopub_connection,
    create_client_shell_connection_with_identity, create_client_stdin_connection_with_identity,
    peer_identity_for_session,
};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use zeromq::SocketRecv;

use crate::sync::lock;

/// How long a kernel may take to read what it is sent.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// After the kernel's death: silence for this long means that its output was all read.
const SILENCE: Duration = Duration::from_millis(50);
/// The longest such reading.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Two channels keep no order between them: a question is passed on when iopub was silent for so long.
const QUESTION_SILENCE: Duration = Duration::from_millis(20);
/// A program that goes on writing holds its question up no longer than this.
const QUESTION_LIMIT: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the kernel's channels failed: {0}")]
    Channel(#[from] jupyter_zmq_client::RuntimeError),
    #[error("the kernel does not read its messages")]
    Stuck,
    #[error("the kernel did not answer in time")]
    NoAnswer,
}

/// A message of the kernel.
#[derive(Debug)]
pub struct Message {
    pub kind: String,
    pub id: String,
    /// The id of the request that it belongs to; empty where there is none.
    pub parent: String,
    /// Its content, JSON.
    pub content: Bytes,
}

/// What the owner of the kernel has to know.
#[derive(Debug)]
pub enum Incoming {
    /// From the shell channel.
    Reply(Message),
    /// From the stdin channel.
    Input(Message),
    /// The request with this id is done, as iopub says.
    Idle(String),
}

pub struct Client {
    shell: DealerSendConnection,
    stdin: DealerSendConnection,
    control: Control,
    incoming: mpsc::Receiver<Incoming>,
    iopub_live: watch::Receiver<bool>,
    /// How many iopub messages came.
    heard: Arc<AtomicU64>,
    closing: CancellationToken,
    iopub: Option<JoinHandle<()>>,
    tasks: tokio::task::JoinSet<()>,
}

/// The control channel, which works while a cell runs.
#[derive(Clone)]
pub struct Control {
    sender: Arc<tokio::sync::Mutex<DealerSendConnection>>,
    asked: Arc<Mutex<HashMap<String, oneshot::Sender<Message>>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Client {
    /// Connects to sockets that are known to be there. `on_iopub` gets every iopub message, in order, and must not block.
    pub async fn connect(
        info: &ConnectionInfo,
        mut on_iopub: impl FnMut(&Message) + Send + 'static,
    ) -> Result<Self, Error> {
        let session = uuid::Uuid::new_v4().to_string();
        let identity = peer_identity_for_session(&session)?;
        let mut iopub = create_client_iopub_connection(info, "", &session).await?;
        let shell = create_client_shell_connection_with_identity(info, &session, identity.clone()).await?;
        let stdin = create_client_stdin_connection_with_identity(info, &session, identity).await?;
        let control = create_client_control_connection(info, &session).await?;

        let (sender, incoming) = mpsc::channel(1024);
        let (live, iopub_live) = watch::channel(false);
        let closing = CancellationToken::new();
        let (idle, stop) = (sender.clone(), closing.clone());
        let heard = Arc::new(AtomicU64::new(0));
        let (counted, listened) = (Arc::clone(&heard), Arc::clone(&heard));
        let iopub = tokio::spawn(async move {
            let mut take = |message: Message| {
                live.send_if_modified(|live| !std::mem::replace(live, true));
                counted.fetch_add(1, Ordering::Relaxed);
                on_iopub(&message);
                if is_idle(&message) && idle.try_send(Incoming::Idle(message.parent)).is_err() {
                    tracing::warn!("an idle message was lost: nobody reads them");
                }
            };
            while let Some(message) = tokio::select! {
                message = receive(&mut iopub) => Some(message),
                () = stop.cancelled() => None,
            } {
                take(message);
            }
            let end = tokio::time::Instant::now() + DRAIN_LIMIT;
            while let Ok(message) = tokio::time::timeout(SILENCE, receive(&mut iopub)).await
                && tokio::time::Instant::now() < end
            {
                take(message);
            }
        });

        let (shell, mut replies) = shell.split();
        let (stdin, mut inputs) = stdin.split();
        let (control, mut controls) = control.split();
        let mut tasks = tokio::task::JoinSet::new();
        let reply = sender.clone();
        tasks.spawn(async move { while reply.send(Incoming::Reply(receive(&mut replies).await)).await.is_ok() {} });
        tasks.spawn(async move {
            loop {
                let question = receive(&mut inputs).await;
                tokio::time::timeout(QUESTION_LIMIT, silence(&listened)).await.ok();
                if sender.send(Incoming::Input(question)).await.is_err() {
                    return;
                }
            }
        });
        let asked = Arc::new(Mutex::new(HashMap::<String, oneshot::Sender<Message>>::new()));
        let control = Control { sender: Arc::new(tokio::sync::Mutex::new(control)), asked: Arc::clone(&asked) };
        tasks.spawn(async move {
            loop {
                let message = receive(&mut controls).await;
                if let Some(asked) = lock(&asked).remove(&message.parent) {
                    asked.send(message).ok();
                }
            }
        });
        Ok(Self { shell, stdin, control, incoming, iopub_live, heard, closing, iopub: Some(iopub), tasks })
    }

    /// Sends a request on the shell channel, under the given id.
    pub async fn request(&mut self, id: &str, request: Request) -> Result<(), Error> {
        send(&mut self.shell, request.message(id)).await
    }

    /// Answers an input request.
    pub async fn answer_input(&mut self, value: &str) -> Result<(), Error> {
        let reply = Request::new("input_reply", serde_json::json!({ "status": "ok", "value": value }));
        send(&mut self.stdin, reply.message(&uuid::Uuid::new_v4().to_string())).await
    }

    /// The next thing that the kernel says.
    pub async fn incoming(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            None => std::future::pending().await,
        }
    }

    /// The control channel.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// How many iopub messages came so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Waits until iopub messages arrive, at most `limit`.
    pub async fn iopub_live(&mut self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.iopub_live.wait_for(|live| *live)).await, Ok(Ok(_)))
    }

    /// Reads what a dead kernel left on iopub, then lets the channels go.
    pub async fn close(&mut self) {
        self.closing.cancel();
        if let Some(iopub) = self.iopub.take() {
            iopub.await.ok();
        }
        self.tasks.shutdown().await;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(iopub) = self.iopub.take() {
            iopub.abort();
        }
    }
}

impl Control {
    /// Asks on the control channel and waits for the reply's content.
    pub async fn ask(&self, request: Request, limit: Duration) -> Result<Bytes, Error> {
        let id = uuid::Uuid::new_v4().to_string();
        let (reply, told) = oneshot::channel();
        lock(&self.asked).insert(id.clone(), reply);
        let asked = async {
            send(&mut *self.sender.lock().await, request.message(&id)).await?;
            told.await.map_err(|_| Error::NoAnswer)
        };
        let answer = tokio::time::timeout(limit, asked).await.map_err(|_| Error::NoAnswer).flatten();
        lock(&self.asked).remove(&id);
        Ok(answer?.content)
    }
}

/// A request of any type.
#[derive(Debug)]
pub struct Request {
    kind: &'static str,
    content: serde_json::Value,
    metadata: serde_json::Value,
}

impl Request {
    pub fn new(kind: &'static str, content: serde_json::Value) -> Self {
        Self { kind, content, metadata: serde_json::json!({}) }
    }

    #[must_use]
    pub fn with_metadata(mut self, metadata: serde_json::Value) -> Self {
        self.metadata = metadata;
        self
    }

    fn message(self, id: &str) -> JupyterMessage {
        let content = UnknownMessage { msg_type: self.kind.to_owned(), content: self.content };
        let mut message = JupyterMessage::new(JupyterMessageContent::UnknownMessage(content), None);
        id.clone_into(&mut message.header.msg_id);
        "kernelbox".clone_into(&mut message.header.username);
        message.with_metadata(self.metadata)
    }
}

/// Waits until no message was counted for a while.
async fn silence(heard: &AtomicU64) {
    let mut before = heard.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(QUESTION_SILENCE).await;
        let now = heard.load(Ordering::Relaxed);
        if std::mem::replace(&mut before, now) == now {
            return;
        }
    }
}

async fn send(connection: &mut DealerSendConnection, message: JupyterMessage) -> Result<(), Error> {
    Ok(tokio::time::timeout(SEND_LIMIT, connection.send(message)).await.map_err(|_| Error::Stuck)??)
}

/// The next message that can be read.
async fn receive<S: SocketRecv>(connection: &mut Connection<S>) -> Message {
    loop {
        let read = match connection.socket.recv().await {
            Ok(frames) => RawMessage::from_multipart(frames, &connection.mac).map_err(|e| e.to_string()).and_then(read),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(message) => return message,
            Err(error) => {
                tracing::warn!(error, "a message of the kernel cannot be read");
                // A socket that fails at once and for ever must not keep a processor busy.
                tokio::task::yield_now().await;
            }
        }
    }
}

fn read(mut raw: RawMessage) -> Result<Message, String> {
    #[derive(Deserialize, Default)]
    struct Header {
        #[serde(default)]
        msg_id: String,
        #[serde(default)]
        msg_type: String,
    }
    let header: Header = serde_json::from_slice(&raw.jparts[0]).map_err(|e| e.to_string())?;
    let parent: Header = serde_json::from_slice(&raw.jparts[1]).unwrap_or_default();
    Ok(Message { kind: header.msg_type, id: header.msg_id, parent: parent.msg_id, content: raw.jparts.swap_remove(3) })
}

fn is_idle(message: &Message) -> bool {
    #[derive(Deserialize)]
    struct Status<'a> {
        execution_state: &'a str,
    }
    message.kind == "status"
        && serde_json::from_slice::<Status<'_>>(&message.content).is_ok_and(|status| status.execution_state == "idle")
}
