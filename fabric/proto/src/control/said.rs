//! What control threads say to each other, over links that have proved that they are of one fabric.
//!
//! A byte that says which it is, and then: 1, suspicion (`crate::suspicion::codec`); 2 a question and 3 an answer, each
//! the number of a view (8), a class (2), and a set of slots (`super::slots`); 4, a whole view; 5, a delta. What later
//! versions add is passed over.
//!
//! # Invariants
//! - **CS1** No message is longer than [`SAID_BYTES_MAX`], so that it fits the slots of every transport.
//!
//! # Not here
//! When what is said; what follows from it.

use epicserver_wire::ClassId;

use super::slots::{PART, SlotSet};
use crate::fields::{Bytes, Unread};
use crate::suspicion;
use crate::view::{Delta, View};

/// Longest message, in bytes.
pub const SAID_BYTES_MAX: usize = 3840;

const SUSPICION: u8 = 1;
const ASK: u8 = 2;
const RELEASED: u8 = 3;
const WHOLE: u8 = 4;
const DELTA: u8 = 5;

const _: () = assert!(suspicion::BYTES_MAX < SAID_BYTES_MAX, "CS1: suspicion");
const _: () = assert!(PART / 8 + 16 <= SAID_BYTES_MAX, "CS1: a part of a set of slots");

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said<'a> {
    Suspicion(&'a [u8]),
    /// "By the view of this number these slots are mine: which of them have you let go of?"
    Ask(About),
    /// "I hold none of these, and what I shall hold I hold by this view or a later one."
    Released(About),
    Whole(View),
    Delta(Delta),
    /// What a later version says.
    Later,
}

/// Slots of one class, as of a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct About {
    pub(super) number: u64,
    pub(super) class: ClassId,
    pub(super) slots: SlotSet,
}

impl About {
    fn write(&self, what: u8) -> Vec<u8> {
        let mut out = vec![what];
        out.extend(self.number.to_le_bytes());
        out.extend(self.class.as_u16().to_le_bytes());
        self.slots.write(&mut out);
        out
    }

    fn read(mut bytes: Bytes<'_>) -> Result<Self, Unread> {
        let (number, class) = (bytes.u64()?, ClassId::from_u16(bytes.u16()?));
        Ok(Self { number, class, slots: SlotSet::read(bytes)? })
    }
}

impl Said<'_> {
    /// Its bytes; `None` if they would be too many (**CS1**).
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let with = |what: u8, bytes: &[u8]| [&[what], bytes].concat();
        let bytes = match self {
            Said::Suspicion(bytes) => with(SUSPICION, bytes),
            Said::Ask(about) => about.write(ASK),
            Said::Released(about) => about.write(RELEASED),
            Said::Whole(view) => with(WHOLE, &view.write()),
            Said::Delta(delta) => with(DELTA, &delta.write()),
            Said::Later => return None,
        };
        (bytes.len() <= SAID_BYTES_MAX).then_some(bytes)
    }
}

impl<'a> Said<'a> {
    /// The message whose bytes these are.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Unread> {
        if bytes.len() > SAID_BYTES_MAX {
            return Err(Unread::Malformed);
        }
        let mut rest = Bytes(bytes);
        let said = match rest.u8()? {
            SUSPICION => Said::Suspicion(rest.0),
            ASK => Said::Ask(About::read(rest)?),
            RELEASED => Said::Released(About::read(rest)?),
            WHOLE => Said::Whole(View::read(rest.0)?),
            DELTA => Said::Delta(Delta::read(rest.0)?),
            0 => return Err(Unread::Malformed),
            _ => Said::Later,
        };
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use epicserver_wire::NodeId;

    use super::*;
    use crate::view::Member;

    fn view(members: u64) -> View {
        let members = (1..=members).map(|node| Member::of(NodeId::new(node), 1)).collect();
        View { number: 1, members, history: Vec::new() }
    }

    fn about(slots: impl IntoIterator<Item = u16>) -> About {
        About { number: 7, class: ClassId::of("gpu"), slots: slots.into_iter().collect() }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let (before, after) = (view(2), View { number: 2, ..view(3) });
        let delta = Delta::between(&before, &after).unwrap();
        for said in [
            Said::Suspicion(b"bytes"),
            Said::Ask(about([1, 2, 9])),
            Said::Released(about(0..9_000)),
            Said::Whole(after),
            Said::Delta(delta),
        ] {
            assert_eq!(Said::read(&said.write().unwrap()), Ok(said.clone()), "{said:?}");
        }
    }

    #[test]
    fn cs1_a_message_that_would_be_too_long_is_not_written_nor_read() {
        assert_eq!(Said::Whole(view(1_000)).write(), None);
        assert!(Said::Released(about(0..16_000)).write().unwrap().len() <= SAID_BYTES_MAX);
        assert_eq!(Said::read(&[9; SAID_BYTES_MAX + 1]), Err(Unread::Malformed));
    }

    #[test]
    fn what_later_versions_say_is_passed_over_and_garbage_is_not() {
        assert_eq!(Said::read(&[99, 1, 2]), Ok(Said::Later));
        for garbage in
            [&[][..], &[0], &[ASK], &[ASK, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], &[WHOLE, 1, 0]]
        {
            assert_eq!(Said::read(garbage), Err(Unread::Malformed), "{garbage:?}");
        }
    }
}
