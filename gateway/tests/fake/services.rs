//! The services of the fake. Sessions exist once created; files are kept in memory; executions follow their script. Turns: `turns`.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt as _, stream};
use kernelbox_proto::{
    Error,
    v1::{
        code_service_server::CodeService, download_response::Part as DownloadPart, file_service_server::FileService,
        session_service_server::SessionService, upload_request::Part as UploadPart, *,
    },
};
use tokio::sync::Notify;
use tonic::{Request, Response, Status, Streaming};

use super::{Step, TurnStep};

/// The way from a server that is far off.
const LATE: std::time::Duration = std::time::Duration::from_millis(100);

pub type Answer<T> = Result<Response<T>, Status>;
pub type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
pub struct State {
    pub scripts: Mutex<HashMap<String, Vec<Step>>>,
    /// One line a call: its name and what matters of it.
    pub calls: Mutex<Vec<String>>,
    pub requests: Mutex<Vec<ExecuteRequest>>,
    /// By the question.
    pub turn_scripts: Mutex<HashMap<String, Vec<TurnStep>>>,
    pub turn_requests: Mutex<Vec<StartTurnRequest>>,
    /// Those that are listed, newest first.
    pub turns: Mutex<Vec<Turn>>,
    /// What GetSession tells, beyond the name.
    pub session_facts: Mutex<Session>,
    pub sessions: Mutex<BTreeSet<String>>,
    pub files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// How streams of events ended, by what they were of.
    pub streams: Mutex<Vec<(String, StreamEnd)>>,
    pub cut: Notify,
    pub go_on: Notify,
    input: Notify,
    interrupt: Notify,
    cut_done: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// Its reader was told all.
    Whole,
    /// Its reader went before.
    Left,
}

/// Notes how a stream ended, when it goes.
struct Watched {
    state: Arc<State>,
    name: String,
    end: StreamEnd,
}

impl Watched {
    fn whole(&mut self) {
        self.end = StreamEnd::Whole;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.streams.lock().unwrap().push((std::mem::take(&mut self.name), self.end));
    }
}

impl State {
    pub fn log(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub fn known(&self, session: &str) -> Result<(), Status> {
        if self.sessions.lock().unwrap().contains(session) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::SessionNotFound, format!("no session {session}")).into())
    }

    pub fn interrupted(&self) {
        self.interrupt.notify_one();
    }

    /// The events of an execution after this one, each numbered.
    fn follow(self: &Arc<Self>, request: &ExecuteRequest, after: i64) -> Events<ExecutionEvent> {
        let steps = self.scripts.lock().unwrap().get(&request.code).cloned().unwrap_or_else(|| vec![Step::ok()]);
        let execution = format!("{}/executions/{}", request.session, request.request_id);
        self.play(execution, steps, after, |execution, sequence, kind| ExecutionEvent {
            execution,
            sequence,
            time: None,
            kind: Some(kind),
        })
    }

    /// The events of a script after this one, each numbered. A cut happens once in the life of what is named.
    pub fn play<K: Send + 'static, E: Send + 'static>(
        self: &Arc<Self>,
        name: String,
        steps: Vec<Step<K>>,
        after: i64,
        event: fn(String, i64, K) -> E,
    ) -> Events<E> {
        let state = Arc::clone(self);
        let mut watched = Watched { state: Arc::clone(self), name: name.clone(), end: StreamEnd::Left };
        let numbered = steps.into_iter().enumerate().scan(0, |sequence, (place, step)| {
            *sequence += i64::from(matches!(step, Step::Event(_)));
            Some((place, *sequence, step))
        });
        let events = stream::iter(numbered).filter_map(move |(place, sequence, step)| {
            let (state, name) = (Arc::clone(&state), name.clone());
            async move {
                match step {
                    Step::Event(kind) if sequence > after => Some(Ok(event(name, sequence, kind))),
                    Step::Cut if state.cut_done.lock().unwrap().insert(format!("{name} {place}")) => {
                        state.cut.notify_waiters();
                        std::future::pending().await
                    }
                    Step::WaitForTest => {
                        state.go_on.notified().await;
                        None
                    }
                    Step::WaitForInput => {
                        state.input.notified().await;
                        None
                    }
                    Step::WaitForInterrupt => {
                        state.interrupt.notified().await;
                        None
                    }
                    Step::EndLate => {
                        tokio::time::sleep(LATE).await;
                        None
                    }
                    Step::Fail(error) => Some(Err(error.into())),
                    Step::Event(_) | Step::Cut => None,
                }
            }
        });
        let whole = stream::poll_fn(move |_| {
            watched.whole();
            std::task::Poll::Ready(None)
        });
        Box::pin(events.chain(whole))
    }
}

/// The state as the services that tonic serves.
#[derive(Clone)]
pub struct Served(pub Arc<State>);

impl std::ops::Deref for Served {
    type Target = Arc<State>;

    fn deref(&self) -> &Arc<State> {
        &self.0
    }
}

/// Calls that no test needs.
macro_rules! unserved {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {$(
        fn $name<'a, 'b>(&'a self, _: Request<$request>) -> Pin<Box<dyn Future<Output = Answer<$answer>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )*};
}

#[tonic::async_trait]
impl CodeService for Served {
    type ExecuteStream = Events<ExecutionEvent>;
    type ResumeExecutionStream = Events<ExecutionEvent>;
    type InstallPackagesStream = Events<InstallPackagesEvent>;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Answer<Self::ExecuteStream> {
        let request = request.into_inner();
        self.log(format!("Execute {} {}", request.session, request.code));
        self.known(&request.session)?;
        self.requests.lock().unwrap().push(request.clone());
        if let Some(Step::Fail(error)) = self.scripts.lock().unwrap().get(&request.code).and_then(|s| s.first()) {
            return Err(error.clone().into());
        }
        Ok(Response::new(self.follow(&request, 0)))
    }

    async fn resume_execution(&self, request: Request<ResumeExecutionRequest>) -> Answer<Self::ResumeExecutionStream> {
        let ResumeExecutionRequest { name, after_sequence } = request.into_inner();
        self.log(format!("ResumeExecution after {after_sequence}"));
        let requests = self.requests.lock().unwrap();
        let known = requests.iter().find(|r| name == format!("{}/executions/{}", r.session, r.request_id));
        let request = known.ok_or_else(|| Status::from(Error::new(ErrorCode::ExecutionNotFound, name.clone())))?;
        Ok(Response::new(self.follow(request, after_sequence)))
    }

    async fn send_input(&self, request: Request<SendInputRequest>) -> Answer<SendInputResponse> {
        let request = request.into_inner();
        self.log(format!("SendInput {} {:?}", request.input, request.value));
        self.input.notify_one();
        Ok(Response::new(SendInputResponse {}))
    }

    async fn interrupt(&self, _: Request<InterruptRequest>) -> Answer<InterruptResponse> {
        self.log("Interrupt".into());
        self.interrupted();
        Ok(Response::new(InterruptResponse::default()))
    }

    async fn list_variables(&self, request: Request<ListVariablesRequest>) -> Answer<ListVariablesResponse> {
        self.log(format!("ListVariables {}", request.into_inner().parent));
        let column = |name: &str, dtype: &str| Column { name: name.into(), dtype: dtype.into() };
        let frame = Variable {
            name: "df".into(),
            r#type: "pandas.DataFrame".into(),
            size: 2048,
            shape: vec![3, 2],
            columns: vec![column("a", "int64"), column("b", "object")],
            ..Variable::default()
        };
        let number = Variable { name: "x".into(), r#type: "int".into(), repr: "1".into(), ..Variable::default() };
        Ok(Response::new(ListVariablesResponse { variables: vec![frame, number], incomplete: false }))
    }

    unserved! {
        get_execution(GetExecutionRequest) -> Execution;
        list_executions(ListExecutionsRequest) -> ListExecutionsResponse;
        restart_kernel(RestartKernelRequest) -> Context;
        create_context(CreateContextRequest) -> Context;
        list_contexts(ListContextsRequest) -> ListContextsResponse;
        delete_context(DeleteContextRequest) -> DeleteContextResponse;
        list_kernels(ListKernelsRequest) -> ListKernelsResponse;
        install_packages(InstallPackagesRequest) -> Self::InstallPackagesStream;
        list_packages(ListPackagesRequest) -> ListPackagesResponse;
    }
}

#[tonic::async_trait]
impl SessionService for Served {
    type WatchSessionStream = Events<SessionEvent>;

    async fn create_session(&self, request: Request<CreateSessionRequest>) -> Answer<Session> {
        let request = request.into_inner();
        let id = if request.session_id.is_empty() { "made-by-server" } else { &request.session_id };
        let name = format!("sessions/{id}");
        self.log(format!("CreateSession {name}"));
        *self.session_facts.lock().unwrap() = request.session.clone().unwrap_or_default();
        self.sessions.lock().unwrap().insert(name.clone());
        Ok(Response::new(Session { name, ..request.session.unwrap_or_default() }))
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Answer<Session> {
        let name = request.into_inner().name;
        self.known(&name)?;
        Ok(Response::new(Session { name, ..self.session_facts.lock().unwrap().clone() }))
    }

    async fn list_sessions(&self, _: Request<ListSessionsRequest>) -> Answer<ListSessionsResponse> {
        let sessions = self.sessions.lock().unwrap();
        let sessions = sessions.iter().map(|name| Session { name: name.clone(), ..Session::default() }).collect();
        Ok(Response::new(ListSessionsResponse { sessions, next_page_token: String::new() }))
    }

    async fn delete_session(&self, request: Request<DeleteSessionRequest>) -> Answer<DeleteSessionResponse> {
        let name = request.into_inner().name;
        self.log(format!("DeleteSession {name}"));
        self.known(&name)?;
        self.sessions.lock().unwrap().remove(&name);
        Ok(Response::new(DeleteSessionResponse {}))
    }

    unserved! {
        update_session(UpdateSessionRequest) -> Session;
        keep_alive(KeepAliveRequest) -> KeepAliveResponse;
        watch_session(WatchSessionRequest) -> Self::WatchSessionStream;
    }
}

#[tonic::async_trait]
impl FileService for Served {
    type DownloadStream = Events<DownloadResponse>;

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Answer<File> {
        let mut parts = request.into_inner();
        let Some(UploadRequest { part: Some(UploadPart::Header(header)) }) = parts.message().await? else {
            return Err(Status::invalid_argument("the header comes first"));
        };
        let mut bytes = Vec::new();
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(UploadPart::Chunk(chunk)) => bytes.extend_from_slice(&chunk),
                _ => return Err(Status::invalid_argument("a chunk was expected")),
            }
        }
        let file = File { path: header.path.clone(), size: bytes.len() as i64, ..File::default() };
        if self.files.lock().unwrap().contains_key(&header.path) && !header.overwrite {
            return Err(Error::new(ErrorCode::AlreadyExists, "the file exists").into());
        }
        self.files.lock().unwrap().insert(header.path, bytes);
        Ok(Response::new(file))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Answer<Self::DownloadStream> {
        let path = request.into_inner().path;
        let bytes = self.files.lock().unwrap().get(&path).cloned();
        let bytes =
            bytes.ok_or_else(|| Status::from(Error::new(ErrorCode::FileNotFound, format!("no file {path}"))))?;
        let file = File { path: path.clone(), size: bytes.len() as i64, ..File::default() };
        let mut parts = vec![Ok(DownloadResponse { part: Some(DownloadPart::File(file)) })];
        for chunk in bytes.chunks(1000) {
            parts.push(Ok(DownloadResponse { part: Some(DownloadPart::Chunk(chunk.to_vec().into())) }));
        }
        if path == "broken" {
            parts.push(Err(Error::new(ErrorCode::SandboxLost, "the sandbox is gone").into()));
        }
        Ok(Response::new(Box::pin(stream::iter(parts))))
    }

    async fn list_files(&self, _: Request<ListFilesRequest>) -> Answer<ListFilesResponse> {
        let file = |(path, bytes): (&String, &Vec<u8>)| File {
            path: path.clone(),
            r#type: FileType::File.into(),
            size: bytes.len() as i64,
            ..File::default()
        };
        let files = self.files.lock().unwrap().iter().map(file).collect();
        Ok(Response::new(ListFilesResponse { files, next_page_token: String::new() }))
    }

    unserved! {
        fetch_url(FetchUrlRequest) -> File;
        stat_file(StatFileRequest) -> File;
        delete_file(DeleteFileRequest) -> DeleteFileResponse;
        move_file(MoveFileRequest) -> File;
        make_directory(MakeDirectoryRequest) -> File;
    }
}
