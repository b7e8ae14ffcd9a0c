//! What servers say of their models.
use std::time::{Duration, Instant};

use kernelbox_gateway::model::{Endpoint, Facts, ModelsConfig, Provider, config::Known};
use kernelbox_tests::model_server::ModelServer;
use serde_json::{Value, json};

use super::support::{endpoint, model, models};

async fn facts(provider: Provider, pages: &[(&str, Value)]) -> (Facts, Vec<String>) {
    let server = ModelServer::start([]).await;
    for (path, page) in pages {
        server.page(path, 200, page.clone());
    }
    let model = model(&server, provider);
    let facts = model.facts().await;
    let asked = server.pages_asked();
    assert_eq!(model.facts().await, facts);
    assert_eq!(server.pages_asked(), asked, "what is known is not asked again");
    (facts, asked)
}

#[tokio::test]
async fn every_kind_of_server_is_asked_in_its_own_way() {
    let found = |context_tokens, sees_images| Facts { name: "m".into(), context_tokens, sees_images };
    // https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    let props = json!({"default_generation_settings": {"n_ctx": 6144}, "modalities": {"vision": true}});
    assert_eq!(facts(Provider::Local, &[("/props", props)]).await.0, found(6144, true));
    // https://docs.ollama.com/api/show
    let show = json!({"parameters": "num_ctx 16384", "capabilities": ["completion", "vision"]});
    assert_eq!(facts(Provider::Ollama, &[("/api/show", show.clone())]).await.0, found(16384, true));
    // https://docs.ollama.com/api/ps
    let running = json!({"models": [{"name": "m:latest", "context_length": 32768}]});
    assert_eq!(facts(Provider::Ollama, &[("/api/show", show), ("/api/ps", running)]).await.0, found(32768, true));
    // https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    let listed = json!({"data": [{"id": "m", "max_model_len": 20000}]});
    let (vllm, asked) = facts(Provider::OpenAi, &[("/v1/models", listed)]).await;
    assert_eq!(vllm, found(20000, false));
    assert!(!asked.iter().any(|page| page.contains("/api/")), "{asked:?}");
    // https://lmstudio.ai/docs/developer/rest/endpoints
    let studio = json!({"data": [{"id": "m", "type": "vlm", "state": "loaded", "max_context_length": 99999, "loaded_context_length": 5000}]});
    assert_eq!(facts(Provider::OpenAi, &[("/api/v0/models", studio)]).await.0, found(5000, true));
    // https://platform.claude.com/docs/en/api/models/retrieve
    let claude = json!({"id": "m", "max_input_tokens": 1_000_000});
    assert_eq!(facts(Provider::Anthropic, &[("/v1/models/m", claude)]).await.0, found(1_000_000, false));
    // and: a server that says nothing
    assert_eq!(facts(Provider::OpenAi, &[]).await.0, found(8192, false));
    assert_eq!(facts(Provider::Azure, &[]).await, (found(8192, false), vec![]));
}

#[tokio::test]
async fn a_guess_is_made_anew_once_the_server_can_be_asked() {
    let server = ModelServer::start([]).await;
    let model = model(&server, Provider::Local);
    server.page("/props", 503, json!({"error": {"code": 503, "message": "Loading model"}}));
    assert_eq!(model.facts().await.context_tokens, 8192);
    server.page("/props", 200, json!({"default_generation_settings": {"n_ctx": 4096}}));
    assert_eq!(model.facts().await.context_tokens, 4096);
    // and: Ollama knows the size only once the model is loaded
    let ollama = super::support::model(&server, Provider::Ollama);
    server.page("/api/show", 200, json!({"model_info": {"qwen3.context_length": 40960}}));
    assert_eq!(ollama.facts().await.context_tokens, 4096);
    server.page("/api/ps", 200, json!({"models": [{"name": "m", "context_length": 16384}]}));
    assert_eq!(ollama.facts().await.context_tokens, 16384);
}

#[tokio::test]
async fn a_server_that_hangs_is_not_waited_for_long() {
    // Connections are taken, and nothing is ever said.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let model = models(Endpoint { model: Some("m".into()), ..Endpoint::new(Provider::OpenAi, url) }).get("").unwrap();
    let begin = Instant::now();
    assert_eq!(model.facts().await.context_tokens, 8192);
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn what_is_set_is_not_asked_for_and_holds_for_the_default_model_only() {
    kernelbox_gateway::install_crypto();
    let server = ModelServer::start([]).await;
    let known = Known { context_tokens: Some(7000), sees_images: Some(true) };
    let config =
        ModelsConfig { endpoints: vec![endpoint(&server, Provider::OpenAi)], known, ..ModelsConfig::default() };
    let models = kernelbox_gateway::model::Models::new(config).unwrap();
    let facts = models.get("").unwrap().facts().await;
    assert_eq!((facts.context_tokens, facts.sees_images, server.pages_asked().len()), (7000, true, 0));
    let other = models.get("gpt-4o-mini").unwrap().facts().await;
    assert_eq!((other.context_tokens, other.name.as_str()), (128_000, "gpt-4o-mini"));
}
