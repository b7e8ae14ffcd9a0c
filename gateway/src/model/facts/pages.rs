//! What the pages of servers say. Pure.
use serde_json::Value;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub context_tokens: Option<u32>,
    pub sees_images: Option<bool>,
}

impl Found {
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            context_tokens: self.context_tokens.or(other.context_tokens),
            sees_images: self.sees_images.or(other.sees_images),
        }
    }
}

/// A number of tokens that can be one.
fn tokens(json: &Value) -> Option<u32> {
    json.as_u64().and_then(|tokens| u32::try_from(tokens).ok()).filter(|tokens| *tokens >= 256)
}

/// `GET /props`: <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>
pub(super) fn llama_cpp(page: &Value) -> Found {
    Found {
        context_tokens: tokens(&page["default_generation_settings"]["n_ctx"]),
        sees_images: page["modalities"]["vision"].as_bool(),
    }
}

/// `POST /api/show`: <https://docs.ollama.com/api/show>. The model's own limit says nothing of what Ollama gives it.
pub(super) fn ollama_show(page: &Value) -> Found {
    let parameters = page["parameters"].as_str().unwrap_or_default();
    let set = parameters.lines().filter_map(|line| line.trim().strip_prefix("num_ctx")).next_back();
    let capabilities = page["capabilities"].as_array();
    Found {
        context_tokens: set.and_then(|set| set.trim().parse().ok()),
        sees_images: capabilities.map(|all| all.iter().any(|it| it == "vision")),
    }
}

/// `GET /api/ps`: <https://docs.ollama.com/api/ps>
pub(super) fn ollama_running(page: &Value, name: &str) -> Found {
    let latest = format!("{name}:latest");
    let is_it = |model: &&Value| [&model["name"], &model["model"]].iter().any(|it| **it == name || **it == latest);
    let model = page["models"].as_array().and_then(|models| models.iter().find(is_it));
    Found { context_tokens: model.and_then(|model| tokens(&model["context_length"])), sees_images: None }
}

/// `GET /v1/models` of vLLM (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>), OpenRouter
/// (<https://openrouter.ai/docs/api/api-reference/models/get-models>) and others, and LM Studio's `GET /api/v0/models`
/// (<https://lmstudio.ai/docs/developer/rest/endpoints>).
pub(super) fn listed(page: &Value, name: &str) -> Found {
    let Some(model) = page["data"].as_array().and_then(|models| models.iter().find(|model| model["id"] == name)) else {
        return Found::default();
    };
    // LM Studio says how much the model could read, too, which is not what it was loaded with.
    let fields: &[&str] = if model.get("state").is_some() {
        &["loaded_context_length"]
    } else {
        &["max_model_len", "context_length", "context_window", "max_context_length"]
    };
    let modalities = model["architecture"]["input_modalities"].as_array();
    let seen = modalities.map(|all| all.iter().any(|it| it == "image"));
    let kind = model["type"].as_str().filter(|_| model.get("state").is_some());
    Found {
        context_tokens: fields.iter().find_map(|field| tokens(&model[*field])),
        sees_images: seen.or(kind.map(|kind| kind == "vlm")),
    }
}

/// `GET /v1/models/{model}`: <https://platform.claude.com/docs/en/api/models/retrieve>
pub(super) fn anthropic(page: &Value) -> Found {
    Found { context_tokens: tokens(&page["max_input_tokens"]), sees_images: None }
}

/// The first model of a list that can be talked to.
pub(in crate::model) fn first_listed(page: &Value) -> Option<String> {
    let ids = page["data"].as_array()?.iter().filter_map(|model| model["id"].as_str());
    ids.filter(|id| !id.is_empty() && !id.contains("embed")).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_servers_page_is_understood() {
        let both = |context_tokens: u32, sees_images| Found { context_tokens: context_tokens.into(), sees_images };
        let props =
            json!({"default_generation_settings": {"n_ctx": 8192}, "modalities": {"vision": true, "audio": false}});
        assert_eq!(llama_cpp(&props), both(8192, Some(true)));

        let show = json!({
            "parameters": "stop \"<|im_end|>\"\nnum_ctx                        16384",
            "model_info": {"qwen3.context_length": 40960}, "capabilities": ["completion", "tools", "vision"],
        });
        assert_eq!(ollama_show(&show), both(16384, Some(true)));
        let show = json!({"model_info": {"qwen3.context_length": 40960}, "capabilities": ["completion"]});
        assert_eq!(ollama_show(&show), Found { context_tokens: None, sees_images: Some(false) });
        let running = json!({"models": [{"name": "qwen3:latest", "model": "qwen3:latest", "context_length": 4096}]});
        assert_eq!(ollama_running(&running, "qwen3"), both(4096, None));
        assert_eq!(ollama_running(&running, "qwen"), Found::default());

        let vllm = json!({"object": "list", "data": [{"id": "m", "max_model_len": 32768, "owned_by": "vllm"}]});
        assert_eq!(listed(&vllm, "m"), both(32768, None));
        let openrouter = json!({"data": [{"id": "a/b"}, {"id": "a/c", "context_length": 200000, "architecture": {"input_modalities": ["text", "image"]}}]});
        assert_eq!(listed(&openrouter, "a/c"), both(200_000, Some(true)));
        let studio = json!({"data": [{"id": "q", "type": "vlm", "state": "loaded", "max_context_length": 32768, "loaded_context_length": 4096}]});
        assert_eq!(listed(&studio, "q"), both(4096, Some(true)));
        assert_eq!(anthropic(&json!({"id": "c", "max_input_tokens": 1_000_000})), both(1_000_000, None));
        // and: a server that answers every path with the same
        let odd = json!({"error": "Unexpected endpoint or method. (GET /props)"});
        let all = [llama_cpp(&odd), ollama_show(&odd), ollama_running(&odd, "q"), listed(&odd, "q"), anthropic(&odd)];
        assert_eq!(all, [Found::default(); 5]);
    }

    #[test]
    fn the_first_model_that_talks_is_taken() {
        let page = json!({"data": [{"id": "text-embedding-nomic"}, {"id": "qwen3:8b"}]});
        assert_eq!(first_listed(&page).as_deref(), Some("qwen3:8b"));
        assert_eq!(first_listed(&json!({"data": null})), None);
    }
}
