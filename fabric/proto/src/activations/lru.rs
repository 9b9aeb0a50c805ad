//! The order of last use, as intrusive lists through the activations: one list a type.

use epicserver_wire::Time;

use super::{Activation, NONE};
use crate::slab::Slab;

/// An activation's place in its list.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) used: Time,
    pub(super) newer: u32,
    older: u32,
    list: u16,
}

impl Links {
    pub(super) fn new(list: usize, used: Time) -> Self {
        let list = u16::try_from(list).unwrap_or(u16::MAX);
        Self { used, newer: NONE, older: NONE, list }
    }
}

/// The ends of the lists.
#[derive(Debug)]
pub(super) struct Lists {
    ends: Vec<Ends>,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: u32,
    oldest: u32,
}

impl Lists {
    pub(super) fn new(lists: usize) -> Self {
        Self { ends: vec![Ends { newest: NONE, oldest: NONE }; lists] }
    }

    pub(super) fn oldest(&self, list: usize) -> Option<u32> {
        self.ends.get(list).map(|ends| ends.oldest).filter(|oldest| *oldest != NONE)
    }

    fn ends(&mut self, list: u16) -> &mut Ends {
        self.ends.get_mut(usize::from(list)).expect("A5: each type has a list")
    }
}

pub(super) fn push_front<S>(slab: &mut Slab<Activation<S>>, lists: &mut Lists, place: u32) {
    let Some(activation) = slab.get_mut(place) else { return };
    let ends = lists.ends(activation.links.list);
    activation.links.newer = NONE;
    activation.links.older = ends.newest;
    let second = ends.newest;
    ends.newest = place;
    if ends.oldest == NONE {
        ends.oldest = place;
    }
    if let Some(second) = slab.get_mut(second) {
        second.links.newer = place;
    }
}

pub(super) fn unlink<S>(slab: &mut Slab<Activation<S>>, lists: &mut Lists, place: u32) {
    let Some(activation) = slab.get(place) else { return };
    let Links { newer, older, list, .. } = activation.links;
    let ends = lists.ends(list);
    if ends.newest == place {
        ends.newest = older;
    }
    if ends.oldest == place {
        ends.oldest = newer;
    }
    if let Some(newer) = slab.get_mut(newer) {
        newer.links.older = older;
    }
    if let Some(older) = slab.get_mut(older) {
        older.links.newer = newer;
    }
}
