//! Receive buffers: filled by the kernel, shared as frames, and filled again.
//!
//! # Invariants
//! - **K2** A buffer is filled only while nobody has a frame of it.
//! - **K3** A driver has at most [`BUFFERS_MAX`] of them.
//!
//! # Not here
//! System calls.

use std::sync::Arc;

use epicserver_wire::frame::Shared;

/// Bytes of one buffer.
pub(super) const BUFFER_BYTES: usize = 128 << 10;
/// Buffers of one driver.
pub(super) const BUFFERS_MAX: usize = 256;

/// The buffers of one driver, those that were used last at the end.
#[derive(Default)]
pub(super) struct Buffers {
    here: Vec<Arc<Shared>>,
    /// **K3**.
    made: usize,
    /// Times that none was free.
    pub(super) starved: u64,
}

impl Buffers {
    /// A buffer that nobody has a frame of (**K2**), the one that the cache remembers best; `None` if
    /// there is none (**K3**).
    pub(super) fn take(&mut self) -> Option<Arc<Shared>> {
        let free = |buffer: &mut Arc<Shared>| Arc::get_mut(buffer).is_some();
        if let Some(at) = self.here.iter_mut().rposition(free) {
            return Some(self.here.swap_remove(at));
        }
        if self.made < BUFFERS_MAX {
            self.made += 1;
            return Some(Shared::kept(BUFFER_BYTES));
        }
        self.starved += 1;
        None
    }

    /// A buffer that was taken is filled, or was not needed.
    pub(super) fn give(&mut self, buffer: Arc<Shared>) {
        self.here.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::frame::Frame;

    #[test]
    fn k2_a_buffer_is_taken_again_once_its_frames_are_dropped() {
        let mut buffers = Buffers::default();
        let buffer = buffers.take().unwrap();
        let memory = buffer_address(&buffer);
        let frame = Frame::new(Arc::clone(&buffer), 0, 64).unwrap();
        buffers.give(buffer);
        let other = buffers.take().unwrap();
        assert_ne!(buffer_address(&other), memory);
        buffers.give(other);
        drop(frame);
        let taken = [buffers.take().unwrap(), buffers.take().unwrap()];
        assert!(taken.iter().any(|buffer| buffer_address(buffer) == memory));
    }

    #[test]
    fn k3_when_all_buffers_are_out_there_is_none() {
        let mut buffers = Buffers::default();
        let mut frames = Vec::new();
        while let Some(buffer) = buffers.take() {
            frames.extend(Frame::new(Arc::clone(&buffer), 0, 16));
            buffers.give(buffer);
        }
        assert_eq!(frames.len(), BUFFERS_MAX);
        assert_eq!(buffers.starved, 1);
        frames.pop();
        assert!(buffers.take().is_some());
    }

    fn buffer_address(buffer: &Arc<Shared>) -> usize {
        let frame = Frame::new(Arc::clone(buffer), 0, 1).unwrap();
        frame.bytes().as_ptr().addr()
    }
}
