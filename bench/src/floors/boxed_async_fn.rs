//! An async method behind `dyn`: a boxed future that is made and polled to its end for each call.
//!
//! What a virtual call of an async method costs in ordinary Rust (and what `async-trait` expands
//! to): one allocation, two indirect calls, one release. No queue, no scheduler, no other task.
//!
//! # Not here
//! Timing: `suites`. This file is compiled by `tests/heap.rs` too, which counts its allocations.

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The future of one call.
type Turn<'a> = Pin<Box<dyn Future<Output = bool> + 'a>>;

trait Callee {
    fn on_hit(&mut self, force: u32) -> Turn<'_>;
}

struct Barrel {
    hits: u32,
}

impl Callee for Barrel {
    fn on_hit(&mut self, force: u32) -> Turn<'_> {
        Box::pin(async move {
            self.hits = self.hits.wrapping_add(force);
            self.hits == 1
        })
    }
}

/// Something that can be called through `dyn`, so that no call is seen through.
pub(crate) struct BoxedCallee(Box<dyn Callee>);

impl BoxedCallee {
    pub(crate) fn new() -> Self {
        Self(black_box(Box::new(Barrel { hits: 0 })))
    }

    /// Makes that many calls, one after the other; how many were the first hit.
    pub(crate) fn call(&mut self, times: u32) -> u32 {
        let mut context = Context::from_waker(Waker::noop());
        let mut firsts = 0;
        for _ in 0..times {
            let mut turn = black_box(self.0.on_hit(black_box(1)));
            match turn.as_mut().poll(&mut context) {
                Poll::Ready(first) => firsts += u32::from(black_box(first)),
                Poll::Pending => unreachable!("the method awaits nothing"),
            }
        }
        firsts
    }
}
