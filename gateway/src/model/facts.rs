//! What a model's server says of it: how much it can read, and whether it sees images.
//!
//! Every kind of server has a page of its own for that; where none answers, a small table of known models does, or a careful guess.
//! A guess that the server could not be asked about is not remembered.
mod pages;
mod table;

use std::time::Duration;

use serde_json::json;
use tokio::sync::OnceCell;
use url::Url;

use self::pages::Found;
use super::{
    Facts, ModelError,
    config::{Known, Provider},
    http::Server,
};

/// How long a server is asked about itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// What is assumed of a model that nothing is known of.
const CAREFUL: u32 = 8_192;
/// What Ollama gives a model that it is not told otherwise about, on most machines.
/// <https://docs.ollama.com/context-length>
const CAREFUL_OLLAMA: u32 = 4_096;

pub(super) use pages::first_listed;

/// Facts that hold, or ones for now.
pub(super) enum Asked {
    Sure(Facts),
    Guess(Facts),
}

pub(super) fn remember(cell: &OnceCell<Facts>, asked: Asked) -> Facts {
    match asked {
        Asked::Sure(facts) => {
            // An error only says that another call was faster.
            let _ = cell.set(facts.clone());
            facts
        }
        Asked::Guess(facts) => facts,
    }
}

/// Asks the server about its model `name`.
pub(super) async fn ask(server: &Server, base: &Url, name: &str, known: Known) -> Asked {
    let provider = server.provider;
    let facts = |found: Found| facts(provider, name, known, found);
    let is_openai = provider == Provider::OpenAi && base.host_str() == Some("api.openai.com");
    if is_openai || provider == Provider::Azure || known.context_tokens.is_some() && known.sees_images.is_some() {
        return Asked::Sure(facts(Found::default()));
    }
    let asked = async {
        match provider {
            Provider::Anthropic => anthropic(server, base, name).await,
            Provider::Ollama => ollama(server, base, name).await,
            _ => any(server, base, name).await,
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(found)) if found.context_tokens.is_some() || provider != Provider::Ollama => Asked::Sure(facts(found)),
        Ok(Ok(found)) => Asked::Guess(facts(found)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the model's server says nothing of itself");
            Asked::Guess(facts(Found::default()))
        }
        Err(_) => Asked::Guess(facts(Found::default())),
    }
}

/// What is assumed without asking.
pub(super) fn guess(provider: Provider, name: &str, known: Known) -> Facts {
    facts(provider, name, known, Found::default())
}

fn facts(provider: Provider, name: &str, known: Known, found: Found) -> Facts {
    let family = table::family(name);
    let careful = match provider {
        // How much memory the server gave a model, no table knows.
        Provider::Ollama => CAREFUL_OLLAMA,
        Provider::Local => CAREFUL,
        _ => family.map_or(CAREFUL, |family| family.context_tokens),
    };
    Facts {
        name: name.to_owned(),
        context_tokens: known.context_tokens.or(found.context_tokens).unwrap_or(careful),
        sees_images: known
            .sees_images
            .or(found.sees_images)
            .unwrap_or_else(|| family.is_some_and(|family| family.sees_images) || table::sounds_seeing(name)),
    }
}

async fn anthropic(server: &Server, base: &Url, name: &str) -> Result<Found, ModelError> {
    let page = server.page(&below(base, &format!("models/{name}")), None).await?;
    Ok(page.as_ref().map(pages::anthropic).unwrap_or_default())
}

async fn ollama(server: &Server, base: &Url, name: &str) -> Result<Found, ModelError> {
    let root = root(base);
    let (body, show, running) = (json!({"model": name}), below(&root, "api/show"), below(&root, "api/ps"));
    let (show, running) = tokio::join!(server.page(&show, Some(&body)), server.page(&running, None));
    let found = show?.as_ref().map(pages::ollama_show).unwrap_or_default();
    let running = running?.as_ref().map(|page| pages::ollama_running(page, name)).unwrap_or_default();
    Ok(running.or(found))
}

/// A server of unknown kind: llama.cpp, vLLM, LM Studio, Ollama, or one somewhere on the internet.
async fn any(server: &Server, base: &Url, name: &str) -> Result<Found, ModelError> {
    let root = root(base);
    let (props, listed) = (below(&root, "props"), below(base, "models"));
    let (props, listed) = tokio::join!(server.page(&props, None), server.page(&listed, None));
    let props = props?.as_ref().map(pages::llama_cpp).unwrap_or_default();
    let found = props.or(listed?.as_ref().map(|page| pages::listed(page, name)).unwrap_or_default());
    if found.context_tokens.is_some() {
        return Ok(found);
    }
    let lm_studio = below(&root, "api/v0/models");
    let (lm_studio, ollama) = tokio::join!(server.page(&lm_studio, None), ollama(server, base, name));
    let lm_studio = lm_studio?.as_ref().map(|page| pages::listed(page, name)).unwrap_or_default();
    Ok(found.or(lm_studio).or(ollama?))
}

/// `BASE/PATH`
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path.split('/'));
    }
    url
}

/// Where a server's own pages are: beside `/v1`.
fn root(base: &Url) -> Url {
    let mut url = base.clone();
    if url.path().trim_end_matches('/').ends_with("/v1")
        && let Ok(mut segments) = url.path_segments_mut()
    {
        segments.pop_if_empty().pop();
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_below_and_beside_the_base() {
        let base = |base: &str| Url::parse(base).unwrap();
        assert_eq!(below(&base("http://h:1/v1/"), "chat/completions").as_str(), "http://h:1/v1/chat/completions");
        assert_eq!(below(&root(&base("http://h:1/v1")), "props").as_str(), "http://h:1/props");
        assert_eq!(below(&root(&base("https://h/api/v1")), "props").as_str(), "https://h/api/props");
        assert_eq!(below(&root(&base("https://h/openai")), "props").as_str(), "https://h/openai/props");
    }

    #[test]
    fn what_is_set_counts_more_than_what_is_found_and_that_more_than_the_table() {
        let found = Found { context_tokens: Some(5), sees_images: Some(false) };
        let known = Known { context_tokens: Some(7), sees_images: None };
        let set = facts(Provider::OpenAi, "gpt-4o", known, found);
        assert_eq!((set.context_tokens, set.sees_images), (7, false));
        let told = facts(Provider::OpenAi, "gpt-4o", Known::default(), found);
        assert_eq!(told.context_tokens, 5);
        let table = guess(Provider::OpenAi, "openai/gpt-4o", Known::default());
        assert_eq!((table.context_tokens, table.sees_images), (128_000, true));
        let careful = guess(Provider::Ollama, "llama3.2-vision", Known::default());
        assert_eq!((careful.context_tokens, careful.sees_images), (4_096, true));
    }
}
