//! What the sessions of one transport share: memory to work in, and what they have to say.
//!
//! # Invariants
//! - **TW1** A buffer is filled only while nobody has a frame of it; at most [`KEPT_MAX`] are kept.
//!
//! # Not here
//! Where a message ends.

use std::sync::Arc;

use epicserver_wire::frame::{FRAME_ALIGN, Frame, Shared};

/// Bytes of a buffer for what was decrypted.
const BUFFER_BYTES: usize = 128 << 10;
/// Buffers that are kept to be filled again. When all are in use, what was decrypted gets memory of just
/// its size, so what slow readers hold is bounded by the windows of their links.
const KEPT_MAX: usize = 32;

/// What bytes of a peer have come to.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Both ends have shown who they are.
    Up,
    /// A piece of the stream, decrypted.
    Plain(Frame),
    /// The peer will say nothing more.
    Goodbye,
}

/// Memory that sessions work in, one at a time.
#[derive(Default)]
pub(crate) struct Work {
    /// What a session has heard, to be taken after each call.
    pub(crate) heard: Vec<Heard>,
    /// Where records are decrypted: what was received cannot be written to.
    pub(super) records: Vec<u8>,
    kept: Vec<Arc<Shared>>,
    filling: Option<Filling>,
}

struct Filling {
    buffer: Arc<Shared>,
    start: usize,
    end: usize,
}

impl Work {
    /// Adds bytes that were decrypted, of which the first is number `at` of its stream: as the driver
    /// does, what the sender has aligned is aligned here.
    pub(super) fn add(&mut self, mut bytes: &[u8], mut at: u64) {
        while !bytes.is_empty() {
            let Some(mut filling) = self.filling.take().or_else(|| self.take(at)) else {
                return self.heard.push(Heard::Plain(Frame::copy_of(bytes)));
            };
            let taken = filling.add(bytes);
            self.filling = Some(filling);
            if taken < bytes.len() {
                self.finish();
            }
            bytes = bytes.get(taken..).unwrap_or(&[]);
            at += taken as u64;
        }
    }

    /// Says what was added since the last time.
    pub(super) fn finish(&mut self) {
        let Some(Filling { buffer, start, end }) = self.filling.take() else { return };
        let frame = Frame::new(Arc::clone(&buffer), start, end);
        self.kept.push(buffer);
        self.heard.extend(frame.filter(|frame| !frame.is_empty()).map(Heard::Plain));
    }

    /// A buffer that nobody has a frame of, the one that the cache remembers best.
    fn take(&mut self, at: u64) -> Option<Filling> {
        let free = |buffer: &mut Arc<Shared>| Arc::get_mut(buffer).is_some();
        let buffer = match self.kept.iter_mut().rposition(free) {
            Some(at) => self.kept.swap_remove(at),
            None if self.kept.len() < KEPT_MAX => Shared::kept(BUFFER_BYTES),
            None => return None,
        };
        let start = usize::try_from(at % FRAME_ALIGN as u64).unwrap_or(0);
        Some(Filling { buffer, start, end: start })
    }
}

impl Filling {
    /// Copies as much of `bytes` as there is room for, and says how much that was.
    fn add(&mut self, bytes: &[u8]) -> usize {
        let Some(memory) = Arc::get_mut(&mut self.buffer) else {
            unreachable!("TW1: it is nobody's")
        };
        let room = memory.bytes_mut().get_mut(self.end..).unwrap_or_default();
        let taken = bytes.len().min(room.len());
        let (Some(room), Some(bytes)) = (room.get_mut(..taken), bytes.get(..taken)) else {
            return 0;
        };
        room.copy_from_slice(bytes);
        self.end += taken;
        taken
    }
}
