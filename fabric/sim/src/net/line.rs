//! One line: two sides, and what goes along it in each direction.
//!
//! A side is told of the line, hears frames, and is told of the end. What it says lies in its lane until
//! the other side takes it, each thing at its time and none before the one in front of it.
//!
//! # Invariants
//! - **S8** A side is told at most once that the line is up, then hears frames in the order in which they were
//!   sent, each at most once, and is told of the end once; nothing after that. If the line ended in order,
//!   all frames came that were sent before.
//! - **S9** A lane is bounded; a side that was refused is told of room once there is some.
//!
//! # Not here
//! Delays, and which lines there are.

use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_wire::Time;
use epicserver_wire::frame::{Frame, FrameMut, Slots, padded};

use super::pool::Pool;
use super::{EndId, News, Packet, Why};

/// Something under way.
#[derive(Debug)]
pub(super) enum Freight {
    Dial,
    Answer,
    Packet(Packet),
    /// Nothing comes after it.
    End(Why),
}

impl Packet {
    /// Its bytes in memory of its own: its slot is free from now on.
    fn into_own(self) -> FrameMut {
        let body = self.body.as_ref().map_or(&[][..], Frame::bytes);
        let mut own = FrameMut::detached(padded(self.head.len() + body.len()));
        let fits = own.extend(self.head.bytes()) && own.extend(body);
        debug_assert!(fits, "the memory was made for these bytes");
        own
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It dials, or has not heard of the line yet.
    Begins,
    Up,
    /// It has said its last, and waits for the other side's.
    Closing,
    /// It knows of the end, or is no more.
    Over,
}

/// One side of a line.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) end: EndId,
    state: State,
    /// A frame was refused since room was said last.
    refused: bool,
    pool: Arc<Pool>,
    /// What it has said and the other side has not taken.
    lane: VecDeque<(Time, Freight)>,
}

impl Side {
    pub(super) fn new(end: EndId, pool: Arc<Pool>) -> Self {
        Self { end, state: State::Begins, refused: false, pool, lane: VecDeque::new() }
    }

    /// Something follows what was said before, however short its own way is.
    fn say(&mut self, at: Time, freight: Freight) {
        let last = self.lane.back().map_or(Time::ZERO, |(at, _)| *at);
        self.lane.push_back((at.max(last), freight));
    }

    fn has_room_again(&self, frames_max: usize) -> bool {
        let room = self.refused && self.lane.len() < frames_max;
        self.state == State::Up && (room || self.pool.has_room_again())
    }

    /// The first thing of its lane, if it has arrived.
    fn arrived(&mut self, now: Time) -> Option<Freight> {
        self.lane.pop_front_if(|(at, _)| *at <= now).map(|(_, freight)| freight)
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn has_said_its_last(&self) -> bool {
        matches!(self.lane.back(), Some((_, Freight::End(_))))
    }
}

/// A line.
#[derive(Debug)]
pub(super) struct Line {
    dialler: Side,
    dialled: Side,
    frames_max: usize,
}

impl Line {
    /// A line whose dial arrives at `at`.
    pub(super) fn dialled(at: Time, dialler: Side, dialled: Side, frames_max: usize) -> Self {
        let mut line = Self { dialler, dialled, frames_max };
        line.dialler.say(at, Freight::Dial);
        line
    }

    /// A line to nobody, as its dialler hears at `at`.
    pub(super) fn refused(at: Time, dialler: Side, nobody: Side, frames_max: usize) -> Self {
        let mut line = Self { dialler, dialled: nobody, frames_max };
        line.dialled.state = State::Over;
        line.dialled.say(at, Freight::End(Why::Nobody));
        line
    }

    /// One side, and the other.
    pub(super) fn sides(&self, dialled: bool) -> (&Side, &Side) {
        if dialled { (&self.dialled, &self.dialler) } else { (&self.dialler, &self.dialled) }
    }

    fn sides_mut(&mut self, dialled: bool) -> (&mut Side, &mut Side) {
        if dialled {
            (&mut self.dialled, &mut self.dialler)
        } else {
            (&mut self.dialler, &mut self.dialled)
        }
    }

    /// Both sides know of its end.
    pub(super) fn is_over(&self) -> bool {
        self.dialler.is_over() && self.dialled.is_over()
    }

    /// When a side has something to take.
    pub(super) fn next_at(&self, dialled: bool) -> Option<Time> {
        let (mine, theirs) = self.sides(dialled);
        if mine.is_over() {
            return None;
        }
        let room = mine.has_room_again(self.frames_max).then_some(Time::ZERO);
        room.or_else(|| theirs.lane.front().map(|(at, _)| *at))
    }

    /// A side sends a frame, which arrives at `at` at the earliest.
    pub(super) fn send(&mut self, dialled: bool, at: Time, packet: Packet) -> Result<(), Packet> {
        let frames_max = self.frames_max;
        let (mine, theirs) = self.sides_mut(dialled);
        let may = match mine.state {
            // Whoever dials may send right behind the dial.
            State::Begins => !dialled,
            State::Up => true,
            State::Closing | State::Over => false,
        };
        if !may {
            return Err(packet);
        }
        if theirs.is_over() {
            // Nobody is there, of which the sender will hear. What it sends until then is lost.
            drop(packet);
            return Ok(());
        }
        if mine.lane.len() >= frames_max {
            // S9.
            mine.refused = true;
            return Err(packet);
        }
        mine.say(at, Freight::Packet(packet));
        Ok(())
    }

    /// What a side hears next, if it has arrived; what it says to that arrives at `answer_at`.
    pub(super) fn take(&mut self, dialled: bool, now: Time, answer_at: Time) -> Option<News> {
        let frames_max = self.frames_max;
        let (mine, theirs) = self.sides_mut(dialled);
        if mine.is_over() {
            return None;
        }
        if mine.has_room_again(frames_max) {
            mine.refused = false;
            mine.pool.say_room();
            return Some(News::Room);
        }
        let heard = theirs.arrived(now)?;
        match heard {
            Freight::Dial => {
                mine.say(answer_at, Freight::Answer);
                Some(up(mine, theirs.end, true))
            }
            // It was closed before it was answered: S8 wants the end alone.
            Freight::Answer if mine.state != State::Begins => None,
            Freight::Answer => Some(up(mine, theirs.end, false)),
            // Nobody listens at a side that closes.
            Freight::Packet(packet) => {
                (mine.state == State::Up).then(|| News::Frame(packet.into_own().freeze()))
            }
            Freight::End(why) => {
                if mine.state != State::Closing && !theirs.is_over() {
                    mine.say(answer_at, Freight::End(Why::Closed));
                }
                mine.state = State::Over;
                Some(News::Over(why))
            }
        }
    }

    /// A side ends the line in order; the other hears of it at `at` at the earliest.
    pub(super) fn close(&mut self, dialled: bool, at: Time) {
        let (mine, theirs) = self.sides_mut(dialled);
        let open = match mine.state {
            State::Begins => !dialled,
            State::Up => true,
            State::Closing | State::Over => false,
        };
        if !open {
            return;
        }
        mine.state = State::Closing;
        if !theirs.is_over() {
            mine.say(at, Freight::End(Why::Closed));
        }
    }

    /// What a side has under way.
    pub(super) fn under_way(&self, dialled: bool) -> usize {
        self.sides(dialled).0.lane.len()
    }

    /// A side is no more. The first `kept` things that it has under way still arrive, and what is under way
    /// to it is lost; the other side hears of that at `at` at the earliest.
    pub(super) fn cut(&mut self, dialled: bool, at: Time, kept: usize) {
        let (mine, theirs) = self.sides_mut(dialled);
        if mine.is_over() {
            return;
        }
        mine.state = State::Over;
        theirs.lane.clear();
        mine.lane.truncate(kept);
        // Its slots are gone with it: what still arrives is bytes on a wire.
        for (_, freight) in &mut mine.lane {
            if let Freight::Packet(packet) = freight {
                let empty = Packet { head: FrameMut::detached(0), body: None };
                let head = std::mem::replace(packet, empty).into_own();
                *packet = Packet { head, body: None };
            }
        }
        if !dialled && theirs.state == State::Begins && mine.lane.is_empty() {
            // Its dial is lost: the other side never hears of the line.
            theirs.state = State::Over;
        } else if !mine.has_said_its_last() {
            mine.say(at, Freight::End(Why::Cut));
        }
    }
}

fn up(mine: &mut Side, peer: EndId, accepted: bool) -> News {
    mine.state = State::Up;
    News::Up { accepted, peer, slots: Arc::clone(&mine.pool) as Arc<dyn Slots> }
}
