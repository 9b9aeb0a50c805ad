//! What values are read with: it knows the frame that they lie in.
//!
//! # Not here
//! Checking: nothing is read before it was checked.

use rkyv::de::{ErasedPtr, Pool, Pooling, PoolingState};
use rkyv::rancor::{self, Strategy};

use crate::frame::Part;

/// The source of values that are being read.
#[derive(Debug)]
pub struct Source<'a> {
    pool: Pool,
    part: Option<Part<'a>>,
}

/// What values are read with.
pub type Reader<'a> = Strategy<Source<'a>, rancor::Error>;

impl<'a> Source<'a> {
    /// Bytes that are `part` of a frame, or lie in memory that nobody may hold on to.
    pub(crate) fn new(part: Option<Part<'a>>) -> Self {
        Self { pool: Pool::new(), part }
    }
}

/// A reader that may know the frame that it reads from.
pub trait InFrame {
    /// What is read, if it may stay where it lies.
    fn part(&self) -> Option<Part<'_>>;
}

impl<E> InFrame for Strategy<Source<'_>, E> {
    fn part(&self) -> Option<Part<'_>> {
        self.part
    }
}

impl<E: rancor::Source> Pooling<E> for Source<'_> {
    fn start_pooling(&mut self, address: usize) -> PoolingState {
        <Pool as Pooling<E>>::start_pooling(&mut self.pool, address)
    }

    unsafe fn finish_pooling(
        &mut self,
        address: usize,
        ptr: ErasedPtr,
        drop: unsafe fn(ErasedPtr),
    ) -> Result<(), E> {
        // SAFETY: W15: what the caller promises of `ptr` and `drop` is what the pool asks.
        unsafe { <Pool as Pooling<E>>::finish_pooling(&mut self.pool, address, ptr, drop) }
    }
}
