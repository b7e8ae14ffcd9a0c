//! Real servers on real ports that answer as Ollama, llama.cpp and LM Studio do.
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use axum::{
    Json, Router,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// A server with these answers; its base URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Where nothing listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn places() -> Places {
    crate::install_crypto();
    Places { ollama: nobody().await, llama_cpp: nobody().await, lm_studio: nobody().await }
}

fn fixed(answer: Value) -> axum::routing::MethodRouter {
    get(move || async move { Json(answer) })
}

fn llama_cpp() -> Router {
    Router::new()
        .route("/props", fixed(json!({ "default_generation_settings": { "n_ctx": 8192 }, "total_slots": 1 })))
        .route("/v1/models", fixed(json!({ "object": "list", "data": [{ "id": "qwen.gguf", "object": "model" }] })))
}

#[tokio::test]
async fn ollama_gives_its_best_model_that_calls_tools_and_runs_here() {
    async fn show(Json(asked): Json<Value>) -> Json<Value> {
        let tools = asked["model"].as_str().is_some_and(|name| name.starts_with("qwen") || name.starts_with("llama"));
        Json(json!({ "capabilities": if tools { vec!["completion", "tools"] } else { vec!["completion"] } }))
    }
    let model = |name: &str| json!({ "name": name, "size": 1, "details": { "family": "qwen2" } });
    let models = json!({ "models": [
        model("nomic-embed-text:latest"),
        model("llama3.2:latest"),
        model("qwen3-coder:480b-cloud"),
        { "name": "qwen-far-coder", "remote_host": "https://ollama.com" },
        model("deepseek-coder:6.7b"),
        model("qwen2.5-coder:7b-base"),
        model("qwen2.5-coder:7b"),
    ] });
    let ollama = serve(Router::new().route("/api/tags", fixed(models)).route("/api/show", post(show))).await;
    let found = running(&Places { ollama: ollama.clone(), ..places().await }).await.unwrap();
    assert_eq!(found, LocalServer { base_url: ollama, model: "qwen2.5-coder:7b".into(), provider: Provider::Ollama });
}

#[tokio::test]
async fn an_older_ollama_that_names_no_capabilities_is_used() {
    let router = Router::new()
        .route("/api/tags", fixed(json!({ "models": [{ "name": "embed-instruct" }, { "name": "llama3.1" }, { "name": "mistral:instruct" }] })))
        .route("/api/show", post(|| async { Json(json!({ "details": {} })) }));
    let found = running(&Places { ollama: serve(router).await, ..places().await }).await.unwrap();
    assert_eq!(found.model, "mistral:instruct");
}

#[tokio::test]
async fn llama_cpp_is_known_by_its_props_and_nothing_else_on_its_port_is_taken_for_it() {
    let places = places().await;
    let llama = serve(llama_cpp()).await;
    let found = running(&Places { llama_cpp: llama.clone(), ..places.clone() }).await.unwrap();
    assert_eq!(found, LocalServer { base_url: llama, model: "qwen.gguf".into(), provider: Provider::LlamaCpp });

    let other = Router::new()
        .route("/v1/models", fixed(json!({ "data": [{ "id": "something" }] })))
        .fallback(|| async { "<html>It works!</html>" });
    assert_eq!(running(&Places { llama_cpp: serve(other).await, ..places }).await, None);
}

#[tokio::test]
async fn lm_studios_loaded_model_goes_before_a_better_one_on_disk() {
    let models = json!({ "object": "list", "data": [
        { "id": "text-embedding-nomic", "type": "embeddings", "state": "loaded" },
        { "id": "qwen2.5-coder-7b-instruct", "type": "llm", "state": "not-loaded" },
        { "id": "gemma-3", "type": "vlm", "state": "loaded" },
    ] });
    let studio = serve(Router::new().route("/api/v0/models", fixed(models))).await;
    let found = running(&Places { lm_studio: studio, ..places().await }).await.unwrap();
    assert_eq!((found.model.as_str(), found.provider), ("gemma-3", Provider::LmStudio));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_and_the_next_is_found() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let places = Places { ollama: format!("http://{}", silent.local_addr().unwrap()), ..places().await };
    let began = Instant::now();
    let found = running(&Places { llama_cpp: serve(llama_cpp()).await, ..places }).await.unwrap();
    assert_eq!(found.provider, Provider::LlamaCpp);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let endless = get(|| async {
        let chunk = bytes::Bytes::from(vec![b' '; 1 << 20]);
        axum::body::Body::from_stream(futures::stream::repeat_with(move || {
            SENT.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(chunk.clone())
        }))
    });
    let ollama = serve(Router::new().route("/api/tags", endless)).await;
    assert_eq!(running(&Places { ollama, ..places().await }).await, None);
    assert!(SENT.load(Ordering::Relaxed) < 64, "it was read on");
}

#[test]
fn ollama_host_is_read_as_ollama_reads_it() {
    for (host, url) in [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":5678", "http://127.0.0.1:5678"),
        ("0.0.0.0:5678", "http://127.0.0.1:5678"),
        ("[::]:5678", "http://127.0.0.1:5678"),
        ("[::1]", "http://[::1]:11434"),
        ("box", "http://box:11434"),
        ("box:80", "http://box:80"),
        ("box:5678", "http://box:5678"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:5678/", "https://box:5678"),
        ("http://box/ollama/", "http://box:80/ollama"),
        ("not a host", "http://127.0.0.1:11434"),
    ] {
        assert_eq!(ollama_url(host), url, "{host}");
    }
}
