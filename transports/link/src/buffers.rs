//! Receive buffers: filled by their owner, shared as frames, and filled again.
//!
//! # Invariants
//! - **B1** A buffer is filled only while nobody has a frame of it.
//! - **B2** There are at most as many of them as was said.
//!
//! # Not here
//! What fills them. Memory that the kernel or a device must know: whoever needs it has its own.

use std::sync::Arc;

use epicserver_wire::frame::Shared;

/// The buffers of one thread, those that were used last at the end.
#[derive(Debug)]
pub struct Buffers {
    here: Vec<Arc<Shared>>,
    bytes: usize,
    most: usize,
    made: usize,
    starved: u64,
}

impl Buffers {
    /// At most `most` buffers of `bytes` each, made when they are first needed and kept from then on.
    #[must_use]
    pub fn new(most: usize, bytes: usize) -> Self {
        Self { here: Vec::new(), bytes, most, made: 0, starved: 0 }
    }

    /// A buffer that nobody has a frame of (**B1**), the one that the cache remembers best; `None` if
    /// there is none (**B2**). It is to be given back, whether it was filled or not.
    pub fn take(&mut self) -> Option<Arc<Shared>> {
        let free = |buffer: &mut Arc<Shared>| Arc::get_mut(buffer).is_some();
        if let Some(at) = self.here.iter_mut().rposition(free) {
            return Some(self.here.swap_remove(at));
        }
        if self.made < self.most {
            self.made += 1;
            return Some(Shared::kept(self.bytes));
        }
        self.starved += 1;
        None
    }

    /// A buffer that was taken is filled, or was not needed.
    pub fn give(&mut self, buffer: Arc<Shared>) {
        self.here.push(buffer);
    }

    /// Times that none was free.
    #[must_use]
    pub fn starved(&self) -> u64 {
        self.starved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::frame::Frame;

    const MOST: usize = 40;

    #[test]
    fn b1_a_buffer_is_taken_again_once_its_frames_are_dropped() {
        let mut buffers = Buffers::new(MOST, 64);
        let buffer = buffers.take().unwrap();
        let memory = address(&buffer);
        let frame = Frame::new(Arc::clone(&buffer), 0, 64).unwrap();
        buffers.give(buffer);
        let other = buffers.take().unwrap();
        assert_ne!(address(&other), memory);
        buffers.give(other);
        drop(frame);
        let taken = [buffers.take().unwrap(), buffers.take().unwrap()];
        assert!(taken.iter().any(|buffer| address(buffer) == memory));
    }

    #[test]
    fn b2_when_all_buffers_are_out_there_is_none() {
        let mut buffers = Buffers::new(MOST, 64);
        let mut frames = Vec::new();
        while let Some(buffer) = buffers.take() {
            frames.extend(Frame::new(Arc::clone(&buffer), 0, 16));
            buffers.give(buffer);
        }
        assert_eq!(frames.len(), MOST);
        assert_eq!(buffers.starved(), 1);
        frames.pop();
        assert!(buffers.take().is_some());
    }

    fn address(buffer: &Arc<Shared>) -> usize {
        let frame = Frame::new(Arc::clone(buffer), 0, 1).unwrap();
        frame.bytes().as_ptr().addr()
    }
}
