//! Other nodes, as one shard sees them: who owns what, and the calls that are under way to them.
//!
//! # Invariants
//! - **R1** Each token of a call that left for another node has one outcome: its reply, its refusal, its
//!   deadline, or the loss of the link that it left by.
//! - **R2** No user code runs while the table of peers is borrowed.
//!
//! # Not here
//! Who the members are; bytes on a wire; how a message is written (`link`, `bulk`).

mod bulk;
mod link;

use std::sync::Arc;

use epicserver_entity::{Answer, Caller, Desk, Place, Request, Target};
use epicserver_proto::Directory;
use epicserver_proto::session::Window;
use epicserver_proto::spares::Spares;
use epicserver_wire::frame::{Frame, Slots};
use epicserver_wire::header::{Credit, Header, Kind, Message as Parsed, Violation};
use epicserver_wire::{
    CallError, ChainId, Codec, ErrorKind, LinkId, MethodId, NodeId, Ran, Rkyv, ShardId, Time,
    Token, limits,
};

use crate::Effect;
use crate::core::Core;
pub(crate) use crate::remote::link::Posted;
use crate::remote::link::{Answering, Left, Link, Outcome};

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
    fn waiting(&mut self) -> impl Iterator<Item = &mut Posted> {
        let link = self.link.as_mut().map(Link::posted).into_iter().flatten();
        self.waiting.iter_mut().chain(link)
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
    me: Option<NodeId>,
    directory: Option<Arc<Directory>>,
    /// The peer of each member; `None` for this node itself.
    owners: Vec<Option<usize>>,
    peers: Vec<Peer>,
    calls: Vec<Option<Sent>>,
    dirty: Vec<usize>,
    /// Memory of long messages that came.
    spares: Arc<Spares>,
    /// As [`Link::spent`].
    spent: Vec<Request>,
}

impl Remote {
    fn peer_of(&mut self, node: NodeId) -> usize {
        if let Some(at) = self.peers.iter().position(|peer| peer.node == node) {
            return at;
        }
        self.peers.push(Peer { node, link: None, waiting: Vec::new(), dirty: false });
        self.peers.len() - 1
    }

    fn by_link(&mut self, link: LinkId) -> Option<(usize, &mut Link)> {
        let mut peers = self.peers.iter_mut().enumerate();
        peers.find_map(|(at, peer)| Some((at, peer.link.as_mut().filter(|l| l.id == link)?)))
    }

    fn soil(&mut self, at: usize) {
        if !std::mem::replace(&mut self.peers[at].dirty, true) {
            self.dirty.push(at);
        }
    }

    /// The other node that owns the entity, as a number; `None` if this one does.
    fn owner(&self, request: &Request) -> Option<usize> {
        let directory = self.directory.as_ref()?;
        self.owners.get(directory.owner_index(request.to())?).copied().flatten()
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

    /// Posts a call to a peer. What cannot be written is given back.
    fn post(
        &mut self,
        now: Time,
        at: usize,
        posted: Posted,
        out: &mut Vec<Effect>,
    ) -> Option<Posted> {
        let peer = &mut self.peers[at];
        let Some(link) = &mut peer.link else {
            peer.waiting.push(posted);
            return None;
        };
        let id = link.id;
        let left = link.post(now, posted, out);
        self.soil(at);
        match left? {
            Left::Sent(posted) => {
                self.keep(posted, id);
                None
            }
            Left::Refused(posted) => Some(posted),
        }
    }

    /// Takes back a call that has not left.
    fn withdraw(&mut self, token: Token) -> Option<Posted> {
        self.peers.iter_mut().find_map(|peer| {
            let waits = |posted: &Posted| posted.token == Some(token);
            let waiting = peer.waiting.iter().position(waits).map(|at| peer.waiting.remove(at));
            waiting.or_else(|| peer.link.as_mut()?.withdraw(token))
        })
    }

    /// Nobody waits any more for the reply to a call that is leaving in chunks. Says whether it is one.
    fn give_up(&mut self, token: Token) -> bool {
        let mut links = self.peers.iter_mut().map(|peer| peer.link.as_mut());
        let at = links.position(|link| link.is_some_and(|link| link.give_up(token)));
        if let Some(at) = at {
            self.soil(at);
        }
        at.is_some()
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
fn token_of(request: &Request) -> Option<Token> {
    match request.head().caller {
        Caller::Token { token, .. } => Some(token),
        Caller::Nobody | Caller::Remote { .. } => None,
    }
}

impl Core {
    /// The members of the fabric are these from now on.
    pub(crate) fn direct(&self, desk: &Desk, me: NodeId, directory: Arc<Directory>) {
        let homeless = {
            let mut remote = self.remote.borrow_mut();
            let members = directory.members().to_vec();
            remote.owners =
                members.iter().map(|node| (*node != me).then(|| remote.peer_of(*node))).collect();
            remote.me = Some(me);
            remote.directory = Some(directory);
            let gone = remote.peers.iter_mut().filter(|peer| !members.contains(&peer.node));
            let mut homeless: Vec<Posted> = Vec::new();
            for peer in gone {
                homeless.append(&mut peer.waiting);
                homeless.extend(peer.link.as_mut().map(Link::withdraw_all).into_iter().flatten());
            }
            homeless
        };
        self.is_alone.set(self.remote.borrow().owners.iter().all(Option::is_none));
        for posted in homeless {
            self.route_from(desk, posted.request, posted.maker, false);
        }
        // What waited for the members leaves before what is said from now on (I4).
        self.again(desk);
    }

    /// A node can be reached.
    pub(crate) fn link_up(&self, desk: &Desk, up: &LinkUp) {
        let mut refused = Vec::new();
        {
            let mut remote = self.remote.borrow_mut();
            let at = remote.peer_of(up.node);
            let link = Link::new(up, self.shard_id(), &remote.spares);
            remote.peers[at].link = Some(link);
            let waiting = std::mem::take(&mut remote.peers[at].waiting);
            let mut effects = self.effects.borrow_mut();
            for posted in waiting {
                refused.extend(remote.post(self.time(), at, posted, &mut effects));
            }
        }
        self.refuse_posted(desk, refused);
    }

    /// Drops what requests hold that are of no more use (**R2**).
    fn recycle_spent(&self) {
        loop {
            let Some(request) = self.remote.borrow_mut().spent.pop() else { return };
            request.recycle();
        }
    }

    fn refuse_posted(&self, desk: &Desk, refused: Vec<Posted>) {
        for posted in refused {
            self.refuse(desk, posted.request, ErrorKind::Malformed);
        }
    }

    /// A link is gone: what left by it has an unknown fate, what had not left waits for the next (**R1**).
    pub(crate) fn link_down(&self, desk: &Desk, link: LinkId) {
        let lost: Vec<(Token, ChainId)> = {
            let mut remote = self.remote.borrow_mut();
            let Some((at, ended)) = remote.by_link(link) else { return };
            let waiting = ended.withdraw_all();
            let leaving = ended.end_transfers();
            remote.gather_spent(at);
            leaving.into_iter().for_each(|posted| remote.keep(posted, link));
            remote.peers[at].link = None;
            remote.peers[at].waiting.extend(waiting);
            let sent = remote.calls.iter().flatten().filter(|sent| sent.link == link);
            sent.map(|sent| (sent.token, sent.posted.request.head().path.chain())).collect()
        };
        for (token, chain) in lost {
            let error = CallError::new(ErrorKind::NodeLost, Ran::Unknown, chain);
            self.complete(desk, token, Answer::Failed(error));
        }
    }

    /// There is room for what a link did not take.
    pub(crate) fn link_room(&self, link: LinkId) {
        let mut remote = self.remote.borrow_mut();
        if let Some((at, _)) = remote.by_link(link) {
            remote.soil(at);
        }
    }

    /// Sends a call to its callee's node, if that is another one; otherwise gives it back.
    pub(crate) fn route_away(
        &self,
        desk: &Desk,
        request: Request,
        maker: Place,
    ) -> Option<Request> {
        let mut remote = self.remote.borrow_mut();
        if remote.directory.is_none() {
            drop(remote);
            let token = token_of(&request);
            self.send_again(Posted { request, token, maker });
            return None;
        }
        let Some(at) = remote.owner(&request) else { return Some(request) };
        if !remote.has_room(at) {
            drop(remote);
            self.refuse(desk, request, ErrorKind::Overloaded);
            return None;
        }
        let token = token_of(&request);
        if let Some(token) = token {
            self.mark_remote(token);
        }
        let posted = Posted { request, token, maker };
        let refused = remote.post(self.time(), at, posted, &mut self.effects.borrow_mut());
        drop(remote);
        self.count(|c| c.remote += 1);
        self.recycle_spent();
        self.refuse_posted(desk, refused.into_iter().collect());
        None
    }

    /// Takes back the call of `token` if it has not left this node yet. Says whether it did so.
    pub(crate) fn recall(&self, token: Token) -> Option<ChainId> {
        if !self.is_remote(token) {
            return None;
        }
        let posted = self.remote.borrow_mut().withdraw(token)?;
        let chain = posted.request.head().path.chain();
        posted.request.recycle();
        Some(chain)
    }

    /// Nobody waits for the answer of `token` any more, or it has one. A call that has not left goes on
    /// as a tell: its maker gives up the answer, not the work.
    pub(crate) fn forget_remote(&self, token: Token) {
        let mut remote = self.remote.borrow_mut();
        if let Some(sent) = remote.take(token) {
            if let Some((at, link)) = remote.by_link(sent.link) {
                link.cancel(sent.posted.request.to(), token);
                remote.soil(at);
            }
            remote.spent.push(sent.posted.request);
        } else if !remote.give_up(token) {
            let mut waiting = remote.peers.iter_mut().flat_map(Peer::waiting);
            if let Some(posted) = waiting.find(|posted| posted.token == Some(token)) {
                posted.token = None;
            }
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
            Answer::Done | Answer::Wall(_) | Answer::Bytes(_) | Answer::Section(_) | _ => {
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

    /// Everything that was written for other nodes, and what else may leave now, becomes effects.
    pub(crate) fn flush_remote(&self, desk: &Desk) {
        let mut refused = Vec::new();
        {
            let mut remote = self.remote.borrow_mut();
            if remote.dirty.is_empty() {
                return;
            }
            let mut effects = self.effects.borrow_mut();
            let mut left = Vec::new();
            let mut dirty = std::mem::take(&mut remote.dirty);
            for at in dirty.drain(..) {
                remote.peers[at].dirty = false;
                let Some(link) = &mut remote.peers[at].link else { continue };
                let id = link.id;
                link.flush(self.time(), &mut effects, &mut left);
                remote.gather_spent(at);
                for fate in left.drain(..) {
                    match fate {
                        Left::Sent(posted) => remote.keep(posted, id),
                        Left::Refused(posted) => refused.push(posted),
                    }
                }
            }
            remote.dirty = dirty;
        }
        self.recycle_spent();
        self.refuse_posted(desk, refused);
    }

    /// Whether nothing waits here that could leave for another node.
    pub(crate) fn is_settled(&self) -> bool {
        let remote = self.remote.borrow();
        let settled =
            remote.peers.iter().filter_map(|peer| peer.link.as_ref()).all(Link::is_settled);
        settled && remote.dirty.is_empty() && self.again.borrow().is_empty()
    }

    /// Messages came from another node.
    pub(crate) fn packet(&self, desk: &Desk, link: LinkId, frame: &Frame) {
        let mut at = 0;
        while at < frame.len() {
            let handled = Parsed::parse(frame.bytes(), at).and_then(|message| {
                let start = std::mem::replace(&mut at, message.end);
                let units = Credit::units_of(message.end - start);
                self.message(desk, link, frame, (message, units))
            });
            if let Err(why) = handled {
                self.count(|c| c.violations += 1);
                return self.effect(Effect::Close { link, why });
            }
        }
    }

    fn message(
        &self,
        desk: &Desk,
        link: LinkId,
        frame: &Frame,
        (message, units): (Parsed, u32),
    ) -> Result<(), Violation> {
        let header = message.header;
        {
            let mut remote = self.remote.borrow_mut();
            // A link that is down by now has said its last.
            let Some((at, link)) = remote.by_link(link) else { return Ok(()) };
            // What is kept for each sending shard is bounded only by how many there are.
            if header.from.index() >= link.session.shards() {
                return Err(Violation::Unexpected("a shard that it has not"));
            }
            let credited = link.session.credited(header.from, header.credit)?;
            if matches!(header.kind, Kind::Call | Kind::Tell) {
                link.session.consumed(header.from, units)?;
            }
            if credited || header.kind != Kind::Reply {
                remote.soil(at);
            }
        }
        match header.kind {
            Kind::Call | Kind::Tell => self.called(desk, link, frame, message),
            Kind::Reply => self.replied(desk, link, frame, &message),
            Kind::Failed => self.failed(desk, link, frame, &message),
            Kind::Cancel | Kind::Credit => self.noted(link, &header)?,
            Kind::Chunk => self.chunk(desk, link, frame, &message)?,
            Kind::Ping | Kind::Pong | Kind::Goodbye | Kind::Handshake => {
                return Err(Violation::Unexpected("a message of the link among those of shards"));
            }
        }
        Ok(())
    }

    fn called(&self, desk: &Desk, link: LinkId, frame: &Frame, message: Parsed) {
        let header = message.header;
        let payload = message.payload_in(frame);
        let Some(callee) = message.callee else { return };
        let shard = header.from;
        let caller = match header.kind == Kind::Call {
            true => Caller::Remote { link, shard, token: header.token },
            false => Caller::Nobody,
        };
        let chain = callee.path.chain();
        let refuse =
            |kind| self.answer(desk, caller, Answer::Failed(CallError::refused(kind, chain)));
        let Some(entity) = self.config.registry.entity(callee.to.type_id()) else {
            return refuse(ErrorKind::UnknownType);
        };
        let method = entity.methods.iter().find(|method| method.id == header.method_id());
        let Some(method) = method else { return refuse(ErrorKind::UnknownMethod) };
        if self.differs(link, method.id) {
            return refuse(ErrorKind::Malformed);
        }
        if callee.to.shard(self.config.shards) != self.shard_id() {
            return refuse(ErrorKind::Moved);
        }
        let target = Target::new(callee.to);
        let Ok(mut request) = (method.read)(target, payload) else {
            return refuse(ErrorKind::Malformed);
        };
        if self.remote.borrow().owner(&request).is_some() {
            request.recycle();
            return refuse(ErrorKind::Moved);
        }
        let head = request.head_mut();
        head.path = callee.path;
        head.deadline = header.deadline_left().map_or(Time::MAX, |left| self.time() + left);
        head.caller = caller;
        self.arrive(desk, request);
    }

    fn replied(&self, desk: &Desk, link: LinkId, frame: &Frame, message: &Parsed) {
        let token = message.header.token;
        let Some(Sent { posted, .. }) = self.take_sent(link, token) else {
            return self.count(|c| c.late += 1);
        };
        self.unmark_remote(token);
        let mut request = posted.request;
        let chain = request.head().path.chain();
        match request.decode_reply(message.payload_in(frame)) {
            Ok(()) => {
                let caller = Caller::Token { shard: self.shard_id(), token };
                self.reply(desk, caller, request);
            }
            Err(_) => {
                request.recycle();
                let error = CallError::new(ErrorKind::Malformed, Ran::Yes, chain);
                self.complete(desk, token, Answer::Failed(error));
            }
        }
    }

    fn differs(&self, link: LinkId, method: MethodId) -> bool {
        let mut remote = self.remote.borrow_mut();
        remote.by_link(link).is_some_and(|(_, link)| link.differs(method))
    }

    fn take_sent(&self, link: LinkId, token: Token) -> Option<Sent> {
        let mut remote = self.remote.borrow_mut();
        let slot = remote.calls.get_mut(token.index() as usize)?;
        slot.take_if(|sent| sent.token == token && sent.link == link)
    }

    fn failed(&self, desk: &Desk, link: LinkId, frame: &Frame, message: &Parsed) {
        let token = message.header.token;
        let Some(Sent { posted, .. }) = self.take_sent(link, token) else {
            return self.count(|c| c.late += 1);
        };
        let chain = posted.request.head().path.chain();
        let error = <Rkyv as Codec<CallError>>::decode(message.payload_of(frame.bytes()));
        let error =
            error.unwrap_or_else(|_| CallError::new(ErrorKind::Malformed, Ran::Unknown, chain));
        if error.kind() == ErrorKind::Moved && error.ran() == Ran::No {
            // Its node does not know what ours does, or the other way round: soon both will.
            return self.send_again(posted);
        }
        posted.request.recycle();
        self.complete(desk, token, Answer::Failed(error));
    }

    /// A call whose owner is not known, or another one than was thought, is sent again shortly, until its
    /// deadline.
    fn send_again(&self, posted: Posted) {
        self.again.borrow_mut().push(posted);
        self.direct_calls.set(false);
        self.arm_again();
    }

    /// Sends what was sent to a node that did not own it.
    pub(crate) fn again(&self, desk: &Desk) {
        let known = self.remote.borrow().directory.is_some();
        self.direct_calls.set(self.config.direct && known);
        for mut posted in self.again.take() {
            let waits = posted.token.is_none_or(|token| desk.tickets().borrow_mut().waits(token));
            if !waits {
                // Its maker gave up the answer, or the deadline has passed.
                posted.request.head_mut().caller = Caller::Nobody;
            }
            match waits || posted.request.head().deadline > self.time() {
                true => self.route_from(desk, posted.request, posted.maker, false),
                false => posted.request.recycle(),
            }
        }
    }

    fn noted(&self, link: LinkId, header: &Header) -> Result<(), Violation> {
        let mut remote = self.remote.borrow_mut();
        let Some((_, link)) = remote.by_link(link) else { return Ok(()) };
        if header.kind == Kind::Cancel {
            link.cancelled(header.from, header.token);
        } else if header.method == 1 {
            link.taken(header.from, header.left as usize)?;
        }
        Ok(())
    }

    fn chunk(
        &self,
        desk: &Desk,
        link: LinkId,
        frame: &Frame,
        message: &Parsed,
    ) -> Result<(), Violation> {
        let part = message.payload_in(frame);
        let whole = {
            let mut remote = self.remote.borrow_mut();
            let Some((_, link)) = remote.by_link(link) else { return Ok(()) };
            link.incoming.chunk(&message.header, part)?
        };
        let Some(whole) = whole else { return Ok(()) };
        let inner = Parsed::parse(whole.bytes(), 0)?;
        let sound = inner.end == whole.len()
            && inner.header.from == message.header.from
            && matches!(inner.header.kind, Kind::Call | Kind::Tell | Kind::Reply);
        if !sound {
            return Err(Violation::Unexpected("a transfer of something else than one message"));
        }
        self.message(desk, link, &whole, (inner, 1))
    }
}
