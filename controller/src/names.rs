//! Names: which sandbox is a session's, and which pods are made from the template as it is now. Pure.
use kernelbox_api::SandboxTemplate;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use crate::pod;

/// Letters and digits that are not taken for one another; no vowels, so that no words appear.
const ALPHABET: &[u8; 30] = b"0123456789bcdfghjklmnpqrstvwxz";
const LENGTH: usize = 10;

/// The name of the sandbox that a session of this generation gets if no warm one is there: the same, however often it is asked for.
pub fn cold(template: &str, session: &str, generation: i64) -> String {
    format!("{template}-{}", short(&digest(&[session.as_bytes(), &generation.to_be_bytes()])))
}

/// The name of a new warm one.
pub fn warm(template: &str) -> String {
    format!("{template}-{}", short(&rand::rng().random::<[u8; 32]>()))
}

/// The value of the label by which a session's sandboxes are listed.
pub fn session_hash(session: &str) -> String {
    short(&digest(&[session.as_bytes()]))
}

/// Names the pods that are made from the template now: of two templates whose pods are alike it is the same.
pub fn template_hash(template: &SandboxTemplate, platform: &pod::Platform) -> Result<String, pod::BuildError> {
    let pod = pod::shape(template, platform)?;
    let json = serde_json::to_vec(&pod).map_err(pod::BuildError::Json)?;
    Ok(short(&digest(&[&json])))
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn short(bytes: &[u8; 32]) -> String {
    bytes[..LENGTH].iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_and_its_generation_have_one_name() {
        let name = cold("default", "sessions/a", 1);
        assert_eq!(name, cold("default", "sessions/a", 1));
        assert!(name != cold("default", "sessions/a", 2) && name != cold("default", "sessions/b", 1));
        assert!(name.starts_with("default-") && name.len() == "default-".len() + LENGTH, "{name}");
        assert_ne!(warm("default"), warm("default"));
    }

    #[test]
    fn parts_are_not_run_together() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }
}
