//! One link as a shard sees it: the frame being filled, what may not leave yet, and its transfers.
//!
//! # Invariants
//! - **R3** What is posted for one peer's shard leaves in the order of posting, but for what waits for a
//!   transfer of its own pair; answers have no order. What may be of any pair waits for all transfers to its callee,
//!   and what is posted later for that one waits behind it.
//! - **R4** A credit that was taken to ride on a message leaves with it.
//!
//! # Not here
//! Tokens and their outcomes; the bytes of a message that leaves in chunks (`bulk`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use epicserver_entity::{Place, Request};
use epicserver_proto::passage::{Emptying, Passage};
use epicserver_proto::session::Session;
use epicserver_proto::spares::Spares;
use epicserver_proto::transfers::{self, Pace};
use epicserver_wire::frame::{FrameMut, Slots};
use epicserver_wire::header::{Credit, Violation};
use epicserver_wire::{
    CallError, EntityId, LinkId, MethodId, NodeId, Out, ShardId, Time, Token, Unwritten,
};

use super::bulk::{Bulk, Source};
use crate::{Effect, LinkUp};

/// Tokens that a peer gave up and that are remembered, for each link.
const CANCELLED_MAX: usize = 4096;

/// A call or tell that is to leave.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) request: Request,
    /// Who waits here.
    pub(crate) token: Option<Token>,
    /// Which activation made it; with its callee, the pair whose order is kept.
    pub(crate) maker: Place,
    /// Who has given it back last, and the view that he knew.
    pub(crate) tried: Option<(NodeId, u64)>,
}

impl Posted {
    /// It is not known any more which activation made it: it may have been any.
    pub(crate) const ANY: Place = Place::new(u32::MAX - 1);

    fn is_of_any(&self) -> bool {
        self.maker == Self::ANY
    }

    fn pairs_with(&self, held: &Held) -> bool {
        let any = self.is_of_any() || held.maker == Self::ANY;
        (any || self.maker == held.maker) && held.to == *self.request.to()
    }
}

/// What an answer says.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Request),
    Failed(CallError),
}

/// An answer that is to leave.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) shard: ShardId,
    pub(crate) token: Token,
    pub(crate) outcome: Outcome,
}

/// Something about calls of the peer that have not begun. What is said to one shard keeps its order.
#[derive(Debug)]
pub(crate) enum Back {
    /// This one has to go elsewhere.
    Moved { token: Token, view: u64 },
    /// So has this one, for whose reply nobody waits.
    Returned { request: Request, view: u64 },
    /// No other that came before the flush has.
    Flushed { view: u64, emptying: Emptying },
}

/// What became of a call that was posted and left.
#[derive(Debug)]
pub(crate) enum Left {
    /// It is under way, by this link; the request is kept for the reply.
    Sent(Posted, LinkId),
    /// Its first bytes are under way, and the others follow.
    Begun(Option<Token>),
    /// It cannot be written.
    Refused(Posted),
    /// Its deadline has passed before it could leave.
    Late(Posted),
}

/// A shard is to be asked to decide what was said to it.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) shard: ShardId,
    pub(super) view: u64,
    /// Calls whose last bytes have to leave before.
    pub(super) after: Vec<Token>,
}

/// Calls of a pair that wait for a transfer of the same pair.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) shard: ShardId,
    pub(super) transfer: Token,
    pub(super) maker: Place,
    pub(super) to: EntityId,
    pub(super) behind: VecDeque<Posted>,
    /// Something that may be of any pair waits there.
    pub(super) any: bool,
}

/// A shard's end of one link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(super) me: ShardId,
    pub(super) slots: Arc<dyn Slots>,
    differing: Arc<[MethodId]>,
    /// Messages above so many bytes leave in chunks.
    pub(super) bulk_bytes: usize,
    pub(crate) session: Session,
    /// The view that what leaves is said under.
    pub(crate) view: u64,
    /// The ways to the peer's shards.
    pub(crate) passages: Vec<Passage>,
    /// The views that the peer's shards have announced.
    views: Vec<u64>,
    pub(super) flushes: VecDeque<Asking>,
    /// What goes back to the peer's shards, and what of it is leaving in chunks.
    pub(super) backs: BTreeMap<ShardId, VecDeque<Back>>,
    pub(super) returning: BTreeMap<ShardId, Token>,
    pub(super) open: Option<FrameMut>,
    pub(super) lanes: Vec<VecDeque<Posted>>,
    pub(super) waiting: usize,
    pub(super) answers: VecDeque<Answering>,
    pub(super) transfers: BTreeMap<ShardId, transfers::Outgoing>,
    pub(super) pace: Pace,
    /// Memory for bodies, if the transport takes those.
    pub(super) spares: Arc<Spares>,
    /// What the transfers carry.
    pub(super) bulk: BTreeMap<(ShardId, Token), Bulk>,
    pub(crate) incoming: transfers::Incoming,
    pub(super) held: Vec<Held>,
    pub(super) cancels: Vec<(ShardId, Token)>,
    /// Tokens of the peer for which it wants no reply any more.
    cancelled: BTreeSet<(ShardId, Token)>,
    /// Requests that are of no more use: what they hold may be dropped only where user code may run.
    pub(crate) spent: Vec<Request>,
}

impl Link {
    pub(crate) fn new(up: &LinkUp, me: ShardId, spares: &Arc<Spares>, view: u64) -> Self {
        let shards = up.shards.max(1);
        Self {
            id: up.link,
            me,
            slots: Arc::clone(&up.slots),
            differing: Arc::clone(&up.differing),
            bulk_bytes: up.bulk_bytes,
            session: Session::new(shards, up.theirs, up.ours),
            view,
            passages: (0..shards).map(|_| Passage::default()).collect(),
            views: vec![0; usize::from(shards)],
            flushes: VecDeque::new(),
            backs: BTreeMap::new(),
            returning: BTreeMap::new(),
            open: None,
            lanes: (0..shards).map(|_| VecDeque::new()).collect(),
            waiting: 0,
            answers: VecDeque::new(),
            transfers: BTreeMap::new(),
            pace: Pace::of_bodies(up.slots.body_bytes()),
            spares: Arc::clone(spares),
            bulk: BTreeMap::new(),
            incoming: transfers::Incoming::new(Arc::clone(spares)),
            held: Vec::new(),
            cancels: Vec::new(),
            cancelled: BTreeSet::new(),
            spent: Vec::new(),
        }
    }

    /// Whether nothing is left to be written.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting == 0
            && self.answers.is_empty()
            && self.flushes.is_empty()
            && self.backs.is_empty()
            && self.transfers.values().all(transfers::Outgoing::is_empty)
    }

    /// How many calls may not leave yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether the peer has `method` in another form than this node.
    pub(crate) fn differs(&self, method: MethodId) -> bool {
        !self.differing.is_empty() && self.differing.binary_search(&method).is_ok()
    }

    /// The view that a shard there has announced.
    pub(crate) fn view_of(&self, shard: ShardId) -> u64 {
        self.views.get(shard.index()).copied().unwrap_or(0)
    }

    /// A shard there speaks under `view` from now on.
    pub(crate) fn announced(&mut self, shard: ShardId, view: u64) {
        if let Some(known) = self.views.get_mut(shard.index()) {
            *known = view.max(*known);
        }
    }

    pub(crate) fn lane_of(&self, to: &EntityId) -> ShardId {
        to.shard(u16::try_from(self.lanes.len()).unwrap_or(u16::MAX))
    }

    /// Posts a call (**R3**): it leaves now if it can, and its fate is given, or it waits.
    pub(crate) fn post(
        &mut self,
        now: Time,
        posted: Posted,
        out: &mut Vec<Effect>,
    ) -> Option<Left> {
        let shard = self.lane_of(posted.request.to());
        let free = self.lanes.get(shard.index()).is_none_or(VecDeque::is_empty);
        if !free {
            self.wait(shard, posted);
            return None;
        }
        if let Some(held) = self.held_for(&posted) {
            self.stand_behind(held, posted);
            return None;
        }
        if !self.may_send(shard) {
            self.wait(shard, posted);
            return None;
        }
        match self.write_call(now, shard, posted, out) {
            Ok(left) => Some(left),
            Err(posted) => {
                self.wait(shard, posted);
                None
            }
        }
    }

    /// Posts a call that leaves now, or is given back.
    ///
    /// # Errors
    /// The call, if anything has to leave before it.
    pub(crate) fn post_now(
        &mut self,
        now: Time,
        posted: Posted,
        out: &mut Vec<Effect>,
    ) -> Result<Left, Posted> {
        let shard = self.lane_of(posted.request.to());
        let free = self.lanes.get(shard.index()).is_none_or(VecDeque::is_empty);
        if free && self.held_for(&posted).is_none() && self.may_send(shard) {
            self.write_call(now, shard, posted, out)
        } else {
            Err(posted)
        }
    }

    fn wait(&mut self, shard: ShardId, posted: Posted) {
        if let Some(lane) = self.lanes.get_mut(shard.index()) {
            lane.push_back(posted);
            self.waiting += 1;
        }
    }

    /// The transfer that it has to wait for, if there is one.
    pub(super) fn held_for(&self, posted: &Posted) -> Option<usize> {
        let any = |held: &Held| held.any && held.to == *posted.request.to();
        let pair = |held: &Held| posted.pairs_with(held);
        self.held.iter().position(any).or_else(|| self.held.iter().position(pair))
    }

    /// It waits for that transfer. What may be of any pair does so behind all that waits for its callee: whatever of
    /// that is of its pair was made before it, and goes on with it.
    pub(super) fn stand_behind(&mut self, at: usize, posted: Posted) {
        self.waiting += 1;
        if posted.is_of_any() && !self.held[at].any {
            let mut all = VecDeque::new();
            for held in self.held.iter_mut().filter(|held| held.to == *posted.request.to()) {
                all.append(&mut held.behind);
            }
            (self.held[at].behind, self.held[at].any) = (all, true);
        }
        self.held[at].behind.push_back(posted);
    }

    /// A lane carries a message only if it could carry the longest that fits a slot.
    pub(super) fn may_send(&self, shard: ShardId) -> bool {
        self.session.may_send(shard, Credit::units_of(self.slots.slot_bytes()))
    }

    /// Answers a call of the peer.
    pub(crate) fn answer(&mut self, answering: Answering, out: &mut Vec<Effect>) {
        let key = (answering.shard, answering.token);
        if !self.cancelled.is_empty() && self.cancelled.remove(&key) {
            return self.spent.extend(answering.outcome.spent());
        }
        if !self.answers.is_empty() {
            return self.answers.push_back(answering);
        }
        if let Some(stays) = self.write_answer(answering, out) {
            self.answers.push_front(stays);
        }
    }

    /// Nobody waits for the reply to `token` any more.
    pub(crate) fn cancel(&mut self, to: &EntityId, token: Token) {
        self.cancels.push((self.lane_of(to), token));
    }

    /// The peer took in so many bytes of the transfers to `shard`.
    pub(crate) fn taken(&mut self, shard: ShardId, bytes: usize) -> Result<(), Violation> {
        let lane = self.transfers.get_mut(&shard);
        lane.ok_or(Violation::Unexpected("a chunk taken in that was not sent"))?.taken(bytes)
    }

    /// The peer wants no reply to `token` of its `shard`.
    pub(crate) fn cancelled(&mut self, shard: ShardId, token: Token) {
        if self.cancelled.len() >= CANCELLED_MAX {
            // The oldest have been answered before they were cancelled.
            self.cancelled.pop_first();
        }
        self.cancelled.insert((shard, token));
    }

    /// Nobody waits any more for the reply to a call that is leaving. Says whether it is one.
    pub(crate) fn give_up(&mut self, token: Token) -> bool {
        let calls = self.bulk.values_mut().filter_map(|bulk| match &mut bulk.of {
            Source::Call(posted) => Some(posted),
            Source::Answer(_) | Source::Returned(_) => None,
        });
        let Some(posted) = calls.into_iter().find(|posted| posted.token == Some(token)) else {
            return false;
        };
        posted.token = None;
        let to = posted.request.to().clone();
        self.cancel(&to, token);
        true
    }

    /// Ends what is leaving in chunks, and gives the calls among it.
    pub(crate) fn end_transfers(&mut self) -> Vec<Posted> {
        let mut calls = Vec::new();
        for bulk in std::mem::take(&mut self.bulk).into_values() {
            match bulk.of {
                Source::Call(posted) => calls.push(posted),
                Source::Answer(outcome) => self.spent.extend(outcome.spent()),
                Source::Returned(request) => self.spent.push(request),
            }
        }
        for back in std::mem::take(&mut self.backs).into_values().flatten() {
            match back {
                Back::Returned { request, .. } => self.spent.push(request),
                Back::Moved { .. } | Back::Flushed { .. } => {}
            }
        }
        calls
    }

    /// Takes back what has not left and `goes` says yes to, what waited for a transfer first: calls of the same
    /// pair that wait in a lane were made later (**R3**).
    pub(crate) fn withdraw(&mut self, goes: impl Fn(&Posted) -> bool) -> Vec<Posted> {
        let mut gone = Vec::new();
        if self.waiting == 0 {
            return gone;
        }
        for queue in self.held.iter_mut().map(|held| &mut held.behind).chain(&mut self.lanes) {
            for posted in std::mem::take(queue) {
                if goes(&posted) { gone.push(posted) } else { queue.push_back(posted) }
            }
        }
        self.waiting -= gone.len();
        gone
    }

    /// A shard of the peer is to decide what was said to it before.
    pub(crate) fn push_flush(&mut self, shard: ShardId, view: u64) {
        let calls = self
            .bulk
            .iter()
            .filter(|((to, _), bulk)| *to == shard && matches!(bulk.of, Source::Call(_)));
        let after = calls.map(|((_, transfer), _)| *transfer).collect();
        self.flushes.push_back(Asking { shard, view, after });
    }

    /// Gives a call of a shard of the peer back; whole, if nobody there has it any more.
    pub(crate) fn give_back(&mut self, shard: ShardId, token: Option<Token>, request: Request) {
        let view = self.view;
        let kept = token.filter(|token| !self.cancelled.remove(&(shard, *token)));
        let back = match kept {
            Some(token) => {
                self.spent.push(request);
                Back::Moved { token, view }
            }
            None => Back::Returned { request, view },
        };
        self.push_back(shard, back);
    }

    /// Says something about calls of a shard of the peer, behind all that was said of them before.
    pub(crate) fn push_back(&mut self, shard: ShardId, back: Back) {
        self.backs.entry(shard).or_default().push_back(back);
    }
}

impl Outcome {
    pub(crate) fn encode(&self, out: &mut Out<'_>) -> Result<(), Unwritten> {
        match self {
            Self::Reply(request) => request.encode_reply_to(out),
            Self::Failed(error) => out.put(error),
        }
    }

    /// The request that is of no more use, if there is one.
    pub(crate) fn spent(self) -> Option<Request> {
        match self {
            Self::Reply(request) => Some(request),
            Self::Failed(_) => None,
        }
    }
}
