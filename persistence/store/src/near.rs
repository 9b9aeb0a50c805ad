//! The near end: handles of a store whose work is done on threads of its own.
//!
//! # Not here
//! The work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::lane::{Desk, Door, Hall, Inbox, Job, Lane, Ticket};
use crate::limits::{HANDLES_MAX, OPS_BYTES_MAX, OPS_MAX};
use crate::{Done, Op, OpId, Store, TooMany, Trouble, Wake, check};

/// The ways to the threads of one store.
#[derive(Debug)]
pub struct Lanes {
    hall: Arc<Hall>,
    handles: Arc<AtomicUsize>,
    /// Which thread does an op.
    route: fn(&Op) -> usize,
}

impl Lanes {
    /// Ways to `count` threads, of which `route` says the number, and where these take their ops.
    #[must_use]
    pub fn new(count: usize, route: fn(&Op) -> usize) -> (Self, Vec<Lane>) {
        let inboxes = (0..count).map(|_| Inbox::default()).collect();
        let hall = Arc::new(Hall { inboxes, closed: AtomicBool::new(false) });
        let lane = |index| Lane { hall: Arc::clone(&hall), index };
        let lanes = (0..count).map(lane).collect();
        (Self { hall, handles: Arc::default(), route }, lanes)
    }

    /// A handle for whoever is woken by `wake`.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn handle(&self, wake: Wake) -> Result<Near, TooMany> {
        let place = Place(Arc::clone(&self.handles));
        if self.handles.fetch_add(1, Ordering::SeqCst) >= HANDLES_MAX {
            return Err(TooMany);
        }
        Ok(Near {
            hall: Arc::clone(&self.hall),
            desk: Arc::new(Desk::new(wake)),
            route: self.route,
            unanswered: 0,
            bytes: 0,
            _place: place,
        })
    }

    /// A way in for ops that others have taken.
    #[must_use]
    pub fn door(&self) -> Door {
        Door { hall: Arc::clone(&self.hall), route: self.route }
    }

    /// Tells the threads that the store was dropped.
    pub fn close(&self) {
        self.hall.closed.store(true, Ordering::SeqCst);
        self.hall.inboxes.iter().for_each(Inbox::rouse);
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.close();
    }
}

/// The place of one handle among those that there may be.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A handle on a store whose work is done on threads of its own.
#[derive(Debug)]
pub struct Near {
    hall: Arc<Hall>,
    desk: Arc<Desk>,
    route: fn(&Op) -> usize,
    unanswered: usize,
    bytes: usize,
    _place: Place,
}

impl Store for Near {
    fn submit(&mut self, id: OpId, op: Op) -> Result<(), Op> {
        let bytes = op.bytes();
        if is_full(self.unanswered, self.bytes, bytes) {
            return Err(op);
        }
        self.unanswered += 1;
        self.bytes += bytes;
        if let Err(why) = check(&op) {
            self.desk.leave(Done { id, result: Err(Trouble::Refused(why)) }, bytes);
            return Ok(());
        }
        let to = (self.route)(&op);
        let ticket = Ticket::new(id, bytes, Arc::clone(&self.desk));
        if let Err(Job { ticket, .. }) = self.hall.inboxes[to].push(Job { op, ticket }) {
            ticket.answer(Err(Trouble::Unavailable("it was closed".to_owned())));
        }
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) {
        for (answer, bytes) in self.desk.take() {
            self.unanswered -= 1;
            self.bytes -= bytes;
            done.push(answer);
        }
    }

    fn unanswered(&self) -> usize {
        self.unanswered
    }
}

/// Whether a handle with so many unanswered ops of so many bytes takes no further one of `more` (**SO7**).
pub(crate) fn is_full(unanswered: usize, bytes: usize, more: usize) -> bool {
    unanswered >= OPS_MAX || (unanswered > 0 && bytes.saturating_add(more) > OPS_BYTES_MAX)
}
