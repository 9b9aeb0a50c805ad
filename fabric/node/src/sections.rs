//! Exclusive sections and locks of turns that run already.
//!
//! # Invariants
//! - **N7** A turn takes a section or lock only when no call that it made before is unanswered:
//!   such a call does not know of the section, and could come back to wait for it unseen.
//! - **N33** A turn whose activation was reset while it was polled takes nothing of the activation that has its place now.
//!
//! # Not here
//! Exclusive methods: they hold their section from their start.

use epicserver_entity::{Answer, Desk};
use epicserver_proto::Admission;
use epicserver_wire::{CallError, ErrorKind, SectionId, Token};

use crate::core::{Core, Mail, WantedSection};

impl Core {
    /// The turn made a call.
    pub(crate) fn asked(&self, turn: u32) {
        self.task(turn, |task| task.asked += 1);
    }

    /// A call of the turn was answered, or given up.
    pub(crate) fn answered(&self, desk: &Desk, turn: u32) {
        let wants = self.task(turn, |task| {
            task.asked = task.asked.saturating_sub(1);
            if task.asked == 0 { task.wants.take() } else { None }
        });
        if let Some(Some((token, name))) = wants {
            self.want(desk, turn, token, name);
        }
    }

    fn fail(&self, desk: &Desk, turn: u32, token: Token, kind: ErrorKind) {
        let table = self.table.borrow();
        let chain = table.path_of(turn).map(epicserver_wire::Path::chain).unwrap_or_default();
        drop(table);
        self.complete(desk, token, Answer::Failed(CallError::refused(kind, chain)));
    }

    /// The turn wants its activation to itself, or the lock called `name`.
    pub(crate) fn want(&self, desk: &Desk, turn: u32, token: Token, name: Option<&'static str>) {
        match self.task(turn, |task| (task.asked, task.doomed)) {
            None => return self.fail(desk, turn, token, ErrorKind::NotInAnEntity),
            // **N33**: it waits until its poll returns, and ends then.
            Some((_, true)) => return,
            Some((0, false)) => {}
            Some((_, false)) => {
                self.task(turn, |task| task.wants = Some((token, name)));
                return;
            }
        }
        match name {
            Some(name) => self.want_lock(desk, turn, token, name),
            None => self.want_section(desk, turn, token),
        }
    }

    fn want_section(&self, desk: &Desk, turn: u32, token: Token) {
        let (place, path) = {
            let table = self.table.borrow();
            (table.place_of(turn), table.path_of(turn).cloned())
        };
        let (Some(place), Some(path)) = (place, path) else { return };
        if self.table.borrow().state(place).is_none() {
            return self.fail(desk, turn, token, ErrorKind::NotInAnEntity);
        }
        let mail = Mail::Section(Box::new(WantedSection { turn, token, path }));
        let verdict = self.table.borrow().admit(place, &mail);
        match verdict {
            Admission::Enter => self.hold(desk, turn, token),
            Admission::Wait | Admission::Pass => {
                self.table.borrow_mut().wait(place, mail);
                self.schedule(place);
            }
            Admission::Refuse(kind) => self.fail(desk, turn, token, kind),
        }
    }

    /// The turn has its activation to itself from now on.
    pub(crate) fn hold(&self, desk: &Desk, turn: u32, token: Token) {
        self.granted(desk, turn, token, None);
    }

    /// Gives the turn its activation, or a lock of it, and tells it. Says whether it has it: not if it has given up.
    pub(crate) fn granted(
        &self,
        desk: &Desk,
        turn: u32,
        token: Token,
        lock: Option<(u32, &'static str)>,
    ) -> bool {
        if !desk.tickets().borrow_mut().waits(token) {
            return false;
        }
        let taken = self.table.borrow_mut().take(turn, lock.is_none());
        match taken {
            Ok(section) => {
                // Before anybody is told of anything: whoever is may want the same lock (**N8**).
                lock.into_iter().for_each(|lock| self.locked(lock, turn, section));
                self.update_path(desk, turn);
                self.complete(desk, token, Answer::Section(section));
                self.cull(desk, turn);
                true
            }
            Err(kind) => {
                self.fail(desk, turn, token, kind);
                false
            }
        }
    }

    /// The turn holds more than before, or less: who waits at its activation and may not wait for it is told. With less
    /// it may be older than another branch of its chain, and wait for that one.
    pub(crate) fn cull(&self, desk: &Desk, turn: u32) {
        let Some(place) = self.table.borrow().place_of(turn) else { return };
        while self.table.borrow().mails(place) > 0 {
            let mail = self.table.borrow_mut().next_to_die(place);
            let Some(mail) = mail else { return };
            self.refuse_mail(desk, mail, ErrorKind::WouldDeadlock);
        }
    }

    /// If the turn is the one that runs, its calls carry its new path.
    fn update_path(&self, desk: &Desk, turn: u32) {
        if desk.turn().id.index() == turn
            && let Some(path) = self.table.borrow().path_of(turn).cloned()
        {
            drop(desk.set_path(path));
        }
    }

    /// A guard was dropped by the turn that runs.
    pub(crate) fn release(&self, desk: &Desk, section: SectionId) {
        let current = desk.turn();
        let turn = current.id.index();
        let place = current.place.index();
        let held = self.table.borrow_mut().release(turn, section);
        self.update_path(desk, turn);
        self.unlock(desk, place, section);
        self.cull(desk, turn);
        self.cull_locks(desk, turn);
        if held {
            self.thaw(place);
        }
        self.look_again(place);
    }

    /// Nobody waits for `token` any more: what it waited for is not granted.
    pub(crate) fn withdraw(&self, desk: &Desk, token: Token) {
        let place = desk.turn().place.index();
        let mine = |mail: &Mail| matches!(mail, Mail::Section(wanted) if wanted.token == token);
        let withdrawn = self.table.borrow_mut().withdraw(place, mine);
        if withdrawn.is_some() {
            self.look_again(place);
        }
        self.task(desk.turn().id.index(), |task| {
            task.wants = task.wants.take().filter(|(wanted, _)| *wanted != token);
        });
    }

    /// The turn ends: it wants nothing any more.
    pub(crate) fn withdraw_sections(&self, place: Option<u32>, turn: u32) {
        let Some(place) = place else { return };
        let mine = |mail: &Mail| matches!(mail, Mail::Section(wanted) if wanted.turn == turn);
        while self.table.borrow_mut().withdraw(place, mine).is_some() {}
    }
}
