//! What the I/O endpoint and the node's control thread say to each other.
//!
//! # Not here
//! What is done with an order; what follows from a report.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use epicserver_link::{Address, Down};
use epicserver_wire::NodeId;

use crate::park::Unparker;

/// Orders and reports that may wait.
const ORDERS_MAX: usize = 1024;

/// What the control thread wants of the endpoint.
#[derive(Debug)]
pub enum Order {
    /// Reach the node at this address.
    Dial(Address),
    /// Say goodbye to every peer and close every link.
    Close,
}

/// What the control thread gets to know.
#[derive(Clone, Debug)]
pub enum Report {
    /// Where this node can be reached.
    Listening(Vec<Address>),
    /// A node can be reached.
    Up {
        /// Which.
        node: NodeId,
        /// How many shards it has.
        shards: u16,
    },
    /// A node cannot be reached any more.
    Down {
        /// Which.
        node: NodeId,
        /// Why.
        why: Down,
    },
    /// An address was dialled in vain.
    Unreachable {
        /// Which.
        address: Address,
        /// Why.
        why: String,
    },
}

/// What the endpoint and the control thread share.
#[derive(Debug)]
pub struct Wires {
    pub(super) orders: ArrayQueue<Order>,
    reports: ArrayQueue<Report>,
    unparker: Unparker,
}

impl Wires {
    pub(crate) fn new(unparker: Unparker) -> Arc<Self> {
        let (orders, reports) = (ArrayQueue::new(ORDERS_MAX), ArrayQueue::new(ORDERS_MAX));
        Arc::new(Self { orders, reports, unparker })
    }

    /// Gives an order. Says `false` if too many wait already.
    pub fn order(&self, order: Order) -> bool {
        let given = self.orders.push(order).is_ok();
        self.unparker.unpark();
        given
    }

    /// The next report, if there is one.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.reports.pop()
    }

    pub(super) fn tell(&self, report: Report) {
        // Who is so far behind sees the node's state at the next look at its links.
        drop(self.reports.push(report));
    }
}
