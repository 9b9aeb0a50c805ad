//! Rings in memory that two processes have mapped, nobody sleeping: what a machine charges for a
//! message, or for a stream of bytes, that no kernel carries.
//!
//! # Invariants
//! - **B8** A slot is written only when its reader has said that it was read, and read only when its
//!   stamp says that it was written.
//!
//! # Not here
//! Waking who sleeps, peers that cannot be trusted: whoever writes this by hand leaves both out.

use std::fs::File;
use std::hint::spin_loop;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::case::{Failure, Round, Sample};
use crate::peer::{self, Peer};

pub(crate) const PEER: &str = "raw_ring";
const PAYLOAD: usize = 64;
/// A pair of cache lines: the stamp in one, the payload in the other.
const SLOT: usize = 128;
const SLOTS: usize = 64;
/// Slots read between two times that the reader says so.
const READ_BATCH: usize = 16;
/// One ring: how many slots were read, then the slots.
const RING: usize = SLOT + SLOTS * SLOT;
const OPS: u32 = 1_000;
/// The byte ring: how much was written, read, and which messages were taken; then the bytes.
const BYTES: usize = 4 << 20;
const BYTES_AT: usize = 4096;
/// Most that is copied between two times that the other side is told.
const PIECE: usize = 64 << 10;
/// Bytes sent between two looks at the clock.
const LAP_BYTES: usize = 64 << 20;
const MAPPED: usize = BYTES_AT + BYTES;
const _: () = assert!(2 * RING <= MAPPED);

/// Both processes' memory, and the process at the other end.
struct Pair {
    memory: MmapRegion,
    _peer: Peer,
}

fn pair(round: &Round, mode: &str, size: usize) -> Result<Pair, Failure> {
    let file = File::from(memfd_create("raw_ring", MemfdFlags::CLOEXEC)?);
    file.set_len(MAPPED as u64)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let peer = Peer::start(PEER, round.cpus[1], &[&path, mode, &size.to_string()])?;
    Ok(Pair { memory: MmapRegion::from_file(FileOffset::new(file, 0), MAPPED)?, _peer: peer })
}

/// One end of a ring of slots.
struct Ring<'a> {
    slots: Vec<(&'a AtomicUsize, VolatileSlice<'a>)>,
    read: &'a AtomicUsize,
    /// The next message, counted from 0.
    next: usize,
}

impl<'a> Ring<'a> {
    fn at(memory: &'a MmapRegion, offset: usize) -> Result<Self, Failure> {
        let slot = |index: usize| {
            let at = offset + SLOT + index * SLOT;
            Ok::<_, Failure>((memory.get_atomic_ref(at)?, memory.get_slice(at + 64, PAYLOAD)?))
        };
        let slots = (0..SLOTS).map(slot).collect::<Result<_, _>>()?;
        Ok(Self { slots, read: memory.get_atomic_ref(offset)?, next: 0 })
    }

    fn push(&mut self, payload: &[u8; PAYLOAD]) {
        // B8. Stamps count from 1: fresh memory holds no message.
        while self.next - self.read.load(Ordering::Acquire) >= SLOTS {
            spin_loop();
        }
        let (stamp, slot) = &self.slots[self.next % SLOTS];
        slot.copy_from(payload);
        self.next += 1;
        stamp.store(self.next, Ordering::Release);
    }

    fn pop(&mut self, payload: &mut [u8; PAYLOAD]) {
        let (stamp, slot) = &self.slots[self.next % SLOTS];
        while stamp.load(Ordering::Acquire) != self.next + 1 {
            spin_loop();
        }
        slot.copy_to(payload);
        self.next += 1;
        if self.next.is_multiple_of(READ_BATCH) {
            self.read.store(self.next, Ordering::Release);
        }
    }
}

/// Nanoseconds from a message of 64 bytes to its echo.
pub(crate) fn ping_pong(round: &Round) -> Result<Sample, Failure> {
    let Pair { memory, _peer } = pair(round, "echo", PAYLOAD)?;
    let (mut there, mut back) = (Ring::at(&memory, 0)?, Ring::at(&memory, RING)?);
    let (message, mut echo) = ([1; PAYLOAD], [0; PAYLOAD]);
    let mut laps = round.laps();
    while laps.begin() {
        for _ in 0..OPS {
            there.push(&message);
            back.pop(&mut echo);
        }
        laps.end(OPS);
    }
    laps.time()
}

/// One end of a ring of bytes.
struct Stream<'a> {
    written: &'a AtomicUsize,
    read: &'a AtomicUsize,
    taken: &'a AtomicUsize,
    bytes: VolatileSlice<'a>,
    at: usize,
}

impl<'a> Stream<'a> {
    fn of(memory: &'a MmapRegion) -> Result<Self, Failure> {
        Ok(Self {
            written: memory.get_atomic_ref(0)?,
            read: memory.get_atomic_ref(SLOT)?,
            taken: memory.get_atomic_ref(2 * SLOT)?,
            bytes: memory.get_slice(BYTES_AT, BYTES)?,
            at: 0,
        })
    }

    fn write(&mut self, message: &[u8]) -> Result<(), Failure> {
        // A piece ends with the ring at the latest, since both are powers of two.
        for piece in message.chunks(PIECE) {
            while self.at + piece.len() - self.read.load(Ordering::Acquire) > BYTES {
                spin_loop();
            }
            self.bytes.subslice(self.at % BYTES, piece.len())?.copy_from(piece);
            self.at += piece.len();
            self.written.store(self.at, Ordering::Release);
        }
        Ok(())
    }

    fn read(&mut self, message: &mut [u8]) -> Result<(), Failure> {
        for piece in message.chunks_mut(PIECE) {
            while self.written.load(Ordering::Acquire) < self.at + piece.len() {
                spin_loop();
            }
            self.bytes.subslice(self.at % BYTES, piece.len())?.copy_to(piece);
            self.at += piece.len();
            self.read.store(self.at, Ordering::Release);
        }
        Ok(())
    }
}

/// MiB a second in messages of `size` bytes, a power of two, at most `in_flight` not yet taken.
pub(crate) fn stream(round: &Round, size: usize, in_flight: usize) -> Result<Sample, Failure> {
    let Pair { memory, _peer } = pair(round, "stream", size)?;
    let mut stream = Stream::of(&memory)?;
    let message = vec![1; size];
    let count = u32::try_from(LAP_BYTES / size)?;
    let taken = stream.taken;
    let wait = |until: usize| {
        while taken.load(Ordering::Acquire) < until {
            spin_loop();
        }
    };
    let mut sent: usize = 0;
    let mut laps = round.laps();
    while laps.begin() {
        for _ in 0..count {
            wait((sent + 1).saturating_sub(in_flight));
            stream.write(&message)?;
            sent += 1;
        }
        wait(sent);
        laps.end(count);
    }
    Ok(laps.rate()?.mib_a_second(size))
}

/// Is the other end. It is ended by the process that started it: nothing here says when.
pub(crate) fn serve(args: &[String]) -> Result<(), Failure> {
    let path: String = peer::argument(args, 0)?;
    let mode: String = peer::argument(args, 1)?;
    let size = peer::argument(args, 2)?;
    let file = File::options().read(true).write(true).open(path)?;
    let memory = MmapRegion::from_file(FileOffset::new(file, 0), MAPPED)?;
    peer::announce("mapped")?;
    if mode == "echo" { echo(&memory) } else { take(&memory, size) }
}

fn echo(memory: &MmapRegion) -> Result<(), Failure> {
    let (mut there, mut back) = (Ring::at(memory, 0)?, Ring::at(memory, RING)?);
    let mut message = [0; PAYLOAD];
    while back.next < usize::MAX {
        there.pop(&mut message);
        back.push(&message);
    }
    Ok(())
}

fn take(memory: &MmapRegion, size: usize) -> Result<(), Failure> {
    let mut stream = Stream::of(memory)?;
    let mut message = vec![0; size];
    for taken in 1..=usize::MAX {
        stream.read(&mut message)?;
        stream.taken.store(taken, Ordering::Release);
    }
    Ok(())
}
