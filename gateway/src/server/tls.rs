//! TLS for clients, and their certificates where they must show one.
use std::{path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {} ({flag})", path.display())]
    Pem { path: PathBuf, flag: &'static str, source: pem::Error },
    #[error("{} holds no certificate ({flag})", path.display())]
    Empty { path: PathBuf, flag: &'static str },
    #[error("the certificate and the key do not work (--tls-cert, --tls-key)")]
    Config(#[from] rustls::Error),
    #[error("the certificates of clients cannot be checked (--tls-client-ca)")]
    ClientCa(#[from] VerifierBuilderError),
}

pub(super) fn acceptor(tls: &TlsConfig) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for cert in certificates(path, "--tls-client-ca")? {
                roots.add(cert)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::Pem {
        path: tls.key.clone(),
        flag: "--tls-key",
        source,
    })?;
    let mut config = builder.with_single_cert(certificates(&tls.cert, "--tls-cert")?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// When the first certificate of a chain ends, in seconds since 1970, if it says so.
pub(super) fn end_of(path: &PathBuf) -> Option<i64> {
    let chain = certificates(path, "--tls-cert").ok()?;
    let (_, own) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    Some(own.validity().not_after.timestamp())
}

fn certificates(path: &PathBuf, flag: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Pem { path: path.clone(), flag, source };
    let all = CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if all.is_empty() { Err(TlsError::Empty { path: path.clone(), flag }) } else { Ok(all) }
}
