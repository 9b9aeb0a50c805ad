//! Transfers: messages too long for one frame, cut into chunks beside which others pass.
//!
//! The first chunk announces a transfer in the order of its lane; the receiver joins the chunks and
//! treats the whole as if it had come in one frame. Only so many bytes of all transfers of a lane are
//! under way at a time, so that a small message waits behind a bounded number of them: behind few while
//! there are such messages, and behind more, for the sake of speed, while there are none.
//!
//! # Invariants
//! - **X1** The chunks of one transfer leave in order, and transfers of one lane take turns.
//! - **X2** At most [`Pace::in_flight`] bytes of a lane's transfers have been sent and not been taken in; and
//!   [`BESIDE_BYTES`] when the last of them was sent, if a message had passed them shortly before.
//! - **X3** A receiver holds at most [`TRANSFERS_MAX`] unfinished transfers of a peer's shard, each
//!   as long as its first chunk said and no longer than a message may be. Memory is taken as bytes come.
//!
//! # Not here
//! The bytes that are sent: the shard cuts them out as it is told here. Which calls wait for a transfer
//! to end: the shard that made them holds them back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use epicserver_wire::frame::{FRAME_ALIGN, Frame, Part};
use epicserver_wire::header::{Header, Violation};
use epicserver_wire::limits::MESSAGE_BYTES_MAX;
use epicserver_wire::rkyv::util::AlignedVec;
use epicserver_wire::{ShardId, Token};

use crate::spares::Spares;

/// Bytes of one chunk, where slots are large enough.
pub const CHUNK_BYTES: usize = 32 << 10;
/// Bytes of a lane's transfers that may be under way.
pub const IN_FLIGHT_BYTES: usize = 512 << 10;
/// The same while other messages pass the transfers. At 2 GiB/s it is worth 30 us, about what a small
/// call takes by itself.
pub const BESIDE_BYTES: usize = 64 << 10;
/// Bytes of transfers after which nobody is expected to pass them any more.
const LONELY_BYTES: usize = 4 << 20;
/// Bodies of a lane that may be under way where a link takes them from where they lie.
const BODIES_IN_FLIGHT: usize = 4;
/// Transfers of one lane that may have begun; further ones wait.
pub const TRANSFERS_MAX: usize = 16;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(FRAME_ALIGN), "chunks are cut where padding ends");
const _: () = assert!(CHUNK_BYTES <= BESIDE_BYTES, "a chunk must fit what may be under way");
const _: () = assert!(BESIDE_BYTES <= IN_FLIGHT_BYTES, "it is the narrower of the two");

/// How fast a link carries transfers while nobody else has anything to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Bytes of one chunk, at most.
    pub chunk: usize,
    /// Bytes of a lane's transfers that may be under way.
    pub in_flight: usize,
}

impl Pace {
    /// Over a link that carries chunks in its slots.
    pub const SLOTS: Self = Self { chunk: CHUNK_BYTES, in_flight: IN_FLIGHT_BYTES };

    /// Over a link that takes bodies of `body_bytes` from where they lie: each costs a round trip, so chunks are as
    /// long as that, and some are under way at a time. If it takes none, they go in its slots.
    #[must_use]
    pub fn of_bodies(body_bytes: usize) -> Self {
        let chunk = body_bytes / FRAME_ALIGN * FRAME_ALIGN;
        match chunk > CHUNK_BYTES {
            true => Self { chunk, in_flight: BODIES_IN_FLIGHT * chunk },
            false => Self::SLOTS,
        }
    }

    /// Whether chunks leave as bodies.
    #[must_use]
    pub fn is_of_bodies(self) -> bool {
        self != Self::SLOTS
    }
}

/// One chunk that may leave now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Which transfer.
    pub transfer: Token,
    /// Where its bytes lie in the message.
    pub offset: u32,
    /// How long the message is.
    pub total: u32,
    /// How many there are.
    pub len: u32,
    /// Whether it is the last one.
    pub last: bool,
}

#[derive(Debug)]
struct Sending {
    transfer: Token,
    total: u32,
    offset: u32,
}

/// The transfers that one lane sends.
#[derive(Debug)]
pub struct Outgoing {
    pace: Pace,
    waiting: VecDeque<Sending>,
    turn: VecDeque<Sending>,
    in_flight: usize,
    /// Bytes that leave with company expected.
    company: usize,
    serial: u32,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::new(Pace::SLOTS)
    }
}

impl Outgoing {
    /// Those of a lane over a link of this pace.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        let (waiting, turn) = (VecDeque::new(), VecDeque::new());
        Self { pace, waiting, turn, in_flight: 0, company: 0, serial: 0 }
    }

    /// Begins the transfer of a message of `total` bytes, padding included; its number is given.
    pub fn begin(&mut self, total: u32) -> Token {
        let transfer = Token::new(self.serial, 0);
        self.serial = self.serial.wrapping_add(1);
        self.waiting.push_back(Sending { transfer, total, offset: 0 });
        transfer
    }

    /// Another message has left by the same link.
    pub fn passed(&mut self) {
        self.company = LONELY_BYTES;
    }

    /// Whether anything is left to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.turn.is_empty()
    }

    /// Whether it can be forgotten: nothing is left to send, all was taken in, and nobody is expected to
    /// pass what comes next.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_empty() && self.in_flight == 0 && self.company == 0
    }

    /// How many transfers have something left to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.turn.len()
    }

    /// Whether a chunk may leave now (**X2**).
    #[must_use]
    pub fn may_send(&self) -> bool {
        let Pace { chunk, in_flight } = self.now();
        !self.is_empty() && self.in_flight + chunk <= in_flight
    }

    /// The pace now: narrow beside other messages.
    fn now(&self) -> Pace {
        let beside = Pace { chunk: CHUNK_BYTES, in_flight: BESIDE_BYTES };
        if self.company > 0 { beside } else { self.pace }
    }

    /// The next chunk of at most `bytes_max` bytes (**X1**), if one may leave now (**X2**).
    pub fn next(&mut self, bytes_max: usize) -> Option<Chunk> {
        if !self.may_send() {
            return None;
        }
        if self.turn.len() < TRANSFERS_MAX {
            self.turn.extend(self.waiting.pop_front());
        }
        let mut sending = self.turn.pop_front()?;
        let size = self.now().chunk.min(bytes_max / FRAME_ALIGN * FRAME_ALIGN).max(FRAME_ALIGN);
        let (offset, total) = (sending.offset, sending.total);
        let len = u32::try_from(size).ok()?.min(total - offset);
        sending.offset += len;
        let last = sending.offset == total;
        self.in_flight += len as usize;
        self.company = self.company.saturating_sub(len as usize);
        let transfer = sending.transfer;
        if !last {
            self.turn.push_back(sending);
        }
        Some(Chunk { transfer, offset, total, len, last })
    }

    /// The receiver has taken in so many bytes.
    ///
    /// # Errors
    /// If so many were not under way.
    pub fn taken(&mut self, bytes: usize) -> Result<(), Violation> {
        let left = self.in_flight.checked_sub(bytes);
        self.in_flight = left.ok_or(Violation::Unexpected("more chunks taken in than sent"))?;
        Ok(())
    }
}

/// A transfer that has begun and not ended.
#[derive(Debug)]
struct Receiving {
    total: usize,
    bytes: AlignedVec<FRAME_ALIGN>,
}

impl Receiving {
    /// Adds bytes that came, and takes as much memory as has come before where it lacks some (**X3**).
    fn extend(&mut self, bytes: &[u8]) {
        let len = self.bytes.len() + bytes.len();
        if len > self.bytes.capacity() {
            let wanted = self.total.min(2 * len);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }
}

/// The transfers that a shard receives over one link.
#[derive(Debug, Default)]
pub struct Incoming {
    open: BTreeMap<(ShardId, Token), Receiving>,
    taken: BTreeMap<ShardId, u32>,
    spares: Arc<Spares>,
}

impl Incoming {
    /// With memory from `spares`, to which it goes back.
    #[must_use]
    pub fn new(spares: Arc<Spares>) -> Self {
        Self { spares, ..Self::default() }
    }

    /// A chunk came. If it was the last of its transfer, the message is given.
    ///
    /// # Errors
    /// If it does not fit what came before (**X1**, **X3**).
    pub fn chunk(&mut self, header: &Header, part: Part<'_>) -> Result<Option<Frame>, Violation> {
        let bytes = part.bytes();
        let wrong = Violation::Unexpected("a chunk that does not fit its transfer");
        let total = header.method as usize;
        if total > MESSAGE_BYTES_MAX || !total.is_multiple_of(FRAME_ALIGN) || bytes.is_empty() {
            return Err(wrong);
        }
        let key = (header.from, header.token);
        if header.left == 0 {
            let begun = self.open.keys().filter(|(from, _)| *from == header.from).count();
            if begun >= TRANSFERS_MAX || self.open.contains_key(&key) {
                return Err(Violation::Unexpected("a transfer too many"));
            }
            if bytes.len() == total {
                // It is whole as it came.
                *self.taken.entry(header.from).or_default() += header.method;
                return Ok(Some(part.share()));
            }
            // X3: what was announced may never come, so nothing new is taken for it.
            self.open.insert(key, Receiving { total, bytes: self.spares.take(total) });
        }
        let message = self.open.get_mut(&key).ok_or(wrong)?;
        let fits = message.total == total && message.bytes.len() == header.left as usize;
        if !fits || message.bytes.len() + bytes.len() > total {
            return Err(wrong);
        }
        message.extend(bytes);
        *self.taken.entry(header.from).or_default() += u32::try_from(bytes.len()).unwrap_or(0);
        if message.bytes.len() < total {
            return Ok(None);
        }
        Ok(self.open.remove(&key).map(|message| self.spares.frame(message.bytes)))
    }

    /// A shard that is to be told how many bytes of its transfers were taken in.
    pub fn next_taken(&mut self) -> Option<(ShardId, u32)> {
        self.taken.pop_first()
    }

    /// The shard was not told after all.
    pub fn took(&mut self, shard: ShardId, bytes: u32) {
        *self.taken.entry(shard).or_default() += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::header::Kind;

    const FROM: ShardId = ShardId::new(3);

    fn header(chunk: &Chunk) -> Header {
        let header = Header::new(Kind::Chunk, FROM, ShardId::new(0));
        Header { token: chunk.transfer, method: chunk.total, left: chunk.offset, ..header }
    }

    fn take(inc: &mut Incoming, header: &Header, bytes: &[u8]) -> Result<Option<Frame>, Violation> {
        inc.chunk(header, Part::all(&Frame::copy_of(bytes)))
    }

    fn bytes(bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap()
    }

    #[test]
    fn x1_transfers_take_turns_and_arrive_whole() {
        let (mut out, mut inc) = (Outgoing::default(), Incoming::default());
        out.begin(bytes(3 * CHUNK_BYTES));
        out.begin(16);
        let (mut arrived, mut order) = (Vec::new(), Vec::new());
        while let Some(chunk) = out.next(usize::MAX) {
            order.push(chunk.transfer.index());
            let part = vec![u8::try_from(chunk.transfer.index()).unwrap(); chunk.len as usize];
            let whole = take(&mut inc, &header(&chunk), &part).unwrap();
            arrived.extend(whole.map(|whole| (whole.bytes()[0], whole.len())));
        }
        assert_eq!(order, [0, 0, 1, 0], "the second begins when it is its turn");
        assert_eq!(arrived, [(1, 16), (0, 3 * CHUNK_BYTES)]);
        assert_eq!(inc.next_taken(), Some((FROM, bytes(3 * CHUNK_BYTES + 16))));
    }

    #[test]
    fn x2_what_was_not_taken_in_holds_up_the_rest() {
        let mut out = Outgoing::default();
        out.begin(bytes(2 * IN_FLIGHT_BYTES));
        assert_eq!(send_all(&mut out), IN_FLIGHT_BYTES);
        out.taken(CHUNK_BYTES).unwrap();
        assert!(out.next(usize::MAX).is_some());
        assert!(out.next(usize::MAX).is_none());
        assert!(out.taken(2 * IN_FLIGHT_BYTES).is_err());
    }

    fn send_all(out: &mut Outgoing) -> usize {
        std::iter::from_fn(|| out.next(usize::MAX)).map(|chunk| chunk.len as usize).sum()
    }

    #[test]
    fn x2_beside_other_messages_less_is_under_way_until_they_have_ceased() {
        let mut out = Outgoing::default();
        out.begin(bytes(MESSAGE_BYTES_MAX));
        out.passed();
        let mut sent = 0;
        while sent < LONELY_BYTES {
            let burst = send_all(&mut out);
            sent += burst;
            if sent < LONELY_BYTES {
                assert_eq!(burst, BESIDE_BYTES);
                out.taken(burst).unwrap();
            }
        }
        assert!(out.in_flight > BESIDE_BYTES, "nobody has passed for long");
        assert_eq!(out.in_flight, IN_FLIGHT_BYTES);
    }

    #[test]
    fn x2_a_link_that_takes_bodies_has_longer_chunks_but_not_beside_other_messages() {
        let body = 1 << 20;
        let mut out = Outgoing::new(Pace::of_bodies(body + 7));
        out.begin(bytes(MESSAGE_BYTES_MAX));
        assert_eq!(out.next(body).map(|chunk| chunk.len), Some(bytes(body)));
        assert_eq!(send_all(&mut out), (BODIES_IN_FLIGHT - 1) * body);
        out.taken(BODIES_IN_FLIGHT * body).unwrap();
        out.passed();
        assert_eq!(out.next(body).map(|chunk| chunk.len), Some(bytes(CHUNK_BYTES)));
        assert_eq!(Pace::of_bodies(CHUNK_BYTES), Pace::SLOTS);
    }

    #[test]
    fn a_message_that_comes_in_one_chunk_is_not_copied() {
        let mut inc = Incoming::default();
        let frame = Frame::copy_of(&[7; 64]);
        let header = Header { method: 64, ..Header::new(Kind::Chunk, FROM, ShardId::new(0)) };
        let whole = inc.chunk(&header, Part::all(&frame)).unwrap().unwrap();
        assert_eq!(whole.bytes().as_ptr(), frame.bytes().as_ptr());
        assert_eq!(inc.next_taken(), Some((FROM, 64)));
    }

    #[test]
    fn x3_memory_is_taken_as_bytes_come_and_not_as_they_are_announced() {
        let mut inc = Incoming::default();
        let header = Header::new(Kind::Chunk, FROM, ShardId::new(0));
        let total = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
        assert!(take(&mut inc, &Header { method: total, ..header }, &[0; 16]).unwrap().is_none());
        let held: usize = inc.open.values().map(|message| message.bytes.capacity()).sum();
        assert!(held <= 64, "{held} bytes for 16");
    }

    #[test]
    fn x3_chunks_that_do_not_fit_are_refused() {
        let mut inc = Incoming::default();
        let first =
            Chunk { transfer: Token::new(1, 0), offset: 0, total: 64, len: 32, last: false };
        let head = header(&first);
        assert!(take(&mut inc, &Header { left: 32, ..head }, &[0; 16]).is_err(), "never begun");
        assert!(take(&mut inc, &head, &[0; 32]).unwrap().is_none());
        assert!(take(&mut inc, &head, &[0; 32]).is_err(), "begun twice");
        assert!(take(&mut inc, &Header { left: 16, ..head }, &[0; 16]).is_err(), "out of order");
        assert!(take(&mut inc, &Header { left: 32, ..head }, &[0; 64]).is_err(), "too long");
        for n in 2..=u32::try_from(TRANSFERS_MAX).unwrap() {
            let begun = Header { token: Token::new(n, 0), ..head };
            assert!(take(&mut inc, &begun, &[0; 32]).unwrap().is_none());
        }
        assert!(take(&mut inc, &Header { token: Token::new(99, 0), ..head }, &[0; 32]).is_err());
    }
}
