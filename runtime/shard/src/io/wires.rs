//! What the I/O endpoint and the node's control thread say to each other.
//!
//! # Invariants
//! - **H13** The last that happened to the link of each node is reported, however far the control thread is
//!   behind.
//!
//! # Not here
//! What is done with an order; what follows from a report.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;
use epicserver_link::{Address, Down};
use epicserver_proto::link::{Closed, Refusal};
use epicserver_wire::NodeId;

use crate::park::Unparker;

/// Orders and reports that may wait.
pub(super) const ORDERS_MAX: usize = 1024;

/// What the control thread wants of the endpoint.
#[derive(Debug)]
pub enum Order {
    /// Reach the node at this address.
    Dial(Address),
    /// Say this to the control thread of a node, if there is a link to it and room on that. It may get lost.
    Say {
        /// Which.
        node: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Say goodbye to every peer and close every link.
    Close,
    /// This node is over, or no member any more: close the link to it, and let it make no other.
    Ban(NodeId),
    /// This node is another one from now on: links that it has are closed, and the next are of this one.
    Become(NodeId),
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
        /// Whether it runs on this host, as far as both say.
        here: bool,
        /// The address that was dialled, unless the other node has dialled this one.
        dialled: Option<Address>,
    },
    /// A node cannot be reached any more.
    Down {
        /// Which.
        node: NodeId,
        /// Why.
        why: Down,
    },
    /// The control thread of a node says something. Gets lost if too many reports wait.
    Control {
        /// Which.
        node: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// An address was dialled in vain. Each dial ends by this or by [`Up`](Self::Up), unless more reports
    /// wait than there is room for.
    Unreachable {
        /// Which.
        address: Address,
        /// Why.
        why: String,
        /// What one end had against the other, if the address led to a node.
        refused: Option<Refusal>,
    },
}

/// What the endpoint and the control thread share.
pub struct Wires {
    pub(super) orders: ArrayQueue<Order>,
    reports: ArrayQueue<Report>,
    /// Links that were refused at either end, by the reason's place in [`Refusal::ALL`].
    refused: [AtomicU64; Refusal::ALL.len()],
    unparker: Unparker,
    /// Tells the control thread that there are reports.
    bell: OnceLock<Bell>,
}

type Bell = Box<dyn Fn() + Send + Sync>;

impl Wires {
    pub(crate) fn new(unparker: Unparker) -> Arc<Self> {
        let (orders, reports) = (ArrayQueue::new(ORDERS_MAX), ArrayQueue::new(ORDERS_MAX));
        let refused = [const { AtomicU64::new(0) }; Refusal::ALL.len()];
        Arc::new(Self { orders, reports, refused, unparker, bell: OnceLock::new() })
    }

    /// Gives an order. Says `false` if too many wait already.
    pub fn order(&self, order: Order) -> bool {
        let given = self.orders.push(order).is_ok();
        self.unparker.unpark();
        given
    }

    /// From now on `ring` is called, by the endpoint's thread, when there is a report. It must not block. Only the first
    /// that is given counts.
    pub fn on_report(&self, ring: impl Fn() + Send + Sync + 'static) {
        drop(self.bell.set(Box::new(ring)));
    }

    fn report_this(&self, report: Report) -> Result<(), Report> {
        self.reports.push(report)?;
        if let Some(bell) = self.bell.get() {
            bell();
        }
        Ok(())
    }

    /// The next report, if there is one.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.reports.pop()
    }

    /// How many links have ended since the start because one end did not want the other, for this reason;
    /// whichever end that was, and whichever has dialled.
    #[must_use]
    pub fn refused(&self, why: Refusal) -> u64 {
        let counter = Refusal::ALL.iter().zip(&self.refused).find(|(known, _)| **known == why);
        counter.map_or(0, |(_, counter)| counter.load(Ordering::Relaxed))
    }

    fn count(&self, why: Refusal) {
        let mut counters = Refusal::ALL.iter().zip(&self.refused);
        if let Some((_, counter)) = counters.find(|(known, _)| **known == why) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wires").field("reports", &self.reports.len()).finish_non_exhaustive()
    }
}

/// The endpoint's side of the reports.
#[derive(Debug)]
pub(crate) struct Reports {
    wires: Arc<Wires>,
    /// What there was no room for: one for each node at the most (**H13**).
    late: BTreeMap<NodeId, Report>,
}

impl Reports {
    pub(crate) fn new(wires: Arc<Wires>) -> Self {
        Self { wires, late: BTreeMap::new() }
    }

    /// Whether some wait for room.
    pub(crate) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Counts a link that ends so, if one end did not want the other, and says what it had against it.
    pub(crate) fn refused(&self, closed: Option<&Closed>) -> Option<Refusal> {
        let (Closed::Refused(why) | Closed::RefusedThere(why)) = closed? else { return None };
        self.wires.count(*why);
        Some(*why)
    }

    /// Reports, now or once there is room.
    pub(crate) fn tell(&mut self, report: Report) {
        match report {
            Report::Up { node, .. } | Report::Down { node, .. } => {
                drop(self.late.insert(node, report));
                self.catch_up();
            }
            // The first report of all finds room, an address of which nothing is said is dialled again, and control
            // threads say again what nobody answers.
            Report::Listening(_) | Report::Control { .. } | Report::Unreachable { .. } => {
                drop(self.wires.report_this(report));
            }
        }
    }

    /// Reports what there is room for by now.
    pub(crate) fn catch_up(&mut self) {
        while let Some((node, report)) = self.late.pop_first() {
            if let Err(report) = self.wires.report_this(report) {
                drop(self.late.insert(node, report));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(node: u64, shards: u16) -> Report {
        Report::Up { node: NodeId::new(node), shards, here: true, dialled: None }
    }

    fn nodes(wires: &Wires) -> Vec<(u64, u16)> {
        let up = |report| match report {
            Report::Up { node, shards, .. } => Some((node.as_u64(), shards)),
            Report::Listening(_)
            | Report::Down { .. }
            | Report::Control { .. }
            | Report::Unreachable { .. } => None,
        };
        std::iter::from_fn(|| wires.report()).filter_map(up).collect()
    }

    #[test]
    fn h13_a_control_thread_that_is_behind_hears_the_last_of_each_node_all_the_same() {
        let (_parker, unparker) = crate::park::parker().unwrap();
        let wires = Wires::new(unparker);
        let mut reports = Reports::new(Arc::clone(&wires));
        let address = Address::new("tcp", "127.0.0.1:1");
        for _ in 0..=ORDERS_MAX {
            let (address, why) = (address.clone(), String::new());
            reports.tell(Report::Unreachable { address, why, refused: None });
        }
        reports.tell(up(2, 1));
        reports.tell(up(1, 1));
        reports.tell(Report::Down { node: NodeId::new(2), why: Down::There });
        reports.tell(up(2, 7));
        assert!(reports.is_late());
        assert_eq!(nodes(&wires), [], "there was no room");
        reports.catch_up();
        assert_eq!(nodes(&wires), [(1, 1), (2, 7)]);
        assert!(!reports.is_late());
    }
}
