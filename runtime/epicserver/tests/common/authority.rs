//! An authority of one test's own, and what it signs, in a folder of the test.

use std::path::Path;

use epicserver::config::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Makes an authority called `name`, and has it sign the certificate of a node. The files are in `folder`.
pub(crate) fn certify(folder: &Path, name: &str) -> TlsConfig {
    let made = make(folder, name);
    made.unwrap_or_else(|error| panic!("no certificates for {name}: {error}"))
}

fn make(folder: &Path, name: &str) -> Result<TlsConfig, Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate()?;
    let signed =
        CertificateParams::new(vec!["node.example".to_owned()])?.signed_by(&own, &issuer)?;
    let files = files(folder, name);
    std::fs::write(&files.ca, authority.pem())?;
    std::fs::write(&files.cert, signed.pem())?;
    std::fs::write(&files.key, own.serialize_pem())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&files.key, mode)?;
    Ok(files)
}

/// Where the files of the authority called `name` are.
pub(crate) fn files(folder: &Path, name: &str) -> TlsConfig {
    let mut files = TlsConfig::default();
    files.ca = folder.join(format!("{name}-ca.pem"));
    files.cert = folder.join(format!("{name}.pem"));
    files.key = folder.join(format!("{name}.key"));
    files
}
