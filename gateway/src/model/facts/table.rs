//! Families of models whose servers do not say what they can do.

#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub context_tokens: u32,
    pub sees_images: bool,
}

/// By the beginning of the name; the first that fits. On the careful side where members of a family differ.
/// <https://developers.openai.com/api/docs/models>, <https://platform.claude.com/docs/en/about-claude/models/overview>
const FAMILIES: [(&str, u32, bool); 36] = [
    ("gpt-6", 1_050_000, true),
    ("gpt-5-chat", 128_000, true),
    ("gpt-5", 272_000, true),
    ("gpt-4.1", 1_000_000, true),
    ("gpt-4o", 128_000, true),
    ("gpt-4-turbo", 128_000, true),
    ("gpt-4-32k", 32_768, false),
    ("gpt-4", 8_192, false),
    ("gpt-3.5", 16_385, false),
    ("gpt-35", 16_385, false),
    ("gpt-oss", 131_072, false),
    ("o1-mini", 128_000, false),
    ("o1", 200_000, true),
    ("o3-mini", 200_000, false),
    ("o3", 200_000, true),
    ("o4", 200_000, true),
    ("claude-2", 100_000, false),
    ("claude-3", 200_000, true),
    ("claude-haiku", 200_000, true),
    ("claude-opus-4", 200_000, true),
    ("claude-sonnet-4", 200_000, true),
    ("claude", 1_000_000, true),
    ("gemini", 1_000_000, true),
    ("gemma-3", 128_000, true),
    ("gemma-4", 128_000, true),
    ("grok", 131_072, false),
    ("deepseek", 64_000, false),
    ("kimi", 131_072, false),
    ("glm", 128_000, false),
    ("llama-4", 131_072, true),
    ("llama-3", 8_192, false),
    ("qwen3", 32_768, false),
    ("qwen2.5", 32_768, false),
    ("mistral", 32_768, false),
    ("codestral", 32_768, false),
    ("devstral", 128_000, false),
];
/// What is in the names of models that see.
const SEEING: [&str; 7] = ["-vl", "vision", "llava", "pixtral", "gemma3", "qwen2vl", "qwen3vl"];

/// The family of `VENDOR/NAME` or `NAME`.
pub(super) fn family(name: &str) -> Option<Family> {
    let name = name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let (_, context_tokens, sees_images) = *FAMILIES.iter().find(|(begin, ..)| name.starts_with(begin))?;
    Some(Family { context_tokens, sees_images })
}

pub(super) fn sounds_seeing(name: &str) -> bool {
    let name = name.to_lowercase();
    SEEING.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_family_is_found_first() {
        for (at, (begin, ..)) in FAMILIES.iter().enumerate() {
            let before = FAMILIES[..at].iter().find(|(other, ..)| begin.starts_with(other));
            assert!(before.is_none(), "{begin} is hidden by {before:?}");
        }
        assert_eq!(family("openai/GPT-4o-mini").map(|it| it.context_tokens), Some(128_000));
        assert!(family("my-model").is_none());
    }
}
