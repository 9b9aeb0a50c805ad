//! Lines between numbered ends, in virtual time: dialled, answered, used, closed or cut.
//!
//! In: what ends do, each with the time at which they do it. Out: [`Lines::take`], what a side hears, and
//! [`Lines::upcoming`], when. Delays follow from the seed, so the same calls give the same run.
//!
//! # Not here
//! A clock: time is what the caller says, and never goes back. What frames mean. Partitions and other
//! faults of the network itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::Time;
use epicserver_wire::frame::{Frame, FrameMut, Slots};

use super::line::{Line, Side};
use super::pool::Pool;
use crate::rng::Rng;

/// Whoever has lines: a node, or a process. Its number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EndId(u32);

impl EndId {
    /// The end numbered `serial`, whether there is one or not.
    #[must_use]
    pub const fn new(serial: u32) -> Self {
        Self(serial)
    }

    /// Its number.
    #[must_use]
    pub const fn serial(self) -> u32 {
        self.0
    }
}

/// One side of a line, as the end that has it names it. Never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tip {
    line: u64,
    dialled: bool,
}

impl Tip {
    /// The same line as its other side names it.
    pub(crate) const fn other(self) -> Self {
        Self { line: self.line, dialled: !self.dialled }
    }
}

/// What goes over a line in one piece.
#[derive(Debug)]
pub struct Packet {
    /// Its first bytes, in a slot of the line or in memory of their own.
    pub head: FrameMut,
    /// The rest, read where it lies.
    pub body: Option<Frame>,
}

/// Why a line is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The other side closed it, or heard that this one had.
    Closed,
    /// The other side is no more.
    Cut,
    /// There is nobody at the number that was dialled.
    Nobody,
}

/// What a side hears.
#[derive(Debug)]
pub enum News {
    /// The line can be used.
    Up {
        /// Whether the other side dialled it.
        accepted: bool,
        /// Who is there.
        peer: EndId,
        /// Where slots for it come from.
        slots: Arc<dyn Slots>,
    },
    /// A packet came. It lies in one piece in memory of its own: the sender's slot is free.
    Frame(Frame),
    /// After a refusal of [`Lines::send`] or of a slot: there is room again.
    Room,
    /// The line is over: all that comes of it has come.
    Over(Why),
}

/// How a network is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whatever is said is heard in less than that, if nothing said before it is still under way.
    pub delay_max: Duration,
    /// Things under way in one direction of a line; at least 1.
    pub frames_max: usize,
    /// Slots that each side of a line lends.
    pub slots: u32,
    /// Bytes of a slot: a multiple of [`FRAME_ALIGN`](epicserver_wire::frame::FRAME_ALIGN).
    pub slot_bytes: usize,
    /// What a side says of the bodies that it takes: see
    /// [`Slots::body_bytes`](epicserver_wire::frame::Slots::body_bytes).
    pub body_bytes: usize,
    /// Lines that there may be at one time.
    pub lines_max: usize,
}

/// All ends and the lines between them.
#[derive(Debug)]
pub struct Lines {
    rng: Rng,
    options: Options,
    ends: BTreeSet<EndId>,
    next_end: u32,
    lines: BTreeMap<u64, Line>,
    next_line: u64,
}

impl Lines {
    /// A network without ends, whose delays follow from `seed`.
    #[must_use]
    pub fn new(seed: u64, options: Options) -> Self {
        let (ends, lines) = (BTreeSet::new(), BTreeMap::new());
        Self { rng: Rng::new(seed), options, ends, next_end: 1, lines, next_line: 0 }
    }

    /// A new end, which can be dialled. One that takes nothing answers nobody.
    pub fn open(&mut self) -> EndId {
        let end = EndId(self.next_end);
        self.next_end += 1;
        self.ends.insert(end);
        end
    }

    /// Dials `to`. [`News::Up`] or [`News::Over`] follows if anybody answers. `None` if there are as many
    /// lines as there may be, or `from` is no more.
    pub fn dial(&mut self, now: Time, from: EndId, to: EndId) -> Option<Tip> {
        if self.lines.len() >= self.options.lines_max || !self.ends.contains(&from) {
            return None;
        }
        let there = now + self.delay();
        let (dialler, dialled) = (self.side(from), self.side(to));
        let frames_max = self.options.frames_max;
        let line = if self.ends.contains(&to) {
            Line::dialled(there, dialler, dialled, frames_max)
        } else {
            Line::refused(there + self.delay(), dialler, dialled, frames_max)
        };
        let number = self.next_line;
        self.next_line += 1;
        self.lines.insert(number, line);
        Some(Tip { line: number, dialled: false })
    }

    /// Sends `packet` behind all that was sent from `tip` before. Whoever dialled need not wait for the
    /// answer.
    ///
    /// # Errors
    /// Gives it back if too much is under way, and says [`News::Room`] when it is not; or if the line is
    /// not open at this side.
    pub fn send(&mut self, now: Time, tip: Tip, packet: Packet) -> Result<(), Packet> {
        let at = now + self.delay();
        match self.lines.get_mut(&tip.line) {
            Some(line) => line.send(tip.dialled, at, packet),
            None => Err(packet),
        }
    }

    /// Ends a line in order: what was sent arrives first. This side hears no more frames, and of the end once
    /// the other side knows.
    pub fn close(&mut self, now: Time, tip: Tip) {
        let at = now + self.delay();
        if let Some(line) = self.lines.get_mut(&tip.line) {
            line.close(tip.dialled, at);
        }
    }

    /// Ends a line at once, and this side hears nothing of it any more. What is under way to it is lost. Of what
    /// it has under way itself a first part still arrives, be it all or nothing, as the network decides; then
    /// the other side hears of the end.
    pub fn cut(&mut self, now: Time, tip: Tip) {
        let at = now + self.delay();
        let Some(line) = self.lines.get_mut(&tip.line) else { return };
        let kept = self.rng.index(line.under_way(tip.dialled) + 1);
        line.cut(tip.dialled, at, kept);
        self.forget(tip);
    }

    /// `end` is no more: all its lines are cut, and whoever dials it hears that nobody is there.
    pub fn kill(&mut self, now: Time, end: EndId) {
        self.ends.remove(&end);
        let its = |(tip, line): (Tip, &Line)| {
            let (side, _) = line.sides(tip.dialled);
            (side.end == end).then_some(tip)
        };
        let tips: Vec<Tip> = self.tips().filter_map(its).collect();
        for tip in tips {
            self.cut(now, tip);
        }
    }

    /// When each side with something to hear hears it, in no order; what has arrived already has a
    /// time that has passed.
    pub fn upcoming(&self) -> impl Iterator<Item = (EndId, Tip, Time)> + '_ {
        self.tips().filter_map(|(tip, line)| {
            let at = line.next_at(tip.dialled)?;
            Some((line.sides(tip.dialled).0.end, tip, at))
        })
    }

    /// What this side hears next, if it has arrived. What a side that closes would have heard is passed
    /// over without a word.
    pub fn take(&mut self, now: Time, tip: Tip) -> Option<News> {
        let answer_at = now + self.delay();
        let news = self.lines.get_mut(&tip.line)?.take(tip.dialled, now, answer_at);
        self.forget(tip);
        news
    }

    /// Whether this side knows of the line's end.
    pub(crate) fn has_ended(&self, tip: Tip) -> bool {
        self.lines.get(&tip.line).is_none_or(|line| line.sides(tip.dialled).0.is_over())
    }

    fn tips(&self) -> impl Iterator<Item = (Tip, &Line)> + '_ {
        let both = |number: u64| [false, true].map(|dialled| Tip { line: number, dialled });
        self.lines.iter().flat_map(move |(number, line)| both(*number).map(|tip| (tip, line)))
    }

    /// A line of which both sides know the end is no more.
    fn forget(&mut self, tip: Tip) {
        if self.lines.get(&tip.line).is_some_and(Line::is_over) {
            self.lines.remove(&tip.line);
        }
    }

    fn side(&self, end: EndId) -> Side {
        let Options { slots, slot_bytes, body_bytes, .. } = self.options;
        Side::new(end, Pool::new(slots, (slot_bytes, body_bytes)))
    }

    /// From now on whatever is said is heard in less than that.
    pub(crate) fn set_delay_max(&mut self, delay_max: Duration) {
        self.options.delay_max = delay_max;
    }

    fn delay(&mut self) -> Duration {
        let most = u64::try_from(self.options.delay_max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.below(most))
    }
}
