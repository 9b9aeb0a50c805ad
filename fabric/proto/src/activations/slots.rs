//! Which activations belong to a slot, as intrusive lists through the activations: one list a slot.
//!
//! One list at a time is being swept: each of its activations is looked at once, though others come and go.
//!
//! # Not here
//! What becomes of a slot.

use epicserver_wire::ClassId;

use super::{Activation, NONE};
use crate::ownership::SlotId;
use crate::slab::Slab;

/// Slots whose lists lie together: memory is taken for those that have an activation.
const CHUNK: usize = 256;

/// An activation's place in the list of its slot.
#[derive(Debug)]
pub(super) struct Link {
    next: u32,
    previous: u32,
    slot: Option<SlotId>,
}

impl Link {
    pub(super) fn new(slot: Option<SlotId>) -> Self {
        Self { next: NONE, previous: NONE, slot }
    }

    pub(super) fn slot(&self) -> Option<SlotId> {
        self.slot
    }
}

type Chunk = Box<[u32; CHUNK]>;

/// The lists.
#[derive(Debug)]
pub(super) struct Slots {
    classes: Vec<(ClassId, Vec<Option<Chunk>>)>,
    /// The activation that is looked at next in the list that is swept.
    cursor: u32,
}

impl Default for Slots {
    fn default() -> Self {
        Self { classes: Vec::new(), cursor: NONE }
    }
}

impl Slots {
    pub(super) fn first(&self, slot: SlotId) -> u32 {
        let class = self.classes.iter().find(|(class, _)| *class == slot.class);
        let chunk =
            class.and_then(|(_, chunks)| chunks.get(usize::from(slot.index) / CHUNK)?.as_ref());
        chunk.map_or(NONE, |chunk| chunk[usize::from(slot.index) % CHUNK])
    }

    fn first_mut(&mut self, slot: SlotId) -> &mut u32 {
        let at = self.classes.iter().position(|(class, _)| *class == slot.class);
        let at = at.unwrap_or_else(|| {
            self.classes.push((slot.class, Vec::new()));
            self.classes.len() - 1
        });
        let chunks = &mut self.classes[at].1;
        let index = usize::from(slot.index) / CHUNK;
        if chunks.len() <= index {
            chunks.resize_with(index + 1, || None);
        }
        let chunk = chunks[index].get_or_insert_with(|| Box::new([NONE; CHUNK]));
        &mut chunk[usize::from(slot.index) % CHUNK]
    }

    /// Begins to sweep `slot`.
    pub(super) fn sweep(&mut self, slot: SlotId) {
        self.cursor = self.first(slot);
    }

    /// The next activation of the sweep.
    pub(super) fn next<S>(&mut self, slab: &Slab<Activation<S>>) -> Option<u32> {
        let place = self.cursor;
        self.cursor = slab.get(place)?.slot.next;
        Some(place)
    }
}

pub(super) fn push<S>(slab: &mut Slab<Activation<S>>, slots: &mut Slots, place: u32) {
    let Some(slot) = slab.get(place).and_then(|activation| activation.slot.slot) else { return };
    let first = std::mem::replace(slots.first_mut(slot), place);
    if let Some(first) = slab.get_mut(first) {
        first.slot.previous = place;
    }
    if let Some(activation) = slab.get_mut(place) {
        activation.slot.next = first;
    }
}

pub(super) fn unlink<S>(slab: &mut Slab<Activation<S>>, slots: &mut Slots, place: u32) {
    let Some(activation) = slab.get(place) else { return };
    let Link { next, previous, slot } = activation.slot;
    let Some(slot) = slot else { return };
    if slots.cursor == place {
        slots.cursor = next;
    }
    match slab.get_mut(previous) {
        Some(previous) => previous.slot.next = next,
        None => *slots.first_mut(slot) = next,
    }
    if let Some(next) = slab.get_mut(next) {
        next.slot.previous = previous;
    }
}
