//! Receive buffers: filled from shared memory, shared as frames, and filled again.
//!
//! # Invariants
//! - **B1** A buffer is filled only while nobody has a frame of it.
//! - **B2** A transport has at most [`BUFFERS_MAX`] of them.
//!
//! # Not here
//! What is copied into them, and whether it is sound.

use std::sync::Arc;

use epicserver_wire::frame::Shared;

use crate::layout::PIECE_MAX;

/// Buffers of one transport.
pub(crate) const BUFFERS_MAX: usize = 256;

/// The buffers of one transport, those that were used last at the end.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    all: Vec<Arc<Shared>>,
}

impl Buffers {
    /// A buffer for at least one piece that nobody has a frame of (**B1**), the one that the cache
    /// remembers best; `None` if there is none (**B2**).
    pub(crate) fn take(&mut self) -> Option<Arc<Shared>> {
        let free = |buffer: &mut Arc<Shared>| Arc::get_mut(buffer).is_some();
        if let Some(at) = self.all.iter_mut().rposition(free) {
            return Some(self.all.swap_remove(at));
        }
        (self.all.len() < BUFFERS_MAX).then(|| Shared::kept(PIECE_MAX))
    }

    /// The buffer is filled, or was not needed.
    pub(crate) fn give(&mut self, buffer: Arc<Shared>) {
        if self.all.len() < BUFFERS_MAX {
            self.all.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::frame::Frame;

    #[test]
    fn b1_b2_each_buffer_has_one_user_and_there_are_so_many_of_them() {
        let (mut buffers, mut frames) = (Buffers::default(), Vec::new());
        while let Some(buffer) = buffers.take() {
            frames.extend(Frame::new(Arc::clone(&buffer), 0, 16));
            buffers.give(buffer);
        }
        assert_eq!(frames.len(), BUFFERS_MAX);
        let mut places: Vec<_> = frames.iter().map(|frame| frame.bytes().as_ptr()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), BUFFERS_MAX);
        frames.pop();
        assert!(buffers.take().is_some());
    }
}
