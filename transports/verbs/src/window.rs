//! Windows: how many messages an end may send that its peer has not done with.
//!
//! Each message lands in a slot of a queue that all peers share. An end lets each peer fill a fixed number of them,
//! for messages, and keeps [`RESERVE`] more for what must be said even then. All of these lie in the queue or hold
//! something that is still used, so a message never finds it empty. What is free again is told in the word of the
//! next message, or in one of its own once a quarter of the window is owed.
//!
//! # Invariants
//! - **N1** Of messages and announcements no more are under way, or land in slots that are still used, than the
//!   receiver allows.
//! - **N2** Words that travel alone take no window: each gives back a quarter of it or a piece that was read, which
//!   cannot be given back again before it has come. So no more of them are under way than [`RESERVE`], with the
//!   last word of all.
//! - **N3** A slot is given back once, after it lies in the queue again.
//!
//! # Not here
//! The slots; the words' bits.

use epicserver_wire::header::Violation;

use crate::word::{Kind, SLOTS_MAX, Word};

/// Pieces of bodies that an end may have announced and its peer has not read.
pub(crate) const PIECES: u8 = 8;
/// Slots for words that travel alone: four quarters of the window, all pieces, and the last word (**N2**).
pub(crate) const RESERVE: u16 = 4 + PIECES as u16 + 1;

/// What an end lets its peer send.
#[derive(Debug)]
pub(crate) struct Allowed {
    window: u16,
    /// Slots that the peer has filled and was not given back.
    used: u16,
    /// Slots that are free again, and pieces that were read, of which it was not told.
    slots_owed: u16,
    pieces_owed: u8,
    /// Pieces that it has announced and that were not read.
    pieces: u8,
}

impl Allowed {
    /// It may send `window` messages.
    pub(crate) fn new(window: u16) -> Self {
        Self { window, used: 0, slots_owed: 0, pieces_owed: 0, pieces: 0 }
    }

    /// A message came.
    ///
    /// # Errors
    /// If the peer was not allowed to send it (**N1**).
    pub(crate) fn came(&mut self, kind: Kind) -> Result<(), Violation> {
        match kind {
            Kind::Word | Kind::Last => return Ok(()),
            Kind::Messages => {}
            Kind::Announcement => {
                if self.pieces == PIECES {
                    return Err(Violation::Unexpected("an announcement over the window"));
                }
                self.pieces += 1;
            }
        }
        if self.used == self.window {
            return Err(Violation::Unexpected("a message over the window"));
        }
        self.used += 1;
        Ok(())
    }

    /// So many of the slots that were filled lie in the queue again (**N3**).
    pub(crate) fn freed(&mut self, slots: u16) {
        assert!(self.slots_owed + slots <= self.used, "N3: a slot was freed that was not used");
        self.slots_owed += slots;
    }

    /// A piece was read, or is not wanted.
    pub(crate) fn was_read(&mut self) {
        assert!(self.pieces_owed < self.pieces, "N3: a piece was read that was not announced");
        self.pieces_owed += 1;
    }

    /// Whether so much is owed that the peer is told by a word of its own (**N2**).
    pub(crate) fn is_due(&self) -> bool {
        self.pieces_owed > 0 || self.slots_owed >= self.window.div_ceil(4)
    }

    /// Whether the peer may soon have to wait for slots that are still used.
    pub(crate) fn is_narrow(&self) -> bool {
        self.used - self.slots_owed > self.window / 2
    }

    /// What the word beside the next message says.
    pub(crate) fn word(&mut self, kind: Kind) -> Word {
        let slots = std::mem::take(&mut self.slots_owed).min(SLOTS_MAX);
        let pieces = std::mem::take(&mut self.pieces_owed);
        self.used -= slots;
        self.pieces -= pieces;
        Word { kind, slots, pieces }
    }
}

/// What an end may send.
#[derive(Debug)]
pub(crate) struct Credit {
    window: u16,
    left: u16,
    pieces_left: u8,
}

impl Credit {
    /// The peer takes `window` messages.
    pub(crate) fn new(window: u16) -> Self {
        Self { window, left: window, pieces_left: PIECES }
    }

    /// Whether a message, or an announcement, may be sent (**N1**).
    pub(crate) fn allows(&self, kind: Kind) -> bool {
        match kind {
            Kind::Word | Kind::Last => true,
            Kind::Messages => self.left > 0,
            Kind::Announcement => self.left > 0 && self.pieces_left > 0,
        }
    }

    /// One was sent.
    ///
    /// # Panics
    /// If it was not [allowed](Self::allows).
    pub(crate) fn sent(&mut self, kind: Kind) {
        assert!(self.allows(kind), "N1: a message over the window");
        match kind {
            Kind::Word | Kind::Last => {}
            Kind::Messages => self.left -= 1,
            Kind::Announcement => {
                self.left -= 1;
                self.pieces_left -= 1;
            }
        }
    }

    /// The peer gives back what `word` says.
    ///
    /// # Errors
    /// If that is more than it was sent.
    pub(crate) fn returned(&mut self, word: &Word) -> Result<(), Violation> {
        let wrong = Violation::Unexpected("more is given back than was sent");
        let left = self.left.checked_add(word.slots).filter(|left| *left <= self.window);
        let pieces = self.pieces_left.checked_add(word.pieces).filter(|left| *left <= PIECES);
        (self.left, self.pieces_left) = (left.ok_or(wrong)?, pieces.ok_or(wrong)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// What one end has sent that has not come.
    type Wire = VecDeque<Word>;

    struct End {
        allowed: Allowed,
        credit: Credit,
        /// Slots that are used, and pieces that are to be read.
        used: u16,
        unread: u8,
        /// Slots that lie in the queue.
        posted: u16,
    }

    impl End {
        fn new(window: u16) -> Self {
            let (allowed, credit) = (Allowed::new(window), Credit::new(window));
            Self { allowed, credit, used: 0, unread: 0, posted: window + RESERVE }
        }

        fn send(&mut self, kind: Kind, wire: &mut Wire) {
            if self.credit.allows(kind) {
                self.credit.sent(kind);
                wire.push_back(self.allowed.word(kind));
            }
        }

        fn take(&mut self, wire: &mut Wire) {
            let Some(word) = wire.pop_front() else { return };
            assert!(self.posted > 0, "N1: a message found no slot");
            self.posted -= 1;
            self.allowed.came(word.kind).unwrap();
            self.credit.returned(&word).unwrap();
            match word.kind {
                Kind::Messages | Kind::Announcement => self.used += 1,
                Kind::Word | Kind::Last => self.posted += 1,
            }
            self.unread += u8::from(word.kind == Kind::Announcement);
        }

        fn free(&mut self, slots: u16, wire: &mut Wire) {
            let slots = slots.min(self.used);
            (self.used, self.posted) = (self.used - slots, self.posted + slots);
            self.allowed.freed(slots);
            if self.unread > 0 && slots.is_multiple_of(2) {
                self.unread -= 1;
                self.allowed.was_read();
            }
            if self.allowed.is_due() {
                self.send(Kind::Word, wire);
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Send,
        Announce,
        Take,
        Free(u16),
    }

    fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
        let act = prop_oneof![
            3 => Just(Act::Send),
            1 => Just(Act::Announce),
            3 => Just(Act::Take),
            2 => (0_u16..20).prop_map(Act::Free),
        ];
        prop::collection::vec((0_usize..2, act), 1..600)
    }

    proptest! {
        /// Whoever sends and whoever sleeps: no message finds the queue empty (N1, N2).
        #[test]
        fn n1_n2_there_is_a_slot_for_each_message_and_word(window in 1_u16..70, acts in acts()) {
            let mut ends = [End::new(window), End::new(window)];
            let mut wires = [Wire::new(), Wire::new()];
            for (at, act) in acts {
                match act {
                    Act::Send => ends[at].send(Kind::Messages, &mut wires[at]),
                    Act::Announce => ends[at].send(Kind::Announcement, &mut wires[at]),
                    Act::Take => ends[at].take(&mut wires[1 - at]),
                    Act::Free(slots) => ends[at].free(slots, &mut wires[at]),
                }
                for (end, wire) in ends.iter().zip([&wires[1], &wires[0]]) {
                    prop_assert!(wire.len() <= usize::from(end.posted));
                }
            }
        }
    }

    #[test]
    fn n1_a_peer_that_sends_more_than_it_may_is_found_out() {
        let mut allowed = Allowed::new(2);
        assert!(allowed.came(Kind::Messages).is_ok() && allowed.came(Kind::Announcement).is_ok());
        assert!(allowed.is_narrow());
        assert!(allowed.came(Kind::Messages).is_err());
        assert!(allowed.came(Kind::Word).is_ok());
        let mut many = Allowed::new(100);
        let came = (0..=PIECES).map(|_| many.came(Kind::Announcement).is_ok());
        assert_eq!(came.filter(|ok| *ok).count(), usize::from(PIECES));
    }

    #[test]
    fn a_peer_that_gives_back_what_it_was_not_sent_is_found_out() {
        let word = |slots, pieces| Word { kind: Kind::Word, slots, pieces };
        let mut credit = Credit::new(4);
        credit.sent(Kind::Announcement);
        assert!(credit.returned(&word(2, 0)).is_err());
        assert!(credit.returned(&word(1, 2)).is_err());
        assert!(credit.returned(&word(1, 1)).is_ok());
        assert!(credit.returned(&word(0, 1)).is_err());
    }
}
