//! The keys that sign sandboxes' tokens: a Secret beside the controller, and their public halves in a ConfigMap that every sandbox mounts.
//!
//! The leader makes and rotates them. A new one is published well before it is used, and stays published until its last token has ended.
mod rotation;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kernelbox_proto::{
    Error,
    token::{Scope, Signer, SignerError},
    v1::ErrorCode,
};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// The secret's name, and its only entry.
const SECRET: &str = "kernelbox-signing-keys";
const ENTRY: &str = "keys.json";
/// How often the keys are read again.
const READ: Duration = Duration::from_secs(30);
/// The same while there are none yet.
const WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the secret or the config map of keys cannot be read or written")]
    Api(#[from] kube::Error),
    #[error("the secret {SECRET} holds no keys that can be read; delete it, and new ones are made")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// A key as the secret holds it.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    kid: String,
    /// PKCS #8.
    private: ByteString,
    created: Timestamp,
}

/// The key that signs now.
#[derive(Clone)]
struct Signing {
    signer: Arc<Signer>,
    created: Timestamp,
}

/// The keys, for all who sign.
pub struct Keys {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    /// The config map's name.
    public: String,
    current: RwLock<Option<Signing>>,
}

impl Keys {
    /// `own`: the controller's namespace; `sandboxes`: theirs.
    pub fn new(client: Client, own: &str, sandboxes: &str, public: String) -> Self {
        let secrets = Api::namespaced(client.clone(), own);
        Self { secrets, maps: Api::namespaced(client, sandboxes), public, current: RwLock::new(None) }
    }

    /// A token for a sandbox; `session`: its name, if the sandbox has one.
    pub fn token(&self, uid: &str, session: Option<String>, scopes: &[Scope]) -> Result<String, Error> {
        let signer = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Signing { signer, .. } = signer.ok_or_else(|| {
            Error::new(ErrorCode::ShuttingDown, "the controller has no signing keys yet; try again").retry_after(WAIT)
        })?;
        signer.mint(uid, session, scopes, SystemTime::now())
    }

    /// When the key was made that signs now.
    pub fn created(&self) -> Option<Timestamp> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.created)
    }

    pub fn are_there(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Reads the keys now and then, as every replica does.
    pub async fn follow(&self, stop: CancellationToken) {
        loop {
            match self.read().await.and_then(|(_, keys)| self.take(&keys)) {
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the signing keys cannot be read");
                }
            }
            let pause = if self.are_there() { READ } else { WAIT };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes, publishes and rotates keys, as the leader does. Nothing is written that is as it should be.
    pub async fn keep(&self) -> Result<(), KeysError> {
        let (secret, keys) = self.read().await?;
        let kept = rotation::kept(&keys, Timestamp::now());
        let mut wanted: Vec<Stored> = kept.keys.into_iter().cloned().collect();
        if kept.wants_new {
            let signer = Signer::generate()?;
            let private = ByteString(signer.private().to_vec());
            wanted.push(Stored { kid: signer.kid().to_owned(), private, created: Timestamp::now() });
        }
        let is_changed = kept.wants_new || wanted.len() != keys.len();
        // The public halves come first and go last. What is about to go is still in the secret.
        let public = if kept.wants_new { &wanted } else { &keys };
        self.publish(public).await?;
        if is_changed {
            self.store(secret, &wanted).await?;
        }
        self.take(&wanted)
    }

    async fn read(&self) -> Result<(Option<Secret>, Vec<Stored>), KeysError> {
        let Some(secret) = self.secrets.get_opt(SECRET).await? else { return Ok((None, Vec::new())) };
        let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
        let keys = entry.map(|json| serde_json::from_slice(&json.0)).transpose()?.unwrap_or_default();
        Ok((Some(secret), keys))
    }

    async fn store(&self, known: Option<Secret>, keys: &[Stored]) -> Result<(), KeysError> {
        let json = ByteString(serde_json::to_vec(keys)?);
        let data = Some(BTreeMap::from([(ENTRY.to_owned(), json)]));
        let params = PostParams::default();
        match known {
            Some(known) => self.secrets.replace(SECRET, &params, &Secret { data, ..known }).await?,
            None => {
                self.secrets.create(&params, &Secret { data, metadata: named(SECRET), ..Default::default() }).await?
            }
        };
        tracing::info!(keys = keys.len(), "the signing keys were written");
        Ok(())
    }

    async fn publish(&self, keys: &[Stored]) -> Result<(), KeysError> {
        let public = |key: &Stored| Signer::from_pkcs8(key.kid.clone(), &key.private.0);
        let mut data = BTreeMap::new();
        for key in keys {
            data.insert(format!("{}.pem", key.kid), public(key)?.public_pem().to_owned());
        }
        let (data, params) = (Some(data), PostParams::default());
        match self.maps.get_opt(&self.public).await? {
            Some(known) if known.data == data => {}
            Some(known) => {
                self.maps.replace(&known.name_any(), &params, &ConfigMap { data, ..known }).await?;
            }
            None => {
                let map = ConfigMap { data, metadata: named(&self.public), ..Default::default() };
                self.maps.create(&params, &map).await?;
            }
        }
        Ok(())
    }

    fn take(&self, keys: &[Stored]) -> Result<(), KeysError> {
        let Some(key) = rotation::signing(keys, Timestamp::now()) else { return Ok(()) };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|it| it.signer.kid() != key.kid) {
            let signer = Arc::new(Signer::from_pkcs8(key.kid.clone(), &key.private.0)?);
            *current = Some(Signing { signer, created: key.created });
        }
        Ok(())
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}
