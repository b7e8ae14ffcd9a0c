//! The models of a server, by name. Made once; a model that was asked for before is the same one again, with what it learned.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kernelbox_proto::{Error, v1::ErrorCode};

use super::{
    ChatModel,
    anthropic::Anthropic,
    config::{Choice, Endpoint, Known, ModelsConfig, ModelsError, Provider, split},
    openai::OpenAi,
};

/// Models that are kept. Their names come from clients.
const KEPT: usize = 64;
const NAME_LIMIT: usize = 200;
/// What a turn says where there is no model.
const NONE: &str = "no language model is set up. Set OPENAI_API_KEY or ANTHROPIC_API_KEY for the server, or KERNELBOX_MODEL_URL to the \
                    base URL of a server that speaks the OpenAI format (Ollama, llama.cpp, vLLM, LM Studio), or run \
                    deploy/local-model/get for a model on this machine; then start the server again. Code runs without a model";

/// Finds models by name.
pub struct Models {
    config: ModelsConfig,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// The server on this machine.
    local: Option<Endpoint>,
    models: HashMap<(Provider, Option<String>), Arc<dyn ChatModel>>,
}

impl Models {
    /// Fails for settings that can never work: an address that is none, a key that cannot be sent.
    pub fn new(config: ModelsConfig) -> Result<Self, ModelsError> {
        for endpoint in &config.endpoints {
            model(endpoint, endpoint.usual_model().or(Some("model".into())), &config, false)?;
        }
        Ok(Self { config, found: Mutex::default() })
    }

    /// Adds a server that was found or started on this machine, as the provider `local`; the default one, where there is no other.
    pub fn add_local(&self, base_url: &str, model: Option<&str>) -> Result<(), ModelsError> {
        let mut endpoint = Endpoint::new(Provider::Local, base_url);
        endpoint.model = model.map(str::to_owned);
        endpoint.base()?;
        let mut found = self.found();
        let is_known = |known: &Endpoint| known.url == endpoint.url && known.model == endpoint.model;
        if found.local.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        found.local = Some(endpoint);
        found.models.retain(|(provider, _), _| *provider != Provider::Local);
        Ok(())
    }

    /// Whether this name means the server of this machine, which may have come, gone or moved since.
    pub fn means_local(&self, name: &str) -> bool {
        let found = self.found();
        let default = self.default(&found).map(|choice| choice.provider);
        let meant = split(name).0.or(default).unwrap_or(Provider::Local);
        meant == Provider::Local && !self.config.endpoints.iter().any(|it| it.provider == Provider::Local)
    }

    /// The model of this name: `PROVIDER:MODEL`, `PROVIDER:`, `MODEL` of the default provider, or the default one for an empty name.
    pub fn get(&self, name: &str) -> Result<Arc<dyn ChatModel>, Error> {
        if name.len() > NAME_LIMIT || name.chars().any(char::is_control) {
            return Err(Error::invalid("model", format!("must be a name of at most {NAME_LIMIT} bytes")));
        }
        let mut found = self.found();
        let default = self.default(&found).ok_or_else(|| unavailable(NONE))?;
        let choice = match split(name) {
            (None, None) => default.clone(),
            (provider, model) => {
                Choice { provider: provider.unwrap_or(default.provider), model: model.map(str::to_owned) }
            }
        };
        let endpoint = self.endpoint(&found, choice.provider).ok_or_else(|| not_set_up(choice.provider))?.clone();
        let named = choice.model.or_else(|| endpoint.usual_model());
        let key = (choice.provider, named.clone());
        if let Some(known) = found.models.get(&key) {
            return Ok(Arc::clone(known));
        }
        if named.is_none() && !lists_models(choice.provider) {
            return Err(unavailable(
                "no deployment is named: set AZURE_OPENAI_DEPLOYMENT for the server, or ask for azure:DEPLOYMENT",
            ));
        }
        let default_name = default.model.or_else(|| self.endpoint(&found, default.provider)?.usual_model());
        let is_default = choice.provider == default.provider && named == default_name;
        let made = model(&endpoint, named, &self.config, is_default).map_err(|error| unavailable(error.to_string()))?;
        if found.models.len() >= KEPT {
            found.models.clear();
        }
        found.models.insert(key, Arc::clone(&made));
        Ok(made)
    }

    /// For a line at the start: `openai:gpt-6.1-terra at https://api.openai.com`. None: there is no model.
    pub fn describe(&self) -> Option<String> {
        let found = self.found();
        let choice = self.default(&found)?;
        let Some(endpoint) = self.endpoint(&found, choice.provider) else {
            return Some(format!("{}, once it runs", choice.provider));
        };
        let model = choice.model.or_else(|| endpoint.usual_model());
        let model = model.unwrap_or_else(|| "whatever it has".to_owned());
        let origin = endpoint.base().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        Some(format!("{}:{model} at {origin}", choice.provider))
    }

    fn default(&self, found: &Found) -> Option<Choice> {
        let first = || self.config.endpoints.first().or(found.local.as_ref());
        self.config.default.clone().or_else(|| first().map(|it| Choice { provider: it.provider, model: None }))
    }

    fn endpoint<'a>(&'a self, found: &'a Found, provider: Provider) -> Option<&'a Endpoint> {
        let configured = self.config.endpoints.iter().find(|it| it.provider == provider);
        configured.or(found.local.as_ref().filter(|_| provider == Provider::Local))
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        // Nothing panics while it holds the lock.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("config", &self.config).finish_non_exhaustive()
    }
}

fn model(
    endpoint: &Endpoint,
    name: Option<String>,
    config: &ModelsConfig,
    is_default: bool,
) -> Result<Arc<dyn ChatModel>, ModelsError> {
    // What the user says of the default model is not true of others.
    let known = if is_default { config.known } else { Known::default() };
    match (endpoint.provider, name) {
        (Provider::Anthropic, name) => {
            let name = name.or_else(|| Provider::Anthropic.usual_model().map(str::to_owned)).unwrap_or_default();
            Ok(Arc::new(Anthropic::new(endpoint, name, known, config.timing)?))
        }
        (_, name) => Ok(Arc::new(OpenAi::new(endpoint, name, known, config.timing)?)),
    }
}

/// Whether a model need not be named, as the server can be asked for one.
fn lists_models(provider: Provider) -> bool {
    provider != Provider::Azure
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::ModelUnavailable, message)
}

fn not_set_up(provider: Provider) -> Error {
    let what = match provider {
        Provider::OpenAi => "set OPENAI_API_KEY",
        Provider::Azure => "set AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and AZURE_OPENAI_DEPLOYMENT",
        Provider::Anthropic => "set ANTHROPIC_API_KEY",
        Provider::Ollama => "set OLLAMA_HOST, for example to 127.0.0.1:11434",
        Provider::Local => "run deploy/local-model/get, which gets one",
    };
    unavailable(format!("this server has no models of {provider}: {what} for it and start it again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::{Key, ModelSettings};

    fn models(settings: ModelSettings, variables: &'static [(&str, &str)]) -> Models {
        crate::install_crypto();
        let read = |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
        Models::new(ModelsConfig::new(settings, read).unwrap()).unwrap()
    }

    fn error(models: &Models, name: &str) -> Error {
        models.get(name).err().unwrap()
    }

    #[test]
    fn without_a_model_a_turn_says_what_to_do_and_a_local_one_can_come_later() {
        let models = models(ModelSettings::default(), &[]);
        let none = error(&models, "");
        assert_eq!(none.code, ErrorCode::ModelUnavailable);
        for what in ["OPENAI_API_KEY", "KERNELBOX_MODEL_URL", "deploy/local-model"] {
            assert!(none.message.contains(what), "{none}");
        }
        assert_eq!(models.describe(), None);
        models.add_local("http://127.0.0.1:8081", Some("qwen")).unwrap();
        assert_eq!(models.describe().as_deref(), Some("local:qwen at http://127.0.0.1:8081"));
        let first = models.get("").unwrap();
        assert!(
            Arc::ptr_eq(&first, &models.get("local:").unwrap()) && Arc::ptr_eq(&first, &models.get("qwen").unwrap())
        );
        // and: one that was started again elsewhere is another
        models.add_local("http://127.0.0.1:8082", Some("qwen")).unwrap();
        assert!(!Arc::ptr_eq(&first, &models.get("").unwrap()));
    }

    #[test]
    fn a_name_is_a_providers_model_or_one_of_the_default_providers() {
        let models = models(ModelSettings::default(), &[("OPENAI_API_KEY", "o"), ("ANTHROPIC_API_KEY", "a")]);
        assert_eq!(models.describe().as_deref(), Some("openai:gpt-6.1-terra at https://api.openai.com"));
        let default = models.get("").unwrap();
        assert!(Arc::ptr_eq(&default, &models.get("openai:").unwrap()));
        assert!(Arc::ptr_eq(&default, &models.get("gpt-6.1-terra").unwrap()));
        assert!(!Arc::ptr_eq(&default, &models.get("gpt-6-luna").unwrap()));
        assert!(Arc::ptr_eq(&models.get("anthropic:").unwrap(), &models.get("anthropic:claude-sonnet-5-5").unwrap()));
        let azure = error(&models, "azure:prod");
        assert_eq!(azure.code, ErrorCode::ModelUnavailable);
        assert!(azure.message.contains("AZURE_OPENAI_ENDPOINT"), "{azure}");
        assert_eq!(error(&models, &"x".repeat(300)).code, ErrorCode::InvalidArgument);
    }

    #[test]
    fn no_number_of_names_fills_the_memory() {
        let models = models(ModelSettings::default(), &[("OPENAI_API_KEY", "o")]);
        for n in 0..3 * KEPT {
            models.get(&format!("m{n}")).unwrap();
        }
        assert!(models.found().models.len() <= KEPT);
    }

    #[test]
    fn azure_wants_a_deployment() {
        let models = models(ModelSettings::default(), &[("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com")]);
        assert!(error(&models, "").message.contains("AZURE_OPENAI_DEPLOYMENT"));
        assert!(models.get("azure:prod").is_ok() && models.get("prod").is_ok());
    }

    #[test]
    fn settings_that_can_never_work_are_refused_at_the_start() {
        crate::install_crypto();
        let refused = |settings| Models::new(ModelsConfig::new(settings, |_| None).unwrap()).unwrap_err().to_string();
        let url = ModelSettings { url: Some("localhost:8080".into()), ..ModelSettings::default() };
        assert!(refused(url).contains("http://127.0.0.1:8080/v1"));
        let key = ModelSettings { key: Key::new("a\u{1}b"), ..ModelSettings::default() };
        let error = refused(key);
        assert!(error.contains("OPENAI_API_KEY") && !error.contains("a\u{1}b"), "{error}");
    }
}
