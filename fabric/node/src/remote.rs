//! Other nodes, as one shard sees them: the links to them, and the calls that are under way there.
//!
//! # Invariants
//! - **R1** Each token of a call that left for another node has one outcome: its reply, its refusal, its
//!   deadline, or the loss of the link that it left by.
//! - **R2** No user code runs while the table of peers is borrowed.
//!
//! # Not here
//! Who owns what (`ways`); bytes on a wire; what comes (`receive`), what waits to leave (`link`) and how it is
//! written (`leave`, `bulk`).

mod bulk;
mod leave;
mod link;
mod receive;

use std::collections::BTreeMap;
use std::sync::Arc;

use epicserver_entity::{Answer, Caller, Desk, Request};
use epicserver_proto::passage::{Emptying, Passage};
use epicserver_proto::session::Window;
use epicserver_proto::spares::Spares;
use epicserver_proto::{Lines, Ownership, SlotId};
use epicserver_wire::frame::Slots;
use epicserver_wire::{
    CallError, ChainId, ErrorKind, LinkId, MethodId, NodeId, Ran, ShardId, Time, Token, limits,
};

use crate::Effect;
use crate::core::Core;
use crate::realm::Lane;
pub(crate) use crate::remote::link::Posted;
use crate::remote::link::{Answering, Back, Left, Link, Outcome};
use crate::tokens::Way;

/// A link to another node that can be used.
#[derive(Clone, Debug)]
pub struct LinkUp {
    /// The link.
    pub link: LinkId,
    /// Where it leads.
    pub node: NodeId,
    /// How many shards there are.
    pub shards: u16,
    /// What each of them takes from each of ours.
    pub theirs: Window,
    /// What each of ours takes from each of them.
    pub ours: Window,
    /// Where the slots for it come from.
    pub slots: Arc<dyn Slots>,
    /// Methods that the two nodes have in different forms, in order: they do not call each other by them.
    pub differing: Arc<[MethodId]>,
    /// Messages above so many bytes leave in chunks, as do those that no slot can hold.
    pub bulk_bytes: usize,
}

struct Peer {
    node: NodeId,
    link: Option<Link>,
    /// What waits for a link.
    waiting: Vec<Posted>,
    /// Listed to be flushed.
    dirty: bool,
}

impl Peer {
    fn new(node: NodeId) -> Self {
        Self { node, link: None, waiting: Vec::new(), dirty: false }
    }
}

/// A call that is under way to another node.
struct Sent {
    posted: Posted,
    token: Token,
    link: LinkId,
}

/// What a shard knows of other nodes.
#[derive(Default)]
pub(crate) struct Remote {
    /// The peer of each member; `None` for this node itself.
    owners: Vec<Option<usize>>,
    /// The number of the view; 0 if there is none.
    view: u64,
    peers: Vec<Peer>,
    by_node: BTreeMap<NodeId, usize>,
    /// The peers that links lead to, by link.
    links: Vec<(LinkId, usize)>,
    calls: Vec<Option<Sent>>,
    dirty: Vec<usize>,
    /// Memory of long messages that came.
    spares: Arc<Spares>,
    /// As [`Link::spent`].
    spent: Vec<Request>,
}

impl Remote {
    fn peer_of(&mut self, node: NodeId) -> usize {
        if let Some(at) = self.by_node.get(&node) {
            return *at;
        }
        let unused = |peer: &Peer| peer.link.is_none() && !peer.dirty && peer.waiting.is_empty();
        let named = |peer: &Peer| self.by_node.contains_key(&peer.node);
        let at = self.peers.iter().position(|peer| unused(peer) && !named(peer));
        let at = match at {
            Some(at) => {
                self.peers[at] = Peer::new(node);
                at
            }
            None => {
                self.peers.push(Peer::new(node));
                self.peers.len() - 1
            }
        };
        self.by_node.insert(node, at);
        at
    }

    pub(crate) fn by_link(&mut self, link: LinkId) -> Option<(usize, &mut Link)> {
        let at = self.links.binary_search_by_key(&link, |(link, _)| *link).ok()?;
        let (_, at) = self.links[at];
        Some((at, self.peers.get_mut(at)?.link.as_mut()?))
    }

    /// The link to `node`, if there is one.
    pub(crate) fn link_to(&mut self, node: NodeId) -> Option<&mut Link> {
        let at = *self.by_node.get(&node)?;
        self.peers.get_mut(at)?.link.as_mut()
    }

    /// Where a link leads.
    pub(crate) fn node_of(&mut self, link: LinkId) -> Option<NodeId> {
        let (at, _) = self.by_link(link)?;
        Some(self.peers[at].node)
    }

    fn all_links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.peers.iter_mut().filter_map(|peer| peer.link.as_mut())
    }

    /// The ways to all shards that can be reached.
    pub(crate) fn passages(&mut self) -> impl Iterator<Item = &mut Passage> {
        self.all_links().flat_map(|link| &mut link.passages)
    }

    /// Shards to which something was said since a flush was asked for.
    pub(crate) fn used(&mut self) -> impl Iterator<Item = Lane> {
        self.lanes(Passage::is_used)
    }

    fn lanes(&mut self, are: fn(&Passage) -> bool) -> impl Iterator<Item = Lane> {
        self.all_links().flat_map(move |link| {
            let lanes = (0..).zip(&link.passages).filter(move |(_, passage)| are(passage));
            lanes.map(|(shard, _)| Lane::There(link.id, ShardId::new(shard)))
        })
    }

    /// Shards at which something was tried since a flush was asked for.
    pub(crate) fn tried(&mut self) -> impl Iterator<Item = Lane> {
        self.lanes(Passage::has_tried)
    }

    /// The first views that are still of interest to what was said.
    pub(crate) fn of_interest(&mut self) -> impl Iterator<Item = u64> {
        self.passages().filter_map(|passage| passage.of_interest_since())
    }

    /// Links over which something is undecided that was said before the view `floor`.
    pub(crate) fn undecided_before(&mut self, floor: u64) -> impl Iterator<Item = LinkId> {
        let undecided = move |passage: &Passage| {
            passage.undecided_since().is_some_and(|view| view > 0 && view < floor)
        };
        self.all_links().filter(move |link| link.passages.iter().any(undecided)).map(|link| link.id)
    }

    /// A shard is to be asked to decide what was said to it.
    pub(crate) fn flush_by(&mut self, link: LinkId, shard: ShardId, view: u64) {
        if let Some((at, link)) = self.by_link(link) {
            link.push_flush(shard, view);
            self.soil(at);
        }
    }

    fn soil(&mut self, at: usize) {
        if !std::mem::replace(&mut self.peers[at].dirty, true) {
            self.dirty.push(at);
        }
    }

    /// The members change. Calls that have not left, and are for others now or of slots of which something waits in
    /// `lines`, are given.
    pub(crate) fn turn(&mut self, now: &Ownership, lines: &Lines<Lane, Posted>) -> Vec<Posted> {
        let members = now.members();
        let gone = |peer: &Peer| peer.link.is_none() && members.binary_search(&peer.node).is_err();
        let mut homeless = Vec::new();
        for at in 0..self.peers.len() {
            let node = self.peers[at].node;
            let elsewhere = |posted: &Posted| {
                let to = posted.request.to();
                now.directory().owner(to) != Some(node) || lines.has(SlotId::of(to))
            };
            let peer = &mut self.peers[at];
            homeless.extend(peer.waiting.extract_if(.., |posted| elsewhere(posted)));
            if let Some(link) = &mut peer.link {
                link.view = now.number();
                homeless.append(&mut link.withdraw(elsewhere));
            }
            if gone(&self.peers[at]) && self.by_node.get(&node) == Some(&at) {
                self.by_node.remove(&node);
            }
        }
        let me = now.me();
        self.owners =
            members.iter().map(|node| (*node != me).then(|| self.peer_of(*node))).collect();
        self.view = now.number();
        homeless
    }

    fn keep(&mut self, posted: Posted, link: LinkId) {
        let Some(token) = posted.token else { return self.spent.push(posted.request) };
        let index = token.index() as usize;
        if self.calls.len() <= index {
            self.calls.resize_with(index + 1, || None);
        }
        self.calls[index] = Some(Sent { posted, token, link });
    }

    fn take(&mut self, token: Token) -> Option<Sent> {
        let slot = self.calls.get_mut(token.index() as usize)?;
        slot.take_if(|sent| sent.token == token)
    }

    /// Posts a call to a peer, and says what became of it; `None` if it waits.
    fn post(
        &mut self,
        now: Time,
        at: usize,
        posted: Posted,
        out: &mut Vec<Effect>,
    ) -> Option<Left> {
        let peer = &mut self.peers[at];
        let Some(link) = &mut peer.link else {
            peer.waiting.push(posted);
            return None;
        };
        let left = link.post(now, posted, out);
        self.soil(at);
        left
    }

    /// Nobody waits any more for the reply to a call that is leaving in chunks.
    fn give_up(&mut self, token: Token) {
        let mut links = self.peers.iter_mut().map(|peer| peer.link.as_mut());
        let at = links.position(|link| link.is_some_and(|link| link.give_up(token)));
        if let Some(at) = at {
            self.soil(at);
        }
    }

    fn gather_spent(&mut self, at: usize) {
        if let Some(link) = &mut self.peers[at].link {
            self.spent.append(&mut link.spent);
        }
    }

    fn has_room(&self, at: usize) -> bool {
        let peer = &self.peers[at];
        let waiting = peer.waiting.len() + peer.link.as_ref().map_or(0, Link::waiting);
        waiting < limits::UNSENT_MAX as usize
    }
}

/// Who waits on this shard for the outcome of a call.
pub(crate) fn token_of(request: &Request) -> Option<Token> {
    match request.head().caller {
        Caller::Token { token, .. } => Some(token),
        Caller::Nobody
        | Caller::Remote { .. }
        | Caller::Teller { .. }
        | Caller::RemoteTeller { .. } => None,
    }
}

impl Core {
    /// A node can be reached.
    pub(crate) fn link_up(&self, desk: &Desk, up: &LinkUp) {
        let before = self.remote.borrow_mut().link_to(up.node).map(|link| link.id);
        if let Some(before) = before {
            self.link_down(desk, before);
        }
        let (at, waiting) = {
            let remote = &mut *self.remote.borrow_mut();
            let at = remote.peer_of(up.node);
            remote.peers[at].link =
                Some(Link::new(up, self.shard_id(), &remote.spares, remote.view));
            let place = remote.links.partition_point(|(link, _)| *link < up.link);
            remote.links.insert(place, (up.link, at));
            (at, std::mem::take(&mut remote.peers[at].waiting))
        };
        for posted in waiting {
            if let Some(posted) = self.revive(desk, posted) {
                self.post(desk, at, posted);
            }
        }
    }

    /// Drops what requests hold that are of no more use (**R2**).
    fn recycle_spent(&self) {
        loop {
            let Some(request) = self.remote.borrow_mut().spent.pop() else { return };
            request.recycle();
        }
    }

    /// Takes out what has not left by a link, and is of slots of which something waits: when that goes on, it does.
    fn withdraw_unsent(&self, link: LinkId) -> Vec<Posted> {
        let lines = &self.realm.borrow().lines;
        let waits = |posted: &Posted| lines.has(SlotId::of(posted.request.to()));
        let mut remote = self.remote.borrow_mut();
        remote.by_link(link).map_or_else(Vec::new, |(_, link)| link.withdraw(waits))
    }

    /// A link is gone: what left by it has an unknown fate, what had not left waits for the next (**R1**), and
    /// what waited for the other side to decide goes on: it can give nothing back any more.
    pub(crate) fn link_down(&self, desk: &Desk, link: LinkId) {
        let waiting = self.withdraw_unsent(link);
        // What came back was said before what has not left.
        waiting.into_iter().rev().for_each(|posted| self.stand_first(desk, posted));
        let lost = {
            let (realm, remote) = (&mut *self.realm.borrow_mut(), &mut *self.remote.borrow_mut());
            let Ok(place) = remote.links.binary_search_by_key(&link, |(link, _)| *link) else {
                return;
            };
            let (_, at) = remote.links.remove(place);
            let Some(mut ended) = remote.peers[at].link.take() else { return };
            let leaving = ended.end_transfers();
            remote.spent.append(&mut ended.spent);
            leaving.into_iter().for_each(|posted| remote.keep(posted, link));
            remote.peers[at].waiting.extend(ended.withdraw(|_| true));
            realm.pending -= ended.passages.iter().filter(|way| way.is_pending()).count();
            realm.lines.ended(|lane| matches!(lane, Lane::There(by, _) if *by == link));
            realm.flushes.retain(|(lane, _)| !matches!(lane, Lane::There(by, _) if *by == link));
            let sent = remote.calls.iter().flatten().filter(|sent| sent.link == link);
            let lost: Vec<(Token, ChainId)> =
                sent.map(|sent| (sent.token, sent.posted.request.head().path.chain())).collect();
            lost
        };
        self.recycle_spent();
        for (token, chain) in lost {
            let error = CallError::new(ErrorKind::NodeLost, Ran::Unknown, chain);
            self.complete(desk, token, Answer::Failed(error));
        }
        self.go_on(desk);
        self.trim(desk);
    }

    /// Every link is gone, and nothing that was to leave does.
    pub(crate) fn drop_links(&self, desk: &Desk) {
        let remote = std::mem::take(&mut *self.remote.borrow_mut());
        for peer in remote.peers {
            let mut unsent = peer.waiting;
            if let Some(mut link) = peer.link {
                unsent.extend(link.withdraw(|_| true));
                link.end_transfers().into_iter().for_each(|posted| posted.request.recycle());
                link.spent.into_iter().for_each(Request::recycle);
            }
            for posted in unsent {
                self.refuse(desk, posted.request, ErrorKind::NodeLost);
            }
        }
        for sent in remote.calls.into_iter().flatten() {
            sent.posted.request.recycle();
        }
        remote.spent.into_iter().for_each(Request::recycle);
    }

    /// There is room for what a link did not take.
    pub(crate) fn link_room(&self, link: LinkId) {
        let mut remote = self.remote.borrow_mut();
        if let Some((at, _)) = remote.by_link(link) {
            remote.soil(at);
        }
    }

    /// Sends a call to the member at place `member` of the view.
    pub(crate) fn post_to_member(&self, desk: &Desk, member: usize, posted: Posted) {
        let at = self.remote.borrow().owners.get(member).copied().flatten();
        match at {
            Some(at) => self.post(desk, at, posted),
            None => unreachable!("N13: a slot that is elsewhere is not here"),
        }
    }

    fn post(&self, desk: &Desk, at: usize, posted: Posted) {
        if !self.may_wait_at(desk, at) {
            return self.refuse(desk, posted.request, ErrorKind::Overloaded);
        }
        let token = posted.token;
        let left = {
            let remote = &mut *self.remote.borrow_mut();
            remote.post(self.time(), at, posted, &mut self.effects.borrow_mut())
        };
        self.count(|c| c.remote += 1);
        match left {
            Some(left) => self.has_left(desk, left),
            None => token.into_iter().for_each(|token| self.set_way(token, Way::Waits)),
        }
        self.recycle_spent();
    }

    /// Tries a call where its slot is emptied. Gives it back if it could not leave now.
    pub(crate) fn post_now(&self, desk: &Desk, link: LinkId, posted: Posted) -> Option<Posted> {
        let left = {
            let remote = &mut *self.remote.borrow_mut();
            let Some((at, by)) = remote.by_link(link) else { return Some(posted) };
            let left = by.post_now(self.time(), posted, &mut self.effects.borrow_mut());
            remote.soil(at);
            left
        };
        match left {
            Ok(left) => self.has_left(desk, left),
            Err(posted) => return Some(posted),
        }
        self.recycle_spent();
        None
    }

    /// Something that was posted has left.
    fn has_left(&self, desk: &Desk, left: Left) {
        match left {
            Left::Sent(posted, link) => {
                let token = posted.token;
                self.remote.borrow_mut().keep(posted, link);
                token.into_iter().for_each(|token| self.set_way(token, Way::Away));
            }
            Left::Begun(token) => {
                token.into_iter().for_each(|token| self.set_way(token, Way::Away));
            }
            Left::Refused(posted) => self.refuse(desk, posted.request, ErrorKind::Malformed),
            Left::Late(posted) => self.end_late(desk, posted),
        }
    }

    /// Whether one more may wait for a peer. Those that have given up take no room.
    fn may_wait_at(&self, desk: &Desk, at: usize) -> bool {
        if self.remote.borrow().has_room(at) {
            return true;
        }
        if self.purged.replace(self.time()) == self.time() {
            return false;
        }
        let late = {
            let remote = &mut *self.remote.borrow_mut();
            let is_late = |posted: &Posted| self.is_late(desk, posted);
            let peer = &mut remote.peers[at];
            let mut late: Vec<Posted> =
                peer.waiting.extract_if(.., |posted| is_late(posted)).collect();
            late.extend(peer.link.as_mut().into_iter().flat_map(|link| link.withdraw(is_late)));
            late
        };
        late.into_iter().for_each(|posted| self.end_late(desk, posted));
        self.remote.borrow().has_room(at)
    }

    /// Nobody waits for the answer of `token` any more, or it has one, and it has left.
    pub(crate) fn forget_remote(&self, token: Token) {
        let mut remote = self.remote.borrow_mut();
        if let Some(sent) = remote.take(token) {
            if let Some((at, link)) = remote.by_link(sent.link) {
                link.cancel(sent.posted.request.to(), token);
                remote.soil(at);
            }
            remote.spent.push(sent.posted.request);
        } else {
            remote.give_up(token);
        }
        drop(remote);
        self.recycle_spent();
    }

    /// Sends the outcome of a peer's call.
    pub(crate) fn answer_remote(
        &self,
        link: LinkId,
        (shard, token): (ShardId, Token),
        answer: Answer,
    ) {
        let outcome = match answer {
            Answer::Reply(request) => Outcome::Reply(request),
            Answer::Failed(error) => Outcome::Failed(error),
            Answer::Done
            | Answer::Wall(_)
            | Answer::Bytes(_)
            | Answer::Section(_)
            | Answer::Gone { .. }
            | _ => {
                unreachable!("N1: a call is answered by a reply or an error")
            }
        };
        let mut remote = self.remote.borrow_mut();
        match remote.by_link(link) {
            Some((at, link)) => {
                let answering = Answering { shard, token, outcome };
                link.answer(answering, &mut self.effects.borrow_mut());
                remote.soil(at);
                remote.gather_spent(at);
            }
            // Whoever asked is gone.
            None => remote.spent.extend(outcome.spent()),
        }
        drop(remote);
        self.recycle_spent();
    }

    /// Gives a peer's call back, of which nothing has run.
    pub(crate) fn return_to(
        &self,
        link: LinkId,
        shard: ShardId,
        token: Option<Token>,
        request: Request,
    ) {
        {
            let remote = &mut *self.remote.borrow_mut();
            match remote.by_link(link) {
                Some((at, link)) => {
                    link.give_back(shard, token, request);
                    remote.soil(at);
                    remote.gather_spent(at);
                }
                // Whoever made it is gone.
                None => remote.spent.push(request),
            }
        }
        self.recycle_spent();
    }

    /// Tells a peer's shard that all it said before `view` is decided.
    pub(crate) fn flushed_by(&self, link: LinkId, shard: ShardId, view: u64, emptying: &Emptying) {
        let remote = &mut *self.remote.borrow_mut();
        if let Some((at, link)) = remote.by_link(link) {
            link.push_back(shard, Back::Flushed { view, emptying: emptying.clone() });
            remote.soil(at);
        }
    }

    /// Everything that was written for other nodes, and what else may leave now, becomes effects.
    pub(crate) fn flush_remote(&self, desk: &Desk) {
        let mut left = Vec::new();
        {
            let remote = &mut *self.remote.borrow_mut();
            if remote.dirty.is_empty() {
                return;
            }
            let look = |posted: &mut Posted| {
                let late = self.is_late(desk, posted);
                self.drop_token(desk, posted);
                late
            };
            let mut effects = self.effects.borrow_mut();
            let mut dirty = std::mem::take(&mut remote.dirty);
            for at in dirty.drain(..) {
                remote.peers[at].dirty = false;
                let Some(link) = &mut remote.peers[at].link else { continue };
                link.flush(self.time(), &mut effects, &mut left, &look);
                remote.gather_spent(at);
            }
            remote.dirty = dirty;
        }
        left.into_iter().for_each(|left| self.has_left(desk, left));
        self.recycle_spent();
    }

    /// Whether nothing waits here that could leave for another node.
    pub(crate) fn is_settled(&self) -> bool {
        let realm = self.realm.borrow();
        let remote = self.remote.borrow();
        let settled =
            remote.peers.iter().filter_map(|peer| peer.link.as_ref()).all(Link::is_settled);
        let waits = !realm.lines.is_empty() || realm.held_count > 0 || realm.is_sweeping();
        let waits = waits || !self.backlog.borrow().is_empty();
        settled && !waits && remote.dirty.is_empty()
    }
}
