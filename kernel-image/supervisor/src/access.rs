//! The door of every call: its token, its session, and whether the sandbox still takes calls.
use kernelbox_proto::{Result, SessionId};
use tonic::metadata::MetadataMap;

use crate::{
    auth::{Scope, Verifier},
    lifecycle::{ActivityGuard, Lifecycle},
};

/// Lets calls in, or not.
pub struct Access {
    verifier: Verifier,
    lifecycle: Lifecycle,
}

impl Access {
    pub fn new(verifier: Verifier, lifecycle: Lifecycle) -> Self {
        Self { verifier, lifecycle }
    }

    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Lets a call of `session` (`sessions/{session}`) in; while the guard lives the sandbox is not idle.
    pub fn admit(&self, metadata: &MetadataMap, session: &str) -> Result<ActivityGuard> {
        self.check(metadata, &[Scope::Session])?;
        self.lifecycle.admit(&SessionId::from_name(session)?)
    }

    /// Checks the token only: for calls that are no activity.
    pub fn check(&self, metadata: &MetadataMap, scopes: &[Scope]) -> Result<()> {
        self.verifier.authorize(metadata, scopes, self.lifecycle.session().as_ref())
    }
}
