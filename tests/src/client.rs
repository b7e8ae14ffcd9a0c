//! The generated client with a key, and what an execution put out.
use kernelbox_proto::v1::{
    ArtifactChange, CodeError, CreateSessionRequest, DeleteSessionRequest, DownloadRequest, ErrorCode, ExecuteRequest,
    ExecutionEvent, ExecutionFinished, ExecutionStatus, File, UploadHeader, UploadRequest,
    code_service_client::CodeServiceClient, download_response, execution_event::Kind,
    file_service_client::FileServiceClient, session_service_client::SessionServiceClient,
    turn_service_client::TurnServiceClient, upload_request,
};
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// The code of the one table that a failed call carries.
pub fn code_of(status: &Status) -> ErrorCode {
    kernelbox_proto::Error::from_status(status).code
}

/// Puts the key into every call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, Bearer>;

/// All public services.
#[derive(Debug, Clone)]
pub struct Client {
    pub sessions: SessionServiceClient<Authorized>,
    pub code: CodeServiceClient<Authorized>,
    pub files: FileServiceClient<Authorized>,
    pub turns: TurnServiceClient<Authorized>,
}

impl Client {
    /// An empty key sends none.
    pub async fn connect(endpoint: &str, key: &str) -> Self {
        let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect().await.unwrap();
        let bearer = Bearer((!key.is_empty()).then(|| format!("Bearer {key}").parse().unwrap()));
        Self {
            sessions: SessionServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            code: CodeServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            files: FileServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            turns: TurnServiceClient::with_interceptor(channel, bearer),
        }
    }

    /// A new session's name.
    pub async fn session(&mut self) -> String {
        self.sessions.create_session(CreateSessionRequest::default()).await.unwrap().into_inner().name
    }

    pub async fn delete(&mut self, session: &str) {
        self.sessions.delete_session(DeleteSessionRequest { name: session.into() }).await.unwrap();
    }

    /// Runs code to its end.
    pub async fn run(&mut self, session: &str, code: &str) -> Run {
        self.try_run(ExecuteRequest { session: session.into(), code: code.into(), ..Default::default() }).await.unwrap()
    }

    pub async fn try_run(&mut self, request: ExecuteRequest) -> Result<Run, Status> {
        Run::read(self.code.execute(request).await?.into_inner()).await
    }

    pub async fn upload(&mut self, session: &str, path: &str, content: &[u8]) -> Result<File, Status> {
        let header = UploadHeader { session: session.into(), path: path.into(), overwrite: true, ..Default::default() };
        let mut parts = vec![UploadRequest { part: Some(upload_request::Part::Header(header)) }];
        for chunk in content.chunks(256 * 1024) {
            parts.push(UploadRequest { part: Some(upload_request::Part::Chunk(chunk.to_vec().into())) });
        }
        Ok(self.files.upload(tokio_stream::iter(parts)).await?.into_inner())
    }

    pub async fn download(&mut self, session: &str, path: &str) -> Result<Vec<u8>, Status> {
        let request = DownloadRequest { session: session.into(), path: path.into(), ..Default::default() };
        let mut parts = self.files.download(request).await?.into_inner();
        let mut content = Vec::new();
        while let Some(part) = parts.message().await? {
            if let Some(download_response::Part::Chunk(chunk)) = part.part {
                content.extend_from_slice(&chunk);
            }
        }
        Ok(content)
    }
}

/// The events of an execution, all of them.
#[derive(Debug, Clone)]
pub struct Run {
    pub events: Vec<ExecutionEvent>,
}

impl Run {
    pub async fn read(mut stream: Streaming<ExecutionEvent>) -> Result<Self, Status> {
        let mut events = Vec::new();
        while let Some(event) = stream.message().await? {
            events.push(event);
        }
        Ok(Self { events })
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.events.iter().filter_map(|event| event.kind.as_ref())
    }

    /// Without the stages of the sandbox, which come before the execution begins and bear no number.
    pub fn numbered(&self) -> &[ExecutionEvent] {
        let first = self.events.iter().position(|event| !matches!(event.kind, Some(Kind::Stage(_)))).unwrap_or(0);
        &self.events[first..]
    }

    /// The execution's name.
    pub fn name(&self) -> &str {
        &self.events.last().expect("an event").execution
    }

    pub fn stdout(&self) -> String {
        self.kinds()
            .filter_map(|kind| if let Kind::Stdout(out) = kind { Some(out.text.as_str()) } else { None })
            .collect()
    }

    pub fn error(&self) -> Option<&CodeError> {
        self.kinds().find_map(|kind| if let Kind::Error(error) = kind { Some(error) } else { None })
    }

    pub fn finished(&self) -> &ExecutionFinished {
        match self.kinds().last() {
            Some(Kind::Finished(finished)) => finished,
            other => panic!("the last event is {other:?}"),
        }
    }

    pub fn status(&self) -> ExecutionStatus {
        self.finished().status()
    }

    /// Files that it created, changed or deleted.
    pub fn artifacts(&self) -> Vec<(String, ArtifactChange)> {
        self.kinds()
            .filter_map(|kind| if let Kind::Artifact(a) = kind { Some((a.path.clone(), a.change())) } else { None })
            .collect()
    }

    /// Asserts that it ended well; what it printed.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.status(), ExecutionStatus::Ok, "{:#?}", self.events);
        self.stdout()
    }
}
