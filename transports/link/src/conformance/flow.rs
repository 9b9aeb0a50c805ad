//! Messages over a link: order, wholeness, sizes.
//!
//! # Not here
//! A receiver that is slow: see `pressure`.

use std::sync::Arc;

use epicserver_wire::LinkId;
use epicserver_wire::frame::Slots;
use epicserver_wire::header::CORE_BYTES;

use super::Subject;
use super::message::{Numbers, Writer};
use super::world::{FAR, Joined, NEAR, World};
use crate::Parcel;

/// Messages of one parcel at the most.
const GROUP_MAX: usize = 6;
/// Bytes of a payload that fits every slot.
pub(super) const SMALL: usize = 32;
/// Frames that a user may hold while all else goes on.
const HELD: usize = 8;

/// What one end sends over one link: messages of given sizes, and what was refused.
pub(super) struct Flow {
    from: usize,
    link: LinkId,
    writer: Writer,
    numbers: Numbers,
    /// Bytes of the payloads, and which is next.
    plan: Vec<usize>,
    next: usize,
    submitted: usize,
    pending: Option<Parcel>,
    /// What had been said of room when it was refused.
    refused: Option<usize>,
}

impl Flow {
    /// Payloads of `plan` bytes, from `from` over `link`.
    pub(super) fn new(from: usize, link: LinkId, plan: Vec<usize>) -> Self {
        let flow = u32::try_from(from).unwrap_or(0) << 16 | link.serial();
        let (writer, numbers) = (Writer::new(flow), Numbers::new(u64::from(flow)));
        let (next, submitted, pending, refused) = (0, 0, None, None);
        Self { from, link, writer, numbers, plan, next, submitted, pending, refused }
    }

    /// Sends payloads of `plan` bytes after those that were written, instead of what was to come.
    pub(super) fn then(&mut self, plan: &[usize]) {
        self.plan.truncate(self.next);
        self.plan.extend_from_slice(plan);
    }

    /// Whether all was submitted.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.plan.len() && self.pending.is_none()
    }

    /// Whether it waits for room.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Messages that were written: submitted, or in the parcel that was refused.
    pub(super) fn written(&self) -> usize {
        self.next
    }

    /// Messages that were submitted.
    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    /// Submits what the link takes. After a refusal, nothing before there is room (**Y2**).
    pub(super) fn push(&mut self, world: &mut World<'_>) {
        let seen = world.end(self.from).seen(self.link);
        let rooms = seen.rooms;
        let Some(slots) = seen.slots().map(Arc::clone) else { return };
        if self.refused.is_some_and(|before| before == rooms) {
            return;
        }
        self.refused = None;
        while !self.is_done() {
            let Some(parcel) = self.pending.take().or_else(|| self.fill(&slots)) else {
                self.refused = Some(rooms);
                return;
            };
            if let Err(parcel) = world.end(self.from).submit(self.link, parcel) {
                self.pending = Some(parcel);
                self.refused = Some(rooms);
                return;
            }
            self.submitted = self.next;
        }
    }

    /// The next messages in one parcel; `None` if no slot is free.
    fn fill(&mut self, slots: &Arc<dyn Slots>) -> Option<Parcel> {
        let mut head = Arc::clone(slots).reserve()?;
        for _ in 0..=self.numbers.below(GROUP_MAX) {
            let Some(len) = self.plan.get(self.next).copied() else { break };
            if self.writer.put(&mut head, len) {
                self.next += 1;
            } else if CORE_BYTES + len > head.capacity() {
                // It fits no slot, so its body goes with the parcel if its head has room here.
                let body = self.writer.put_head(&mut head, len);
                self.next += usize::from(body.is_some());
                return Some(Parcel { head, body });
            } else {
                break;
            }
        }
        assert!(!head.is_empty(), "a message that fits a slot fits an empty one");
        Some(Parcel::of(head))
    }

    /// Submits all, and waits until all have come.
    pub(super) fn run(&mut self, world: &mut World<'_>, joined: Joined) {
        run(world, &mut [(self, joined)]);
    }
}

/// Runs several flows until all that they send has come.
pub(super) fn run(world: &mut World<'_>, flows: &mut [(&mut Flow, Joined)]) {
    world.until("all messages have come", |world| {
        let mut all = true;
        for (flow, joined) in &mut *flows {
            flow.push(world);
            let to = if flow.from == FAR { NEAR } else { FAR };
            all &= flow.is_done() && world.came(to, joined.at(to)) == flow.plan.len();
        }
        all.then_some(())
    });
}

/// Sizes of payloads from nothing to what fits a slot of `slot_bytes` bytes, none favoured.
pub(super) fn sizes(count: usize, slot_bytes: usize) -> Vec<usize> {
    let (mut numbers, most) = (Numbers::new(count as u64), slot_bytes - CORE_BYTES);
    let edges = [0, 1, 15, 16, 17, most, most - 1, 0];
    let drawn = std::iter::repeat_with(|| match numbers.below(4) {
        0 => numbers.below(64),
        1 | 2 => numbers.below(1024.min(most)),
        _ => numbers.below(most + 1),
    });
    edges.into_iter().chain(drawn).take(count).collect()
}

pub(super) fn messages_of_all_sizes_arrive_in_order(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
    Flow::new(NEAR, joined.near, sizes(3_000, slot_bytes)).run(&mut world, joined);
    Flow::new(FAR, joined.far, sizes(500, slot_bytes)).run(&mut world, joined);
}

/// Some messages that fit a slot, and some that do not.
fn mixed(world: &mut World<'_>, joined: Joined, count: usize) -> Vec<usize> {
    let slot_bytes = world.slots(NEAR, joined.near).slot_bytes();
    let mut numbers = Numbers::new(7);
    let mut plan = sizes(count, slot_bytes);
    for size in plan.iter_mut().skip(9).step_by(10) {
        *size = slot_bytes + numbers.below(6 * slot_bytes);
    }
    plan.truncate(count);
    plan
}

pub(super) fn bodies_arrive_whole_behind_their_heads(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let mut plan = mixed(&mut world, joined, 300);
    let megabytes = [1 << 20, (5 << 20) + 3, 3 << 20];
    plan.extend(megabytes.map(|len: usize| len.min(subject.payload_bytes_max())));
    plan.push(1);
    Flow::new(NEAR, joined.near, plan).run(&mut world, joined);
}

pub(super) fn the_longest_message_arrives_whole(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let plan = vec![1, subject.payload_bytes_max(), 2];
    Flow::new(NEAR, joined.near, plan).run(&mut world, joined);
}

pub(super) fn both_directions_flow_at_once(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    let plan = mixed(&mut world, joined, 600);
    let mut out = Flow::new(NEAR, joined.near, plan.clone());
    let mut back = Flow::new(FAR, joined.far, plan);
    run(&mut world, &mut [(&mut out, joined), (&mut back, joined)]);
}

pub(super) fn frames_that_are_held_stay_as_they_were(subject: &dyn Subject) {
    let mut world = World::new(subject);
    let joined = world.join();
    world.end(FAR).seen(joined.far).hold = HELD;
    let plan = mixed(&mut world, joined, 600);
    Flow::new(NEAR, joined.near, plan).run(&mut world, joined);
    let held = std::mem::take(&mut world.end(FAR).seen(joined.far).held);
    assert_eq!(held.len(), HELD, "frames are there to be held");
    world.end(NEAR).close(joined.near);
    world.down(FAR, joined.far);
    drop(world);
    for (frame, bytes) in held {
        assert!(frame.bytes() == bytes, "T2: a frame that is held was overwritten");
    }
}
