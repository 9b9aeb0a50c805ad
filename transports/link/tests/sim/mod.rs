//! A network of the simulator, as the suite sets it up.
//!
//! # Not here
//! What it is asked.

mod driver;
mod transport;

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use epicserver_link::conformance::{Raw, Seat, Subject};
use epicserver_link::{Address, Transport};
use epicserver_sim::net::{EndId, Lines, News, Options, Packet, Tip};
use epicserver_wire::Time;
use epicserver_wire::frame::FrameMut;

use driver::SimDriver;
use transport::{LINKS_MAX, SCHEME, SimTransport};

/// Lines, and the time that is theirs alone: it passes while somebody waits, and has nothing to do with
/// what a transport is told.
struct Network {
    lines: Lines,
    now: Time,
}

impl Network {
    /// When something arrives at `end`; a time that has passed if it has.
    fn next_at(&self, end: EndId) -> Option<Time> {
        let its = |(of, _, at): (EndId, Tip, Time)| (of == end).then_some(at);
        self.lines.upcoming().filter_map(its).min()
    }

    /// Where something has arrived for `end`.
    fn arrived(&self, end: EndId) -> Vec<Tip> {
        let now = self.now;
        let its = self.lines.upcoming().filter(|(of, _, at)| *of == end && *at <= now);
        its.map(|(_, tip, _)| tip).collect()
    }

    fn take(&mut self, tip: Tip) -> Option<News> {
        self.lines.take(self.now, tip)
    }
}

type Shared = Rc<RefCell<Network>>;

/// One network, on which all seats are.
pub(crate) struct SimNet {
    network: Shared,
}

impl SimNet {
    /// A network whose delays follow from `seed`, each less than `delay_max`. The suite calls it quiet
    /// after twenty waits of a millisecond, so a delay is shorter than that.
    pub(crate) fn new(seed: u64, delay_max: Duration) -> Self {
        let (frames_max, slots, slot_bytes, lines_max) = (32, 48, 8 << 10, LINKS_MAX);
        let body_bytes = 0;
        let options = Options { delay_max, frames_max, slots, slot_bytes, body_bytes, lines_max };
        let network = Network { lines: Lines::new(seed, options), now: Time::ZERO };
        Self { network: Rc::new(RefCell::new(network)) }
    }

    fn open(&self) -> EndId {
        self.network.borrow_mut().lines.open()
    }
}

fn address(end: EndId) -> Address {
    Address::new(SCHEME, &end.serial().to_string())
}

impl Subject for SimNet {
    fn seat(&self) -> Seat {
        let end = self.open();
        let transport = SimTransport::new(Rc::clone(&self.network), end);
        let driver = Box::new(SimDriver::new(Rc::clone(&self.network), end));
        Seat { transport: Box::new(transport) as Box<dyn Transport>, driver }
    }

    fn malformed(&self) -> Vec<Address> {
        let mut malformed =
            ["x", "-1", "1 ", "99999999999"].map(|rest| Address::new(SCHEME, rest)).to_vec();
        malformed.push(Address::new("tcp", "1"));
        malformed
    }

    fn nobody(&self) -> Address {
        address(EndId::new(u32::MAX))
    }

    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        // An end that takes nothing answers nobody.
        Some((address(self.open()), Box::new(())))
    }

    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let to = EndId::new(to.rest().parse().ok()?);
        let end = self.open();
        let mut network = self.network.borrow_mut();
        let now = network.now;
        let tip = network.lines.dial(now, end, to)?;
        let network = Rc::clone(&self.network);
        Some(Box::new(RawEnd { network, end, tip, ended: false }))
    }

    fn patience(&self) -> Duration {
        // All that can happen happens in a few waits.
        Duration::from_secs(1)
    }
}

/// An end that says what it likes behind its dial.
struct RawEnd {
    network: Shared,
    end: EndId,
    tip: Tip,
    ended: bool,
}

impl Raw for RawEnd {
    fn write(&mut self, bytes: &[u8]) {
        let mut head = FrameMut::detached(bytes.len());
        assert!(head.extend(bytes), "the memory was made for these bytes");
        let mut network = self.network.borrow_mut();
        let now = network.now;
        let sent = network.lines.send(now, self.tip, Packet { head, body: None });
        assert!(sent.is_ok() || self.ended, "a hostile peer was not let speak");
    }

    fn has_ended(&mut self) -> bool {
        let mut network = self.network.borrow_mut();
        while !network.arrived(self.end).is_empty() {
            self.ended |= matches!(network.take(self.tip), Some(News::Over(_)));
        }
        self.ended
    }
}

impl Drop for RawEnd {
    fn drop(&mut self) {
        // In order, so that what it wrote arrives.
        let mut network = self.network.borrow_mut();
        let now = network.now;
        network.lines.close(now, self.tip);
    }
}
