//! A bare TCP connection over loopback between two processes: what the kernel charges for bytes.
//!
//! Messages have no header at all: 64 bytes here are 64 bytes of payload. Ours carry a header and who
//! calls whom beside theirs, so a ratio contains the price of that too.
//!
//! # Not here
//! Requests, several at a time: `tokio_rpc`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::case::{Failure, Round, Sample};
use crate::peer::{self, Peer};

pub(crate) const PEER: &str = "raw_tcp";
/// What the receiver of a stream says for each message, in bytes.
const RECEIPT: usize = 64;
/// Bytes sent between two looks at the clock.
const LAP_BYTES: usize = 32 << 20;
/// For how long `Waiting::Yield` yields.
const YIELD: Duration = Duration::from_micros(50);

/// How both sides wait for bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    /// Asking again at once, without end.
    Spin,
    /// In the kernel, at once.
    Block,
    /// Yielding for as long as our idle policy `power` does, then in the kernel.
    Yield,
}

impl Waiting {
    const ALL: [(&'static str, Self); 3] =
        [("spin", Self::Spin), ("block", Self::Block), ("yield", Self::Yield)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, waiting)| *waiting == self).map_or("", |(name, _)| name)
    }
}

/// One end of a connection.
struct Wire {
    stream: TcpStream,
    waiting: Waiting,
}

impl Wire {
    fn new(stream: TcpStream, waiting: Waiting) -> Result<Self, Failure> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(waiting != Waiting::Block)?;
        Ok(Self { stream, waiting })
    }

    /// Reads until `bytes` are full; `false` if the other side has gone.
    fn fill(&mut self, mut bytes: &mut [u8]) -> Result<bool, Failure> {
        while !bytes.is_empty() {
            match self.read(bytes)? {
                0 => return Ok(false),
                count => bytes = bytes.get_mut(count..).unwrap_or_default(),
            }
        }
        Ok(true)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Failure> {
        let mut waits_since = None;
        loop {
            match self.stream.read(bytes) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            match self.waiting {
                Waiting::Spin | Waiting::Block => std::hint::spin_loop(),
                Waiting::Yield => {
                    let since = *waits_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < YIELD {
                        std::thread::yield_now();
                    } else {
                        self.wait_for(PollFlags::IN)?;
                    }
                }
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => match self.waiting {
                    Waiting::Spin | Waiting::Block => std::hint::spin_loop(),
                    Waiting::Yield => self.wait_for(PollFlags::OUT)?,
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait_for(&self, what: PollFlags) -> Result<(), Failure> {
        poll(&mut [PollFd::from_borrowed_fd(self.stream.as_fd(), what)], None)?;
        Ok(())
    }
}

/// A connection and the process at its other end.
struct Pair {
    wire: Wire,
    _peer: Peer,
}

/// To a peer that echoes messages of `size` bytes (`mode` is `echo`) or acknowledges them (`receipt`).
fn connect(round: &Round, mode: &str, size: usize, waiting: Waiting) -> Result<Pair, Failure> {
    let args = [mode, &size.to_string(), waiting.name()];
    let peer = Peer::start(PEER, round.cpus[1], &args)?;
    let port = peer.address.parse()?;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    Ok(Pair { wire: Wire::new(stream, waiting)?, _peer: peer })
}

/// Nanoseconds from a message of `size` bytes to its echo of as many.
pub(crate) fn ping_pong(round: &Round, size: usize, waiting: Waiting) -> Result<Sample, Failure> {
    let Pair { mut wire, _peer } = connect(round, "echo", size, waiting)?;
    let (message, mut echo) = (vec![1; size], vec![0; size]);
    let mut laps = round.laps();
    while laps.begin() {
        wire.send(&message)?;
        if !wire.fill(&mut echo)? {
            return Err("the peer has gone".into());
        }
        laps.end_one()?;
    }
    laps.time()
}

/// MiB a second in messages of `size` bytes, each acknowledged, `in_flight` at a time: the faster of
/// spinning and blocking.
pub(crate) fn stream(round: &Round, size: usize, in_flight: usize) -> Result<Sample, Failure> {
    let spun = stream_by(round, size, in_flight, Waiting::Spin)?;
    let blocked = stream_by(round, size, in_flight, Waiting::Block)?;
    Ok(if spun.value > blocked.value { spun } else { blocked })
}

fn stream_by(
    round: &Round,
    size: usize,
    in_flight: usize,
    waiting: Waiting,
) -> Result<Sample, Failure> {
    let Pair { mut wire, _peer } = connect(round, "receipt", size, waiting)?;
    let (message, mut receipt) = (vec![1; size], [0; RECEIPT]);
    let count = (LAP_BYTES / size).max(in_flight);
    let mut laps = round.laps();
    while laps.begin() {
        let mut sent = 0;
        for done in 0..count {
            while sent < count && sent - done < in_flight {
                wire.send(&message)?;
                sent += 1;
            }
            if !wire.fill(&mut receipt)? {
                return Err("the peer has gone".into());
            }
        }
        laps.end(u32::try_from(count)?);
    }
    Ok(laps.rate()?.mib_a_second(size))
}

/// Is the other end: echoes or acknowledges one connection's messages.
pub(crate) fn serve(args: &[String]) -> Result<(), Failure> {
    let mode: String = peer::argument(args, 0)?;
    let mut message = vec![0; peer::argument(args, 1)?];
    let name: String = peer::argument(args, 2)?;
    let (_, waiting) =
        *Waiting::ALL.iter().find(|(known, _)| *known == name).ok_or("no such waiting")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    peer::announce(&listener.local_addr()?.port().to_string())?;
    let mut wire = Wire::new(listener.accept()?.0, waiting)?;
    let echo = mode == "echo";
    while wire.fill(&mut message)? {
        wire.send(if echo { &message } else { &[1; RECEIPT] })?;
    }
    Ok(())
}
