//! Real members of etcd, started by the test that uses them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use epicserver_coordinator::conformance::Lacks;
use epicserver_coordinator::conformance::proxy::Proxy;
use epicserver_coordinator::conformance::server::{Server, folder, free_address};
use serde_json::{Value, json};

/// A member, which others may use too.
#[derive(Clone)]
pub(crate) struct Member(Arc<Parts>);

struct Parts {
    server: Mutex<Server>,
    proxy: Proxy,
    address: SocketAddr,
}

impl Member {
    /// The one member of a cluster.
    pub(crate) fn start() -> Result<Self, Lacks> {
        Self::start_with(&[])
    }

    /// The same, with `arguments` more.
    pub(crate) fn start_with(arguments: &[String]) -> Result<Self, Lacks> {
        let peer = free_address();
        Self::start_one("alone", peer, &[("alone", peer)], arguments)
    }

    /// The members of a cluster of three.
    pub(crate) fn start_three() -> Result<[Self; 3], Lacks> {
        let all = ["a", "b", "c"].map(|name| (name, free_address()));
        let start = |at: usize| Self::start_one(all[at].0, all[at].1, &all, &[]);
        Ok([start(0)?, start(1)?, start(2)?])
    }

    fn start_one(
        name: &str,
        peer: SocketAddr,
        all: &[(&str, SocketAddr)],
        arguments: &[String],
    ) -> Result<Self, Lacks> {
        let etcd = Path::new("/usr/bin/etcd");
        if !etcd.is_file() {
            return Err(Lacks("no etcd: apt-get install etcd-server".to_owned()));
        }
        let (folder, address) = (folder("etcd"), free_address());
        let secure = arguments.iter().any(|argument| argument == "--cert-file");
        let client = format!("http{}://{address}", if secure { "s" } else { "" });
        let cluster: Vec<String> =
            all.iter().map(|(name, peer)| format!("{name}=http://{peer}")).collect();
        let peer = format!("http://{peer}");
        let data = folder.join("data").display().to_string();
        let mut command = vec![etcd.display().to_string()];
        for (option, value) in [
            ("--name", name),
            ("--data-dir", &data),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &cluster.join(",")),
            // A member that is alone waits that long until it leads itself.
            ("--heartbeat-interval", "40"),
            ("--election-timeout", "400"),
            ("--log-level", "warn"),
        ] {
            command.extend([option.to_owned(), value.to_owned()]);
        }
        command.extend(arguments.iter().cloned());
        let server = Mutex::new(Server::start(folder, address, &command));
        Ok(Self(Arc::new(Parts { server, proxy: Proxy::start(address), address })))
    }

    pub(crate) fn with_server<T>(&self, with: impl FnOnce(&mut Server) -> T) -> T {
        with(&mut self.0.server.lock().expect("nobody panics with it"))
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.0.proxy
    }

    /// How it is reached through the proxy.
    pub(crate) fn through_proxy(&self) -> String {
        format!("http://{}", self.0.proxy.address())
    }

    /// Asks it for something, past the proxy.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let said = post(self.0.address, path, &body.to_string());
        said.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        self.post("/v3/kv/put", &json!({ "key": encode(key), "value": encode(value) }));
    }

    /// Removes all keys that begin with `prefix`.
    pub(crate) fn remove(&self, prefix: &str) {
        let end = format!("{prefix}~");
        self.post(
            "/v3/kv/deleterange",
            &json!({ "key": encode(prefix), "range_end": encode(end) }),
        );
    }

    /// All keys that begin with `prefix`.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let range = json!({ "key": encode(prefix), "range_end": encode(format!("{prefix}~")), "keys_only": true });
        let there = self.post("/v3/kv/range", &range);
        let keys = there["kvs"].as_array().cloned().unwrap_or_default();
        let key = |pair: &Value| STANDARD.decode(pair["key"].as_str()?).ok();
        let keys =
            keys.iter().filter_map(key).map(|key| String::from_utf8_lossy(&key).into_owned());
        keys.collect()
    }

    /// Which member leads, as this one sees it, and whether that is it.
    pub(crate) fn leader(&self) -> (String, bool) {
        let status = self.post("/v3/maintenance/status", &json!({}));
        let leader = status["leader"].as_str().unwrap_or("0").to_owned();
        let me = status["header"]["member_id"].as_str() == Some(&leader);
        (leader, me)
    }

    /// How many seconds are left of the lease on which `key` hangs.
    pub(crate) fn seconds_left(&self, key: &str) -> i64 {
        let there = self.post("/v3/kv/range", &json!({ "key": encode(key) }));
        let lease = there["kvs"][0]["lease"].as_str().unwrap_or("0").to_owned();
        let left = self.post("/v3/lease/timetolive", &json!({ "ID": lease }));
        left["TTL"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn post(to: SocketAddr, path: &str, body: &str) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(to)?;
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.0\r\nHost: {to}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (_, body) = said.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body).unwrap_or_default())
}
