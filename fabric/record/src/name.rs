//! Names of rows: what is kept under them, and in which order it lies.
//!
//! The stored form of a name; integers are big-endian, so that rows lie in the order of their numbers:
//!
//! | kind | behind the byte of the kind |
//! | --- | --- |
//! | 1, state | the entity's id in its pinned form, whose first four bytes are its type |
//! | 2, reminder | placement class (2), slot (2), when it is due in ms (8), length of the id (2), the id, the label |
//! | 3, answer | the entity's id, the id of the request (16) |
//!
//! # Invariants
//! - **NA1** A stored form never changes. Another kind of row gets a number of its own.
//! - **NA2** Two names are equal exactly if their stored forms are, and each tells its entity.
//!
//! # Not here
//! What a row says.

use std::fmt;
use std::ops::Bound;

use epicserver_wire::{ClassId, EntityId, TypeId};

use crate::Slot;
use crate::limits::{LABEL_BYTES_MAX, NAME_BYTES_MAX};

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// The state of an entity, or the tombstone that it has left.
    State = 1,
    /// What an entity is to be called for at a later time.
    Reminder = 2,
    /// What an entity has answered to a request.
    Answer = 3,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        [Self::State, Self::Reminder, Self::Answer].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The name of a row, ordered as rows lie.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Where a reminder's slot ends.
const SLOT_END: usize = 1 + 2 + 2;
const REMINDER_HEAD: usize = 1 + 2 + 2 + 8 + 2;
const REQUEST: usize = 16;

impl Name {
    /// The row of an entity's state.
    #[must_use]
    pub fn state(entity: &EntityId) -> Self {
        let mut bytes = vec![0; 1 + entity.pinned_len()];
        bytes[0] = Kind::State as u8;
        // There is room for it.
        let _written = entity.write_into(&mut bytes[1..]);
        Self(bytes.into())
    }

    /// The row of a reminder of `entity` that is due at `due_ms`, in milliseconds of whichever clock the caller keeps to.
    /// `None` if the label is longer than [`LABEL_BYTES_MAX`].
    #[must_use]
    pub fn reminder(entity: &EntityId, due_ms: u64, label: &[u8]) -> Option<Self> {
        if label.len() > LABEL_BYTES_MAX {
            return None;
        }
        let id = entity.to_bytes();
        let mut bytes = Self::due_from(Slot::of(entity), due_ms).0.into_vec();
        bytes.extend(ordered16(u16::try_from(id.len()).ok()?));
        bytes.extend(id);
        bytes.extend(label);
        Some(Self(bytes.into()))
    }

    /// The row of what `entity` has answered to the request numbered `request`.
    #[must_use]
    pub fn answer(entity: &EntityId, request: u128) -> Self {
        let mut bytes = vec![Kind::Answer as u8];
        bytes.extend(entity.to_bytes());
        bytes.extend(request.to_le_bytes());
        Self(bytes.into())
    }

    /// What all names of reminders of `slot` that are due at `due_ms` or later are not less than; no row's name.
    pub(crate) fn due_from(slot: Slot, due_ms: u64) -> Self {
        let mut bytes = vec![Kind::Reminder as u8];
        bytes.extend(ordered16(slot.class.as_u16()));
        bytes.extend(ordered16(slot.index));
        bytes.extend(ordered64(due_ms));
        Self(bytes.into())
    }

    /// The name whose stored form is `bytes`; `None` if there is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::entity_in(bytes)?;
        Some(Self(bytes.into()))
    }

    /// The stored form (**NA1**).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A place among names that need not be one, as the end of a range, or what lies in a corrupt store in place of one.
    #[must_use]
    pub fn at(bytes: &[u8]) -> Self {
        Self::raw(bytes)
    }

    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// What the row is; `None` only for what lies in a corrupt store in place of a name.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.0.first().and_then(|byte| Kind::parse(*byte))
    }

    /// Whose row it is; `None` only for what lies in a corrupt store in place of a name.
    #[must_use]
    pub fn entity(&self) -> Option<EntityId> {
        Self::entity_in(&self.0)
    }

    /// When a reminder is due, in milliseconds; `None` for other rows.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        if self.kind()? != Kind::Reminder {
            return None;
        }
        let bytes = self.0.get(5..)?.first_chunk::<8>()?;
        Some(from_ordered64(*bytes))
    }

    /// The label of a reminder; nothing for other rows.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        let reminder = self.kind() == Some(Kind::Reminder);
        let at =
            self.entity().filter(|_| reminder).map(|entity| REMINDER_HEAD + entity.pinned_len());
        at.and_then(|at| self.0.get(at..)).unwrap_or_default()
    }

    fn entity_in(bytes: &[u8]) -> Option<EntityId> {
        if bytes.len() > NAME_BYTES_MAX {
            return None;
        }
        let (kind, rest) = bytes.split_first()?;
        match Kind::parse(*kind)? {
            Kind::State => EntityId::from_bytes(rest),
            Kind::Reminder => {
                let (head, rest) = rest.split_first_chunk::<{ REMINDER_HEAD - 1 }>()?;
                let &[c0, c1, s0, s1, .., l0, l1] = head;
                let (id, label) = rest.split_at_checked(from_ordered16([l0, l1]).into())?;
                let entity = EntityId::from_bytes(id)?;
                let class = ClassId::from_u16(from_ordered16([c0, c1]));
                let slot = Slot { class, index: from_ordered16([s0, s1]) };
                (label.len() <= LABEL_BYTES_MAX && slot == Slot::of(&entity)).then_some(entity)
            }
            Kind::Answer => {
                let id = rest.len().checked_sub(REQUEST)?;
                EntityId::from_bytes(rest.get(..id)?)
            }
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::entity_in(&self.0) {
            Some(entity) => {
                let what = match self.kind() {
                    Some(Kind::Reminder) => "reminder",
                    Some(Kind::Answer) => "answer",
                    Some(Kind::State) | None => "state",
                };
                write!(f, "{what} of {entity:?}")
            }
            None => write!(f, "no name: {:02x?}", self.0),
        }
    }
}

/// Which rows a scan gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Range {
    /// All that there are.
    All,
    /// The states of a type's entities, tombstones included, in no order that means anything.
    Type(TypeId),
    /// The reminders of a slot that are due at `until_ms` or earlier, in order of time.
    Due {
        /// Whose.
        slot: Slot,
        /// The latest that are given, in milliseconds.
        until_ms: u64,
    },
    /// The reminder of each slot of a class that is due first.
    Next(ClassId),
    /// What an entity has answered to requests.
    Answers(EntityId),
}

impl Range {
    /// From where it goes, and where it ends; `None` if it goes to the last row.
    #[must_use]
    pub fn bounds(&self) -> (Name, Option<Name>) {
        let prefix = |bytes: &[u8]| (Name::raw(bytes), after_all(bytes));
        match self {
            Self::All => (Name::raw(&[]), None),
            Self::Type(of) => {
                let [a, b, c, d] = of.as_u32().to_le_bytes();
                prefix(&[Kind::State as u8, a, b, c, d])
            }
            Self::Due { slot, until_ms } => {
                let from = Name::due_from(*slot, 0);
                let end = after_all(Name::due_from(*slot, *until_ms).as_bytes());
                (from, end)
            }
            Self::Next(class) => {
                let [a, b] = ordered16(class.as_u16());
                prefix(&[Kind::Reminder as u8, a, b])
            }
            Self::Answers(entity) => {
                let mut bytes = vec![Kind::Answer as u8];
                bytes.extend(entity.to_bytes());
                prefix(&bytes)
            }
        }
    }

    /// From where the rows behind `after` are read, or all of them.
    #[must_use]
    pub fn start(&self, after: Option<&Name>) -> Bound<Name> {
        let (from, _) = self.bounds();
        match after.filter(|after| **after >= from) {
            // Behind all of the same slot.
            Some(last) if self.is_sparse() => match last.0.get(..SLOT_END).and_then(after_all) {
                Some(next) => Bound::Included(next),
                None => Bound::Excluded(last.clone()),
            },
            Some(last) => Bound::Excluded(last.clone()),
            None => Bound::Included(from),
        }
    }

    /// Whether most rows between its bounds are none of its own, and are to be jumped over: by [`start`](Self::start).
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        match self {
            Self::Next(_) => true,
            Self::All | Self::Type(_) | Self::Due { .. } | Self::Answers(_) => false,
        }
    }

    /// Whether `name` is one of its rows, and not only between its bounds.
    #[must_use]
    pub fn has(&self, name: &Name) -> bool {
        match self {
            Self::Answers(entity) => {
                name.kind() == Some(Kind::Answer) && name.entity().as_ref() == Some(entity)
            }
            Self::All | Self::Type(_) | Self::Due { .. } | Self::Next(_) => true,
        }
    }
}

/// The first stored form that is greater than all that begin with `prefix`.
fn after_all(prefix: &[u8]) -> Option<Name> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut bytes = prefix.get(..=last)?.to_vec();
    *bytes.last_mut()? += 1;
    Some(Name::raw(&bytes))
}

#[expect(clippy::big_endian_bytes, reason = "bytes in the order of their number")]
fn ordered16(number: u16) -> [u8; 2] {
    number.to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "bytes in the order of their number")]
fn from_ordered16(bytes: [u8; 2]) -> u16 {
    u16::from_be_bytes(bytes)
}

#[expect(clippy::big_endian_bytes, reason = "bytes in the order of their number")]
fn ordered64(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "bytes in the order of their number")]
fn from_ordered64(bytes: [u8; 8]) -> u64 {
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use epicserver_wire::EntityKey as _;
    use proptest::prelude::*;

    use super::*;

    fn barrel(key: u64) -> EntityId {
        EntityId::new(TypeId::of("Barrel"), ClassId::of("game"), Some(7), key.to_key())
    }

    #[test]
    fn na1_stored_forms_are_frozen() {
        let id = barrel(3).to_bytes();
        assert_eq!(Name::state(&barrel(3)).as_bytes(), [&[1][..], &id].concat());
        let answer = [&[3][..], &id, &[5], &[0; 15]].concat();
        assert_eq!(Name::answer(&barrel(3), 5).as_bytes(), answer);
        let slot = barrel(3).slot();
        let class = ClassId::of("game").as_u16();
        let head = [&[2][..], &ordered16(class), &ordered16(slot), &[0, 0, 0, 0, 0, 0, 1, 2]];
        let reminder = [&head.concat()[..], &[0, 24], &id, b"tick"].concat();
        assert_eq!(Name::reminder(&barrel(3), 258, b"tick").unwrap().as_bytes(), reminder);
    }

    #[test]
    fn reminders_lie_in_order_of_time() {
        let at = |due| Name::reminder(&barrel(due % 7), due, b"").unwrap();
        let mut all: Vec<Name> = [70_000, 3, 256, 255, u64::MAX].map(at).into();
        all.sort();
        let dues: Vec<_> = all.iter().filter_map(Name::due_ms).collect();
        assert_eq!(dues, [3, 255, 256, 70_000, u64::MAX]);
    }

    #[test]
    fn a_range_ends_behind_the_last_that_begins_as_it_does() {
        assert_eq!(after_all(&[1, 2]), Some(Name::raw(&[1, 3])));
        assert_eq!(after_all(&[1, 255, 255]), Some(Name::raw(&[2])));
        assert_eq!(after_all(&[255]), None);
        let (from, end) = Range::Due { slot: Slot::of(&barrel(1)), until_ms: 9 }.bounds();
        let at = |due| Name::reminder(&barrel(1), due, b"x").unwrap();
        let within = |name: Name| name >= from && Some(name) < end;
        assert!(within(at(0)) && within(at(9)) && !within(at(10)));
    }

    #[test]
    fn behind_the_first_reminder_of_a_slot_lie_those_of_the_next() {
        let range = Range::Next(ClassId::of("game"));
        let (from, end) = range.bounds();
        let name = Name::reminder(&barrel(1), 7, b"x").unwrap();
        assert!(from < name && Some(&name) < end.as_ref());
        let Bound::Included(next) = range.start(Some(&name)) else { panic!("it begins there") };
        let slot = Slot::of(&barrel(1));
        assert!(Name::due_from(slot, u64::MAX) < next);
        assert!(next <= Name::due_from(Slot { index: slot.index + 1, ..slot }, 0));
        assert_eq!(range.start(None), Bound::Included(from));
    }

    #[test]
    fn a_label_that_is_too_long_is_refused() {
        assert!(Name::reminder(&barrel(1), 0, &[0; LABEL_BYTES_MAX]).is_some());
        assert_eq!(Name::reminder(&barrel(1), 0, &[0; LABEL_BYTES_MAX + 1]), None);
    }

    proptest! {
        #[test]
        fn na2_names_return_from_their_stored_form(
            key in "\\PC{0,40}", due: u64, label in proptest::collection::vec(any::<u8>(), 0..99), request: u128,
        ) {
            let entity = EntityId::new(TypeId::of("T"), ClassId::DEFAULT, None, key.to_key());
            let reminder = Name::reminder(&entity, due, &label).unwrap();
            prop_assert_eq!(reminder.label(), &label[..]);
            prop_assert_eq!(reminder.due_ms(), Some(due));
            for name in [Name::state(&entity), reminder, Name::answer(&entity, request)] {
                prop_assert_eq!(name.entity(), Some(entity.clone()));
                prop_assert_eq!(Name::parse(name.as_bytes()), Some(name));
            }
        }

        #[test]
        fn na2_hostile_bytes_are_a_name_or_nothing(mut bytes: Vec<u8>, kind in 0_u8..5) {
            bytes.insert(0, kind);
            if let Some(name) = Name::parse(&bytes) {
                prop_assert!(name.entity().is_some() && name.kind().is_some());
            }
        }
    }
}
