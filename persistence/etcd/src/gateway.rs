//! The cluster: one connection at a time, to whichever endpoint answers.
//!
//! # Invariants
//! - **GW1** A request is sent once. One that was refused for its token alone was not carried out, and is sent again with a new
//!   one.
//!
//! # Not here
//! What is asked.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::{Bytes, Incoming};
use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::User;
use crate::http::{Connection, Endpoint};

/// How long to wait after no endpoint has answered, at first and at the most; up to half as long again, so that not all nodes
/// of a fabric come back at once.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// What etcd says of a token that it does not know (any more).
const UNAUTHENTICATED: u64 = 16;

pub(crate) struct Gateway {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<ClientConfig>>,
    user: Option<User>,
    /// Which endpoint is used, or is tried next.
    at: usize,
    connection: Option<Connection>,
    token: Option<String>,
    wait: Duration,
    /// Why there is no answer.
    trouble: String,
}

impl Gateway {
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        tls: Option<Arc<ClientConfig>>,
        user: Option<User>,
    ) -> Self {
        // Nodes that are given the same list begin at different members.
        let at = usize::try_from(fresh() % 1024).unwrap_or(0) % endpoints.len().max(1);
        let (connection, token, wait) = (None, None, AGAIN_MIN);
        let trouble = "nobody has tried yet".to_owned();
        Self { endpoints, tls, user, at, connection, token, wait, trouble }
    }

    /// Another one, with a connection of its own.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.endpoints.clone(), self.tls.clone(), self.user.clone())
    }

    /// Asks, once there is a connection, and gives the answer. If it is left, [`give_up`](Self::give_up) says why.
    pub(crate) async fn call(&mut self, path: &str, body: &Value) -> Result<Value, String> {
        let bytes = body.to_string().into_bytes();
        self.reach().await?;
        let (mut status, mut said) = self.call_once(path, bytes.clone()).await?;
        if status != StatusCode::OK && self.user.is_some() && code_of(&said) == UNAUTHENTICATED {
            self.token = None;
            self.reach().await?;
            (status, said) = self.call_once(path, bytes).await?;
        }
        self.judge(status, &said)
    }

    async fn call_once(
        &mut self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let Some(connection) = &mut self.connection else { return Err(self.place("is lost")) };
        let called = connection.call(path, self.token.as_deref(), body).await;
        called.map_err(|why| self.lose(&why))
    }

    /// Asks for an answer that goes on.
    pub(crate) async fn stream(&mut self, path: &str, body: &Value) -> Result<Incoming, String> {
        self.reach().await?;
        let bytes = body.to_string().into_bytes();
        let Some(connection) = &mut self.connection else { return Err(self.place("is lost")) };
        let sent = connection.send(path, self.token.as_deref(), bytes).await;
        let response = sent.map_err(|why| self.lose(&why))?;
        if response.status() != StatusCode::OK {
            return Err(self.place(response.status().as_str()));
        }
        Ok(response.into_body())
    }

    /// The answer that was said, or that it is none.
    fn judge(&mut self, status: StatusCode, said: &Bytes) -> Result<Value, String> {
        let answer: Result<Value, _> = serde_json::from_slice(said);
        match (status, answer) {
            (StatusCode::OK, Ok(answer)) => Ok(answer),
            (StatusCode::OK, Err(error)) => Err(self.lose(&format!("it says no JSON: {error}"))),
            (_, answer) => {
                let message = answer.as_ref().ok().and_then(|answer| answer["message"].as_str());
                // A member that has no leader or no quorum says so; another one may have.
                Err(self.lose(&format!("{status}: {}", message.unwrap_or("without a reason"))))
            }
        }
    }

    /// Waits until there is a connection, and a token if one is needed.
    async fn reach(&mut self) -> Result<(), String> {
        if self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.connection = None;
        }
        while self.connection.is_none() {
            for _ in 0..self.endpoints.len() {
                match Connection::open(&self.endpoints[self.at], self.tls.as_ref()).await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.wait = AGAIN_MIN;
                        break;
                    }
                    Err(why) => self.trouble = self.lose(&why),
                }
            }
            if self.connection.is_none() {
                tokio::time::sleep(self.wait + spread(self.wait / 2)).await;
                self.wait = (self.wait * 2).min(AGAIN_MAX);
            }
        }
        self.authenticate().await
    }

    async fn authenticate(&mut self) -> Result<(), String> {
        let Some(user) = self.user.as_ref().filter(|_| self.token.is_none()) else { return Ok(()) };
        let body = json!({ "name": user.name, "password": user.password });
        let body = body.to_string().into_bytes();
        let (status, said) = self.call_once("/v3/auth/authenticate", body).await?;
        let answer = self.judge(status, &said)?;
        let token = answer["token"].as_str().ok_or("etcd gives no token to its user")?;
        self.token = Some(token.to_owned());
        Ok(())
    }

    /// Begins anew, with another token too.
    pub(crate) fn leave(&mut self) {
        self.token = None;
        self.lose("");
    }

    /// Leaves the connection, and says of what came of it. The next one is to another endpoint.
    fn lose(&mut self, why: &str) -> String {
        let said = self.place(why);
        self.connection = None;
        self.at = (self.at + 1) % self.endpoints.len();
        said
    }

    /// What a call that was left ends with. What it has begun goes on without us, or not.
    pub(crate) fn give_up(&mut self) -> String {
        if self.connection.is_some() {
            return self.lose("it did not answer in time");
        }
        self.trouble.clone()
    }

    fn place(&self, why: &str) -> String {
        format!("{}: {why}", self.endpoints[self.at])
    }
}

fn code_of(said: &Bytes) -> u64 {
    let answer: Value = serde_json::from_slice(said).unwrap_or_default();
    answer["code"].as_u64().unwrap_or(0)
}

/// A number that nobody else has.
pub(crate) fn fresh() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A part of `of` that nobody can tell beforehand.
fn spread(of: Duration) -> Duration {
    of * u32::try_from(fresh() % 1024).unwrap_or(0) / 1024
}
