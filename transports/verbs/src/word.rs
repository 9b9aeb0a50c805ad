//! The word beside each message: what it is, and what its sender lets the receiver send again.
//!
//! It travels as the immediate data of a send, so that a message needs no head of the transport's own and lies in
//! its slot as its sender wrote it.
//!
//! | bits | what |
//! | --- | --- |
//! | 0..12 | slots that are free again |
//! | 12..20 | pieces of bodies that were read |
//! | 20..28 | zeroes |
//! | 28..32 | the kind |
//!
//! # Not here
//! When what is told: see `window`.

use epicserver_wire::header::Violation;

/// The most slots that one word can give back.
pub(crate) const SLOTS_MAX: u16 = (1 << 12) - 1;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Whole messages of the fabric.
    Messages = 1,
    /// A piece of a body that is to be read.
    Announcement = 2,
    /// Nothing but the word.
    Word = 3,
    /// The last one: its sender has closed the link.
    Last = 4,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Messages, Self::Announcement, Self::Word, Self::Last];
}

/// A word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) kind: Kind,
    pub(crate) slots: u16,
    pub(crate) pieces: u8,
}

impl Word {
    /// The word as 32 bits.
    pub(crate) fn to_bits(self) -> u32 {
        debug_assert!(self.slots <= SLOTS_MAX, "W1: so many slots fit no word");
        u32::from(self.kind as u8) << 28 | u32::from(self.pieces) << 12 | u32::from(self.slots)
    }

    /// The word in `bits`.
    ///
    /// # Errors
    /// If no sound peer writes it.
    pub(crate) fn parse(bits: u32) -> Result<Self, Violation> {
        let [low, middle, zeroes, high] = bits.to_le_bytes();
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == high >> 4);
        let kind = kind.ok_or(Violation::Unexpected("a kind of message that verbs do not have"))?;
        if high & 0xf != 0 || zeroes & 0xf0 != 0 {
            return Err(Violation::Unexpected("a word with bits that mean nothing"));
        }
        let slots = u16::from_le_bytes([low, middle & 0xf]);
        Ok(Self { kind, slots, pieces: middle >> 4 | zeroes << 4 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_is_what_was_written(kind in 0..4_usize, slots in 0..=SLOTS_MAX, pieces: u8) {
            let word = Word { kind: Kind::ALL[kind], slots, pieces };
            prop_assert_eq!(Word::parse(word.to_bits()), Ok(word));
        }

        #[test]
        fn what_is_read_is_what_would_be_written(bits: u32) {
            if let Ok(word) = Word::parse(bits) {
                prop_assert_eq!(word.to_bits(), bits);
            }
        }
    }
}
