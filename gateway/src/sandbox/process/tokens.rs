//! Tokens of sandboxes: signed with a key pair that lives as long as this provider. The private half never leaves the process.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kernelbox_proto::{Error, SessionId, v1::ErrorCode};
use serde::Serialize;

use crate::sandbox::{Scope, TokenSource};

/// How long a token is good for.
const LIFE: Duration = Duration::from_secs(300);
/// A cached token is used while it is good for at least this long.
const MARGIN: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
#[error("cannot make a key pair")]
pub struct KeyPairError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The key pair.
pub(super) struct Signer {
    /// The key's id, and the name of its file without `.pem`.
    pub kid: String,
    pub public_pem: String,
    key: EncodingKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    scope: &'static str,
    sub: String,
    exp: u64,
}

impl Signer {
    pub(super) fn generate() -> Result<Self, KeyPairError> {
        let pair = Ed25519KeyPair::generate().map_err(|e| KeyPairError(Box::new(e)))?;
        let private = pair.to_pkcs8v1().map_err(|e| KeyPairError(Box::new(e)))?;
        let public = pair.public_key().as_der().map_err(|e| KeyPairError(Box::new(e)))?;
        let kid = crate::auth::random::<8>().map_err(|e| KeyPairError(Box::new(e)))?;
        Ok(Self {
            kid: hex::encode(kid),
            public_pem: format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                STANDARD.encode(public.as_ref())
            ),
            key: EncodingKey::from_ed_der(private.as_ref()),
        })
    }

    fn mint(&self, uid: &str, session: &SessionId, scope: Scope, now: SystemTime) -> Result<String, Error> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let exp = (now + LIFE).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let scope = match scope {
            Scope::Session => "session",
            Scope::Lifecycle => "lifecycle",
        };
        jsonwebtoken::encode(&header, &Claims { aud: uid, scope, sub: session.name(), exp }, &self.key)
            .map_err(|_| Error::new(ErrorCode::Internal, "a token could not be signed"))
    }
}

/// The tokens of one sandbox.
pub(super) struct Tokens {
    signer: Arc<Signer>,
    uid: String,
    session: SessionId,
    cached: Mutex<HashMap<&'static str, (SystemTime, String)>>,
}

impl Tokens {
    pub(super) fn new(signer: Arc<Signer>, uid: String, session: SessionId) -> Self {
        Self { signer, uid, session, cached: Mutex::default() }
    }
}

impl TokenSource for Tokens {
    fn token(&self, scope: Scope) -> Result<String, Error> {
        let now = SystemTime::now();
        let slot = match scope {
            Scope::Session => "session",
            Scope::Lifecycle => "lifecycle",
        };
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes the age an error: then a new one is minted.
        let fresh = |minted: &SystemTime| now.duration_since(*minted).is_ok_and(|age| age + MARGIN < LIFE);
        if let Some((_, token)) = cached.get(slot).filter(|(minted, _)| fresh(minted)) {
            return Ok(token.clone());
        }
        let token = self.signer.mint(&self.uid, &self.session, scope, now)?;
        cached.insert(slot, (now, token.clone()));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    #[test]
    fn a_token_is_good_for_its_sandbox_and_scope_alone() {
        let signer = Arc::new(Signer::generate().unwrap());
        let tokens = Tokens::new(Arc::clone(&signer), "uid-1".into(), "s".parse().unwrap());
        let token = tokens.token(Scope::Session).unwrap();
        assert_eq!(token, tokens.token(Scope::Session).unwrap(), "minted twice within seconds");
        assert_ne!(token, tokens.token(Scope::Lifecycle).unwrap());
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(), Some(signer.kid.as_str()));

        let key = DecodingKey::from_ed_pem(signer.public_pem.as_bytes()).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["uid-1"]);
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!((&claims["scope"], &claims["sub"]), (&"session".into(), &"sessions/s".into()));
        validation.set_audience(&["uid-2"]);
        assert!(jsonwebtoken::decode::<Value>(&token, &key, &validation).is_err());
        let other = DecodingKey::from_ed_pem(Signer::generate().unwrap().public_pem.as_bytes()).unwrap();
        validation.set_audience(&["uid-1"]);
        assert!(jsonwebtoken::decode::<Value>(&token, &other, &validation).is_err());
    }
}
