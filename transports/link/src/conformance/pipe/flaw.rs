//! Ways of a transport to be wrong, each of which the suite must find.
//!
//! # Not here
//! Which behaviour finds it: the suite's own tests say that.

use epicserver_wire::frame::{Frame, FrameMut, padded};

use super::Pipe;

/// Which frame a flaw is about, where it is about one.
const NTH: usize = 20;

/// Something that a broken transport does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It loses the 20th frame.
    Drops,
    /// It swaps two frames that wait.
    Swaps,
    /// It hands up the 20th frame twice.
    Doubles,
    /// It changes a byte.
    Corrupts,
    /// It never says that a link is down.
    ForgetsDown,
    /// It says it twice.
    SaysDownTwice,
    /// It says that a link is down before its last frames.
    SaysDownEarly,
    /// It forgets to give back the slot of the 20th frame.
    LeaksSlot,
    /// It hands up half of a long message.
    HandsUpHalf,
    /// It hands up frames that lie unaligned.
    Misaligns,
    /// It hands up what it did not understand.
    BelievesAll,
    /// It takes as much as it is given.
    TakesAll,
    /// It never says that there is room.
    ForgetsRoom,
    /// It wakes nobody.
    WakesNobody,
    /// It serves the first link that has something, and no other.
    Starves,
    /// A close drops what was submitted.
    CloseDrops,
    /// It gives numbers of links that are gone to new ones.
    ReusesNumbers,
    /// It takes parcels for links that are not.
    TakesForNobody,
    /// It waits for ever for one who does not answer.
    WaitsForEver,
    /// It calls every link dialled.
    SaysDialled,
}

impl Pipe {
    /// What is handed up in place of `frame`.
    pub(super) fn bend(&self, frame: Frame) -> Vec<Frame> {
        let nth = self.frames == NTH;
        match self.flaw {
            Some(Flaw::Drops) if nth => Vec::new(),
            Some(Flaw::Doubles) if nth => vec![frame.clone(), frame],
            Some(Flaw::Corrupts) if nth => vec![corrupt(&frame)],
            Some(Flaw::HandsUpHalf) if nth => {
                let half = frame.slice(0, padded(frame.len() / 2));
                half.into_iter().collect()
            }
            Some(Flaw::Misaligns) if nth => misalign(&frame).into_iter().collect(),
            Some(_) | None => vec![frame],
        }
    }
}

/// The same but for the last byte of its last message that is no padding.
fn corrupt(frame: &Frame) -> Frame {
    let mut bytes = frame.bytes().to_vec();
    if let Some(last) = bytes.iter_mut().rev().find(|byte| **byte != 0) {
        *last ^= 0x40;
    }
    Frame::copy_of(&bytes)
}

fn misalign(frame: &Frame) -> Option<Frame> {
    let mut moved = FrameMut::detached(padded(frame.len() + 8));
    let fits = moved.extend(&[0; 8]) && moved.extend(frame.bytes());
    debug_assert!(fits, "the memory was made for these bytes");
    moved.freeze().slice(8, 8 + frame.len())
}
