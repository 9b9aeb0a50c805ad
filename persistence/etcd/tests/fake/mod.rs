//! Something that answers in the place of etcd, and says of itself what a test wants.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

use crate::common::encode;

/// A member of etcd that it says it is, in a term.
type Member = (u64, u64);

/// Listens as long as the process lives.
pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Who answers next to renewals and to transactions after them, in turn; the last one goes on.
    script: Vec<Member>,
    at: usize,
    renewals: usize,
    /// What is said to everything, instead.
    said: Option<String>,
}

impl Fake {
    pub(crate) fn start(script: Vec<Member>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State { script, ..State::default() }));
        let of_thread = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&of_thread);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often a lease was renewed.
    pub(crate) fn renewals(&self) -> usize {
        lock(&self.state).renewals
    }

    /// Says that to everything from now on.
    pub(crate) fn say(&self, said: &str) {
        lock(&self.state).said = Some(said.to_owned());
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics with it")
}

/// Answers requests until there are no more.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(&stream);
    let mut writer = &stream;
    while let Some((path, body)) = request(&mut reader) {
        let answer = lock(state).answer(&path, &body);
        let length = answer.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        if writer.write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

fn request(reader: &mut impl std::io::BufRead) -> Option<(String, Value)> {
    let lines: Vec<String> =
        reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<u64>().ok())?
    });
    let mut body = Vec::new();
    reader.take(length?).read_to_end(&mut body).ok()?;
    Some((path, serde_json::from_slice(&body).ok()?))
}

impl State {
    fn answer(&mut self, path: &str, body: &Value) -> String {
        if let Some(said) = &self.said {
            return said.clone();
        }
        let answer = match path {
            "/v3/lease/grant" => json!({ "ID": "7", "TTL": body["TTL"] }),
            "/v3/lease/keepalive" => {
                self.renewals += 1;
                json!({ "result": { "header": self.next(), "ID": "7", "TTL": "3600" } })
            }
            "/v3/kv/txn" => {
                let decides = body["compare"].as_array().is_some_and(|all| !all.is_empty());
                let header =
                    if decides && self.renewals > 0 { self.next() } else { header((1, 2)) };
                let all = body["success"].as_array().cloned().unwrap_or_default();
                let responses: Vec<Value> =
                    all.iter().map(|what| done(what, self.renewals > 0)).collect();
                json!({ "header": header, "succeeded": true, "responses": responses })
            }
            _ => json!({}),
        };
        answer.to_string()
    }

    fn next(&mut self) -> Value {
        let next = self.script[self.at.min(self.script.len() - 1)];
        self.at += 1;
        header(next)
    }
}

fn header((member, term): Member) -> Value {
    json!({ "member_id": member.to_string(), "raft_term": term.to_string(), "revision": "5" })
}

/// What came of one thing that a transaction does.
fn done(what: &Value, begun: bool) -> Value {
    let range = &what["request_range"];
    if range.is_null() {
        return json!({ "response_put": {} });
    }
    let number = encode("fabric/number");
    if begun && range["key"] == json!(number) {
        let pair = json!({ "key": number, "value": encode("1 0 0 0"), "mod_revision": "5" });
        return json!({ "response_range": { "kvs": [pair], "count": "1" } });
    }
    json!({ "response_range": {} })
}
