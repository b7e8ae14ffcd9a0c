//! Talking to a model's server: sending, waiting no longer than is reasonable, and turning what goes wrong into a [`ModelError`].
//!
//! It knows nothing of the wire formats. A key is in the headers that it sends and in nothing that it says.
mod body;
mod failure;
mod words;

use std::{collections::VecDeque, error::Error as _, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use reqwest::{
    Client, Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION},
    redirect,
};
use serde_json::Value;
use url::{Host, Url};

pub(super) use self::failure::Said;
use self::words::Named;
use super::{
    Answer, Answering, Chunk, Failure, ModelError,
    config::{Endpoint, Key, ModelsError, Provider, Timing},
};

/// Bytes of an answer, however it comes.
const ANSWER_LIMIT: usize = 64 << 20;
/// Bytes of an error's or a page's body.
const BODY_LIMIT: usize = 1 << 20;
/// How long an error's body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A model's server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    client: Client,
    pub provider: Provider,
    pub timing: Timing,
    headers: HeaderMap,
    key: Option<Key>,
    named: Named,
}

/// A request that came to nothing.
#[derive(Debug)]
pub(super) struct Refusal {
    pub error: ModelError,
    pub status: Option<u16>,
    /// What the server said, in small letters, for those who learn from it.
    pub said: String,
}

/// What is wrong with an answer that has begun.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server says so.
    Said(Said),
    /// It is not the format; how.
    Broken(String),
}

/// Reads the events of one answer. Pure: it waits for nothing.
pub(super) trait Decoder: Send + 'static {
    /// Takes the data of one event, and says whether the answer is whole.
    fn event(&mut self, data: &str, chunks: &mut VecDeque<Chunk>) -> Result<bool, Trouble>;

    /// No more events come.
    fn end(&mut self, chunks: &mut VecDeque<Chunk>) -> Result<Answer, Trouble>;
}

impl Server {
    pub(super) fn new(endpoint: &Endpoint, url: &Url, timing: Timing) -> Result<Self, ModelsError> {
        let mut client = Client::builder()
            .connect_timeout(timing.connect)
            // A redirect would carry the key to where nobody sent it.
            .redirect(redirect::Policy::none())
            .tcp_keepalive(Duration::from_secs(30))
            .user_agent(concat!("kernelbox/", env!("CARGO_PKG_VERSION")));
        if is_loopback(url) {
            client = client.no_proxy();
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = &endpoint.key {
            let (name, value) = match endpoint.provider {
                Provider::Anthropic => ("x-api-key", key.expose().to_owned()),
                Provider::Azure => ("api-key", key.expose().to_owned()),
                _ => ("authorization", format!("Bearer {}", key.expose())),
            };
            let mut value =
                HeaderValue::try_from(value).map_err(|_| ModelsError::Key { provider: endpoint.provider })?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(Self {
            client: client.build().map_err(ModelsError::Client)?,
            provider: endpoint.provider,
            timing,
            headers,
            key: endpoint.key.clone(),
            named: Named::new(called(endpoint.provider, url)),
        })
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    /// Sends a request; anything but a success is an error.
    pub(super) async fn post(&self, url: &Url, body: &Value) -> Result<Response, Refusal> {
        let sent = self.client.post(url.clone()).headers(self.headers.clone()).json(body).send();
        let response = match tokio::time::timeout(self.timing.first, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.transport(error).into()),
            Err(_) => return Err(self.named.silent(self.timing.first).into()),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// A page of the server's, if it has it; the error says that there is no server.
    pub(super) async fn page(&self, url: &Url, body: Option<&Value>) -> Result<Option<Value>, ModelError> {
        let request = match body {
            None => self.client.get(url.clone()),
            Some(body) => self.client.post(url.clone()).json(body),
        };
        let response = request.headers(self.headers.clone()).send().await.map_err(|error| self.transport(error))?;
        match response.status().as_u16() {
            // It is starting, or in trouble: what it is shall be asked again.
            500.. | 429 => Err(self.refusal(response).await.error),
            200..300 => Ok(serde_json::from_slice(&body::read(response.bytes_stream(), BODY_LIMIT).await).ok()),
            _ => Ok(None),
        }
    }

    /// The answer in a response, as it comes.
    pub(super) fn answering(&self, response: Response, decoder: impl Decoder) -> Answering {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_whole = kind.is_some_and(|kind| kind.starts_with("application/json"));
        let server = self.clone();
        let pieces = response.bytes_stream().map(move |piece| piece.map_err(|error| server.transport(error)));
        let pieces = body::in_time(pieces.boxed(), self.timing, self.named.clone());
        let data = if is_whole {
            body::whole(pieces, ANSWER_LIMIT, self.named.clone())
        } else {
            body::events(pieces, ANSWER_LIMIT, self.named.clone())
        };
        decoded(data, decoder, self.clone())
    }

    async fn refusal(&self, response: Response) -> Refusal {
        let status = response.status().as_u16();
        let retry_after = failure::retry_after(response.headers(), std::time::SystemTime::now());
        let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok()).map(str::to_owned);
        let body = tokio::time::timeout(BODY_TIME, body::read(response.bytes_stream(), BODY_LIMIT)).await;
        let mut said = Said::read(&String::from_utf8_lossy(&body.unwrap_or_default()));
        if let Some(to) = location {
            said.message = format!("it redirects to {to}; give that address as the base URL");
        }
        let failure = failure::judge(Some(status), &said);
        let error = self.error(&format!("answered {status}"), failure, &said, retry_after);
        Refusal { error, status: Some(status), said: said.all().to_lowercase() }
    }

    /// What a server's words in the middle of an answer, or instead of one, come to.
    fn trouble(&self, trouble: Trouble) -> ModelError {
        match trouble {
            Trouble::Said(said) => self.error("broke off its answer", failure::judge(None, &said), &said, None),
            Trouble::Broken(how) => self.named.broken(&how),
        }
    }

    fn error(&self, what: &str, kind: Failure, said: &Said, retry_after: Option<Duration>) -> ModelError {
        let mut message = format!("{} {what}", self.named.as_str());
        let own = words::presentable(&said.message, self.key.as_ref().map(Key::expose));
        if !own.is_empty() {
            message = format!("{message}: {own}");
        }
        if let Some(advice) = words::advice(self.provider, kind, said, self.key.is_some()) {
            message = format!("{message}; {advice}");
        }
        ModelError { kind, message, retry_after }
    }

    /// The address stays out: it may hold a password.
    fn transport(&self, error: reqwest::Error) -> ModelError {
        let error = error.without_url();
        let mut cause = error.source();
        while let Some(deeper) = cause.and_then(|it| it.source()) {
            cause = Some(deeper);
        }
        let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
        if !error.is_connect() {
            return self.named.broken(&format!("the connection broke: {cause}"));
        }
        let mut message = format!("cannot reach {}: {cause}", self.named.as_str());
        if self.provider == Provider::Ollama {
            message.push_str("; is it running? `ollama serve` starts it");
        }
        ModelError::new(Failure::Unreachable, message)
    }
}

impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Self {
        Self { error, status: None, said: String::new() }
    }
}

fn decoded<D: Decoder>(data: BoxStream<'static, Result<String, ModelError>>, decoder: D, server: Server) -> Answering {
    let state = (data, decoder, VecDeque::new(), false);
    let chunks = futures::stream::try_unfold(state, move |(mut data, mut decoder, mut chunks, mut over)| {
        let server = server.clone();
        async move {
            loop {
                if let Some(chunk) = chunks.pop_front() {
                    return Ok(Some((chunk, (data, decoder, chunks, over))));
                }
                if over {
                    return Ok(None);
                }
                over = match data.next().await.transpose()? {
                    Some(event) => decoder.event(&event, &mut chunks).map_err(|trouble| server.trouble(trouble))?,
                    None => true,
                };
                if over {
                    let answer = decoder.end(&mut chunks).map_err(|trouble| server.trouble(trouble))?;
                    chunks.push_back(Chunk::Answer(answer));
                }
            }
        }
    });
    chunks.boxed()
}

/// What comes of a stream in these pieces, for those who try what bytes can do.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read(pieces: Vec<bytes::Bytes>, mut decoder: impl Decoder) -> Option<(VecDeque<Chunk>, Answer)> {
    let pieces = futures::stream::iter(pieces.into_iter().map(Ok)).boxed();
    let mut events = body::events(pieces, ANSWER_LIMIT, Named::new("it"));
    let mut chunks = VecDeque::new();
    while let Some(event) = futures::executor::block_on(events.next()) {
        if decoder.event(&event.ok()?, &mut chunks).ok()? {
            break;
        }
    }
    let answer = decoder.end(&mut chunks).ok()?;
    Some((chunks, answer))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// `OpenAI`, `Ollama at http://127.0.0.1:11434`
fn called(provider: Provider, url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    match (provider, url.host_str()) {
        (Provider::OpenAi, Some("api.openai.com")) => "OpenAI".to_owned(),
        (Provider::OpenAi, Some("openrouter.ai")) => "OpenRouter".to_owned(),
        (Provider::Anthropic, Some("api.anthropic.com")) => "Anthropic".to_owned(),
        (Provider::Azure, _) => format!("Azure OpenAI at {origin}"),
        (Provider::Ollama, _) => format!("Ollama at {origin}"),
        _ => format!("the model server at {origin}"),
    }
}
