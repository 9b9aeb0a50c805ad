//! TLS 1.3 for links over TCP: both ends show a certificate that the fabric's authority has signed.
//!
//! # Invariants
//! - **TL1** A link with TLS is up only once the peer has shown a certificate of the authority, and
//!   not a byte of it is read as a message before.
//! - **TL2** Names in certificates are not looked at: nodes are dialled by address, and whoever has a
//!   certificate of the authority is a member. So the authority must be the fabric's own.
//!
//! # Not here
//! Sockets: a session takes bytes and gives bytes. Who the peer is: the handshake of the link, which
//! also proves the fabric's key, runs inside.

mod files;
mod session;
#[cfg(test)]
mod tests;
mod work;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

pub(crate) use session::{Session, Trouble};
pub(crate) use work::{Heard, Work};

/// What a transport needs to speak TLS, loaded once and shared by its links.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Why the files of TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file can be read and does not hold what it should.
    #[error("{path} {why}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The private key can be read by every user of the machine.
    #[error("everybody may read {path} (mode {mode:o}); chmod 600 {path}")]
    Open {
        /// The key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Each file is sound, and they do not go together.
    #[error("{cert} and {key} do not go together: {why}")]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The private key.
        key: PathBuf,
        /// What is wrong with them.
        why: String,
    },
}

impl Tls {
    /// Loads the certificates of authorities in `ca`, this node's certificate and those between it and
    /// the authority in `cert`, and its private key in `key`: PEM files. Blocks while it reads.
    ///
    /// # Errors
    /// [`TlsError`] names the file and says what is wrong with it.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(files::authorities(ca)?);
        let chain = files::certificates(cert)?;
        let secret = files::private_key(key)?;
        let no_pair = |error: rustls::Error| TlsError::Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
            why: error.to_string(),
        };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier
            .build()
            .map_err(|error| TlsError::Content { path: ca.to_owned(), why: error.to_string() })?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(no_pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), secret.clone_key());
        let mut server = server.map_err(no_pair)?;
        // Links last for days; what would make the next handshake shorter is not worth keeping.
        server.send_tls13_tickets = 0;
        let member = Arc::new(Member { roots, algorithms: algorithms_of(&provider) });
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(no_pair)?
            .dangerous()
            .with_custom_certificate_verifier(member)
            .with_client_auth_cert(chain, secret);
        let mut client = client.map_err(no_pair)?;
        client.resumption = Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// A session with the peer at `address`, which was dialled.
    pub(crate) fn connect(&self, address: IpAddr) -> Result<Session, Trouble> {
        Session::connect(Arc::clone(&self.client), ServerName::IpAddress(address.into()))
    }

    /// A session with a peer that has dialled.
    pub(crate) fn accept(&self) -> Result<Session, Trouble> {
        Session::accept(Arc::clone(&self.server))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn algorithms_of(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    provider.signature_verification_algorithms
}

/// Whether who was dialled is a member: signed by the authority, valid today, and meant for servers if
/// its certificate says what it is meant for. The name is not asked (**TL2**).
#[derive(Debug)]
struct Member {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Member {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
