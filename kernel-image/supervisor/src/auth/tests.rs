//! Tokens that pass, and all the kinds that do not.
use std::fs;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{Signer, UID, claims, now};

fn with(key: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[key] = value.into();
    claims
}

fn without(key: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(key);
    claims
}

fn check(verifier: &Verifier, authorization: &str) -> Result<()> {
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", authorization.parse().unwrap());
    verifier.authorize(&metadata, &[Scope::Session], Some(&"a".parse().unwrap()))
}

fn set_up() -> (TempDir, Verifier, Signer) {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("k1");
    signer.publish(folder.path());
    let verifier = Verifier::new(folder.path(), UID);
    (folder, verifier, signer)
}

#[test]
fn a_token_that_is_meant_for_the_call_passes() {
    let (_folder, verifier, signer) = set_up();
    for claims in [
        claims(),
        without("sub"),
        with("scope", "lifecycle session"),
        with("exp", now() - 5),
        with("aud", json!(["other", UID])),
    ] {
        check(&verifier, &format!("Bearer {}", signer.sign(&claims))).unwrap_or_else(|e| panic!("{claims}: {e}"));
    }
    check(&verifier, &format!("bearer {}", signer.sign(&claims()))).unwrap();
}

#[test]
fn every_other_claim_is_refused() {
    use ErrorCode::{PermissionDenied, Unauthenticated};
    let (_folder, verifier, signer) = set_up();
    for (claims, code) in [
        (with("exp", now() - 60), Unauthenticated),
        (without("exp"), Unauthenticated),
        (with("aud", "sandbox-2"), Unauthenticated),
        (without("aud"), Unauthenticated),
        (without("scope"), Unauthenticated),
        (with("nbf", now() + 60), Unauthenticated),
        (with("scope", "lifecycle"), PermissionDenied),
        (with("scope", "sessions"), PermissionDenied),
        (with("scope", ""), PermissionDenied),
        (with("sub", "sessions/b"), PermissionDenied),
    ] {
        let error = check(&verifier, &format!("Bearer {}", signer.sign(&claims))).expect_err(&claims.to_string());
        assert_eq!(error.code, code, "{claims}: {error}");
    }
}

#[test]
fn other_keys_and_algorithms_are_refused() {
    let (folder, verifier, signer) = set_up();
    let header = |alg| Header { kid: Some("k1".into()), ..Header::new(alg) };
    let public = fs::read(folder.path().join("k1.pem")).unwrap();
    let hmac = encode(&header(Algorithm::HS256), &claims(), &EncodingKey::from_secret(&public)).unwrap();
    let none = {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
        let part = |value: Value| B64.encode(value.to_string());
        format!("{}.{}.", part(json!({"alg": "none", "kid": "k1"})), part(claims()))
    };
    let no_kid = encode(&Header::new(Algorithm::EdDSA), &claims(), &signer.key).unwrap();
    let forged = Signer::new("k1").sign(&claims());
    let unknown = Signer::new("k9").sign(&claims());
    let path = Signer::new("../k1").sign(&claims());
    for token in [hmac, none, no_kid, forged, unknown, path, "a.b.c".into(), String::new()] {
        let error = check(&verifier, &format!("Bearer {token}")).expect_err(&token);
        assert_eq!(error.code, ErrorCode::Unauthenticated, "{token}");
    }
    let good = signer.sign(&claims());
    for authorization in [good.clone(), format!("Basic {good}")] {
        assert_eq!(check(&verifier, &authorization).unwrap_err().code, ErrorCode::Unauthenticated);
    }
    let none = verifier.authorize(&MetadataMap::new(), &[Scope::Session], None);
    assert_eq!(none.unwrap_err().code, ErrorCode::Unauthenticated);
}

#[test]
fn a_new_key_is_found_and_the_folder_is_not_read_at_every_call() {
    let (folder, verifier, signer) = set_up();
    check(&verifier, &format!("Bearer {}", signer.sign(&claims()))).unwrap();
    let second = Signer::new("k2");
    second.publish(folder.path());
    let token = format!("Bearer {}", second.sign(&claims()));
    let read = Instant::now();
    verifier.keys.lock().unwrap().read = Some(read);
    assert_eq!(check(&verifier, &token).unwrap_err().code, ErrorCode::Unauthenticated, "read a moment ago");
    assert_eq!(verifier.keys.lock().unwrap().read, Some(read));
    verifier.keys.lock().unwrap().read = Some(read - RELOAD_EVERY);
    check(&verifier, &token).unwrap();
}

#[test]
fn files_that_are_no_keys_do_no_harm() {
    let (folder, verifier, signer) = set_up();
    fs::write(folder.path().join("bad.pem"), "nonsense").unwrap();
    fs::write(folder.path().join("large.pem"), vec![b'x'; 1 << 20]).unwrap();
    nix::unistd::mkfifo(&folder.path().join("pipe.pem"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    check(&verifier, &format!("Bearer {}", signer.sign(&claims()))).unwrap();
}
