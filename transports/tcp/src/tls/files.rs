//! The files of TLS, read and judged one by one so that an error names the one that is wrong.
//!
//! # Not here
//! Whether a peer's certificate is any good.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// Bytes that a file may have.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The bit of a file's mode that lets everybody read it.
const READ_BY_ALL: u32 = 0o004;

/// The authorities that may have signed a peer's certificate.
pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let why = |error| format!("holds a certificate that cannot be used: {error}");
        roots.add(certificate).map_err(|error| content(path, why(error)))?;
    }
    Ok(roots)
}

/// All certificates of a file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (bytes, _mode) = read(path)?;
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = read.map_err(|error| content(path, format!("is not sound PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(content(path, "holds no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

/// The private key of a file that not everybody may read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (bytes, mode) = read(path)?;
    if mode & READ_BY_ALL != 0 {
        return Err(TlsError::Open { path: path.to_owned(), mode: mode & 0o7777 });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let none = matches!(error, pem::Error::NoItemsFound);
        content(
            path,
            match none {
                true => "holds no private key in PEM that needs no password".to_owned(),
                false => format!("is not sound PEM: {error}"),
            },
        )
    })
}

/// What a regular file holds, and its mode.
fn read(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let failed = |source: io::Error| TlsError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(content(path, "is no regular file".to_owned()));
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(content(path, format!("is longer than {FILE_BYTES_MAX} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes, about.mode()))
}

fn content(path: &Path, why: String) -> TlsError {
    TlsError::Content { path: path.to_owned(), why }
}
