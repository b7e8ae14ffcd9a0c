//! What tests of calls need: a workspace, keys, tokens.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, metadata::MetadataMap};

use crate::{access::Access, auth::Verifier, lifecycle::Lifecycle};

pub(crate) const UID: &str = "sandbox-1";
pub(crate) const SESSION: &str = "sessions/a";
/// What stands before the 32 bytes of an Ed25519 key in SubjectPublicKeyInfo.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

pub(crate) struct Signer {
    pub(crate) kid: &'static str,
    pub(crate) key: EncodingKey,
    pem: String,
}

impl Signer {
    pub(crate) fn new(kid: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public = [&SPKI, pair.public_key().as_ref()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(public));
        Self { kid, key: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()), pem }
    }

    pub(crate) fn publish(&self, folder: &Path) {
        fs::write(folder.join(format!("{}.pem", self.kid)), &self.pem).unwrap();
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.into()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, claims, &self.key).unwrap()
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn claims() -> Value {
    json!({"aud": UID, "scope": "session", "sub": SESSION, "exp": now() + 60})
}

/// A sandbox's door, and who signs for it.
pub(crate) struct Door {
    pub(crate) access: Arc<Access>,
    signer: Signer,
    _keys: TempDir,
}

impl Door {
    /// Warm, and nobody's.
    pub(crate) fn new() -> Self {
        let keys = tempfile::tempdir().unwrap();
        let signer = Signer::new("k1");
        signer.publish(keys.path());
        let lifecycle = Lifecycle::new();
        lifecycle.ready();
        let access = Arc::new(Access::new(Verifier::new(keys.path(), UID), lifecycle));
        Self { access, signer, _keys: keys }
    }

    /// Bound to [`SESSION`].
    pub(crate) fn bound() -> Self {
        let door = Self::new();
        door.access.lifecycle().bind(&"a".parse().unwrap(), 1).unwrap();
        door
    }

    pub(crate) fn metadata(&self, scope: &str) -> MetadataMap {
        let mut claims = claims();
        claims["scope"] = scope.into();
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", format!("Bearer {}", self.signer.sign(&claims)).parse().unwrap());
        metadata
    }

    pub(crate) fn request<T>(&self, scope: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata(scope);
        request
    }
}

/// A workspace in a folder of its own, beside a secret that must stay outside.
pub(crate) struct Place {
    _folder: TempDir,
    pub(crate) workspace: PathBuf,
    pub(crate) outside: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (workspace, outside) = (folder.path().join("workspace"), folder.path().join("outside"));
        for path in [&workspace, &outside] {
            fs::create_dir(path).unwrap();
        }
        fs::write(outside.join("secret"), "secret").unwrap();
        Self { _folder: folder, workspace, outside }
    }

    /// Fails if anything outside the workspace was touched.
    pub(crate) fn assert_nothing_left(&self) {
        let names: Vec<_> = fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read(self.outside.join("secret")).unwrap(), b"secret");
    }
}
