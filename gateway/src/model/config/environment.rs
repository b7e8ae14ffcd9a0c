//! From Kernelbox's own settings and the variables that providers' own clients read, to a [`ModelsConfig`].
use super::{Choice, Endpoint, Key, Known, ModelsConfig, ModelsError, Provider, Timing, endpoint::ollama_url};

/// What is said with flags and `KERNELBOX_MODEL*`.
#[derive(Debug, Clone, Default)]
pub struct ModelSettings {
    /// `MODEL`, `PROVIDER:MODEL` or `PROVIDER:`
    pub model: Option<String>,
    /// The base URL of the model's server.
    pub url: Option<String>,
    /// The format that it speaks: `openai` or `anthropic`.
    pub api: Option<String>,
    pub key: Option<Key>,
    pub context_tokens: Option<u32>,
    pub sees_images: Option<bool>,
}

/// `PROVIDER:MODEL` -> both; a colon after anything else is part of the model's name (`qwen3:8b`).
pub(in crate::model) fn split(name: &str) -> (Option<Provider>, Option<&str>) {
    let name = name.trim();
    let (provider, model) = match name.split_once(':').map(|(before, after)| (Provider::named(before), after)) {
        Some((Some(provider), model)) => (Some(provider), model.trim()),
        _ => (None, name),
    };
    (provider, Some(model).filter(|model| !model.is_empty()))
}

impl ModelsConfig {
    /// Reads the environment through `variable`; empty variables are as good as none.
    pub fn new(settings: ModelSettings, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ModelsError> {
        let read = |name: &str| variable(name).map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
        let mut endpoints = of_environment(&read);
        let known = Known { context_tokens: settings.context_tokens, sees_images: settings.sees_images };
        let (named, model) = settings.model.as_deref().map_or((None, None), split);
        let api = match settings.api.as_deref() {
            None => None,
            Some("openai") => Some(Provider::OpenAi),
            Some("anthropic") => Some(Provider::Anthropic),
            Some(other) => {
                let problem = format!("{other:?} is no format that is known: openai or anthropic");
                return Err(ModelsError::setting("KERNELBOX_MODEL_API", problem));
            }
        };
        let is_described = settings.url.is_some() || settings.key.is_some();
        let provider = named.or(api).or(is_described.then_some(Provider::OpenAi));
        let default = match provider {
            Some(provider) => {
                describe(&mut endpoints, provider, settings.url, settings.key)?;
                Some(Choice { provider, model: model.map(str::to_owned) })
            }
            None => {
                if let (Some(first), Some(model)) = (endpoints.first_mut(), model) {
                    first.model = Some(model.to_owned());
                }
                endpoints.first().map(|first| Choice { provider: first.provider, model: first.model.clone() })
            }
        };
        // Names without a provider mean the default one's models.
        if let Some(at) = provider.and_then(|provider| endpoints.iter().position(|it| it.provider == provider)) {
            endpoints[..=at].rotate_right(1);
        }
        Ok(Self { endpoints, default, known, timing: Timing::default() })
    }
}

/// What the providers' own clients would use.
fn of_environment(read: &impl Fn(&str) -> Option<String>) -> Vec<Endpoint> {
    let key = |name: &str| read(name).and_then(|key| Key::new(&key));
    let mut endpoints = Vec::new();
    let usual = |provider: Provider, url: Option<String>| {
        Endpoint::new(provider, url.unwrap_or_else(|| provider.usual_url().unwrap_or_default().to_owned()))
    };
    for (provider, key, url) in [
        (Provider::OpenAi, key("OPENAI_API_KEY"), read("OPENAI_BASE_URL")),
        (Provider::Anthropic, key("ANTHROPIC_API_KEY"), read("ANTHROPIC_BASE_URL")),
    ] {
        if key.is_some() || url.is_some() {
            endpoints.push(Endpoint { key, ..usual(provider, url) });
        }
    }
    if let Some(url) = read("AZURE_OPENAI_ENDPOINT") {
        endpoints.push(Endpoint {
            key: key("AZURE_OPENAI_API_KEY"),
            model: read("AZURE_OPENAI_DEPLOYMENT"),
            api_version: read("AZURE_OPENAI_API_VERSION"),
            ..Endpoint::new(Provider::Azure, url)
        });
    }
    if let Some(host) = read("OLLAMA_HOST") {
        endpoints.push(Endpoint::new(Provider::Ollama, ollama_url(&host)));
    }
    endpoints
}

/// Adds what the settings say of the default model's provider. A key of the environment stays where its provider's own address does.
fn describe(
    endpoints: &mut Vec<Endpoint>,
    provider: Provider,
    url: Option<String>,
    key: Option<Key>,
) -> Result<(), ModelsError> {
    if let Some(url) = url {
        match endpoints.iter_mut().find(|it| it.provider == provider) {
            Some(known) if same_place(&known.url, &url) => known.url = url,
            Some(known) => {
                let api_version = known.api_version.take();
                *known = Endpoint { api_version, ..Endpoint::new(provider, url) };
            }
            None => endpoints.push(Endpoint::new(provider, url)),
        }
    } else if !endpoints.iter().any(|it| it.provider == provider) {
        match provider.usual_url() {
            Some(url) => endpoints.push(Endpoint::new(provider, url)),
            // It is found, or started, later.
            None if provider == Provider::Local => {}
            None => {
                let problem = "is not set, and KERNELBOX_MODEL wants a model of Azure's";
                return Err(ModelsError::setting("AZURE_OPENAI_ENDPOINT", problem));
            }
        }
    }
    if let (Some(key), Some(endpoint)) = (key, endpoints.iter_mut().find(|it| it.provider == provider)) {
        endpoint.key = Some(key);
    }
    Ok(())
}

fn same_place(one: &str, other: &str) -> bool {
    let origin = |url: &str| url::Url::parse(url).ok().map(|url| url.origin());
    origin(one).is_some_and(|it| it.is_tuple() && Some(it) == origin(other))
}

#[cfg(test)]
mod tests;
