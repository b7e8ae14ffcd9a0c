//! Tokens of this machine's sandboxes: signed with a key pair that lives as long as the provider. The private half never leaves the process.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use kernelbox_proto::{
    Error, SessionId,
    token::{LIFE, Scope, Signer},
};

use crate::sandbox::TokenSource;

/// A cached token is used while it is good for at least this long.
const MARGIN: Duration = Duration::from_secs(60);

/// The tokens of one sandbox.
pub(super) struct Tokens {
    signer: Arc<Signer>,
    uid: String,
    session: SessionId,
    cached: Mutex<HashMap<Scope, (SystemTime, String)>>,
}

impl Tokens {
    pub(super) fn new(signer: Arc<Signer>, uid: String, session: SessionId) -> Self {
        Self { signer, uid, session, cached: Mutex::default() }
    }
}

impl TokenSource for Tokens {
    fn token(&self, scope: Scope) -> Result<String, Error> {
        let now = SystemTime::now();
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes the age an error: then a new one is minted.
        let fresh = |minted: &SystemTime| now.duration_since(*minted).is_ok_and(|age| age + MARGIN < LIFE);
        if let Some((_, token)) = cached.get(&scope).filter(|(minted, _)| fresh(minted)) {
            return Ok(token.clone());
        }
        let token = self.signer.mint(&self.uid, Some(self.session.name()), &[scope], now)?;
        cached.insert(scope, (now, token.clone()));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_for_a_while_and_each_scope_has_its_own() {
        let tokens = Tokens::new(Arc::new(Signer::generate().unwrap()), "uid-1".into(), "s".parse().unwrap());
        let token = tokens.token(Scope::Session).unwrap();
        assert_eq!(token, tokens.token(Scope::Session).unwrap(), "minted twice within seconds");
        assert_ne!(token, tokens.token(Scope::Lifecycle).unwrap());
    }
}
