//! The server: how it is reached, and one session with it.
//!
//! # Invariants
//! - **PG1** A session gives up by itself: whatever a statement waits for, it ends after a while, a coordinator's before
//!   [`ASK_MAX`] has passed, and a transaction whose client has stopped is rolled back by the server. So no lock is held for long.
//! - **PG2** What is committed is on the server's disk, whatever the server's own default is.
//!
//! # Not here
//! What is asked.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use epicserver_coordinator::tls::{self, TlsError};
use epicserver_coordinator::{ASK_MAX, Hints};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, NoTls, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_rustls::TlsConnector;

/// How long connecting may take, for each address.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a session's statements may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long the server works at a statement.
    pub(crate) statement_ms_max: u64,
    /// How long a statement waits for a lock.
    pub(crate) lock_ms_max: u64,
    /// How long a transaction waits for its client's next statement.
    pub(crate) idle_ms_max: u64,
}

/// Those of a coordinator.
pub(crate) const ASKS: Limits =
    Limits { statement_ms_max: 1500, lock_ms_max: 1000, idle_ms_max: 1000 };
/// After how long a silent connection is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

const _: () = assert!((ASKS.statement_ms_max as u128) < ASK_MAX.as_millis(), "PG1");
const _: () = assert!(ASKS.lock_ms_max < ASKS.statement_ms_max, "the better reason comes first");

/// How a server is reached.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: Option<Arc<ClientConfig>>,
}

/// Why a server cannot be reached as it was said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The text does not say how.
    #[error("cannot read how the database is reached: {0}")]
    Text(String),
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Server {
    /// The server of `text`, a URL (`postgres://user:password@host/database`) or pairs as libpq has them
    /// (`host=… user=… dbname=…`); several hosts are tried in turn until one can be written to. With `tls`, it must
    /// speak that; without, nothing is encrypted. Blocks while it reads files.
    ///
    /// # Errors
    /// [`ServerError`] says what is wrong.
    pub fn new(text: &str, tls: Option<&tls::Files>) -> Result<Self, ServerError> {
        let mut config: Config = text.parse().map_err(|error| ServerError::Text(why(&error)))?;
        let text = |why: &str| Err(ServerError::Text(why.to_owned()));
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return text("it names no host");
        }
        let files = tls.map(tls::client).transpose()?;
        match (&files, config.get_ssl_mode()) {
            (None, SslMode::Require) => {
                return text("sslmode=require needs the certificates of an authority");
            }
            (Some(_), SslMode::Disable) => return text("sslmode=disable beside certificates"),
            (None, _) => config.ssl_mode(SslMode::Disable),
            (Some(_), _) => config.ssl_mode(SslMode::Require),
        };
        // One that cannot be written to, as the standby of a pair, is of no use.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(CONNECT_MAX).tcp_user_timeout(ASK_MAX);
        config.keepalives(true).keepalives_idle(KEEP_ALIVE).keepalives_interval(KEEP_ALIVE);
        config.keepalives_retries(2);
        if config.get_application_name().is_none() {
            config.application_name("epicserver");
        }
        Ok(Self { config, tls: files })
    }

    /// Opens a session, and tells whoever is to be `told` what the server notifies.
    pub(crate) async fn connect(
        &self,
        limits: Limits,
        told: Option<Told>,
    ) -> Result<Session, tokio_postgres::Error> {
        let session = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Session { client, task: tokio::spawn(drive(connection, told)) }
            }
            Some(config) => {
                let (client, connection) = self.config.connect(Tls(Arc::clone(config))).await?;
                Session { client, task: tokio::spawn(drive(connection, told)) }
            }
        };
        let Limits { statement_ms_max, lock_ms_max, idle_ms_max } = limits;
        let settings = format!(
            "SET statement_timeout = {statement_ms_max}; SET lock_timeout = {lock_ms_max}; \
             SET idle_in_transaction_session_timeout = {idle_ms_max}; SET synchronous_commit = on; \
             SET default_transaction_isolation = 'read committed'"
        );
        session.client.batch_execute(&settings).await?;
        Ok(session)
    }

    /// Where it is, for people.
    pub(crate) fn place(&self) -> String {
        let host = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let mut hosts: Vec<String> = self.config.get_hosts().iter().map(host).collect();
        if hosts.is_empty() {
            hosts.extend(self.config.get_hostaddrs().iter().map(IpAddr::to_string));
        }
        let ports = self.config.get_ports().iter().map(u16::to_string);
        let ports: Vec<String> = ports.collect();
        format!("PostgreSQL at {}:{}", hosts.join(","), ports.join(","))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configuration may hold a password.
        f.write_str(&self.place())
    }
}

/// Who is told what the server notifies.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) hints: Hints,
    /// Only of this.
    pub(crate) topic: String,
}

/// A session, until it is dropped; what is under way then is left to the server (**PG1**).
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    task: JoinHandle<()>,
}

impl Session {
    /// Resolves when it has ended by itself.
    pub(crate) async fn ended(&mut self) {
        // A task that panicked has ended too.
        let _ended = (&mut self.task).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive<S>(mut connection: Connection<Socket, S>, told: Option<Told>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(notification) = message
            && let Some(told) = &told
            && notification.payload() == told.topic
        {
            told.hints.say_changed();
        }
    }
}

/// What is said about `error`, causes included.
pub(crate) fn why(error: &dyn std::error::Error) -> String {
    let mut why = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    why
}

/// TLS by rustls.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Encrypted;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, io::Error> {
        let name = ServerName::try_from(domain.to_owned());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Handshake { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { Ok(Encrypted(self.connector.connect(self.name, stream).await?)) })
    }
}

struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
