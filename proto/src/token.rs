//! The tokens that sandboxes ask for: short-lived JWTs (EdDSA), signed by whoever makes the sandboxes, for one of them and for certain
//! scopes. Sandboxes have the public keys alone.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::{SecureRandom as _, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::{Error, v1::ErrorCode};

/// How long a token is good for.
pub const LIFE: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("cannot make a key pair")]
    Generate(#[source] aws_lc_rs::error::Unspecified),
    #[error("this is no Ed25519 key")]
    Rejected(#[source] aws_lc_rs::error::KeyRejected),
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The calls of a session.
    Session,
    /// Bind, Retire, checkpoints.
    Lifecycle,
}

impl Scope {
    /// Its word in a token, where several are parted by a space.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// A key pair that signs tokens.
pub struct Signer {
    kid: String,
    public_pem: String,
    private: Vec<u8>,
    key: EncodingKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    exp: u64,
}

impl Signer {
    /// A new key pair with a random id.
    pub fn generate() -> Result<Self, SignerError> {
        let pair = Ed25519KeyPair::generate().map_err(SignerError::Generate)?;
        let private = pair.to_pkcs8v1().map_err(SignerError::Generate)?;
        let mut kid = [0; 8];
        SystemRandom::new().fill(&mut kid).map_err(SignerError::Generate)?;
        Self::from_pkcs8(hex::encode(kid), private.as_ref())
    }

    /// The key pair that [`Signer::private`] gave.
    pub fn from_pkcs8(kid: String, private: &[u8]) -> Result<Self, SignerError> {
        let pair = Ed25519KeyPair::from_pkcs8(private).map_err(SignerError::Rejected)?;
        let public = pair.public_key().as_der().map_err(SignerError::Generate)?;
        let public_pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(public.as_ref()));
        Ok(Self { kid, public_pem, private: private.to_vec(), key: EncodingKey::from_ed_der(private) })
    }

    /// The key's id, and the name of its public file without `.pem`.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The secret half, PKCS #8 in DER.
    pub fn private(&self) -> &[u8] {
        &self.private
    }

    /// A token for the sandbox `uid`. `session`: its name, if the sandbox has one.
    pub fn mint(&self, uid: &str, session: Option<String>, scopes: &[Scope], now: SystemTime) -> Result<String, Error> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let exp = (now + LIFE).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let scope = scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(" ");
        jsonwebtoken::encode(&header, &Claims { aud: uid, scope, sub: session, exp }, &self.key)
            .map_err(|_| Error::new(ErrorCode::Internal, "a token could not be signed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    #[test]
    fn a_token_is_good_for_its_sandbox_and_its_key_alone() {
        let first = Signer::generate().unwrap();
        let signer = Signer::from_pkcs8(first.kid().to_owned(), first.private()).unwrap();
        assert_eq!(signer.public_pem(), first.public_pem());
        let scopes = [Scope::Session, Scope::Lifecycle];
        let token = signer.mint("uid-1", Some("sessions/s".into()), &scopes, SystemTime::now()).unwrap();
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(), Some(first.kid()));

        let key = DecodingKey::from_ed_pem(first.public_pem().as_bytes()).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["uid-1"]);
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!((&claims["scope"], &claims["sub"]), (&"session lifecycle".into(), &"sessions/s".into()));
        validation.set_audience(&["uid-2"]);
        assert!(jsonwebtoken::decode::<Value>(&token, &key, &validation).is_err());
        let other = DecodingKey::from_ed_pem(Signer::generate().unwrap().public_pem().as_bytes()).unwrap();
        validation.set_audience(&["uid-1"]);
        assert!(jsonwebtoken::decode::<Value>(&token, &other, &validation).is_err());
    }

    #[test]
    fn other_keys_are_refused() {
        assert!(Signer::from_pkcs8("k".into(), b"no key").is_err());
    }
}
