//! When what this gateway shows to others ends: its certificate, and its token for the controller.
use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernelbox_metrics::Gauges;
use serde::Deserialize;

use super::tls;
use crate::{config::ServeConfig, metrics::Credential};

/// Long ago: somebody has to look.
const UNREADABLE: i64 = 1;

#[derive(Clone)]
pub(super) struct Credentials {
    ends: Gauges<Credential>,
    token: Option<PathBuf>,
}

impl Credentials {
    pub(super) fn new(config: &ServeConfig, ends: Gauges<Credential>) -> Self {
        if let Some(tls) = &config.tls {
            // It is served as it was read at the start, whatever its file has by then.
            ends.of(Credential::Certificate).set(tls::end_of(&tls.cert).unwrap_or(UNREADABLE));
        }
        Self { ends, token: config.cluster.as_ref().map(|cluster| cluster.token.clone()) }
    }

    /// Looks at the token anew: somebody else replaces it, well before its end. One that cannot be read has ended.
    pub(super) fn look(&self) {
        if let Some(path) = &self.token {
            let end = std::fs::read_to_string(path).ok().and_then(|token| end_of_token(&token));
            self.ends.of(Credential::ControllerToken).set(end.unwrap_or(UNREADABLE));
        }
    }
}

fn end_of_token(token: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.exp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends_and_nonsense_does_not() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(
            end_of_token(&token(r#"{"aud": ["kernelbox-controller"], "exp": 1795659000, "iat": 1}"#)),
            Some(1_795_659_000)
        );
        for nonsense in ["", "abc", "a.b.c", &token("{}"), &token("[]")] {
            assert_eq!(end_of_token(nonsense), None, "{nonsense}");
        }
    }
}
