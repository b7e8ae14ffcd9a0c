//! The flags that say which language model turns use. A key has no flag: command lines are seen by everyone on the machine.
use std::path::PathBuf;

use clap::Args;
use kernelbox_gateway::model::{Key, ModelSettings, ModelsConfig};

use crate::command::failure::{Failure, Result};

/// Of the flags in `--help`. They say it one by one: a heading of them all would go on over the flags that follow.
const HEADING: &str = "Language model";
/// Where a key may be besides in a file.
const KEY: &str = "KERNELBOX_MODEL_KEY";

#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// The model of turns that name none: MODEL, or PROVIDER:MODEL with openai, azure, anthropic, ollama or local
    /// [default: that of OPENAI_API_KEY, ANTHROPIC_API_KEY, AZURE_OPENAI_ENDPOINT or OLLAMA_HOST, whichever is set]
    #[arg(long, help_heading = HEADING, env = "KERNELBOX_MODEL", value_name = "MODEL")]
    pub model: Option<String>,
    /// The base URL of the model's server, for example http://127.0.0.1:8080/v1
    #[arg(long, help_heading = HEADING, env = "KERNELBOX_MODEL_URL", value_name = "URL")]
    pub model_url: Option<String>,
    /// The format that the model's server speaks: openai or anthropic [default: openai]
    #[arg(long, help_heading = HEADING, env = "KERNELBOX_MODEL_API", value_name = "FORMAT")]
    pub model_api: Option<String>,
    /// A file with the key to the model's server [default: the key is in KERNELBOX_MODEL_KEY or the provider's own variable]
    #[arg(long, help_heading = HEADING, env = "KERNELBOX_MODEL_KEY_FILE", value_name = "FILE")]
    pub model_key_file: Option<PathBuf>,
    /// Tokens that the model can read and write [default: asked of its server]
    #[arg(long, help_heading = HEADING, env = "KERNELBOX_MODEL_CONTEXT", value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1_024..))]
    pub model_context: Option<u32>,
    /// Whether the model sees images: true or false [default: asked of its server]
    #[arg(long, help_heading = HEADING, env = "KERNELBOX_MODEL_IMAGES", value_name = "BOOL")]
    pub model_images: Option<bool>,
}

impl ModelArgs {
    /// What the environment alone says: for a server inside a command.
    pub(crate) fn of_environment() -> Result<Self> {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            model: ModelArgs,
        }
        let alone: Alone = clap::Parser::try_parse_from(["kernelbox"]).map_err(|e| Failure::usage(e.to_string()))?;
        Ok(alone.model)
    }

    pub(crate) fn config(&self) -> Result<ModelsConfig> {
        self.config_with(|name| std::env::var(name).ok())
    }

    fn config_with(&self, variable: impl Fn(&str) -> Option<String>) -> Result<ModelsConfig> {
        // An empty variable is as good as none.
        let some = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let key = match &self.model_key_file {
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|e| Failure::local(file.display(), e))?;
                let empty = || Failure::usage(format!("{} has no key in it", file.display()));
                Some(Key::new(&text).ok_or_else(empty)?)
            }
            None => variable(KEY).and_then(|key| Key::new(&key)),
        };
        let settings = ModelSettings {
            model: some(&self.model),
            url: some(&self.model_url),
            api: some(&self.model_api),
            key,
            context_tokens: self.model_context,
            sees_images: self.model_images,
        };
        ModelsConfig::new(settings, variable).map_err(|e| Failure::usage(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ModelArgs {
        ModelArgs {
            model: None,
            model_url: Some(String::new()),
            model_api: None,
            model_key_file: None,
            model_context: None,
            model_images: None,
        }
    }

    #[test]
    fn the_key_is_in_a_file_or_in_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "of-the-file\n").unwrap();
        let variable = |name: &str| (name == KEY).then(|| "of-the-environment".to_owned());
        let key = |args: &ModelArgs| args.config_with(variable).map(|config| config.endpoints[0].key.clone());
        assert_eq!(key(&args()).unwrap(), Key::new("of-the-environment"));
        let with_file = ModelArgs { model_key_file: Some(file.clone()), ..args() };
        assert_eq!(key(&with_file).unwrap(), Key::new("of-the-file"));
        std::fs::write(&file, " \n").unwrap();
        assert!(key(&with_file).is_err());
        std::fs::remove_file(&file).unwrap();
        assert!(key(&with_file).is_err());
    }
}
