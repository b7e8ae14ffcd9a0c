//! API keys: who may call, and in whose name. Only hashes are kept, but for the local key, which this machine's command reads.
use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::constant_time;
use http::HeaderMap;
use kernelbox_proto::{Error, v1::ErrorCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::limits::OwnLimits;

/// How often the keys' file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot read or write {}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is not a list of keys", path.display())]
    Yaml { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error("{}: key {id:?}: {problem}", path.display())]
    Key { path: PathBuf, id: String, problem: &'static str },
    #[error("no random numbers")]
    Random(#[from] getrandom::Error),
}

/// One key of keys.yaml.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    /// For logs; no secret.
    pub id: String,
    pub tenant: String,
    /// SHA-256 of the key, 64 hexadecimal digits.
    sha256: String,
    #[serde(default)]
    pub limits: OwnLimits,
}

/// All keys, reloaded when their file changes.
#[derive(Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    keys: RwLock<Hashed>,
    seen: Mutex<(Instant, Stamp)>,
}

/// Keys with the bytes of their hashes.
type Hashed = Vec<(Vec<u8>, Arc<Key>)>;
type Stamp = Option<(SystemTime, u64)>;

impl Keys {
    pub(crate) fn load(path: PathBuf) -> Result<Self, KeysError> {
        let seen = stamp(&path);
        let keys = read(&path)?;
        Ok(Self { path, keys: RwLock::new(keys), seen: Mutex::new((Instant::now(), seen)) })
    }

    /// The key in a request's headers: `authorization: Bearer KEY` or `x-api-key: KEY`.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Key>, Error> {
        let refuse = |message: &str| Error::new(ErrorCode::Unauthenticated, message);
        let sent = presented(headers).ok_or_else(|| {
            refuse("no API key was sent; send one as \"authorization: Bearer KEY\" or as \"x-api-key: KEY\"")
        })?;
        self.reload_if_changed();
        let digest = Sha256::digest(sent.as_bytes());
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        // All are compared, so that the time taken tells nothing.
        let mut found = None;
        for (hash, key) in keys.iter() {
            if constant_time::verify_slices_are_equal(hash, &digest).is_ok() {
                found = Some(Arc::clone(key));
            }
        }
        found.ok_or_else(|| refuse("the API key is not known to this server"))
    }

    fn reload_if_changed(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0.elapsed() < LOOK {
            return;
        }
        seen.0 = Instant::now();
        let now = stamp(&self.path);
        if now == seen.1 {
            return;
        }
        seen.1 = now;
        match read(&self.path) {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "the keys' file changed and was read again");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the keys' file changed and cannot be read; the keys of before stay"
            ),
        }
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn read(path: &Path) -> Result<Hashed, KeysError> {
    let text = fs::read_to_string(path).map_err(|source| KeysError::Io { path: path.to_owned(), source })?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<Key> = serde_saphyr::from_str(&text)
        .map_err(|source| KeysError::Yaml { path: path.to_owned(), source: Box::new(source) })?;
    let check = |key: Key| {
        let problem = |problem| KeysError::Key { path: path.to_owned(), id: key.id.clone(), problem };
        let hash = hex::decode(&key.sha256).ok().filter(|hash| hash.len() == 32);
        let hash = hash.ok_or_else(|| problem("sha256 must be 64 hexadecimal digits"))?;
        if key.tenant.is_empty() {
            return Err(problem("tenant must not be empty"));
        }
        Ok((hash, Arc::new(key)))
    };
    keys.into_iter().map(check).collect()
}

/// Sees to it that a key for this machine's own commands exists: on the first start it is made, written to `key` (0600) and its hash
/// added to `keys`. Later starts change nothing, so a local key that was taken out of `keys` stays out.
pub(crate) fn ensure_local_key(key: &Path, keys: &Path) -> Result<(), KeysError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| KeysError::Io { path, source }
    };
    if key.exists() && keys.exists() {
        return Ok(());
    }
    let secret = match fs::read_to_string(key) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = new_key()?;
            let mut file = private(true).open(key).map_err(io(key))?;
            writeln!(file, "{secret}").map_err(io(key))?;
            secret
        }
        Err(error) => return Err(io(key)(error)),
    };
    let entry = format!(
        "- id: local-{}\n  tenant: local\n  sha256: {}\n",
        hex::encode(random::<4>()?),
        hex::encode(Sha256::digest(secret.as_bytes()))
    );
    let mut file = private(false).open(keys).map_err(io(keys))?;
    file.write_all(entry.as_bytes()).map_err(io(keys))
}

fn private(new: bool) -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).create_new(new).mode(0o600);
    options
}

fn new_key() -> Result<String, KeysError> {
    Ok(format!("kbx_{}", hex::encode(random::<32>()?)))
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn the_first_start_makes_a_key_that_opens_the_door_and_later_ones_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let (key, yaml) = (dir.path().join("key"), dir.path().join("keys.yaml"));
        ensure_local_key(&key, &yaml).unwrap();
        let secret = fs::read_to_string(&key).unwrap().trim().to_owned();
        assert!(secret.starts_with("kbx_") && secret.len() >= 36);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&yaml).unwrap().contains(&secret));

        ensure_local_key(&key, &yaml).unwrap();
        let keys = Keys::load(yaml).unwrap();
        assert_eq!(keys.authenticate(&headers("authorization", &format!("bearer {secret}"))).unwrap().tenant, "local");
        assert_eq!(keys.authenticate(&headers("x-api-key", &secret)).unwrap().tenant, "local");
        for bad in [headers("authorization", &secret), headers("x-api-key", "kbx_"), HeaderMap::new()] {
            assert_eq!(keys.authenticate(&bad).unwrap_err().code, ErrorCode::Unauthenticated);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.yaml");
        let write = |id: &str, key: &str| {
            let hash = hex::encode(Sha256::digest(key));
            fs::write(&path, format!("- id: {id}\n  tenant: t\n  sha256: {hash}\n  limits: {{sessions: 3}}\n"))
                .unwrap();
        };
        write("one", "kbx_1");
        let keys = Keys::load(path.clone()).unwrap();
        assert_eq!(keys.authenticate(&headers("x-api-key", "kbx_1")).unwrap().limits.sessions, Some(3));

        write("another", "kbx_2");
        tokio::time::advance(LOOK * 2).await;
        assert!(keys.authenticate(&headers("x-api-key", "kbx_2")).is_ok());
        assert!(keys.authenticate(&headers("x-api-key", "kbx_1")).is_err());

        fs::write(&path, "- id: x\n  tenant: t\n  sha256: short\n").unwrap();
        tokio::time::advance(LOOK * 2).await;
        assert!(keys.authenticate(&headers("x-api-key", "kbx_2")).is_ok());
        assert!(matches!(Keys::load(path.clone()), Err(KeysError::Key { .. })));
    }
}
