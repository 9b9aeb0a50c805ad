//! What follows from a view: who is gone, what is served, who is asked and told.
//!
//! # Invariants
//! - **IN2** A node that has asked for its lease to end serves nothing any more, whatever a view gives it.
//! - **IN1** Who asks is told of slots that this node does not hold at that moment, and by which view it goes.
//!
//! # Not here
//! What may be served: `holdings`.

use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::{NodeId, Time};

use super::Effect;
use super::holdings::{Freed, Ground};
use super::life::{Life, Release, parts, say};
use super::said::{About, Said};
use crate::directory::Directory;
use crate::view::{Delta, Member, View};

/// How often shards get a snapshot that differs only by what others have let go of.
const SERVE: Duration = Duration::from_millis(10);

impl Life {
    /// The coordinator or a peer has this view (**CN2**).
    pub(super) fn hear_view(&mut self, now: Time, view: &Arc<View>, out: &mut Vec<Effect>) {
        if self.over || view.number <= self.number() {
            return;
        }
        self.heard = self.heard.max(view.number);
        // Who asks for its lease to end before it ever was a member does not become one.
        let going = !self.belongs && !matches!(self.release, Release::Not);
        let belongs = view.has(self.me()) && !going;
        if self.belongs && !belongs {
            return self.evicted(out);
        }
        let before = self.view.replace(Arc::clone(view));
        for member in before.iter().flat_map(|before| &before.members) {
            let node = member.node();
            if !view.has(node) {
                out.push(Effect::Gone { node, left: member.leaving });
            }
        }
        out.push(Effect::View(Arc::clone(view)));
        self.need = None;
        if belongs {
            self.belongs = true;
            self.suspicion.set_members(now, view.members.iter().map(Member::node));
            self.install(now, view, out);
            self.look_by_rank(now);
        }
    }

    fn install(&mut self, now: Time, view: &View, out: &mut Vec<Effect>) {
        let directory = self.atlas.of(&view.shares());
        let pasts: Vec<(u64, Arc<Directory>)> =
            view.history.iter().map(|past| (past.number, self.atlas.of(&past.shares))).collect();
        let ground = Ground { number: view.number, directory: &directory, pasts: &pasts };
        let freed = self.holdings.install(&ground);
        self.tell_freed(freed, out);
        self.wait_anew(now);
    }

    /// Tells shards what they may serve, if that is something new: a view at once, and what was let go of meanwhile
    /// not too often, since it comes in many pieces.
    pub(super) fn serve(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.holdings.is_stirred() && (self.holdings.is_new() || self.serve_at <= now) {
            self.serve_at = now + SERVE;
            self.holdings.begin();
            out.extend(self.holdings.take_served().map(Effect::Serve));
        }
    }

    /// Tells those whose slots were let go of.
    pub(super) fn tell_freed(&self, freed: Freed, out: &mut Vec<Effect>) {
        for (to, class, slots) in freed {
            for slots in parts(&slots) {
                let about = About { number: self.number(), class, slots };
                say(to, &Said::Released(about), out);
            }
        }
    }

    /// Asks those who are waited for, or one of them.
    pub(super) fn ask_peers(&self, only: Option<NodeId>, out: &mut Vec<Effect>) {
        for (to, class, slots) in self.holdings.awaited() {
            if only.is_none_or(|only| only == to) {
                for slots in parts(slots) {
                    let about = About { number: self.number(), class, slots };
                    say(to, &Said::Ask(about), out);
                }
            }
        }
    }

    /// `from` waits for slots (**IN1**).
    pub(super) fn asked(&mut self, now: Time, from: NodeId, about: &About, out: &mut Vec<Effect>) {
        let number = self.number();
        if !self.belongs || number < about.number {
            return self.hear_of(now, about.number);
        }
        let slots = self.holdings.not_held(about.class, &about.slots);
        if !slots.is_empty() || number > about.number {
            say(from, &Said::Released(About { number, class: about.class, slots }), out);
        }
    }

    /// Sends the view that this node has made to all who do not have it, as far as it is short enough. Who does not get
    /// it hears of its number with the next renewal.
    pub(super) fn push(&self, before: Option<&View>, view: &View, out: &mut Vec<Effect>) {
        let delta = before.and_then(|before| Delta::between(before, view));
        let delta = delta.and_then(|delta| Said::Delta(delta).write());
        let whole = Said::Whole(view.clone()).write();
        for node in view.members.iter().map(Member::node).filter(|node| *node != self.me()) {
            let knows = before.is_some_and(|before| before.has(node));
            let bytes = if knows { delta.as_ref().or(whole.as_ref()) } else { whole.as_ref() };
            if let Some(bytes) = bytes {
                out.push(Effect::Say { to: node, bytes: bytes.clone() });
            }
        }
    }
}
