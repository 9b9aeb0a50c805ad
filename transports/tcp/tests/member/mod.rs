//! A certificate, its authority, and a hostile peer that has one: what it writes goes through TLS.

use std::error::Error;
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use epicserver_link::conformance::Raw;
use epicserver_tcp::Tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

pub(crate) struct Member {
    folder: PathBuf,
    client: Arc<ClientConfig>,
}

impl Member {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("epic-member-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?;
        let (issuer, own) = (Issuer::new(params, key), KeyPair::generate()?);
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let cert = params.signed_by(&own, &issuer)?;
        std::fs::write(folder.join("ca.pem"), ca.pem())?;
        std::fs::write(folder.join("node.pem"), cert.pem())?;
        std::fs::write(folder.join("node.key"), own.serialize_pem())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(folder.join("node.key"), mode)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.pem().as_bytes())?],
                PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes())?,
            )?;
        Ok(Self { folder, client: Arc::new(client) })
    }

    pub(crate) fn tls(&self) -> Result<Tls, epicserver_tcp::TlsError> {
        let path = |name| self.folder.join(name);
        Tls::load(&path("ca.pem"), &path("node.pem"), &path("node.key"))
    }

    /// A peer that speaks TLS over `stream`, and what it likes inside.
    pub(crate) fn raw(&self, stream: TcpStream) -> Option<RawTls> {
        stream.set_nonblocking(true).ok()?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let tls = ClientConnection::new(Arc::clone(&self.client), name).ok()?;
        Some(RawTls { tls, stream, speaks: false })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

pub(crate) struct RawTls {
    tls: ClientConnection,
    stream: TcpStream,
    /// It has something to say. Until then it does not even greet.
    speaks: bool,
}

impl RawTls {
    /// Gives and takes what there is. Says whether the connection has ended.
    fn go_on(&mut self) -> bool {
        loop {
            while self.speaks && self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => return true,
                }
            }
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return true,
                Ok(_) if self.tls.process_new_packets().is_err() => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}

impl Raw for RawTls {
    fn write(&mut self, bytes: &[u8]) {
        self.speaks = true;
        // It waits in the session until the handshake is done.
        let _written = self.tls.writer().write_all(bytes);
        self.go_on();
    }

    fn has_ended(&mut self) -> bool {
        self.go_on()
    }
}
