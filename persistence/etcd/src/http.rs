//! Connections to one endpoint: HTTP/1.1, in the clear or with TLS.
//!
//! # Not here
//! Which endpoint. What is said.

use std::sync::Arc;
use std::time::Duration;

use epicserver_coordinator::{ASK_MAX, RECORD_BYTES_MAX};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// How long connecting may take, so that another endpoint can be tried while whoever asks still waits.
const CONNECT_MAX: Duration = Duration::from_millis(750);
/// After how long a silent connection is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Longest answer, in bytes: all records there may be, in base64, with their keys.
const ANSWER_BYTES_MAX: usize = 2 * epicserver_coordinator::LEASES_MAX * RECORD_BYTES_MAX;

/// Where a member of the cluster is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    secure: bool,
}

impl Endpoint {
    /// The endpoint that is written `text`, as in `https://host:2379`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority: hyper::http::uri::Authority =
            rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Some(Self { host, port: authority.port_u16()?, secure })
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// As it stands in a request.
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "etcd at {}", self.authority())
    }
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        match tokio::time::timeout(CONNECT_MAX, Self::connect(endpoint, tls)).await {
            Ok(connected) => connected.map_err(|error| why(&*error)),
            Err(_late) => Err("it does not answer".to_owned()),
        }
    }

    async fn connect(
        endpoint: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        stream.set_nodelay(true)?;
        let alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
        SockRef::from(&stream).set_tcp_keepalive(&alive.with_retries(2))?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(ASK_MAX))?;
        let (sender, task) = match tls {
            None => {
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                (sender, tokio::spawn(drive(connection)))
            }
            Some(config) => {
                let name = ServerName::try_from(endpoint.host.clone())?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                (sender, tokio::spawn(drive(connection)))
            }
        };
        Ok(Self { sender, authority: endpoint.authority(), task })
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks, and gives the whole answer.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let response = self.send(path, token, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| why(&*error))?.to_bytes()))
    }

    /// Asks, and gives what there is of an answer that goes on.
    pub(crate) async fn send(
        &mut self,
        path: &str,
        token: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| why(&error))?;
        self.sender.ready().await.map_err(|error| why(&error))?;
        self.sender.send_request(request).await.map_err(|error| why(&error))
    }
}

async fn drive<T, B>(connection: hyper::client::conn::http1::Connection<T, B>)
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Whoever waits for an answer is told.
    let _ended = connection.await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_others_are_refused() {
        let authority = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.authority());
        assert_eq!(authority("http://a.example:2379").as_deref(), Some("a.example:2379"));
        assert_eq!(authority("https://[::1]:2379/").as_deref(), Some("[::1]:2379"));
        assert!(Endpoint::parse("https://127.0.0.1:1").is_some_and(|endpoint| endpoint.secure));
        for none in [
            "",
            "a:2379",
            "http://a",
            "http://",
            "http://:1",
            "ftp://a:1",
            "http://a:1/b",
            "http://u@a:1",
        ] {
            assert_eq!(authority(none), None, "{none}");
        }
    }
}
