//! Names of hosts: every address that a name stands for might be a node's, now and again.
//!
//! One address of each family is taken for one host that has both. Several of a family are taken for as many
//! nodes, as a headless service has them; then only the family counts that the system puts first.
//!
//! In: answers of a resolver   Out: [`Candidate`]
//!
//! # Invariants
//! - **DN1** A name is asked for again as long as it is wanted, whatever was answered, and never twice at once.
//! - **DN2** What a name stood for last counts until there is another answer: a name service that is away
//!   takes nobody away.
//! - **DN3** A name has at most [`ANSWERS_MAX`] addresses.
//!
//! # Not here
//! Asking, which may wait: that is `resolver`.

mod resolver;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use epicserver_link::Address;

pub use self::resolver::{Answer, QUESTIONS_MAX, Question, Resolve, Resolver, THREADS_MAX};
use super::jitter::Jitter;
use super::source::{Candidate, Source};

/// Addresses of one name that are taken.
pub const ANSWERS_MAX: usize = 64;
/// The first pause after an answer that was none.
const PAUSE: Duration = Duration::from_secs(1);

/// A name, and what is at each of its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// The host, or many hosts.
    pub host: String,
    /// The port of the nodes there.
    pub port: u16,
    /// How long nobody is dialled there at first, since there may be a better way.
    pub after: Duration,
    /// As for [`Candidate::leads`].
    pub leads: bool,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    not_before: Option<Instant>,
    /// When it is to be asked for; `None` while it is.
    due: Option<Instant>,
    /// The pause after the last answer, if that was none.
    pause: Duration,
    addresses: Vec<SocketAddr>,
}

/// What names stand for.
#[derive(Debug)]
pub struct Names<R> {
    called: &'static str,
    entries: Vec<Entry>,
    resolver: R,
    every: Duration,
    jitter: Jitter,
    changed: bool,
    asked: u64,
    failed: u64,
}

/// How names are watched.
#[derive(Debug)]
pub struct Options<R> {
    /// What log lines call the source.
    pub called: &'static str,
    /// Who answers.
    pub resolver: R,
    /// How long an answer counts before the name is asked for again, at most.
    pub every: Duration,
    /// What makes the times differ from those of other nodes.
    pub seed: u64,
}

impl<R: Resolve> Names<R> {
    /// Watches `names` from `now` on.
    #[must_use]
    pub fn new(options: Options<R>, names: Vec<Name>, now: Instant) -> Self {
        let entry = |name: Name| {
            let not_before = (!name.after.is_zero()).then(|| now + name.after);
            let (due, addresses) = (Some(now), Vec::new());
            Entry { name, not_before, due, pause: Duration::ZERO, addresses }
        };
        let Options { called, resolver, every, seed } = options;
        let entries = names.into_iter().map(entry).collect();
        let jitter = Jitter::new(seed);
        Self { called, entries, resolver, every, jitter, changed: false, asked: 0, failed: 0 }
    }

    fn ask(&mut self, now: Instant) {
        for (at, entry) in self.entries.iter_mut().enumerate() {
            if entry.due.is_none_or(|due| now < due) {
                continue;
            }
            let (host, port) = (entry.name.host.clone(), entry.name.port);
            if !self.resolver.ask(Question { at, host, port }) {
                return;
            }
            entry.due = None;
            self.asked += 1;
        }
    }

    fn take(&mut self, answer: Answer, now: Instant) {
        let Some(entry) = self.entries.get_mut(answer.at) else { return };
        let Name { host, .. } = &entry.name;
        let why = match answer.addresses {
            Ok(addresses) if !addresses.is_empty() => {
                let addresses = sorted(addresses);
                if entry.addresses != addresses {
                    tracing::info!(%host, ?addresses, "a name stands for other addresses than before");
                    entry.addresses = addresses;
                    self.changed = true;
                }
                entry.pause = Duration::ZERO;
                entry.due = Some(now + self.jitter.about(self.every));
                return;
            }
            Ok(_) => "it has no address".to_owned(),
            Err(why) => why,
        };
        if entry.pause.is_zero() {
            tracing::warn!(%host, why, "a name cannot be resolved; it is asked for again");
        }
        self.failed += 1;
        // DN1, DN2.
        entry.pause = (2 * entry.pause).clamp(PAUSE.min(self.every), self.every);
        entry.due = Some(now + self.jitter.about(entry.pause));
    }
}

impl<R: Resolve> Source for Names<R> {
    fn name(&self) -> &'static str {
        self.called
    }

    fn poll(&mut self, now: Instant) -> Option<Vec<Candidate>> {
        while let Some(answer) = self.resolver.answer() {
            self.take(answer, now);
        }
        self.ask(now);
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| self.entries.iter().flat_map(candidates).collect())
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        vec![("asked", self.asked), ("failed", self.failed)]
    }
}

/// The addresses in an order of their own, since a name service may give them in another one each time; but
/// the family that came first stays first.
fn sorted(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().map(SocketAddr::is_ipv4);
    addresses.sort_unstable_by_key(|address| (Some(address.is_ipv4()) != first, *address));
    addresses.dedup();
    // DN3.
    addresses.truncate(ANSWERS_MAX);
    addresses
}

fn candidates(entry: &Entry) -> Vec<Candidate> {
    let tcp = |address: &SocketAddr| Address::new("tcp", &address.to_string());
    let (leads, not_before) = (entry.name.leads, entry.not_before);
    let candidate = |addresses| Candidate { node: None, addresses, leads, not_before };
    let Some(first) = entry.addresses.first() else { return Vec::new() };
    let (same, other): (Vec<&SocketAddr>, Vec<&SocketAddr>) =
        entry.addresses.iter().partition(|address| address.is_ipv4() == first.is_ipv4());
    if let ([one], [another]) = (&same[..], &other[..]) {
        return vec![candidate(vec![tcp(one), tcp(another)])];
    }
    same.into_iter().map(|address| candidate(vec![tcp(address)])).collect()
}
