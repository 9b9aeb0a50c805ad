//! The line to the server: one session after another, each opened when the last one has ended.
//!
//! # Not here
//! What is asked: `asks`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use epicserver_coordinator::{Answer, Ask, Hints};
use tokio::time::Instant;

use super::asks::{Asks, PART, TOPICS};
use crate::server::{ASKS, Server, Session, Told, why};

/// How long to wait after a session could not be opened, at first and at the most; up to half as long again, so that not all
/// nodes of a fabric come back at once.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// How long opening one may take.
const OPEN_MAX: Duration = Duration::from_millis(1500);

pub(super) struct Line {
    server: Server,
    asks: Asks,
    hints: Hints,
    session: Option<Session>,
    /// When to open the next one, and how long to wait if that fails.
    again: Instant,
    wait: Duration,
    /// Why there is no session.
    trouble: String,
}

impl Line {
    pub(super) fn new(server: Server, fabric: String, hints: Hints) -> Self {
        Self {
            server,
            asks: Asks::new(fabric),
            hints,
            session: None,
            again: Instant::now(),
            wait: AGAIN_MIN,
            trouble: "nobody has tried yet".to_owned(),
        }
    }

    /// Waits until the session has ended, or there is one again. May be left at any time.
    pub(super) async fn tend(&mut self) {
        let Some(session) = &mut self.session else { return self.reach().await };
        session.ended().await;
        self.session = None;
    }

    /// Carries `ask` out, once there is a session. If it is left, [`give_up`](Self::give_up) says why.
    pub(super) async fn carry_out(&mut self, ask: Ask) -> Answer {
        if self.session.as_ref().is_some_and(|session| session.client.is_closed()) {
            self.session = None;
        }
        self.reach().await;
        let Some(session) = &mut self.session else {
            return Answer::Failed { why: self.give_up() };
        };
        match self.asks.carry_out(&mut session.client, ask).await {
            Ok(answer) => answer,
            Err(error) => {
                let why = format!("{}: {}", self.server.place(), why(&*error));
                Answer::Failed { why }
            }
        }
    }

    /// What an ask that was not answered in time ends with. What it has begun goes on without us, or not.
    pub(super) fn give_up(&mut self) -> String {
        let place = self.server.place();
        if self.session.take().is_some() {
            self.trouble = "it did not answer in time".to_owned();
        }
        format!("{place}: {}", self.trouble)
    }

    /// Waits until there is a session.
    async fn reach(&mut self) {
        while self.session.is_none() {
            tokio::time::sleep_until(self.again).await;
            self.again = Instant::now() + self.wait + spread(self.wait / 2);
            match tokio::time::timeout(OPEN_MAX, self.open()).await {
                Ok(Ok(session)) => {
                    self.session = Some(session);
                    self.wait = AGAIN_MIN;
                    // What happened while there was none was not heard.
                    self.hints.say_changed();
                    return;
                }
                Ok(Err(why)) => self.trouble = why,
                Err(_late) => self.trouble = "it does not answer".to_owned(),
            }
            self.wait = (self.wait * 2).min(AGAIN_MAX);
        }
    }

    async fn open(&self) -> Result<Session, String> {
        let told = Told { hints: self.hints.clone(), topic: self.asks.fabric().to_owned() };
        let mut session =
            self.server.connect(ASKS, Some(told)).await.map_err(|error| why(&error))?;
        PART.prepare(&mut session.client).await?;
        self.asks.prepare(&session.client).await.map_err(|error| why(&error))?;
        // Without notices there are no hints, which nobody relies on; some servers that speak the protocol have none.
        let _listens = session.client.batch_execute(&format!("LISTEN {TOPICS}")).await;
        Ok(session)
    }
}

/// A part of `of` that nobody can tell beforehand.
fn spread(of: Duration) -> Duration {
    let drawn = RandomState::new().build_hasher().finish() % 1024;
    of * u32::try_from(drawn).unwrap_or(0) / 1024
}
