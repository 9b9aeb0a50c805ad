//! The two rings between one shard and the I/O endpoint.
//!
//! # Invariants
//! - **H8** Events for a shard, and parcels of a shard for one link, keep their order over a full ring.
//!
//! # Not here
//! What an event or a parcel means.

use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_node::Event;
use epicserver_wire::LinkId;
use epicserver_wire::frame::{Frame, FrameMut};
use epicserver_wire::header::Violation;

use crate::inlet::Door;
use crate::park::Unparker;
use crate::ring::{Consumer, Full, Producer, ring};

/// Entries that each of the two rings holds.
const PORT_SLOTS: usize = 1024;

/// What a shard says to the I/O endpoint.
#[derive(Debug)]
pub(crate) enum ToIo {
    /// Messages are to leave.
    Transmit { link: LinkId, head: FrameMut, body: Option<Frame> },
    /// A peer sent what no sound peer sends.
    Close { link: LinkId, why: Violation },
}

/// The I/O endpoint's end towards one shard.
pub(crate) struct Port {
    pub(crate) from: Consumer<ToIo>,
    to: Producer<Event>,
    unsent: VecDeque<Event>,
    door: Arc<Door>,
}

/// A shard's end towards the I/O endpoint.
pub(crate) struct Outlet {
    pub(crate) from: Consumer<Event>,
    to: Producer<ToIo>,
    pub(crate) unsent: VecDeque<ToIo>,
    unparker: Unparker,
}

/// Both ends of the rings between the shard behind `door` and the endpoint that `unparker` wakes.
pub(crate) fn port(door: Arc<Door>, unparker: Unparker) -> (Port, Outlet) {
    let (to_shard, from_io) = ring(PORT_SLOTS);
    let (to_io, from_shard) = ring(PORT_SLOTS);
    let port = Port { from: from_shard, to: to_shard, unsent: VecDeque::new(), door };
    let outlet = Outlet { from: from_io, to: to_io, unsent: VecDeque::new(), unparker };
    (port, outlet)
}

impl Port {
    pub(crate) fn put(&mut self, event: Event) {
        self.unsent.push_back(event);
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Moves what there is room for into the ring, and wakes the shard once.
    pub(crate) fn flush(&mut self) {
        if move_all(&mut self.unsent, &mut self.to) {
            self.door.unpark();
        }
    }
}

impl Outlet {
    pub(crate) fn put(&mut self, order: ToIo) {
        self.unsent.push_back(order);
    }

    /// Moves what there is room for into the ring, and wakes the endpoint once.
    pub(crate) fn flush(&mut self) {
        if move_all(&mut self.unsent, &mut self.to) {
            self.unparker.unpark();
        }
    }
}

fn move_all<T: Send>(unsent: &mut VecDeque<T>, to: &mut Producer<T>) -> bool {
    let mut moved = false;
    while let Some(value) = unsent.pop_front() {
        if let Err(Full(value)) = to.push(value) {
            unsent.push_front(value);
            break;
        }
        moved = true;
    }
    moved
}
