//! Who may enter, who waits and in which order, and who is refused: admission and mailboxes.
//!
//! # Not here
//! Turns that run, and what is collected: the rest of the activations.

use epicserver_wire::{ErrorKind, Path, limits};

use super::{Activations, Admission, Mail, NONE, Waiting};

/// Whether a parked turn on `turn` keeps an exclusive call on `path` out: it would freeze sections
/// that others may wait for. A turn that waits for that very call is frozen anyway.
fn keeps_out(turn: &Path, path: &Path) -> bool {
    turn.holds_any() && !turn.leads_to(path)
}

impl<S, W: Waiting> Activations<S, W> {
    /// What to do with `waiting`, which is not in the mailbox.
    #[must_use]
    pub fn admit(&self, place: u32, waiting: &impl Waiting) -> Admission {
        let activation = self.at(place);
        match self.check(place, waiting) {
            Admission::Enter if activation.mails == 0 => Admission::Enter,
            Admission::Refuse(why) => Admission::Refuse(why),
            verdict @ (Admission::Enter | Admission::Wait | Admission::Pass) => {
                self.queue(place, waiting, verdict == Admission::Enter)
            }
        }
    }

    /// What those who run or are parked have to say.
    fn check(&self, place: u32, waiting: &impl Waiting) -> Admission {
        let activation = self.at(place);
        if activation.shut {
            return Admission::Wait;
        }
        let path = waiting.path();
        if activation.holder != NONE {
            let holder = self.turn(activation.holder);
            let own = holder.section.is_some_and(|section| path.holds(section));
            if own || !path.may_wait_for(&holder.path) {
                return Admission::Refuse(ErrorKind::WouldDeadlock);
            }
            return Admission::Wait;
        }
        if !waiting.is_exclusive() {
            return Admission::Enter;
        }
        let mut verdict = Admission::Enter;
        for turn in self.turns_of(place) {
            let other = &self.turn(turn).path;
            if waiting.turn() == Some(turn) || !keeps_out(other, path) {
                continue;
            }
            if !path.may_wait_for(other) {
                return Admission::Refuse(ErrorKind::WouldDeadlock);
            }
            verdict = Admission::Wait;
        }
        verdict
    }

    /// What those who wait already have to say.
    fn queue(&self, place: u32, waiting: &impl Waiting, could_enter: bool) -> Admission {
        let passes = could_enter && self.returns(place, waiting);
        let room = if passes { 2 * limits::MAILBOX_MAX } else { limits::MAILBOX_MAX };
        if self.at(place).mails >= room && waiting.turn().is_none() {
            return Admission::Refuse(ErrorKind::Overloaded);
        }
        if passes {
            return Admission::Pass;
        }
        if self.may_stand(place, waiting, NONE) {
            Admission::Wait
        } else {
            Admission::Refuse(ErrorKind::WouldDeadlock)
        }
    }

    /// Whether this is a shared call of a chain that has a turn parked here (**A3**).
    fn returns(&self, place: u32, waiting: &impl Waiting) -> bool {
        let chain = waiting.path().chain();
        let own = |turn| self.turn(turn).path.chain() == chain;
        !waiting.is_exclusive() && self.turns_of(place).any(own)
    }

    /// Whether `waiting`, which is in the mailbox, passes the others there.
    fn may_pass(&self, place: u32, waiting: &W) -> bool {
        self.at(place).passes
            && self.returns(place, waiting)
            && self.check(place, waiting) == Admission::Enter
    }

    /// Whether `waiting` may stand behind the mails before `until` (**A4**). Who stands behind an
    /// exclusive call waits for all that this one waits for. If one of those is a turn that itself
    /// waits for `waiting`, that is a circle.
    fn may_stand(&self, place: u32, waiting: &impl Waiting, until: u32) -> bool {
        let path = waiting.path();
        let mut mail = self.at(place).first_mail;
        while path.holds_any()
            && mail != until
            && let Some(ahead) = self.mails.get(mail)
        {
            let other = ahead.waiting.path();
            let mut turns = self.turns_of(place).map(|turn| &self.turn(turn).path);
            let safe = |turn: &Path| {
                !keeps_out(turn, other) || (!turn.leads_to(path) && path.may_wait_for(turn))
            };
            if ahead.waiting.is_exclusive() && !(path.may_wait_for(other) && turns.all(safe)) {
                return false;
            }
            mail = ahead.next;
        }
        true
    }

    /// Takes out the first that may not wait any more, since a turn here has taken a section or given one up after
    /// it came (**A4**).
    pub fn next_to_die(&mut self, place: u32) -> Option<W> {
        let mut mail = self.activations.get(place)?.first_mail;
        while let Some(entry) = self.mails.get(mail) {
            let waiting = &entry.waiting;
            let refused = matches!(self.check(place, waiting), Admission::Refuse(_));
            let stands = !refused && self.may_stand(place, waiting, mail);
            if !stands && !self.may_pass(place, waiting) {
                return self.take_mail(place, mail);
            }
            mail = entry.next;
        }
        None
    }

    /// Puts `waiting` at the end of the mailbox. Admission came before, so that it has room.
    #[inline]
    pub fn wait(&mut self, place: u32, waiting: W) {
        let mail = self.mails.insert(Mail { next: NONE, waiting });
        let Ok(mail) = mail else { unreachable!("A2: mailboxes are bounded") };
        let last = self.at(place).last_mail;
        if let Some(last) = self.mails.get_mut(last) {
            last.next = mail;
        }
        let activation = self.at_mut(place);
        if activation.mails == 0 {
            activation.first_mail = mail;
        }
        activation.last_mail = mail;
        activation.mails += 1;
    }

    /// Puts `waiting` at the end of the mailbox, from where it passes the others (**A3**).
    pub fn pass(&mut self, place: u32, waiting: W) {
        self.wait(place, waiting);
        self.at_mut(place).passes = true;
    }

    /// Puts `waiting` back to the beginning of the mailbox, from where it was taken.
    pub fn put_back(&mut self, place: u32, waiting: W) {
        let next = if self.mails(place) > 0 { self.at(place).first_mail } else { NONE };
        let mail = self.mails.insert(Mail { next, waiting });
        let Ok(mail) = mail else { unreachable!("A2: mailboxes are bounded") };
        let activation = self.at_mut(place);
        if activation.mails == 0 {
            activation.last_mail = mail;
        }
        activation.first_mail = mail;
        activation.mails += 1;
    }

    /// How many wait.
    #[must_use]
    pub fn mails(&self, place: u32) -> u32 {
        self.activations.get(place).map_or(0, |activation| activation.mails)
    }

    /// The first that waits, with what to do with it now; `None` if nobody waits or may go yet.
    pub fn next(&mut self, place: u32) -> Option<(W, Admission)> {
        let activation = self.activations.get(place)?;
        if activation.mails == 0 {
            return None;
        }
        let first = activation.first_mail;
        if activation.passes {
            let passes = self.next_to_pass(place);
            return passes.or_else(|| self.next(place));
        }
        let verdict = self.check(place, &self.mails.get(first)?.waiting);
        if verdict == Admission::Wait {
            return None;
        }
        self.pop(place).map(|waiting| (waiting, verdict))
    }

    /// The first that passes the others. Once there is none, those that came to pass and may not any
    /// more wait like the others, or are refused if they may not.
    fn next_to_pass(&mut self, place: u32) -> Option<(W, Admission)> {
        let mut mail = self.activations.get(place)?.first_mail;
        while let Some(entry) = self.mails.get(mail) {
            if self.may_pass(place, &entry.waiting) {
                return Some((self.take_mail(place, mail)?, Admission::Enter));
            }
            mail = entry.next;
        }
        let dies = self.next_to_die(place);
        self.at_mut(place).passes = dies.is_some();
        Some((dies?, Admission::Refuse(ErrorKind::WouldDeadlock)))
    }

    /// The first that waits, whatever anyone has to say: for mailboxes that are given up.
    #[inline]
    pub fn pop(&mut self, place: u32) -> Option<W> {
        let first = self.activations.get(place)?.first_mail;
        let mail = self.mails.remove(first)?;
        let activation = self.at_mut(place);
        activation.first_mail = mail.next;
        activation.mails -= 1;
        if activation.mails == 0 {
            activation.last_mail = NONE;
        }
        Some(mail.waiting)
    }

    /// Takes the first that waits and that `is` says yes to, wherever it stands.
    pub fn withdraw(&mut self, place: u32, is: impl Fn(&W) -> bool) -> Option<W> {
        let mut mail = self.activations.get(place)?.first_mail;
        while let Some(entry) = self.mails.get(mail) {
            if is(&entry.waiting) {
                return self.take_mail(place, mail);
            }
            mail = entry.next;
        }
        None
    }

    /// All that wait, in their order.
    pub fn waiting(&self, place: u32) -> impl Iterator<Item = &W> {
        let first = self.activations.get(place).map_or(NONE, |activation| activation.first_mail);
        let next = |mail: &&Mail<W>| self.mails.get(mail.next);
        std::iter::successors(self.mails.get(first), next).map(|mail| &mail.waiting)
    }

    /// Takes out all that wait and that `goes` says yes to, in their order.
    pub fn withdraw_all(&mut self, place: u32, mut goes: impl FnMut(&W) -> bool) -> Vec<W> {
        let (mut taken, mut stay) = (Vec::new(), Vec::new());
        let mut mail = self.activations.get(place).map_or(NONE, |activation| activation.first_mail);
        while let Some(entry) = self.mails.get(mail) {
            let list = if goes(&entry.waiting) { &mut taken } else { &mut stay };
            list.push(mail);
            mail = entry.next;
        }
        if taken.is_empty() {
            return Vec::new();
        }
        for (mail, next) in stay.iter().zip(stay.iter().skip(1).chain([&NONE])) {
            if let Some(entry) = self.mails.get_mut(*mail) {
                entry.next = *next;
            }
        }
        let activation = self.at_mut(place);
        activation.first_mail = stay.first().copied().unwrap_or(NONE);
        activation.last_mail = stay.last().copied().unwrap_or(NONE);
        activation.mails = u32::try_from(stay.len()).unwrap_or(u32::MAX);
        taken.into_iter().filter_map(|mail| Some(self.mails.remove(mail)?.waiting)).collect()
    }

    fn take_mail(&mut self, place: u32, mail: u32) -> Option<W> {
        let mut before = NONE;
        let mut at = self.activations.get(place)?.first_mail;
        while at != mail {
            before = at;
            at = self.mails.get(at)?.next;
        }
        let entry = self.mails.remove(mail)?;
        if let Some(before) = self.mails.get_mut(before) {
            before.next = entry.next;
        }
        let activation = self.at_mut(place);
        activation.mails -= 1;
        if activation.first_mail == mail {
            activation.first_mail = entry.next;
        }
        if activation.last_mail == mail {
            activation.last_mail = before;
        }
        Some(entry.waiting)
    }
}
