//! The topology service: which services there are, told by the kernel as they come and go.
//!
//! A subscription is 28 bytes, an event 48. Both are written little-endian; the kernel answers in the order of bytes
//! in which it was asked.
//!
//! # Invariants
//! - **TP1** A service is listed as long as at least one socket is bound to it, as far as this machine knows.
//! - **TP2** At most [`SERVICES_MAX`] are; of more, none is told.
//!
//! # Not here
//! Whether what is bound there is one of ours: the handshake tells.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::{Service, raw};

/// Services of one type that are known at a time.
pub const SERVICES_MAX: usize = 4096;

/// Instances that are tried until one is free.
const INSTANCES_TRIED_MAX: usize = 16;

const SUBSCRIPTION_BYTES: usize = 28;
const EVENT_BYTES: usize = 48;
/// `TIPC_SUB_PORTS`: tell of each socket.
const EACH_SOCKET: u32 = 1;
/// `TIPC_WAIT_FOREVER`.
const FOR_EVER: u32 = u32::MAX;
/// `TIPC_NODE_STATE`: the service that each machine is.
const MACHINES: u32 = 0;
/// How long the kernel is waited for, which answers at once.
const ANSWER: Duration = Duration::from_secs(2);

/// What an event says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// A socket is bound to the instances from the first to the second.
    Published(u32, u32),
    /// It is no more.
    Withdrawn(u32, u32),
    /// The time of the subscription is up.
    Over,
}

/// The services of one type, wherever they are.
#[derive(Debug)]
pub struct Topology {
    kind: u32,
    /// `None` when the kernel has cut it off, until the next look.
    socket: Option<OwnedFd>,
    /// How many sockets are bound to each instance.
    bound: BTreeMap<u32, u32>,
}

impl Topology {
    /// Asks for all services that have the type of `service`, and for each that comes or goes.
    ///
    /// # Errors
    /// Says what to do where the kernel has no TIPC.
    pub fn watch(service: Service) -> io::Result<Self> {
        let kind = service.kind();
        let socket = subscribe([kind, 0, u32::MAX], FOR_EVER)?;
        Ok(Self { kind, socket: Some(socket), bound: BTreeMap::new() })
    }

    /// Takes in what the kernel has told since the last call. Says whether there was anything. Does not block.
    pub fn changed(&mut self) -> bool {
        let Some(socket) = &self.socket else { return self.begin_again() };
        let mut any = false;
        loop {
            match next(socket) {
                Ok(Some(event)) => {
                    note(&mut self.bound, event);
                    any = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return any,
                Ok(None) | Err(_) => {
                    // It was cut off, as it is where events were not taken in time.
                    self.socket = None;
                    return true;
                }
            }
        }
    }

    /// The services that there are.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        self.bound.keys().filter_map(|instance| Service::new(self.kind, *instance))
    }

    fn begin_again(&mut self) -> bool {
        let Ok(socket) = subscribe([self.kind, 0, u32::MAX], FOR_EVER) else { return false };
        self.bound.clear();
        self.socket = Some(socket);
        self.changed()
    }
}

/// Takes in one event (**TP1**). A socket that is bound to many instances is none of ours.
fn note(bound: &mut BTreeMap<u32, u32>, event: Event) {
    match event {
        Event::Published(lower, upper) if lower == upper => {
            // TP2.
            if bound.len() < SERVICES_MAX || bound.contains_key(&lower) {
                *bound.entry(lower).or_default() += 1;
            }
        }
        Event::Withdrawn(lower, upper) if lower == upper => {
            if let Some(sockets) = bound.get_mut(&lower) {
                *sockets -= 1;
                if *sockets == 0 {
                    bound.remove(&lower);
                }
            }
        }
        Event::Published(..) | Event::Withdrawn(..) | Event::Over => {}
    }
}

/// Whether a socket is bound to `service` already.
fn is_bound(service: Service) -> io::Result<bool> {
    let (kind, instance) = (service.kind(), service.instance());
    Ok(!ask([kind, instance, instance])?.is_empty())
}

/// Binds a socket to `service`, or to the next instance that is free, and has the kernel find it there.
///
/// # Errors
/// What the kernel said; that it was not found.
pub fn probe(service: Service) -> io::Result<()> {
    let service = free_from(service)?;
    let _bound = raw::listen(service)?;
    if is_bound(service)? { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The first service from `service` on to which nobody is bound.
pub(crate) fn free_from(mut service: Service) -> io::Result<Service> {
    for _ in 0..INSTANCES_TRIED_MAX {
        if !is_bound(service)? {
            return Ok(service);
        }
        service = service.next();
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// The other machines that TIPC connects this one to, by their addresses.
///
/// # Errors
/// Says what to do where the kernel has no TIPC.
pub fn neighbours() -> io::Result<Vec<u32>> {
    let own = raw::own_node()?;
    let mut machines = ask([MACHINES, 0, u32::MAX])?;
    machines.retain(|machine| Some(*machine) != own && *machine != 0);
    Ok(machines)
}

/// The instances that are bound now.
fn ask(range: [u32; 3]) -> io::Result<Vec<u32>> {
    let socket = subscribe(range, 0)?;
    let mut bound = BTreeMap::new();
    loop {
        match next(&socket) {
            Ok(Some(Event::Over)) => return Ok(bound.into_keys().collect()),
            Ok(Some(event)) => note(&mut bound, event),
            Ok(None) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => await_answer(&socket)?,
            Err(error) => return Err(error),
        }
    }
}

fn await_answer(socket: &OwnedFd) -> io::Result<()> {
    let wait = Timespec::try_from(ANSWER).ok();
    let ready = retry_on_intr(|| poll(&mut [PollFd::new(socket, PollFlags::IN)], wait.as_ref()))?;
    if ready == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
}

/// Asks for what is bound in `range` (type, first instance, last one), for `ms` milliseconds.
fn subscribe(range: [u32; 3], ms: u32) -> io::Result<OwnedFd> {
    let socket = connect()?;
    retry_on_intr(|| send(&socket, &subscription(range, ms), SendFlags::NOSIGNAL))?;
    Ok(socket)
}

/// A connection that is interrupted while it is made is given up for another one: what io_uring has for this thread to
/// do interrupts it as a signal does.
fn connect() -> io::Result<OwnedFd> {
    loop {
        match raw::connect_to_topology() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            connected => return connected,
        }
    }
}

fn subscription([kind, lower, upper]: [u32; 3], ms: u32) -> [u8; SUBSCRIPTION_BYTES] {
    let mut bytes = [0; SUBSCRIPTION_BYTES];
    let fields = [kind, lower, upper, ms, EACH_SOCKET];
    for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

/// The next event that has come; `None` at the end of the connection.
fn next(socket: impl AsFd) -> io::Result<Option<Event>> {
    let mut bytes = [0; EVENT_BYTES];
    let received = retry_on_intr(|| recv(&socket, &mut bytes, RecvFlags::DONTWAIT));
    match received {
        Ok((EVENT_BYTES, _)) => event(&bytes).map(Some),
        Ok((0, _)) | Err(Errno::CONNRESET) => Ok(None),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) => Err(error.into()),
    }
}

fn event(bytes: &[u8; EVENT_BYTES]) -> io::Result<Event> {
    let mut words = bytes
        .chunks_exact(4)
        .map(|word| word.iter().rev().fold(0, |value: u32, byte| value << 8 | u32::from(*byte)));
    let mut word = || words.next().unwrap_or_default();
    let [what, lower, upper] = [word(), word(), word()];
    match what {
        1 => Ok(Event::Published(lower, upper)),
        2 => Ok(Event::Withdrawn(lower, upper)),
        3 => Ok(Event::Over),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_written_as_the_kernel_reads_it() {
        let bytes = subscription([0x0102_0304, 0, u32::MAX], 5);
        let expected = [[4, 3, 2, 1], [0; 4], [255; 4], [5, 0, 0, 0], [1, 0, 0, 0], [0; 4], [0; 4]];
        assert_eq!(bytes.as_slice(), expected.as_flattened());
    }

    #[test]
    fn an_event_is_read_as_the_kernel_writes_it() {
        let written = |what: u8| {
            let mut bytes = [0xee; EVENT_BYTES];
            bytes[..12].copy_from_slice(&[what, 0, 0, 0, 4, 3, 2, 1, 5, 3, 2, 1]);
            event(&bytes)
        };
        assert_eq!(written(1).unwrap(), Event::Published(0x0102_0304, 0x0102_0305));
        assert_eq!(written(2).unwrap(), Event::Withdrawn(0x0102_0304, 0x0102_0305));
        assert_eq!(written(3).unwrap(), Event::Over);
        assert!(written(4).is_err());
    }

    #[test]
    fn tp1_a_service_is_there_until_its_last_socket_is_gone() {
        let mut bound = BTreeMap::new();
        let mut note = |event| {
            note(&mut bound, event);
            bound.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(note(Event::Published(7, 7)), [7]);
        assert_eq!(note(Event::Published(7, 7)), [7]);
        assert_eq!(note(Event::Published(0, 9)), [7]);
        assert_eq!(note(Event::Withdrawn(7, 7)), [7]);
        assert_eq!(note(Event::Withdrawn(7, 7)), [0; 0]);
        assert_eq!(note(Event::Withdrawn(7, 7)), [0; 0]);
    }

    #[test]
    fn tp2_no_more_services_are_listed_than_there_may_be() {
        let mut bound = BTreeMap::new();
        for instance in 0..u32::try_from(SERVICES_MAX).unwrap() + 5 {
            note(&mut bound, Event::Published(instance, instance));
        }
        assert_eq!(bound.len(), SERVICES_MAX);
        note(&mut bound, Event::Published(0, 0));
        assert_eq!(bound[&0], 2);
    }
}
