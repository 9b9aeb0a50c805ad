//! What every form of the driver has to do, asked of each that this kernel has.
//!
//! # Not here
//! What one form does in its own way.

mod ends;
mod streams;
mod watch;

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::Duration;

use epicserver_link::Parcel;
use epicserver_link::driver::{Completion, Done, Driver, Form, Handle, Owner, Receive};
use epicserver_wire::frame::{Frame, FrameMut};

use super::open;

/// Rounds of about a millisecond in which something has to happen.
const ROUNDS: usize = 20_000;
const OWNER: Owner = Owner(3);

/// The forms that can be tried here. One that is missing is skipped aloud, or is a failure.
pub(crate) fn forms() -> Vec<Form> {
    let mut forms = vec![Form::Epoll];
    match open(Some(Form::Uring)) {
        Ok(_) => forms.push(Form::Uring),
        Err(error) => {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
            assert!(
                !set("EPIC_REQUIRE_ALL") || set("EPIC_NO_URING"),
                "{error}: {why:?}; EPIC_NO_URING=1 says that this run is the one without"
            );
            eprintln!(
                "SKIPPED: the io_uring driver: {error}: {why:?}; it needs Linux 6.1, \
                 `sysctl kernel.io_uring_disabled=0`, and a seccomp profile that allows it"
            );
        }
    }
    forms
}

fn each_form(run: impl Fn(Form)) {
    for form in forms() {
        eprintln!("{form}");
        run(form);
    }
}

/// A driver, and what it has said that nobody has taken yet.
struct End {
    driver: Box<dyn Driver>,
    done: Vec<Completion>,
}

impl End {
    fn new(form: Form) -> Self {
        let driver = open(Some(form)).unwrap();
        assert_eq!(driver.form(), form);
        Self { driver, done: Vec::new() }
    }

    fn adopt(&mut self, socket: impl Into<OwnedFd>) -> Handle {
        self.driver.adopt(OWNER, socket.into(), Receive::Stream).unwrap()
    }

    fn round(&mut self) {
        // What was said before must not shorten the wait.
        let mut done = Vec::new();
        self.driver.wait(Some(Duration::from_millis(1)), &mut done).unwrap();
        self.done.append(&mut done);
    }

    /// Takes the first completion of `handle` that `pick` wants.
    fn take<R>(&mut self, handle: Handle, pick: impl Fn(&Done) -> Option<R>) -> Option<R> {
        let wanted = |one: &Completion| one.handle == handle && pick(&one.done).is_some();
        let at = self.done.iter().position(wanted)?;
        let one = self.done.remove(at);
        assert_eq!(one.owner, OWNER);
        pick(&one.done)
    }

    /// Goes round until `is` says something.
    fn until<R>(&mut self, mut is: impl FnMut(&mut Self) -> Option<R>) -> R {
        for _ in 0..ROUNDS {
            if let Some(found) = is(self) {
                return found;
            }
            self.round();
        }
        let some = &self.done[..self.done.len().min(8)];
        panic!("it never came; what came: {}, {some:?}", self.done.len());
    }

    fn until_closed(&mut self, handle: Handle) -> Option<std::io::ErrorKind> {
        let kind = self.until(|end| end.take(handle, closed));
        self.quiet_rounds(20);
        assert!(self.take(handle, closed).is_none(), "R2: closed twice");
        kind
    }

    /// Goes round a few times: what must not happen has had its chance.
    fn quiet_rounds(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.round();
        }
    }

    /// All bytes that `handle` has received and nobody has taken.
    fn received(&mut self, handle: Handle) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(frame) = self.take(handle, received) {
            bytes.extend_from_slice(frame.bytes());
        }
        bytes
    }
}

fn received(done: &Done) -> Option<Frame> {
    match done {
        Done::Received(frame) => Some(frame.clone()),
        Done::Accepted(_) | Done::Connected | Done::Sent(_) | Done::Readable | Done::Closed(_) => {
            None
        }
    }
}

fn sent(done: &Done) -> Option<usize> {
    match done {
        Done::Sent(parcels) => Some(*parcels),
        Done::Accepted(_)
        | Done::Connected
        | Done::Received(_)
        | Done::Readable
        | Done::Closed(_) => None,
    }
}

fn closed(done: &Done) -> Option<Option<std::io::ErrorKind>> {
    match done {
        Done::Closed(error) => Some(error.as_ref().map(std::io::Error::kind)),
        Done::Accepted(_)
        | Done::Connected
        | Done::Received(_)
        | Done::Readable
        | Done::Sent(_) => None,
    }
}

/// What carries a stream.
#[derive(Clone, Copy, Debug)]
enum Kind {
    V4,
    V6,
    Unix,
}

const KINDS: [Kind; 3] = [Kind::V4, Kind::V6, Kind::Unix];

/// Two ends of a stream.
fn pair(kind: Kind) -> (OwnedFd, OwnedFd) {
    let address = match kind {
        Kind::V4 => SocketAddr::from(([127, 0, 0, 1], 0)),
        Kind::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        Kind::Unix => {
            let (one, other) = UnixStream::pair().unwrap();
            return (one.into(), other.into());
        }
    };
    let (one, other) = tcp_at(address);
    (one.into(), other.into())
}

fn tcp_at(address: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    (one, other)
}

fn tcp() -> (TcpStream, TcpStream) {
    tcp_at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// What every stream here says over and over: of a prime length, so that no part that is lost, doubled
/// or moved goes unseen.
static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let byte = |at: u32| at.wrapping_mul(0x9e37_79b1).to_le_bytes()[3];
    (0..131_071).map(byte).collect()
});

/// The bytes of a stream from `from` on, in pieces.
fn stream(from: usize) -> impl Iterator<Item = &'static [u8]> {
    let first = &STREAM[from % STREAM.len()..];
    std::iter::once(first).chain(std::iter::repeat(&STREAM[..]))
}

/// `len` bytes of a stream from `from` on.
fn bytes(from: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    for piece in stream(from) {
        let left = len - bytes.len();
        bytes.extend_from_slice(&piece[..left.min(piece.len())]);
        if bytes.len() == len {
            break;
        }
    }
    bytes
}

/// Whether `bytes` are those of a stream from `from` on.
fn is_stream(bytes: &[u8], from: usize) -> bool {
    let mut left = bytes;
    for piece in stream(from) {
        let (now, later) = left.split_at(left.len().min(piece.len()));
        if now != &piece[..now.len()] {
            return false;
        }
        left = later;
        if left.is_empty() {
            break;
        }
    }
    true
}

fn parcel(from: usize, len: usize) -> Parcel {
    let mut head = FrameMut::detached(len);
    assert!(head.extend(&bytes(from, len)));
    Parcel::of(head)
}

#[test]
fn the_stream_of_these_tests_shows_what_is_lost() {
    assert!(is_stream(&bytes(131_060, 300_000), 131_060));
    assert!(!is_stream(&bytes(16, 100), 0));
    assert!(!is_stream(&bytes(65_536, 100), 0));
}

#[test]
fn without_a_wish_there_is_the_best_form() {
    let best = forms().pop().unwrap();
    assert_eq!(open(None).unwrap().form(), best);
}
