//! The ends of one behaviour, driven in turn by one thread.
//!
//! # Not here
//! What is to happen between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use epicserver_wire::LinkId;
use epicserver_wire::frame::Slots;

use super::Subject;
use super::end::{End, free_slots};
use crate::{Address, Down};

/// The end that dials.
pub(super) const NEAR: usize = 0;
/// The end that is dialled.
pub(super) const FAR: usize = 1;

/// How long an end that has nothing to do waits before all have another look.
const LOOK: Duration = Duration::from_millis(1);
/// Rounds in which nothing happens, after which nothing will.
const QUIET_ROUNDS: usize = 20;
/// How long anything may take, however busy the ends are.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A link, by its numbers at both ends.
#[derive(Clone, Copy)]
pub(super) struct Joined {
    pub(super) near: LinkId,
    pub(super) far: LinkId,
}

impl Joined {
    /// Its number at `end`.
    pub(super) fn at(self, end: usize) -> LinkId {
        if end == NEAR { self.near } else { self.far }
    }
}

/// The ends.
pub(super) struct World<'s> {
    pub(super) subject: &'s dyn Subject,
    ends: Vec<Option<End>>,
    /// An end that is not driven for a while.
    pub(super) paused: Option<usize>,
}

impl<'s> World<'s> {
    /// Two ends that know nothing of each other.
    pub(super) fn new(subject: &'s dyn Subject) -> Self {
        let ends = (0..2).map(|_| Some(End::new(subject.seat()))).collect();
        Self { subject, ends, paused: None }
    }

    /// Another end; says which it is.
    pub(super) fn add(&mut self) -> usize {
        self.ends.push(Some(End::new(self.subject.seat())));
        self.ends.len() - 1
    }

    /// The end numbered `at`, which was not killed.
    pub(super) fn end(&mut self, at: usize) -> &mut End {
        match self.ends.get_mut(at) {
            Some(Some(end)) => end,
            Some(None) | None => panic!("end {at} is no more"),
        }
    }

    /// Ends `at` abruptly.
    pub(super) fn kill(&mut self, at: usize) {
        if let Some(end) = self.ends.get_mut(at).and_then(Option::take) {
            self.subject.kill(end.into_seat());
        }
    }

    /// One round of each end. Says whether anything happened.
    pub(super) fn round(&mut self) -> bool {
        let mut busy = false;
        for (_, end) in self.driven() {
            busy |= end.round();
        }
        busy
    }

    fn driven(&mut self) -> impl Iterator<Item = (usize, &mut End)> {
        let paused = self.paused;
        let ends = self.ends.iter_mut().enumerate();
        ends.filter_map(|(at, end)| Some((at, end.as_mut()?)))
            .filter(move |(at, _)| paused != Some(*at))
    }

    /// Nothing happened: each end waits a little, as far as it may.
    fn idle(&mut self) {
        for (_, end) in self.driven() {
            if end.arm() {
                end.wait(LOOK);
            }
        }
    }

    /// Drives the ends until `is` finds what it looks for.
    ///
    /// # Panics
    /// If nothing happens for as long as the subject's patience lasts, or too much for ever.
    pub(super) fn until<R>(&mut self, what: &str, mut is: impl FnMut(&mut Self) -> Option<R>) -> R {
        let patience = self.subject.patience();
        let (started, mut idle) = (Instant::now(), Duration::ZERO);
        loop {
            if let Some(found) = is(self) {
                return found;
            }
            if self.round() {
                idle = Duration::ZERO;
            } else {
                self.idle();
                idle += LOOK;
            }
            assert!(idle < patience, "this never came: {what}");
            assert!(started.elapsed() < WATCHDOG, "this did not come for {WATCHDOG:?}: {what}");
        }
    }

    /// Drives the ends until nothing has happened for a while, or for `rounds` rounds.
    pub(super) fn settle(&mut self, rounds: usize) {
        let mut quiet = 0;
        for _ in 0..rounds {
            if self.round() {
                quiet = 0;
            } else {
                self.idle();
                quiet += 1;
            }
            if quiet > QUIET_ROUNDS {
                return;
            }
        }
    }

    /// A link from NEAR to FAR that is up at both ends.
    pub(super) fn join(&mut self) -> Joined {
        self.join_from(NEAR)
    }

    /// A link from `dialler` to FAR.
    pub(super) fn join_from(&mut self, dialler: usize) -> Joined {
        let to = self.end(FAR).address();
        let before = self.end(FAR).links.keys().max().copied();
        let near = match self.end(dialler).dial(&to) {
            Ok(link) => link,
            Err(refused) => panic!("a node that listens was not dialled: {refused}"),
        };
        let far = self.until("both ends are up", |world| {
            let near_up = world.end(dialler).seen(near).is_up();
            let far = world.newest(FAR).filter(|link| Some(*link) > before);
            far.filter(|_| near_up)
        });
        Joined { near, far }
    }

    /// The newest link that is up at `end`.
    pub(super) fn newest(&mut self, end: usize) -> Option<LinkId> {
        let up = |(link, seen): (&LinkId, &super::end::Seen)| seen.is_up().then_some(*link);
        self.end(end).links.iter().filter_map(up).max()
    }

    /// Waits until `link` of `end` is down, and says why.
    pub(super) fn down(&mut self, end: usize, link: LinkId) -> Down {
        self.until("a link is down", |world| world.end(end).seen(link).down.clone())
    }

    /// Skips to the deadlines of `end` until `link` is down.
    pub(super) fn down_in_time(&mut self, end: usize, link: LinkId) -> Down {
        self.until("a link is down after its deadline", |world| {
            world.end(end).skip();
            world.end(end).seen(link).down.clone()
        })
    }

    /// Dials `to` from NEAR.
    pub(super) fn dial(&mut self, to: &Address) -> LinkId {
        match self.end(NEAR).dial(to) {
            Ok(link) => link,
            Err(refused) => panic!("{to} was refused: {refused}"),
        }
    }

    /// So many messages came over `link` to `end`.
    pub(super) fn came(&mut self, end: usize, link: LinkId) -> usize {
        self.end(end).seen(link).reader.messages
    }

    /// What lends the slots of `link`, which is up.
    pub(super) fn slots(&mut self, end: usize, link: LinkId) -> Arc<dyn Slots> {
        match self.end(end).seen(link).slots() {
            Some(slots) => Arc::clone(slots),
            None => panic!("{link:?} is not up"),
        }
    }

    /// How many slots of `link`, which is up, are free.
    pub(super) fn free(&mut self, end: usize, link: LinkId) -> usize {
        free_slots(&self.slots(end, link))
    }

    /// Waits until the slots of `link` are home: either nobody has any and their lender is gone, or it has as
    /// many again as it had at first.
    pub(super) fn home(&mut self, (end, link): (usize, LinkId), at_first: usize) {
        for _ in 0..self.subject.patience().as_millis() {
            let lender = self.end(end).seen(link).lender();
            if lender.is_none_or(|slots| free_slots(&slots) == at_first) {
                return;
            }
            // A look takes every slot for a moment: so there is room again, and never quiet.
            self.settle(5);
        }
        panic!("T4: not all slots of {link:?} came home");
    }
}
