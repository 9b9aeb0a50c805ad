//! Messages whose receiver can tell what is missing, doubled, swapped or broken: numbered, with bytes that
//! follow from the number.
//!
//! # Not here
//! Which are sent when.

use std::sync::Arc;

use epicserver_wire::frame::{Frame, FrameMut, Slots, padded};
use epicserver_wire::header::{CORE_BYTES, Header, Kind, Message, append, append_head};
use epicserver_wire::{ShardId, Token};

use crate::Parcel;

const NOISE_BYTES: usize = 4096;

/// Bytes without a pattern that a copy at the wrong place would keep.
const NOISE: [u8; NOISE_BYTES + 1] = {
    let mut noise = [0; NOISE_BYTES + 1];
    let (mut at, mut state) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    while at < noise.len() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise[at] = state.to_le_bytes()[5];
        at += 1;
    }
    noise
};

/// Numbers that look random and are the same each time.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2) + 1)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap_or(0) % bound.max(1)
    }
}

/// The payload of a message, in runs of the noise: run after run, until `len` bytes are done.
fn runs(flow: u32, serial: u32, len: usize, mut each: impl FnMut(usize, &'static [u8])) {
    let mut from = (flow as usize * 131 + serial as usize * 17) % NOISE_BYTES;
    let mut at = 0;
    while at < len {
        // The noise is longer than what is used of it, by one: so no run begins at its end.
        let run = NOISE.get(from..).unwrap_or(&[]);
        let run = run.get(..run.len().min(len - at)).unwrap_or(&[]);
        each(at, run);
        at += run.len();
        from = 0;
    }
}

/// Writes the messages of one direction of a link.
pub(super) struct Writer {
    flow: u32,
    next: u32,
}

impl Writer {
    pub(super) fn new(flow: u32) -> Self {
        Self { flow, next: 0 }
    }

    fn header(&self) -> Header {
        let (from, to) = (ShardId::new(0), ShardId::new(0));
        Header { token: Token::new(self.flow, self.next), ..Header::new(Kind::Reply, from, to) }
    }

    fn payload(&self, len: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(len);
        runs(self.flow, self.next, len, |_, run| payload.extend_from_slice(run));
        payload
    }

    /// Appends the next message, with a payload of `len` bytes, if it fits.
    pub(super) fn put(&mut self, head: &mut FrameMut, len: usize) -> bool {
        if head.capacity() < head.len() + CORE_BYTES + padded(len) {
            return false;
        }
        let fits = append(head, &self.header(), &self.payload(len));
        self.next += u32::from(fits);
        fits
    }

    /// Appends the next message's head, if it fits, and gives the body: a payload of `len` bytes, padded.
    pub(super) fn put_head(&mut self, head: &mut FrameMut, len: usize) -> Option<Frame> {
        if !append_head(head, &self.header(), len) {
            return None;
        }
        let mut body = FrameMut::detached(padded(len));
        let filled = body.extend(&self.payload(len));
        assert!(filled, "the body was made for its bytes");
        body.set_len(padded(len));
        self.next += 1;
        Some(body.freeze())
    }

    /// The next message, with a payload of `len` bytes, alone in a parcel; `None` if no slot is free.
    pub(super) fn parcel(&mut self, slots: &Arc<dyn Slots>, len: usize) -> Option<Parcel> {
        let mut head = Arc::clone(slots).reserve()?;
        if self.put(&mut head, len) {
            return Some(Parcel::of(head));
        }
        let body = self.put_head(&mut head, len);
        Some(Parcel { head, body })
    }

    /// The bytes of messages with payloads of `lens` bytes, as they go over a wire.
    pub(super) fn stream(&mut self, lens: &[usize]) -> Vec<u8> {
        let mut frame = FrameMut::detached(lens.iter().map(|len| CORE_BYTES + padded(*len)).sum());
        assert!(lens.iter().all(|len| self.put(&mut frame, *len)), "the frame was made for them");
        frame.bytes().to_vec()
    }
}

/// Reads the messages of one direction of a link.
#[derive(Default)]
pub(super) struct Reader {
    flow: Option<u32>,
    /// Messages that came.
    pub(super) messages: usize,
    /// Bytes of frames that came.
    pub(super) bytes: usize,
}

impl Reader {
    /// The next frame came.
    ///
    /// # Panics
    /// If it is not what should come next (**T1**), or no frame of whole messages (**T2**).
    pub(super) fn frame(&mut self, frame: &Frame) {
        assert!(frame.is_aligned(), "T2: a frame lies unaligned");
        assert!(!frame.is_empty(), "T2: an empty frame was handed up");
        let (bytes, mut at) = (frame.bytes(), 0);
        while at < bytes.len() {
            let message = match Message::parse(bytes, at) {
                Ok(message) => message,
                Err(violation) => panic!("T2: a frame holds no whole messages: {violation}"),
            };
            self.message(&message, bytes);
            at = message.end;
        }
        self.bytes += bytes.len();
    }

    fn message(&mut self, message: &Message, bytes: &[u8]) {
        let token = message.header.token;
        let flow = *self.flow.get_or_insert_with(|| token.index());
        assert_eq!(token.index(), flow, "T1: a message of another link came");
        let serial = token.generation();
        assert_eq!(serial as usize, self.messages, "T1: the next message came out of its turn");
        self.messages += 1;
        let payload = message.payload_of(bytes);
        runs(flow, serial, message.len, |at, run| {
            let there = payload.get(at..at + run.len());
            assert!(
                there == Some(run),
                "T1: message {serial} is broken at byte {at} of its payload"
            );
        });
    }
}
