//! Shared memory passes the suite of all transports, on every form of the driver that there is.
//!
//! Its hostile peers are written from the tables in the crate's `layout` and `greeting` alone, so they
//! are a second account of both. They write the memory by its file, and need no mapping.
//!
//! # Not here
//! What is shared memory's own: greetings that fail, and words that lie. See the unit tests.

use std::any::Any;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use epicserver_link::conformance::{Lacks, Raw, Seat, Subject};
use epicserver_link::driver::{Form, Owner};
use epicserver_link::{Address, Event, Io, Transport};
use epicserver_shard::driver::{DriverError, open};
use epicserver_shm::{SCHEME, Shm};
use epicserver_wire::frame::FrameMut;
use epicserver_wire::header::{Header, Kind, append};
use epicserver_wire::{ShardId, Time};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A directory for the sockets of one subject, that goes with it.
struct Over {
    form: Form,
    dir: PathBuf,
    host: String,
}

/// Shared memory with drivers of `form`, or why there is none here.
fn over(form: Form) -> Result<Over, Lacks> {
    match open(Some(form)) {
        Ok(_) => {}
        // What the kernel says has a number.
        Err(DriverError::Unavailable { source, .. }) if source.raw_os_error().is_none() => {
            return Err(Lacks::Code(format!("there is no driver for {form}")));
        }
        Err(error) => return Err(Lacks::Machine(because(&error))),
    }
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(format!("epicserver-shm-suite-{process}-{next}"));
    let lacks = |error: std::io::Error| Lacks::Machine(format!("no directory: {error}"));
    std::fs::create_dir_all(&dir).map_err(lacks)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(lacks)?;
    Ok(Over { form, dir, host: host.trim().to_owned() })
}

fn because(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl Drop for Over {
    fn drop(&mut self) {
        // Left behind it harms nobody: its name is not used again.
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

impl Over {
    fn address(&self, name: &str) -> Address {
        Address::new(SCHEME, &format!("{}/{name}", self.host))
    }
}

impl Subject for Over {
    fn seat(&self) -> Seat {
        let driver = open(Some(self.form)).map_err(|error| because(&error));
        let driver = driver.unwrap_or_else(|error| panic!("{error}"));
        let seat = Seat::open(driver, |io| {
            Shm::listen(Owner(0), &self.dir, io).map(|shm| Box::new(shm) as Box<dyn Transport>)
        });
        seat.unwrap_or_else(|refused| panic!("{}", because(&refused)))
    }

    fn malformed(&self) -> Vec<Address> {
        let host = &self.host;
        let names = ["", "socket", "epic-../up", "epic-a/b", "epic-a.new"];
        let here = names.map(|name| format!("{host}/{name}"));
        let others = ["epic-a", "another-host/epic-a"].map(str::to_owned);
        let all = here.into_iter().chain(others).map(|rest| Address::new(SCHEME, &rest));
        all.chain([Address::new("pipe", &format!("{host}/epic-a"))]).collect()
    }

    fn nobody(&self) -> Address {
        self.address("epic-nobody")
    }

    /// A socket at which somebody listens and never looks.
    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        let name = "epic-silent";
        let listener = UnixListener::bind(self.dir.join(name)).ok()?;
        Some((self.address(name), Box::new(listener)))
    }

    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let (_, name) = to.rest().split_once('/')?;
        let socket = UnixStream::connect(self.dir.join(name)).ok()?;
        let memory = memory().ok()?;
        greet(&socket, &memory).ok()?;
        Some(Box::new(RawShm { socket, memory, cells: 0, ring: 0 }))
    }
}

const MAP_BYTES: u64 = 4096 + 2 * (1024 * 256 + (1 << 20));
/// Where what the dialler sends lies: its cells, and its bytes.
const CELLS_AT: u64 = 4096;
const RING_AT: u64 = CELLS_AT + 2 * 1024 * 256;
/// The longest piece that lies in its cell.
const IN_CELL_MAX: usize = 240;

fn memory() -> std::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = File::from(memfd_create("epicserver-shm-suite", flags)?);
    memory.set_len(MAP_BYTES)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

fn greet(socket: &UnixStream, memory: &File) -> std::io::Result<()> {
    let (version, bytes) = (1_u32, u32::try_from(MAP_BYTES).unwrap_or(0));
    let greeting = [&b"EPICSHM\0"[..], &version.to_le_bytes(), &bytes.to_le_bytes()].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [memory.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)), "the space is for one file");
    sendmsg(socket, &[IoSlice::new(&greeting)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A peer that was let in. What it writes is one piece, short or long, and a ring of the bell.
struct RawShm {
    socket: UnixStream,
    memory: File,
    /// Pieces, and bytes of those that lie in the byte ring.
    cells: u64,
    ring: u64,
}

impl RawShm {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let cell = CELLS_AT + self.cells % 1024 * 256;
        if bytes.len() <= IN_CELL_MAX {
            self.memory.write_all_at(bytes, cell + 16)?;
        } else {
            self.memory.write_all_at(bytes, RING_AT + self.ring)?;
            self.ring += bytes.len() as u64;
        }
        self.cells += 1;
        let head = (bytes.len() as u64) << 32 | self.cells;
        self.memory.write_all_at(&head.to_le_bytes(), cell)?;
        rustix::net::send(&self.socket, &[0], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }
}

impl Raw for RawShm {
    fn write(&mut self, bytes: &[u8]) {
        // The other end may have cut it off already.
        let _written = self.put(bytes);
    }

    fn has_ended(&mut self) -> bool {
        if self.socket.set_nonblocking(true).is_err() {
            return true;
        }
        match self.socket.read(&mut [0; 16]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}

epicserver_link::conformance!(mod epoll, over(Form::Epoll));
epicserver_link::conformance!(mod uring, over(Form::Uring));

/// Otherwise what the suite asks of hostile peers would be asked of greetings that fail.
#[test]
fn a_hostile_peer_is_let_in_and_heard() {
    let subject = match over(Form::Epoll) {
        Ok(subject) => subject,
        Err(lacks) => panic!("{lacks:?}"),
    };
    let Seat { mut transport, mut driver } = subject.seat();
    let mut raw = subject.raw(&transport.addresses()[0]).unwrap();
    let mut frame = FrameMut::detached(1024);
    let header = Header::new(Kind::Reply, ShardId::new(0), ShardId::new(0));
    assert!(append(&mut frame, &header, &[7; 800]));
    // One piece lies in the byte ring, the other in its cell.
    raw.write(frame.bytes());
    frame.set_len(0);
    assert!(append(&mut frame, &header, &[7; 8]));
    raw.write(frame.bytes());
    let (mut events, mut done, mut next_link) = (Vec::new(), Vec::new(), 0);
    for _ in 0..100 {
        driver.poll(&mut done).unwrap();
        let mut io = Io {
            now: Time::ZERO,
            driver: &mut *driver,
            events: &mut events,
            next_link: &mut next_link,
        };
        done.drain(..).for_each(|completion| transport.complete(&mut io, completion));
        transport.poll(&mut io);
    }
    assert!(matches!(events.remove(0), Event::Up { accepted: true, .. }), "{events:?}");
    let mut bytes = 0;
    for event in events {
        let Event::Frame { frame, .. } = event else { panic!("{event:?}") };
        bytes += frame.len();
    }
    assert_eq!(bytes, (32 + 800) + (32 + 16));
    assert!(!raw.has_ended(), "it is welcome");
    assert!(!raw.has_ended(), "and its link is up");
}
