//! Where a provider's models are.
use url::Url;

use super::{Key, ModelsError, Provider};

/// A provider's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub provider: Provider,
    /// As the user wrote it.
    pub url: String,
    pub key: Option<Key>,
    /// Its default model, or Azure's deployment. None: the provider's usual one, or the first that the server lists.
    pub model: Option<String>,
    /// Azure's.
    pub api_version: Option<String>,
}

impl Endpoint {
    pub fn new(provider: Provider, url: impl Into<String>) -> Self {
        Self { provider, url: url.into(), key: None, model: None, api_version: None }
    }

    /// The address that everything is below: with `/v1` where none was written, without the last part of an address that was
    /// copied whole. Azure's is the resource's.
    pub(in crate::model) fn base(&self) -> Result<Url, ModelsError> {
        let wrong = || ModelsError::Url(shown(&self.url));
        let mut url = Url::parse(self.url.trim()).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !url.username().is_empty() {
            return Err(wrong());
        }
        url.set_query(None);
        url.set_fragment(None);
        let path = url.path().trim_end_matches('/').to_owned();
        let path = match self.provider {
            Provider::Azure => path.strip_suffix("/openai").unwrap_or(&path).to_owned(),
            Provider::Anthropic => {
                let path = path.trim_end_matches("/messages");
                format!("{}/v1", path.strip_suffix("/v1").unwrap_or(path))
            }
            _ => match path.trim_end_matches("/chat/completions") {
                "" => "/v1".to_owned(),
                path => path.to_owned(),
            },
        };
        url.set_path(&path);
        Ok(url)
    }

    /// The model that is used where none is named. None: ask the server, where that can be.
    pub(in crate::model) fn usual_model(&self) -> Option<String> {
        let is_usual = || Some(self.url.as_str()) == self.provider.usual_url();
        self.model.clone().or_else(|| self.provider.usual_model().filter(|_| is_usual()).map(str::to_owned))
    }
}

/// For messages: an address that is none may hold anything, a password too.
fn shown(url: &str) -> String {
    url.rsplit('@').next().unwrap_or_default().chars().take(100).collect()
}

/// Where Ollama's own variable says that it is.
/// <https://docs.ollama.com/faq>
pub(super) fn ollama_url(host: &str) -> String {
    let (scheme, rest) = host.trim().split_once("://").unwrap_or(("http", host.trim()));
    let usual_port = match scheme {
        _ if !host.contains("://") => "11434",
        "https" => "443",
        _ => "80",
    };
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => (name, port),
        _ => (authority, usual_port),
    };
    // What a server listens on is no place to go to.
    let name = match name {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        name => name,
    };
    let port = if port.is_empty() { usual_port } else { port };
    let path = path.trim_matches('/');
    if path.is_empty() { format!("{scheme}://{name}:{port}/v1") } else { format!("{scheme}://{name}:{port}/{path}/v1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_written_in_every_usual_way() {
        for (provider, written, base) in [
            (Provider::OpenAi, "http://h:8080", "http://h:8080/v1"),
            (Provider::OpenAi, "http://h:8080/v1/", "http://h:8080/v1"),
            (Provider::OpenAi, "https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
            (Provider::OpenAi, "https://h/v1/chat/completions", "https://h/v1"),
            (Provider::OpenAi, "https://h/v1beta/openai/", "https://h/v1beta/openai"),
            (Provider::Anthropic, "https://api.anthropic.com", "https://api.anthropic.com/v1"),
            (Provider::Anthropic, "https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1"),
            (Provider::Anthropic, "https://h/anthropic/", "https://h/anthropic/v1"),
            (Provider::Azure, "https://r.openai.azure.com/", "https://r.openai.azure.com/"),
            (Provider::Azure, "https://r.openai.azure.com/openai", "https://r.openai.azure.com/"),
        ] {
            assert_eq!(Endpoint::new(provider, written).base().unwrap().as_str(), base, "{written}");
        }
        for wrong in ["", "h:8080", "ftp://h", "http://user:pass@h/v1", "unix:/x"] {
            let error = Endpoint::new(Provider::OpenAi, wrong).base().unwrap_err().to_string();
            assert!(!error.contains("pass"), "{error}");
        }
    }

    #[test]
    fn ollamas_variable_is_read_as_ollama_reads_it() {
        for (host, url) in [
            ("127.0.0.1:11434", "http://127.0.0.1:11434/v1"),
            ("0.0.0.0", "http://127.0.0.1:11434/v1"),
            (":1234", "http://127.0.0.1:1234/v1"),
            ("gpu.lan", "http://gpu.lan:11434/v1"),
            ("http://gpu.lan:9000/", "http://gpu.lan:9000/v1"),
            ("https://ollama.example/api", "https://ollama.example:443/api/v1"),
            ("http://gpu.lan", "http://gpu.lan:80/v1"),
            ("[::1]:99", "http://[::1]:99/v1"),
            ("[::]", "http://[::1]:11434/v1"),
        ] {
            assert_eq!(ollama_url(host), url, "{host}");
        }
    }
}
