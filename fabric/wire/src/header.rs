//! Messages: what one shard says to a shard of another node, and how it lies in a frame.
//!
//! A message is a core of 32 bytes, extensions that its flags announce, and a payload; it is padded
//! to a multiple of 16. Little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | version |
//! | 1 | kind |
//! | 2..4 | flags: bit 0, the callee follows; bit 1, sections follow; bit 2, the id of a request follows |
//! | 4..8 | bytes of the payload, padding not counted |
//! | 8..16 | token, or the number of a transfer, or of a view |
//! | 16..20 | method, or all bytes of a transfer, or the lower half of a view's number |
//! | 20..24 | deadline left, in units of 64 µs, rounded up; all ones: none. Or the offset of a chunk, or the upper half of a view's number |
//! | 24..26 | sending shard |
//! | 26..28 | receiving shard |
//! | 28..30 | messages that may be sent again |
//! | 30..32 | units of 256 bytes that may be sent again |
//!
//! The callee: its chain (16 bytes), the bytes of its pinned id (2), zeros (2), the view that the chain was
//! born under (4; 0: none), zeros (8), the pinned id, padded to 16. Sections: how many (8 bytes), 8 bytes each, padded to 16. The id of a request: 16 bytes.
//!
//! # Invariants
//! - **W12** [`Message::parse`] is the one place where bytes of a peer become types: hostile ones
//!   are a [`Violation`], nothing else.
//! - **W13** What [`append`] wrote, [`Message::parse`] reads as it was.
//!
//! # Not here
//! The payload's type. When what is sent.

use std::time::Duration;

use rkyv::ser::Positional as _;
use rkyv::util::AlignedVec;

use crate::codec::{Out, Unwritten};
use crate::frame::{FRAME_ALIGN, Frame, FrameMut, Part, padded};
use crate::limits::{CHAIN_SECTIONS_MAX, MESSAGE_BYTES_MAX};
use crate::{Born, ChainId, EntityId, MethodId, Path, SectionId, ShardId, Token};

/// The version of this layout.
pub const VERSION: u8 = 1;
/// Bytes of the core.
pub const CORE_BYTES: usize = 32;

const HAS_CALLEE: u16 = 1;
const HAS_SECTIONS: u16 = 1 << 1;
const HAS_REQUEST: u16 = 1 << 2;
const FLAGS: u16 = HAS_CALLEE | HAS_SECTIONS | HAS_REQUEST;
const REQUEST_BYTES: usize = 16;
const CALLEE_HEAD: usize = 32;
const DEADLINE_UNIT_NS: u64 = 64_000;
const CREDIT_UNIT: usize = 256;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A call; its arguments are the payload.
    Call = 1,
    /// A call that nobody waits for.
    Tell = 2,
    /// What a method returned.
    Reply = 3,
    /// Why a call has no reply: a `CallError` is the payload.
    Failed = 4,
    /// Nobody waits for a reply to the token any more.
    Cancel = 5,
    /// Nothing but the credit in the core.
    Credit = 6,
    /// A part of a message that is too long for one frame.
    Chunk = 7,
    /// Is anybody there?
    Ping = 8,
    /// Yes.
    Pong = 9,
    /// Nothing more will come.
    Goodbye = 10,
    /// A part of the handshake, of which the payload says more.
    Handshake = 11,
    /// A call that has not run: by the sender's view another node owns its callee.
    Moved = 12,
    /// The same of a call for whose reply nobody waits: it goes back whole.
    Returned = 13,
    /// What follows is said under this view; with [`ANSWER`](Header::ANSWER), an answer is wanted.
    Flush = 14,
    /// Of all that was said before a flush, nothing waits there that the sender must not run by this view.
    /// The payload lists the slots that it still empties.
    Flushed = 15,
    /// What the control thread of one node says to that of another.
    Control = 16,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::Call,
        Self::Tell,
        Self::Reply,
        Self::Failed,
        Self::Cancel,
        Self::Credit,
        Self::Chunk,
        Self::Ping,
        Self::Pong,
        Self::Goodbye,
        Self::Handshake,
        Self::Moved,
        Self::Returned,
        Self::Flush,
        Self::Flushed,
        Self::Control,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether it says for whom it is.
    #[must_use]
    pub fn has_callee(self) -> bool {
        matches!(self, Self::Call | Self::Tell | Self::Returned)
    }

    /// Whether the two ends of a link speak it, rather than two shards.
    #[must_use]
    pub fn is_of_the_link(self) -> bool {
        matches!(self, Self::Ping | Self::Pong | Self::Goodbye | Self::Handshake | Self::Control)
    }
}

/// What a peer's bytes are that no sound peer sends. It ends the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Another version of the layout.
    #[error("the peer speaks version {0} of the wire layout, not {VERSION}")]
    Version(u8),
    /// A kind of message that there is not.
    #[error("there is no kind {0} of message")]
    Kind(u8),
    /// Flags that there are not, or that do not go with the kind.
    #[error("the flags {0:#06x} do not fit the message")]
    Flags(u16),
    /// More bytes than a message may have.
    #[error("a message of {0} bytes is over the limit")]
    TooLong(usize),
    /// A message that ends beyond its frame.
    #[error("a message ends beyond its frame")]
    Truncated,
    /// An id of an entity that is none.
    #[error("the id of the callee is malformed")]
    Callee,
    /// Sections that cannot be.
    #[error("the sections of a call are malformed")]
    Sections,
    /// A message that its receiver did not expect now.
    #[error("a message came that was not expected: {0}")]
    Unexpected(&'static str),
}

/// What the receiver of a message lets its sender send again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credit {
    /// Messages.
    pub messages: u16,
    /// Units of [`Credit::UNIT_BYTES`] bytes.
    pub units: u16,
}

impl Credit {
    /// Bytes of one unit.
    pub const UNIT_BYTES: usize = CREDIT_UNIT;

    /// Units that a message of so many bytes takes.
    #[must_use]
    pub fn units_of(bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(CREDIT_UNIT)).unwrap_or(u32::MAX)
    }
}

/// The core of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The token of the caller, or the number of a transfer.
    pub token: Token,
    /// The method of a call, or all bytes of a transfer.
    pub method: u32,
    /// The deadline left in units (see [`Header::deadline_left`]), or the offset of a chunk.
    pub left: u32,
    /// Which shard sends it.
    pub from: ShardId,
    /// Which shard it is for.
    pub to: ShardId,
    /// What may be sent the other way again.
    pub credit: Credit,
}

impl Header {
    /// No deadline.
    pub const FOREVER: u32 = u32::MAX;

    /// In place of the method of a flush: an answer is wanted.
    pub const ANSWER: u32 = 1;
    /// In place of the method of its answer: there are more slots than it lists.
    pub const MORE: u32 = 1;

    /// A message of `kind` between two shards, with nothing else said.
    #[must_use]
    pub const fn new(kind: Kind, from: ShardId, to: ShardId) -> Self {
        let credit = Credit { messages: 0, units: 0 };
        Self { kind, token: Token::new(0, 0), method: 0, left: 0, from, to, credit }
    }

    /// The form of a deadline that is `left` away. Rounded up to 64 µs; over 76 hours is 76 hours.
    #[must_use]
    pub fn units_left(left: Option<Duration>) -> u32 {
        let Some(left) = left else { return Self::FOREVER };
        let units = left.as_nanos().div_ceil(u128::from(DEADLINE_UNIT_NS));
        u32::try_from(units).unwrap_or(u32::MAX).min(Self::FOREVER - 1)
    }

    /// How long the caller waits, if not for ever.
    #[must_use]
    pub fn deadline_left(&self) -> Option<Duration> {
        let nanos = u64::from(self.left) * DEADLINE_UNIT_NS;
        (self.left != Self::FOREVER).then(|| Duration::from_nanos(nanos))
    }

    /// The same of the view numbered `view`: beside the token if it needs that, and else in its place.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
    pub fn under(self, view: u64) -> Self {
        let (low, high) = (view as u32, (view >> 32) as u32);
        if self.kind == Kind::Moved {
            Self { method: low, left: high, ..self }
        } else {
            Self { token: Token::new(low, high), ..self }
        }
    }

    /// The number of the view of a message that has one.
    #[must_use]
    pub fn view(&self) -> u64 {
        let (low, high) = if self.kind == Kind::Moved {
            (self.method, self.left)
        } else {
            (self.token.index(), self.token.generation())
        };
        u64::from(high) << 32 | u64::from(low)
    }

    /// The method of a call.
    #[must_use]
    pub fn method_id(&self) -> MethodId {
        MethodId::from_u32(self.method)
    }

    fn core(&self, flags: u16, payload: u32) -> [u8; CORE_BYTES] {
        let mut core = [0; CORE_BYTES];
        core[0] = VERSION;
        core[1] = self.kind as u8;
        core[2..4].copy_from_slice(&flags.to_le_bytes());
        core[4..8].copy_from_slice(&payload.to_le_bytes());
        core[8..12].copy_from_slice(&self.token.index().to_le_bytes());
        core[12..16].copy_from_slice(&self.token.generation().to_le_bytes());
        core[16..20].copy_from_slice(&self.method.to_le_bytes());
        core[20..24].copy_from_slice(&self.left.to_le_bytes());
        core[24..26].copy_from_slice(&self.from.as_u16().to_le_bytes());
        core[26..28].copy_from_slice(&self.to.as_u16().to_le_bytes());
        core[28..30].copy_from_slice(&self.credit.messages.to_le_bytes());
        core[30..32].copy_from_slice(&self.credit.units.to_le_bytes());
        core
    }
}

/// Whom a call is for, and on whose behalf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Callee {
    /// The entity.
    pub to: EntityId,
    /// The chain and the sections held along it.
    pub path: Path,
    /// The id of the request, if it has one.
    pub request: Option<u128>,
}

/// The same, to be written.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    /// The entity.
    pub to: &'a EntityId,
    /// The chain and the sections held along it.
    pub path: &'a Path,
    /// The id of the request, if it has one.
    pub request: Option<u128>,
}

impl Callee {
    /// To be written.
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        Address { to: &self.to, path: &self.path, request: self.request }
    }
}

/// A message that was opened in a frame and whose payload is still to be written.
///
/// Dropping it instead of [closing](Opened::close) it leaves the frame as it was.
#[derive(Clone, Copy, Debug)]
#[must_use = "a message is closed once its payload is written"]
pub struct Opened {
    start: usize,
    payload: usize,
}

impl Opened {
    /// Begins a message at the end of `frame`; `None` if the frame has no room for its head.
    pub fn new(frame: &mut FrameMut, header: &Header, callee: Option<Address<'_>>) -> Option<Self> {
        let start = frame.len();
        let flags = callee.map_or(0, |Address { path, request, .. }| {
            let sections = if path.holds_any() { HAS_SECTIONS } else { 0 };
            HAS_CALLEE | sections | if request.is_some() { HAS_REQUEST } else { 0 }
        });
        let mut at = Cursor { bytes: frame.slot_mut(), at: start };
        at.put(&header.core(flags, 0))?;
        if let Some(Address { to, path, request }) = callee {
            at.put_callee(to, path)?;
            if let Some(request) = request {
                at.put(&request.to_le_bytes())?;
            }
        }
        Some(Self { start, payload: at.at })
    }

    /// Has the payload written into the rest of the slot, and says how long it is. Not closed yet.
    ///
    /// # Errors
    /// What `encode` says.
    pub fn fill(
        &self,
        frame: &mut FrameMut,
        encode: impl FnOnce(&mut Out<'_>) -> Result<(), Unwritten>,
    ) -> Result<usize, Unwritten> {
        let room = frame.slot_mut().get_mut(self.payload..).ok_or(Unwritten::Full)?;
        let mut out = Out::slot(room);
        encode(&mut out)?;
        Ok(out.pos())
    }

    /// The message in memory that grows with its payload, of which `frame` holds the head.
    ///
    /// # Errors
    /// What `encode` says; [`Unwritten::Full`] if the message is longer than one may be.
    pub fn grow(
        self,
        frame: &mut FrameMut,
        encode: impl FnOnce(&mut Out<'_>) -> Result<(), Unwritten>,
    ) -> Result<FrameMut, Unwritten> {
        let head = frame.slot_mut().get(self.start..self.payload).ok_or(Unwritten::Full)?;
        let mut bytes = AlignedVec::<FRAME_ALIGN>::new();
        bytes.extend_from_slice(head);
        encode(&mut Out::heap(&mut bytes))?;
        let len = bytes.len() - head.len();
        bytes.resize(padded(bytes.len()), 0);
        let short = u32::try_from(len).map_err(|_| Unwritten::Full)?;
        bytes[4..8].copy_from_slice(&short.to_le_bytes());
        if bytes.len() > MESSAGE_BYTES_MAX {
            Err(Unwritten::Full)
        } else {
            Ok(FrameMut::holding(bytes))
        }
    }

    /// Where the payload begins, in the frame.
    #[must_use]
    pub fn payload(&self) -> usize {
        self.payload
    }

    /// The payload is `len` bytes long and lies elsewhere: the frame ends with the head. Says whether
    /// a payload may be so long.
    #[must_use]
    pub fn close_head(self, frame: &mut FrameMut, len: usize) -> bool {
        let Ok(short) = u32::try_from(len) else { return false };
        let Some(field) = frame.slot_mut().get_mut(self.start + 4..self.start + 8) else {
            return false;
        };
        field.copy_from_slice(&short.to_le_bytes());
        frame.set_len(self.payload);
        true
    }

    /// The payload is `len` bytes long and lies where it should. Says whether it fits the frame.
    #[must_use]
    pub fn close(self, frame: &mut FrameMut, len: usize) -> bool {
        let end = self.payload.saturating_add(padded(len));
        let Ok(short) = u32::try_from(len) else { return false };
        let slot = frame.slot_mut();
        if end > slot.len() {
            return false;
        }
        slot[self.start + 4..self.start + 8].copy_from_slice(&short.to_le_bytes());
        // Whoever gets the frame must not see what was there before.
        slot[self.payload + len..end].fill(0);
        frame.set_len(end);
        true
    }
}

/// Appends the message `header` with `payload` to `frame`. Says whether it fits.
#[must_use]
pub fn append(frame: &mut FrameMut, header: &Header, payload: &[u8]) -> bool {
    let Some(opened) = Opened::new(frame, header, None) else { return false };
    let start = opened.payload();
    let Some(room) = frame.slot_mut().get_mut(start..start + payload.len()) else { return false };
    room.copy_from_slice(payload);
    opened.close(frame, payload.len())
}

/// Appends the head of the message `header` whose payload, `len` bytes, follows elsewhere. Says whether
/// it fits.
#[must_use]
pub fn append_head(frame: &mut FrameMut, header: &Header, len: usize) -> bool {
    let Ok(short) = u32::try_from(len) else { return false };
    frame.extend(&header.core(0, short))
}

/// Sets the credit of the message that begins at `start` of `frame`.
pub fn set_credit(frame: &mut FrameMut, start: usize, credit: Credit) {
    if let Some(core) = frame.slot_mut().get_mut(start..start + CORE_BYTES) {
        core[28..30].copy_from_slice(&credit.messages.to_le_bytes());
        core[30..32].copy_from_slice(&credit.units.to_le_bytes());
    }
}

struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        self.bytes.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }

    fn pad(&mut self) -> Option<()> {
        let end = padded(self.at);
        self.bytes.get_mut(self.at..end)?.fill(0);
        self.at = end;
        Some(())
    }

    fn put_callee(&mut self, to: &EntityId, path: &Path) -> Option<()> {
        let head = self.at;
        self.put(&path.chain().to_bytes())?;
        self.put(&[0; 4])?;
        self.put(&path.born().as_u32().to_le_bytes())?;
        self.put(&[0; 8])?;
        let len = to.write_into(self.bytes.get_mut(self.at..)?)?;
        self.at += len;
        self.pad()?;
        let short = u16::try_from(len).ok()?;
        self.bytes.get_mut(head + 16..head + 18)?.copy_from_slice(&short.to_le_bytes());
        let sections = path.sections();
        if !sections.is_empty() {
            self.put(&(sections.len() as u64).to_le_bytes())?;
            for section in sections {
                self.put(&section.as_u64().to_le_bytes())?;
            }
            self.pad()?;
        }
        Some(())
    }
}

/// A message as it was read from a frame.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its core.
    pub header: Header,
    /// Whom it is for, if it is a call or a tell.
    pub callee: Option<Callee>,
    /// Where in the bytes its payload begins.
    pub payload: usize,
    /// How long that is.
    pub len: usize,
    /// Where in the bytes the next message begins.
    pub end: usize,
}

/// How long the message is whose first bytes are `bytes`, padding included, as far as that can be
/// told; `None` if it takes more of them. For those that cut a stream into frames.
///
/// # Errors
/// [`Violation`] if no message begins so.
pub fn extent(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let Some(core) = bytes.first_chunk::<CORE_BYTES>() else { return Ok(None) };
    let (header, flags, payload) = parse_core(core)?;
    let mut end = CORE_BYTES;
    if flags & HAS_CALLEE != 0 {
        let Some(head) = bytes.get(end..end + CALLEE_HEAD) else { return Ok(None) };
        end += CALLEE_HEAD + padded(usize::from(u16::from_le_bytes([head[16], head[17]])));
    }
    if flags & HAS_SECTIONS != 0 {
        let Some(count) = bytes.get(end..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
        let count = section_count(u64::from_le_bytes(*count))?;
        end += padded(8 + 8 * count);
    }
    if flags & HAS_REQUEST != 0 {
        end += REQUEST_BYTES;
    }
    let end = end + padded(payload);
    debug_assert!(header.kind.has_callee() == (flags & HAS_CALLEE != 0));
    if end > MESSAGE_BYTES_MAX { Err(Violation::TooLong(end)) } else { Ok(Some(end)) }
}

/// What can be told of a message without reading its callee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance {
    /// What it is.
    pub kind: Kind,
    /// Which shard it is for.
    pub to: ShardId,
    /// Where its payload begins, if it has no callee.
    pub payload: usize,
    /// How long that is.
    pub len: usize,
    /// Where the next message begins.
    pub end: usize,
}

impl Glance {
    /// A glance at the message that begins at `start` of `bytes`, for those who pass it on.
    ///
    /// # Errors
    /// [`Violation`] if no whole message lies there.
    pub fn at(bytes: &[u8], start: usize) -> Result<Self, Violation> {
        let rest = bytes.get(start..).ok_or(Violation::Truncated)?;
        let core = rest.first_chunk::<CORE_BYTES>().ok_or(Violation::Truncated)?;
        let (header, _, len) = parse_core(core)?;
        let extent = extent(rest)?.filter(|extent| *extent <= rest.len());
        let end = start + extent.ok_or(Violation::Truncated)?;
        Ok(Self { kind: header.kind, to: header.to, payload: start + CORE_BYTES, len, end })
    }

    /// The bytes of its payload, if it has no callee.
    #[must_use]
    pub fn payload_of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.payload..self.payload + self.len).unwrap_or(&[])
    }
}

fn section_count(count: u64) -> Result<usize, Violation> {
    let count = usize::try_from(count).map_err(|_| Violation::Sections)?;
    if (1..=CHAIN_SECTIONS_MAX).contains(&count) { Ok(count) } else { Err(Violation::Sections) }
}

fn parse_core(core: &[u8; CORE_BYTES]) -> Result<(Header, u16, usize), Violation> {
    let u16_at = |at: usize| u16::from_le_bytes([core[at], core[at + 1]]);
    let u32_at =
        |at: usize| u32::from_le_bytes([core[at], core[at + 1], core[at + 2], core[at + 3]]);
    if core[0] != VERSION {
        return Err(Violation::Version(core[0]));
    }
    let kind = Kind::of(core[1]).ok_or(Violation::Kind(core[1]))?;
    let flags = u16_at(2);
    let fits = kind.has_callee() == (flags & HAS_CALLEE != 0);
    if flags & !FLAGS != 0 || !fits || (flags != 0 && flags & HAS_CALLEE == 0) {
        return Err(Violation::Flags(flags));
    }
    let payload = u32_at(4) as usize;
    if payload > MESSAGE_BYTES_MAX {
        return Err(Violation::TooLong(payload));
    }
    let header = Header {
        kind,
        token: Token::new(u32_at(8), u32_at(12)),
        method: u32_at(16),
        left: u32_at(20),
        from: ShardId::new(u16_at(24)),
        to: ShardId::new(u16_at(26)),
        credit: Credit { messages: u16_at(28), units: u16_at(30) },
    };
    Ok((header, flags, payload))
}

impl Message {
    /// The message that begins at `start` of `bytes` (**W12**).
    ///
    /// # Errors
    /// [`Violation`] if no whole, well-formed message lies there.
    pub fn parse(bytes: &[u8], start: usize) -> Result<Self, Violation> {
        let rest = bytes.get(start..).ok_or(Violation::Truncated)?;
        let core = rest.first_chunk::<CORE_BYTES>().ok_or(Violation::Truncated)?;
        let (header, flags, len) = parse_core(core)?;
        let mut at = CORE_BYTES;
        let callee = match flags & HAS_CALLEE {
            0 => None,
            _ => Some(parse_callee(rest, &mut at, flags)?),
        };
        let (payload, end) = (start + at, start + at + padded(len));
        if end - start > MESSAGE_BYTES_MAX {
            return Err(Violation::TooLong(end - start));
        }
        if end > bytes.len() {
            return Err(Violation::Truncated);
        }
        Ok(Self { header, callee, payload, len, end })
    }

    /// The bytes of its payload in `bytes`, from which it was parsed.
    #[must_use]
    pub fn payload_of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.payload..self.payload + self.len).unwrap_or(&[])
    }

    /// Its payload in `frame`, from whose bytes it was parsed.
    #[must_use]
    pub fn payload_in<'a>(&self, frame: &'a Frame) -> Part<'a> {
        Part::new(frame, self.payload, self.payload + self.len)
    }
}

fn parse_callee(rest: &[u8], at: &mut usize, flags: u16) -> Result<Callee, Violation> {
    let head = rest.get(*at..*at + CALLEE_HEAD).ok_or(Violation::Truncated)?;
    let (chain, tail) = head.split_first_chunk::<16>().ok_or(Violation::Truncated)?;
    let &[l0, l1, 0, 0, b0, b1, b2, b3, 0, 0, 0, 0, 0, 0, 0, 0] = tail else {
        return Err(if tail.len() < CALLEE_HEAD - 16 {
            Violation::Truncated
        } else {
            Violation::Callee
        });
    };
    let born = Born::from_u32(u32::from_le_bytes([b0, b1, b2, b3]));
    let len = usize::from(u16::from_le_bytes([l0, l1]));
    *at += CALLEE_HEAD;
    let id = rest.get(*at..*at + len).ok_or(Violation::Truncated)?;
    let to = EntityId::from_bytes(id).ok_or(Violation::Callee)?;
    *at += padded(len);
    let mut path = Path::new(ChainId::from_bytes(*chain)).born_under(born);
    if flags & HAS_SECTIONS != 0 {
        let count = rest.get(*at..).and_then(<[u8]>::first_chunk).ok_or(Violation::Truncated)?;
        let count = section_count(u64::from_le_bytes(*count))?;
        let listed = rest.get(*at + 8..*at + 8 + 8 * count).ok_or(Violation::Truncated)?;
        for section in listed.chunks_exact(8) {
            let section = section.try_into().map(u64::from_le_bytes);
            let section = section.map_err(|_| Violation::Sections)?;
            path = path.with(SectionId::from_u64(section)).ok_or(Violation::Sections)?;
        }
        *at += padded(8 + 8 * count);
    }
    let mut request = None;
    if flags & HAS_REQUEST != 0 {
        let id = rest.get(*at..).and_then(<[u8]>::first_chunk).ok_or(Violation::Truncated)?;
        request = Some(u128::from_le_bytes(*id));
        *at += REQUEST_BYTES;
    }
    Ok(Callee { to, path, request })
}
