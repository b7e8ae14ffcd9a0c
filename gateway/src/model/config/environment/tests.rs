//! Which models the environment and the flags name.
use super::*;

fn config(settings: ModelSettings, variables: &[(&str, &str)]) -> ModelsConfig {
    let read = |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
    ModelsConfig::new(settings, read).unwrap()
}

fn settings(model: &str, url: &str) -> ModelSettings {
    let some = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
    ModelSettings { model: some(model), url: some(url), ..ModelSettings::default() }
}

/// `PROVIDER URL KEY? MODEL?` of each endpoint, in order.
fn lines(config: &ModelsConfig) -> Vec<String> {
    let line = |it: &Endpoint| {
        let key = it.key.as_ref().map_or("-", Key::expose);
        format!("{} {} {key} {}", it.provider, it.url, it.model.as_deref().unwrap_or("-"))
    };
    config.endpoints.iter().map(line).collect()
}

fn default(config: &ModelsConfig) -> String {
    config
        .default
        .as_ref()
        .map_or_else(String::new, |it| format!("{}:{}", it.provider, it.model.as_deref().unwrap_or_default()))
}

#[test]
fn without_anything_there_is_no_model() {
    let none = config(ModelSettings::default(), &[("OPENAI_API_KEY", " ")]);
    assert_eq!((lines(&none), default(&none)), (vec![], String::new()));
}

#[test]
fn the_providers_own_variables_are_enough() {
    let all = config(
        ModelSettings::default(),
        &[
            ("OPENAI_API_KEY", "o\n"),
            ("ANTHROPIC_API_KEY", "a"),
            ("ANTHROPIC_BASE_URL", "https://proxy"),
            ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com"),
            ("AZURE_OPENAI_API_KEY", "z"),
            ("AZURE_OPENAI_DEPLOYMENT", "prod"),
            ("OLLAMA_HOST", "0.0.0.0"),
        ],
    );
    assert_eq!(
        lines(&all),
        [
            "openai https://api.openai.com/v1 o -",
            "anthropic https://proxy a -",
            "azure https://r.openai.azure.com z prod",
            "ollama http://127.0.0.1:11434/v1 - -",
        ]
    );
    assert_eq!(default(&all), "openai:");
    let ollama = config(settings("qwen3:8b", ""), &[("OLLAMA_HOST", "gpu:1")]);
    assert_eq!(
        (lines(&ollama), default(&ollama)),
        (vec!["ollama http://gpu:1/v1 - qwen3:8b".into()], "ollama:qwen3:8b".into())
    );
}

#[test]
fn a_provider_before_the_model_chooses_it_and_makes_it_the_first() {
    let keys = [("OPENAI_API_KEY", "o"), ("ANTHROPIC_API_KEY", "a")];
    let chosen = config(settings("anthropic:claude-opus-5-5", ""), &keys);
    assert_eq!(lines(&chosen)[0], "anthropic https://api.anthropic.com/v1 a -");
    assert_eq!(default(&chosen), "anthropic:claude-opus-5-5");
    // and: without a key it is still known, and says what it wants when it is asked
    assert_eq!(lines(&config(settings("ollama:", ""), &keys))[0], "ollama http://127.0.0.1:11434/v1 - -");
    // and: a local one may come later
    let local = config(settings("local:", ""), &keys);
    assert_eq!((lines(&local).len(), default(&local)), (2, "local:".into()));
    let azure = ModelsConfig::new(settings("azure:prod", ""), |_| None).unwrap_err();
    assert!(azure.to_string().starts_with("AZURE_OPENAI_ENDPOINT"), "{azure}");
}

#[test]
fn a_key_goes_only_to_the_place_that_it_was_given_for() {
    let keys = [("OPENAI_API_KEY", "o"), ("ANTHROPIC_API_KEY", "a")];
    let own = config(settings("m", "http://vllm:8000/v1"), &keys);
    assert_eq!(lines(&own)[0], "openai http://vllm:8000/v1 - -", "not OpenAI's key");
    assert_eq!(default(&own), "openai:m");
    let same = config(settings("m", "https://api.openai.com/v1"), &keys);
    assert_eq!(lines(&same)[0], "openai https://api.openai.com/v1 o -");
    let mut with_key = settings("m", "http://vllm:8000/v1");
    with_key.key = Key::new(" own \n");
    assert_eq!(lines(&config(with_key.clone(), &keys))[0], "openai http://vllm:8000/v1 own -");
    with_key.api = Some("anthropic".into());
    assert_eq!(lines(&config(with_key, &keys))[0], "anthropic http://vllm:8000/v1 own -");
}

#[test]
fn a_format_that_is_not_known_is_refused() {
    let odd = ModelSettings { api: Some("gemini".into()), ..ModelSettings::default() };
    let error = ModelsConfig::new(odd, |_| None).unwrap_err();
    assert!(error.to_string().contains("openai or anthropic"), "{error}");
}

#[test]
fn no_key_is_shown() {
    let config =
        config(ModelSettings { key: Key::new("hush"), ..ModelSettings::default() }, &[("ANTHROPIC_API_KEY", "hush")]);
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn a_colon_after_anything_but_a_provider_belongs_to_the_model() {
    assert_eq!(split("openai:gpt-6-luna"), (Some(Provider::OpenAi), Some("gpt-6-luna")));
    assert_eq!(split(" local: "), (Some(Provider::Local), None));
    assert_eq!(split("qwen3:8b"), (None, Some("qwen3:8b")));
    assert_eq!(split("ft:gpt-4o:me"), (None, Some("ft:gpt-4o:me")));
    assert_eq!(split(""), (None, None));
}
