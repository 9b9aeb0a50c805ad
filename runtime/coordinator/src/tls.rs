//! TLS to a coordinator that is reached over a network: which server is trusted, and by what it is told who asks.
//!
//! # Not here
//! Connections. TLS between nodes, which trusts by other rules.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// Bytes that a file may have.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The bit of a file's mode that lets everybody read it.
const READ_BY_ALL: u32 = 0o004;

/// The files of TLS, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// Certificates of the authorities that may have signed the server's. Its name must be that by which it is reached.
    pub ca: PathBuf,
    /// What the client shows, if the server wants to see something.
    pub own: Option<Own>,
}

/// A certificate with those between it and the authority, and its private key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    /// The certificates, its own first.
    pub cert: PathBuf,
    /// The key, which not every user of the machine may read.
    pub key: PathBuf,
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}: {why}", path = path.display())]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

/// What a client needs to speak TLS 1.3 with the server that `files` trust. Blocks while it reads.
///
/// # Errors
/// [`TlsError`] names the file and says what is wrong with it.
pub fn client(files: &Files) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| wrong(&files.ca, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| wrong(&files.ca, error))?
        .with_root_certificates(roots);
    let config = match &files.own {
        Some(own) => {
            let secret = private_key(&own.key)?;
            let config = config.with_client_auth_cert(certificates(&own.cert)?, secret);
            config.map_err(|error| wrong(&own.cert, error))?
        }
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (bytes, _mode) = read(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = read.map_err(|error| wrong(path, error))?;
    if certificates.is_empty() {
        return Err(wrong(path, "it holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (bytes, mode) = read(path)?;
    if mode & READ_BY_ALL != 0 {
        return Err(wrong(path, "everybody may read it; chmod 600"));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        wrong(path, format!("it holds no private key without a password: {error}"))
    })
}

/// What a regular file holds, and its mode.
fn read(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let file = File::open(path).map_err(|error| wrong(path, error))?;
    let about = file.metadata().map_err(|error| wrong(path, error))?;
    if !about.is_file() || about.len() > FILE_BYTES_MAX {
        return Err(wrong(path, format!("it is no file of at most {FILE_BYTES_MAX} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| wrong(path, error))?;
    Ok((bytes, about.mode()))
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> TlsError {
    TlsError { path: path.to_owned(), why: why.to_string() }
}
