//! An authority of one test's own, and what it signs.

use std::path::{Path, PathBuf};

use epicserver_coordinator::conformance::server;
use epicserver_coordinator::tls::Files;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// An authority whose certificate lies in a folder that goes with it.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let folder = server::folder(name);
        let mut params = CertificateParams::new(Vec::new()).expect("it has no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("there is a key");
        let certificate = params.self_signed(&key).expect("it is sound");
        std::fs::write(folder.join("ca.pem"), certificate.pem()).expect("it is ours");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a client needs that trusts it.
    pub(crate) fn files(&self) -> Files {
        Files { ca: self.folder.join("ca.pem"), own: None }
    }

    /// Signs for whoever is reached as `name`.
    pub(crate) fn sign_for(&self, name: &str, cert: &Path, key: &Path) {
        let own = KeyPair::generate().expect("there is a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        let signed = params.signed_by(&own, &self.issuer).expect("it is sound");
        std::fs::write(cert, signed.pem()).expect("it is ours");
        std::fs::write(key, own.serialize_pem()).expect("it is ours");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(key, mode).expect("it is ours");
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // What is left behind is in the place for temporary files.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
