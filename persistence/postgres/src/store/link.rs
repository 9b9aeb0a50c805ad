//! Links to the servers: one session after another to each, opened when it is needed.
//!
//! # Not here
//! What is asked. The invariants: they are in `store`.

use std::time::Duration;

use epicserver_store::{Slot, Trouble};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::rows::{ENROL, PART, PLACE};
use crate::server::{Limits, Server, Session, why};

/// Those of a store: a statement may carry tens of megabytes.
const LIMITS: Limits =
    Limits { statement_ms_max: 20_000, lock_ms_max: 10_000, idle_ms_max: 60_000 };
/// How long whatever is asked of a server may take.
const ASK_MAX: Duration = Duration::from_secs(30);
/// How long copying all of it may take; each statement of it is bounded as others are.
pub(super) const COPY_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long opening a session may take.
const OPEN_MAX: Duration = Duration::from_secs(3);
/// How long to wait after one could not be opened, at first and at the most.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// How long whoever asks first waits for a server that was there, or was never tried. Those after it have one try each.
const REACH_MAX: Duration = Duration::from_secs(5);

/// The links of one task, in the order of the servers.
pub(super) struct Links {
    links: Vec<Link>,
}

/// One server, and the session with it.
pub(super) struct Link {
    server: Server,
    fabric: String,
    /// Which of how many servers it is (**PS3**).
    place: (usize, usize),
    session: Option<Session>,
    again: Instant,
    wait: Duration,
    /// Whether it was there when it was last tried.
    well: bool,
}

impl Links {
    pub(super) fn new(servers: Vec<Server>, fabric: String) -> Self {
        let count = servers.len();
        let again = Instant::now();
        let link = |(at, server)| Link {
            server,
            fabric: fabric.clone(),
            place: (at, count),
            session: None,
            again,
            wait: AGAIN_MIN,
            well: true,
        };
        Self { links: servers.into_iter().enumerate().map(link).collect() }
    }

    /// Links of their own to the same servers.
    pub(super) fn another(&self) -> Self {
        let servers = self.links.iter().map(|link| link.server.clone()).collect();
        let fabric = self.links.first().map_or_else(String::new, |link| link.fabric.clone());
        Self::new(servers, fabric)
    }

    pub(super) fn count(&self) -> usize {
        self.links.len()
    }

    /// The place of the server on which `slot` lies (**PS3**).
    pub(super) fn of(&self, slot: Slot) -> usize {
        usize::from(slot.index) % self.links.len()
    }

    pub(super) fn at(&mut self, place: usize) -> &mut Link {
        &mut self.links[place]
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut()
    }
}

impl Link {
    /// What `ask` makes of a session, which is given up if it does not say within [`ASK_MAX`], or ends.
    ///
    /// # Errors
    /// What `ask` says, as it has to be told.
    pub(super) async fn ask<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Client, &str) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Trouble> {
        self.ask_within(ASK_MAX, ask).await
    }

    /// The same within `time`.
    ///
    /// # Errors
    /// The same.
    pub(super) async fn ask_within<T>(
        &mut self,
        time: Duration,
        ask: impl AsyncFnOnce(&mut Client, &str) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Trouble> {
        self.reach().await?;
        let Some(session) = &mut self.session else {
            return Err(Trouble::Unavailable(self.server.place()));
        };
        let asked = tokio::time::timeout(time, ask(&mut session.client, &self.fabric)).await;
        let result = match asked {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => trouble(&self.server, &error),
            Err(_late) => {
                let why = format!("{} did not answer in time", self.server.place());
                Trouble::Unknown(why)
            }
        };
        if matches!(result, Trouble::Unknown(_)) || session.client.is_closed() {
            self.session = None;
        }
        Err(result)
    }

    /// Sees to it that there is a session.
    async fn reach(&mut self) -> Result<(), Trouble> {
        if self.session.as_ref().is_some_and(|session| session.client.is_closed()) {
            self.session = None;
        }
        let until = Instant::now() + if self.well { REACH_MAX } else { Duration::ZERO };
        while self.session.is_none() {
            tokio::time::sleep_until(self.again).await;
            self.again = Instant::now() + self.wait;
            let opened = tokio::time::timeout(OPEN_MAX, self.open()).await;
            match opened.unwrap_or_else(|_late| Err("it does not answer".to_owned())) {
                Ok(session) => {
                    (self.session, self.wait, self.well) = (Some(session), AGAIN_MIN, true);
                }
                Err(why) => {
                    self.wait = (self.wait * 2).min(AGAIN_MAX);
                    if Instant::now() >= until {
                        self.well = false;
                        let why = format!("{}: {why}", self.server.place());
                        return Err(Trouble::Unavailable(why));
                    }
                }
            }
        }
        Ok(())
    }

    async fn open(&self) -> Result<Session, String> {
        let session = self.server.connect(LIMITS, None).await;
        let mut session = session.map_err(|error| why(&error))?;
        PART.prepare(&mut session.client).await?;
        let place = self.enrol(&session.client).await.map_err(|error| why(&error))?;
        if place != self.place {
            let (at, count) = place;
            return Err(format!(
                "for the fabric {:?} it is server {at} of {count}, and is named as {} of {}",
                self.fabric, self.place.0, self.place.1
            ));
        }
        Ok(session)
    }

    /// Which server of how many this one is, and has been since it was first asked.
    async fn enrol(&self, client: &Client) -> Result<(usize, usize), tokio_postgres::Error> {
        let number = |of: usize| i32::try_from(of).unwrap_or(i32::MAX);
        let (at, count) = (number(self.place.0), number(self.place.1));
        let fabric = (&self.fabric as &(dyn tokio_postgres::types::ToSql + Sync), Type::TEXT);
        let parameters = [fabric.clone(), (&at, Type::INT4), (&count, Type::INT4)];
        client.execute_typed(ENROL, &parameters).await?;
        let row = client.query_typed_one(PLACE, &[fabric]).await?;
        let number = |of: i32| usize::try_from(of).unwrap_or(usize::MAX);
        Ok((number(row.try_get(0)?), number(row.try_get(1)?)))
    }
}

/// What an error means to whoever has asked.
fn trouble(server: &Server, error: &tokio_postgres::Error) -> Trouble {
    let said = format!("{}: {}", server.place(), why(error));
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => Trouble::Full(said),
        Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
            Trouble::Corrupt(said)
        }
        // What is shut down may have committed before.
        Some(code) if code.code().starts_with("57P") => Trouble::Unknown(said),
        // The statement was rolled back.
        Some(_) => Trouble::Unavailable(said),
        None => Trouble::Unknown(said),
    }
}
