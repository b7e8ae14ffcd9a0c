//! Who may call: short-lived EdDSA tokens, checked against a folder of public keys.
//!
//! The sandbox holds public keys only, so that a captured one can impersonate nobody. Keys are files `<kid>.pem`; the folder is read
//! again when a token names a key that is not known, at most once a second.
use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use kernelbox_proto::{Error, Result, SessionId, v1::ErrorCode};
use serde::Deserialize;
use tonic::metadata::MetadataMap;

use crate::sync::lock;

/// How far the clocks of the token's maker and ours may differ, seconds.
const LEEWAY: u64 = 10;
/// The least time between two readings of the keys.
const RELOAD_EVERY: Duration = Duration::from_secs(1);
/// A key file that is larger is not one.
const MAX_KEY_BYTES: u64 = 4096;
/// The most keys that are read.
const MAX_KEYS: usize = 64;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A session's calls: code and files.
    Session,
    /// Bind, Retire, GetStatus.
    Lifecycle,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Lifecycle => "lifecycle",
        }
    }
}

#[derive(Debug, Deserialize)]
struct Claims {
    scope: String,
    sub: Option<String>,
}

/// Checks the tokens of one sandbox.
pub struct Verifier {
    folder: PathBuf,
    validation: Validation,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<String, DecodingKey>,
    read: Option<Instant>,
}

impl Verifier {
    /// Tokens for the sandbox `uid`, signed by a key in `folder`.
    pub fn new(folder: impl Into<PathBuf>, uid: &str) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[uid]);
        validation.set_required_spec_claims(&["exp", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        Self { folder: folder.into(), validation, keys: Mutex::default() }
    }

    /// Checks the call's bearer token: one of `scopes`, and its `sub`, where it has one, the session that the sandbox is bound to.
    /// `Unauthenticated` for a token that is none of ours or has expired, `PermissionDenied` for one that may do something else.
    pub fn authorize(&self, metadata: &MetadataMap, scopes: &[Scope], bound: Option<&SessionId>) -> Result<()> {
        let token = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthenticated("send the sandbox's token in the metadata `authorization: Bearer ...`"))?;
        let claims = self.verify(token)?;
        if !claims.scope.split_whitespace().any(|had| scopes.iter().any(|scope| scope.name() == had)) {
            let wanted: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
            return Err(denied(format!("the token's scope must be {}", wanted.join(" or "))));
        }
        match (&claims.sub, bound) {
            (Some(sub), Some(bound)) if *sub != bound.name() => {
                Err(denied("the token is for another session than the sandbox's".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn verify(&self, token: &str) -> Result<Claims> {
        let header = decode_header(token).map_err(|_| unauthenticated("the token is not a JWT"))?;
        if header.alg != Algorithm::EdDSA {
            return Err(unauthenticated("the token must be signed with EdDSA"));
        }
        let kid = header.kid.ok_or_else(|| unauthenticated("the token names no key (kid)"))?;
        let key = self.key(&kid).ok_or_else(|| unauthenticated("the token's key is not known to the sandbox"))?;
        match decode::<Claims>(token, &key, &self.validation) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(unauthenticated(match error.kind() {
                ErrorKind::ExpiredSignature => "the token has expired; get a new one",
                ErrorKind::InvalidAudience => "the token is for another sandbox",
                ErrorKind::InvalidSignature => "the token's signature is wrong",
                _ => "the token lacks a claim or has a wrong one",
            })),
        }
    }

    fn key(&self, kid: &str) -> Option<DecodingKey> {
        let mut keys = lock(&self.keys);
        if !keys.by_id.contains_key(kid) && keys.read.is_none_or(|read| read.elapsed() >= RELOAD_EVERY) {
            keys.by_id = self.read();
            keys.read = Some(Instant::now());
        }
        keys.by_id.get(kid).cloned()
    }

    fn read(&self) -> HashMap<String, DecodingKey> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(%error, folder = %self.folder.display(), "the public keys cannot be read");
                return HashMap::new();
            }
        };
        let mut keys = HashMap::new();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if keys.len() == MAX_KEYS {
                tracing::warn!(folder = %self.folder.display(), "there are too many public keys; the rest is not read");
                break;
            }
            let Some(kid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".pem"))
            else {
                continue;
            };
            let small = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= MAX_KEY_BYTES);
            let key = small.then(|| fs::read(&path).ok()).flatten().and_then(|pem| DecodingKey::from_ed_pem(&pem).ok());
            match key {
                Some(key) => drop(keys.insert(kid.to_owned(), key)),
                None => tracing::warn!(path = %path.display(), "not an Ed25519 public key in PEM"),
            }
        }
        keys
    }
}

fn unauthenticated(message: &str) -> Error {
    Error::new(ErrorCode::Unauthenticated, message)
}

fn denied(message: String) -> Error {
    Error::new(ErrorCode::PermissionDenied, message)
}

#[cfg(test)]
mod tests;
