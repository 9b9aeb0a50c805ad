//! An end of a simulated network as a transport: a line is a link.
//!
//! # Not here
//! What lines do; how they wait.

use std::collections::BTreeMap;
use std::time::Duration;

use epicserver_link::driver::Completion;
use epicserver_link::{Address, Down, Event, Io, Parcel, Refused, Transport};
use epicserver_sim::net::{EndId, News, Packet, Tip, Why};
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Glance, Violation};
use epicserver_wire::{LinkId, Time};

use super::{Shared, address};

pub(super) const SCHEME: &str = "sim";
/// What one link hears in one round.
const NEWS_A_ROUND: usize = 8;
/// How long a dial may take, and a close. The network's own time is another.
const DIAL: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_millis(500);
/// Links of all ends that the network has room for.
pub(super) const LINKS_MAX: usize = 1024;

struct Link {
    tip: Tip,
    peer: Address,
    up: bool,
    /// It was closed here.
    closing: bool,
    until: Option<Time>,
}

pub(super) struct SimTransport {
    network: Shared,
    end: EndId,
    links: BTreeMap<LinkId, Link>,
    ids: BTreeMap<Tip, LinkId>,
}

impl SimTransport {
    pub(super) fn new(network: Shared, end: EndId) -> Self {
        Self { network, end, links: BTreeMap::new(), ids: BTreeMap::new() }
    }

    /// Takes what has arrived at `tip`, no more than its share.
    fn serve(&mut self, io: &mut Io<'_>, tip: Tip) {
        for _ in 0..NEWS_A_ROUND {
            let news = self.network.borrow_mut().take(tip);
            match news {
                Some(News::Up { accepted: true, peer, slots }) => {
                    let link = io.new_link();
                    let peer = address(peer);
                    self.ids.insert(tip, link);
                    let (up, closing, until) = (true, false, None);
                    self.links.insert(link, Link { tip, peer: peer.clone(), up, closing, until });
                    io.events.push(Event::Up { link, accepted: true, peer, slots });
                }
                Some(News::Up { accepted: false, slots, .. }) => {
                    let Some((link, entry)) = self.entry(tip) else { return };
                    (entry.up, entry.until) = (true, None);
                    let peer = entry.peer.clone();
                    io.events.push(Event::Up { link, accepted: false, peer, slots });
                }
                Some(News::Frame(frame)) => self.came(io, tip, frame),
                Some(News::Room) => {
                    let link = self.ids.get(&tip).copied();
                    io.events.extend(link.map(|link| Event::Room { link }));
                }
                Some(News::Over(why)) => self.is_over(io, tip, why),
                None => return,
            }
        }
    }

    fn entry(&mut self, tip: Tip) -> Option<(LinkId, &mut Link)> {
        let link = *self.ids.get(&tip)?;
        Some((link, self.links.get_mut(&link)?))
    }

    fn came(&mut self, io: &mut Io<'_>, tip: Tip, frame: Frame) {
        let Some(link) = self.ids.get(&tip).copied() else { return };
        match holds_messages(&frame) {
            Ok(()) => io.events.push(Event::Frame { link, frame }),
            Err(violation) => self.cut(io, link, Down::from(violation)),
        }
    }

    fn is_over(&mut self, io: &mut Io<'_>, tip: Tip, why: Why) {
        let Some((link, entry)) = self.entry(tip) else { return };
        let down = match why {
            Why::Closed | Why::Cut | Why::Nobody if entry.closing => Down::Here,
            Why::Closed | Why::Cut => Down::There,
            Why::Nobody => Down::Failed(format!("nobody listens at `{}`", entry.peer)),
        };
        self.say_down(io, link, down);
    }

    /// Ends `link` without waiting for the peer.
    fn cut(&mut self, io: &mut Io<'_>, link: LinkId, why: Down) {
        let Some(entry) = self.links.get(&link) else { return };
        let mut network = self.network.borrow_mut();
        let now = network.now;
        network.lines.cut(now, entry.tip);
        drop(network);
        self.say_down(io, link, why);
    }

    fn say_down(&mut self, io: &mut Io<'_>, link: LinkId, why: Down) {
        if let Some(entry) = self.links.remove(&link) {
            self.ids.remove(&entry.tip);
            io.events.push(Event::Down { link, why });
        }
    }

    /// Ends the links whose time is over. Says whether there were any.
    fn expire(&mut self, io: &mut Io<'_>) -> bool {
        let now = io.now;
        let late = |link: &Link| link.until.is_some_and(|until| until <= now);
        let late: Vec<(LinkId, bool)> = self
            .links
            .iter()
            .filter(|(_, link)| late(link))
            .map(|(id, l)| (*id, l.closing))
            .collect();
        for (link, closing) in &late {
            self.cut(io, *link, if *closing { Down::Here } else { Down::Silent(DIAL) });
        }
        !late.is_empty()
    }
}

impl Transport for SimTransport {
    fn name(&self) -> &'static str {
        SCHEME
    }

    fn addresses(&self) -> Vec<Address> {
        vec![address(self.end)]
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused> {
        let malformed = |why| Refused::Address { address: to.clone(), transport: SCHEME, why };
        if to.scheme() != SCHEME {
            return Err(malformed("it begins with sim://"));
        }
        let peer = to.rest().parse().map_err(|_| malformed("it ends in a number"))?;
        let mut network = self.network.borrow_mut();
        let now = network.now;
        let tip =
            network.lines.dial(now, self.end, EndId::new(peer)).ok_or(Refused::Links(LINKS_MAX))?;
        let (peer, until) = (to.clone(), Some(io.now + DIAL));
        self.ids.insert(tip, link);
        self.links.insert(link, Link { tip, peer, up: false, closing: false, until });
        Ok(())
    }

    fn submit(&mut self, _: &mut Io<'_>, link: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        let link = self.links.get(&link).filter(|link| link.up && !link.closing);
        let Some(Link { tip, .. }) = link else { return Err(parcel) };
        let mut network = self.network.borrow_mut();
        let (now, Parcel { head, body }) = (network.now, parcel);
        let sent = network.lines.send(now, *tip, Packet { head, body });
        sent.map_err(|Packet { head, body }| Parcel { head, body })
    }

    fn flush(&mut self, _: &mut Io<'_>) {
        // What was submitted is under way.
    }

    fn complete(&mut self, _: &mut Io<'_>, _: Completion) {
        // Its driver does nothing for it.
    }

    fn poll(&mut self, io: &mut Io<'_>) -> bool {
        let arrived = self.network.borrow().arrived(self.end);
        for tip in &arrived {
            self.serve(io, *tip);
        }
        self.expire(io) | !arrived.is_empty()
    }

    fn arm(&mut self, _: &mut Io<'_>) -> bool {
        self.network.borrow().arrived(self.end).is_empty()
    }

    fn deadline(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.until).min()
    }

    fn close(&mut self, io: &mut Io<'_>, link: LinkId) {
        let Some(link) = self.links.get_mut(&link).filter(|link| !link.closing) else { return };
        link.closing = true;
        link.until = Some(io.now + LINGER);
        let mut network = self.network.borrow_mut();
        let now = network.now;
        network.lines.close(now, link.tip);
    }
}

impl Drop for SimTransport {
    /// The suite drops a seat that is killed.
    fn drop(&mut self) {
        let mut network = self.network.borrow_mut();
        let now = network.now;
        network.lines.kill(now, self.end);
    }
}

/// Refuses what is not whole messages.
fn holds_messages(frame: &Frame) -> Result<(), Violation> {
    let mut at = 0;
    while at < frame.len() {
        at = Glance::at(frame.bytes(), at)?.end;
    }
    Ok(())
}
