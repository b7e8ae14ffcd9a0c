//! Finds the model servers that run on this machine already. Each is asked at once, and not for long.
//!
//! It only reads; what it asks follows Ollama's, llama.cpp's and LM Studio's own pages on their APIs.
mod choose;

use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use self::choose::by_liking;
use super::{LocalServer, Provider};

/// How long a server may take to take a connection.
const CONNECT: Duration = Duration::from_millis(500);
/// How long all questions to one server may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Bytes of an answer, at most.
const MAX_ANSWER: usize = 4 << 20;
/// How many of Ollama's models are asked whether they can call tools.
const MAX_ASKED: usize = 8;

/// The base URLs at which servers are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    pub ollama: String,
    pub llama_cpp: String,
    pub lm_studio: String,
}

impl Places {
    /// The servers' own defaults on this machine. `ollama_host` is what OLLAMA_HOST says, if it is set.
    pub fn usual(ollama_host: Option<&str>) -> Self {
        Self {
            ollama: ollama_url(ollama_host.unwrap_or_default()),
            llama_cpp: "http://127.0.0.1:8080".to_owned(),
            lm_studio: "http://127.0.0.1:1234".to_owned(),
        }
    }
}

/// The first of Ollama, llama.cpp and LM Studio that runs and has a model that can be asked to call tools.
pub async fn running(places: &Places) -> Option<LocalServer> {
    let client = Client::builder().no_proxy().connect_timeout(CONNECT).build();
    let client =
        client.inspect_err(|error| tracing::error!(error = error as &dyn std::error::Error, "no HTTP client")).ok()?;
    let asker = Asker { client };
    let (ollama, llama_cpp, lm_studio) = tokio::join!(
        timeout(LIMIT, asker.ollama(&places.ollama)),
        timeout(LIMIT, asker.llama_cpp(&places.llama_cpp)),
        timeout(LIMIT, asker.lm_studio(&places.lm_studio)),
    );
    let found = [
        (ollama, &places.ollama, Provider::Ollama),
        (llama_cpp, &places.llama_cpp, Provider::LlamaCpp),
        (lm_studio, &places.lm_studio, Provider::LmStudio),
    ];
    found.into_iter().find_map(|(model, base_url, provider)| {
        Some(LocalServer { base_url: base_url.clone(), model: model.ok().flatten()?, provider })
    })
}

struct Asker {
    client: Client,
}

impl Asker {
    /// <https://docs.ollama.com/api>: `/api/tags` lists models, `/api/show` says what one can do.
    async fn ollama(&self, base_url: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Tags {
            models: Vec<Tag>,
        }
        #[derive(Deserialize)]
        struct Tag {
            name: String,
            /// Set where the model runs elsewhere.
            remote_host: Option<String>,
        }
        #[derive(Deserialize)]
        struct Shown {
            /// Older servers do not say.
            capabilities: Option<Vec<String>>,
        }
        let tags: Tags = self.answer(self.client.get(format!("{base_url}/api/tags"))).await?;
        // What is asked of a model of this machine does not leave it.
        let here = tags.models.into_iter().filter(|tag| tag.remote_host.as_deref().unwrap_or_default().is_empty());
        for name in by_liking(here.map(|tag| tag.name)).into_iter().take(MAX_ASKED) {
            let question = self.client.post(format!("{base_url}/api/show")).json(&serde_json::json!({ "model": name }));
            let shown: Shown = self.answer(question).await?;
            // It refuses every request with tools for a model that cannot call them.
            if shown.capabilities.is_none_or(|able| able.iter().any(|it| it == "tools")) {
                return Some(name);
            }
        }
        None
    }

    /// Its server's README: `/props` tells it from all else that is served on that port, `/v1/models` has its model.
    async fn llama_cpp(&self, base_url: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Props {
            #[serde(rename = "default_generation_settings")]
            _settings: serde_json::Value,
        }
        let _: Props = self.answer(self.client.get(format!("{base_url}/props"))).await?;
        let models: Models = self.answer(self.client.get(format!("{base_url}/v1/models"))).await?;
        models.data.into_iter().next().map(|model| model.id)
    }

    /// <https://lmstudio.ai/docs/developer/rest>: a model that is in memory goes before one that would have to be loaded.
    async fn lm_studio(&self, base_url: &str) -> Option<String> {
        let models: Models = self.answer(self.client.get(format!("{base_url}/api/v0/models"))).await?;
        let talks = |model: &Model| model.kind.as_deref() != Some("embeddings");
        let (loaded, rest): (Vec<_>, Vec<_>) =
            models.data.into_iter().filter(talks).partition(|model| model.state.as_deref() == Some("loaded"));
        [loaded, rest].into_iter().find_map(|models| by_liking(models.into_iter().map(|it| it.id)).into_iter().next())
    }

    /// None: nobody there, or somebody else.
    async fn answer<T: DeserializeOwned>(&self, question: RequestBuilder) -> Option<T> {
        let mut answer = question.send().await.ok()?.error_for_status().ok()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.ok()? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return None;
            }
            bytes.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&bytes).ok()
    }
}

/// OpenAI's list of models, with what LM Studio adds.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    state: Option<String>,
}

/// OLLAMA_HOST as Ollama reads it: `HOST`, `HOST:PORT`, `:PORT` or a URL. An address to listen on everywhere means this machine.
fn ollama_url(host: &str) -> String {
    const PORT: u16 = 11434;
    let host = host.trim().trim_end_matches('/');
    let (scheme, rest) = host.split_once("://").unwrap_or(("http", host));
    let rest = if rest.starts_with(':') || rest.is_empty() { format!("127.0.0.1{rest}") } else { rest.to_owned() };
    let Ok(url) = url::Url::parse(&format!("{scheme}://{rest}")) else { return format!("http://127.0.0.1:{PORT}") };
    // A URL without a port means its scheme's own, and the parser leaves that out where it is given; all else means Ollama's.
    let own = if host.contains("://") || rest.ends_with(":80") { url.port_or_known_default() } else { None };
    let name = match url.host_str().unwrap_or_default() {
        "0.0.0.0" | "[::]" => "127.0.0.1",
        name => name,
    };
    format!("{scheme}://{name}:{}{}", url.port().or(own).unwrap_or(PORT), url.path().trim_end_matches('/'))
}

#[cfg(test)]
mod tests;
