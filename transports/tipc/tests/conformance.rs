//! TIPC passes the suite of all transports, on every form of the driver that there is.
//!
//! It runs where the kernel has TIPC and the machine an address in it: `hw-tests/run tipc`. Raw peers have layouts of
//! their own, which are a second account of the crate's.
//!
//! # Not here
//! Other machines: one is enough for all that a link does.

#![expect(unsafe_code, reason = "addresses of TIPC are told to the kernel as they lie in memory")]

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use epicserver_link::conformance::{Lacks, Raw, Seat, Subject};
use epicserver_link::driver::{Form, Owner};
use epicserver_link::{Address, Transport};
use epicserver_shard::driver::{DriverError, open};
use epicserver_tipc::{Config, Importance, SCHEME, Service, Tipc, own_node};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, listen, recv,
    send, socket_with,
};

/// The type of all services here.
const KIND: u32 = 4_242;

/// Each subject and each seat has an instance of its own; the processes of tests at a time differ above.
fn instance() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::process::id() << 16 | NEXT.fetch_add(1, Ordering::Relaxed)
}

struct Over {
    form: Form,
}

/// TIPC with drivers of `form`, or why there is none here.
fn over(form: Form) -> Result<Over, Lacks> {
    let lacks = |why: &str| Lacks::Area("tipc", why.to_owned());
    match own_node() {
        Ok(Some(_)) => {}
        Ok(None) => {
            return Err(lacks(
                "TIPC has given this machine no address: `tipc bearer enable media eth device IFACE`",
            ));
        }
        Err(error) => return Err(lacks(&error.to_string())),
    }
    open(Some(form)).map_err(|error| lacks(&because(&error)))?;
    Ok(Over { form })
}

fn because(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn service(instance: u32) -> Service {
    Service::new(KIND, instance).unwrap_or_else(|| panic!("{KIND} is TIPC's own"))
}

impl Subject for Over {
    fn seat(&self) -> Seat {
        let driver = open(Some(self.form)).map_err(|error: DriverError| because(&error));
        let driver = driver.unwrap_or_else(|error| panic!("{error}"));
        let config = Config { service: service(instance()), importance: Importance::Medium };
        let seat = Seat::open(driver, |io| {
            Tipc::listen(Owner(0), config, io).map(|tipc| Box::new(tipc) as Box<dyn Transport>)
        });
        seat.unwrap_or_else(|refused| panic!("{}", because(&refused)))
    }

    fn malformed(&self) -> Vec<Address> {
        ["4242", "4242:", ":1", "4242:x", "63:1", "4242:4294967296", "4242:1:2", "04242:1"]
            .map(|rest| Address::new(SCHEME, rest))
            .into_iter()
            .chain([Address::new("pipe", "4242:1")])
            .collect()
    }

    fn nobody(&self) -> Address {
        service(instance()).address()
    }

    /// A socket that listens and accepts nobody.
    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        let (socket, at) = (packets()?, instance());
        bind(&socket, &At::new(at)).ok()?;
        listen(&socket, 0).ok()?;
        Some((service(at).address(), Box::new(socket)))
    }

    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let instance = to.rest().split_once(':')?.1.parse().ok()?;
        let socket = packets()?;
        // It is under way until the other end, which this thread drives, has accepted it.
        match connect(&socket, &At::new(instance)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return None,
        }
        Some(Box::new(RawTipc { socket: Arc::new(socket), ended: false }))
    }
}

fn packets() -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::TIPC, SocketType::SEQPACKET, flags, None).ok()
}

/// `struct sockaddr_tipc` of a service: family, kind of address, scope, type, instance, domain.
#[repr(C)]
struct At(u16, u8, i8, u32, u32, u32);

impl At {
    fn new(instance: u32) -> Self {
        Self(30, 2, 2, KIND, instance, 0)
    }
}

// SAFETY: the pointer is that of a whole address, and the length is its own.
unsafe impl SocketAddrArg for At {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(std::ptr::from_ref(self).cast(), 16)
    }
}

/// What it writes waits in threads of their own until the connection is made, since who accepts it is driven by the
/// thread that asks.
struct RawTipc {
    socket: Arc<OwnedFd>,
    ended: bool,
}

impl Raw for RawTipc {
    fn write(&mut self, bytes: &[u8]) {
        let (socket, bytes) = (Arc::clone(&self.socket), bytes.to_vec());
        std::thread::spawn(move || {
            let wait = Timespec { tv_sec: 20, tv_nsec: 0 };
            // The other end may have cut it off already.
            let _ready = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&wait));
            let _sent = send(&socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        });
    }

    fn has_ended(&mut self) -> bool {
        match recv(&self.socket, &mut [0; 1], RecvFlags::DONTWAIT) {
            Ok((len, _)) => self.ended |= len == 0,
            Err(Errno::AGAIN | Errno::NOTCONN) => {}
            Err(_) => self.ended = true,
        }
        self.ended
    }
}

epicserver_link::conformance!(mod epoll, over(Form::Epoll));
epicserver_link::conformance!(mod uring, over(Form::Uring));
