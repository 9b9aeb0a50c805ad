//! One link as a shard sees it: the frame being filled, what may not leave yet, and its transfers.
//!
//! # Invariants
//! - **R3** What is posted for one peer's shard leaves in the order of posting, but for what waits for a
//!   transfer of its own pair; answers have no order.
//! - **R4** A credit that was taken to ride on a message leaves with it.
//!
//! # Not here
//! Tokens and their outcomes; the bytes of a message that leaves in chunks (`bulk`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use epicserver_entity::{Place, Request};
use epicserver_proto::session::Session;
use epicserver_proto::spares::Spares;
use epicserver_proto::transfers::{self, Chunk, Pace};
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::{self, Credit, Header, Kind, Opened, Violation};
use epicserver_wire::{
    CallError, ChainId, EntityId, ErrorKind, LinkId, MethodId, Out, Path, Ran, ShardId, Time,
    Token, Unwritten,
};

use super::bulk::{Bulk, Source, Text};
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

/// Why something stays where it is.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    /// No slot is free.
    NoSlot,
    /// It cannot be written.
    Malformed,
}

/// What became of a call that was posted and left.
#[derive(Debug)]
pub(crate) enum Left {
    /// It is under way; the request is kept for the reply.
    Sent(Posted),
    /// It cannot be written.
    Refused(Posted),
}

/// Calls of a pair that wait for a transfer of the same pair.
#[derive(Debug)]
struct Held {
    shard: ShardId,
    transfer: Token,
    maker: Place,
    to: EntityId,
    behind: VecDeque<Posted>,
}

/// A shard's end of one link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    me: ShardId,
    slots: Arc<dyn Slots>,
    differing: Arc<[MethodId]>,
    /// Messages above so many bytes leave in chunks.
    bulk_bytes: usize,
    pub(crate) session: Session,
    open: Option<FrameMut>,
    lanes: Vec<VecDeque<Posted>>,
    waiting: usize,
    answers: VecDeque<Answering>,
    transfers: BTreeMap<ShardId, transfers::Outgoing>,
    pace: Pace,
    /// Memory for bodies, if the transport takes those.
    spares: Arc<Spares>,
    /// What the transfers carry.
    bulk: BTreeMap<(ShardId, Token), Bulk>,
    pub(crate) incoming: transfers::Incoming,
    held: Vec<Held>,
    cancels: Vec<(ShardId, Token)>,
    /// Tokens of the peer for which it wants no reply any more.
    cancelled: BTreeSet<(ShardId, Token)>,
    /// Requests that are of no more use: what they hold may be dropped only where user code may run.
    pub(crate) spent: Vec<Request>,
}

impl Link {
    pub(crate) fn new(up: &LinkUp, me: ShardId, spares: &Arc<Spares>) -> Self {
        let shards = up.shards.max(1);
        Self {
            id: up.link,
            me,
            slots: Arc::clone(&up.slots),
            differing: Arc::clone(&up.differing),
            bulk_bytes: up.bulk_bytes,
            session: Session::new(shards, up.theirs, up.ours),
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

    fn lane_of(&self, to: &EntityId) -> ShardId {
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
            self.waiting += 1;
            self.held[held].behind.push_back(posted);
            return None;
        }
        if !self.may_send(shard) {
            self.wait(shard, posted);
            return None;
        }
        match self.write_call(now, shard, posted, out) {
            Ok(left) => left,
            Err(posted) => {
                self.wait(shard, posted);
                None
            }
        }
    }

    fn wait(&mut self, shard: ShardId, posted: Posted) {
        if let Some(lane) = self.lanes.get_mut(shard.index()) {
            lane.push_back(posted);
            self.waiting += 1;
        }
    }

    fn held_for(&self, posted: &Posted) -> Option<usize> {
        let pair = |held: &Held| held.maker == posted.maker && held.to == *posted.request.to();
        self.held.iter().position(pair)
    }

    /// A lane carries a message only if it could carry the longest that fits a slot.
    fn may_send(&self, shard: ShardId) -> bool {
        self.session.may_send(shard, Credit::units_of(self.slots.slot_bytes()))
    }

    /// Writes a call; if its transfer has only begun, its fate comes later. Gives it back if no slot is free.
    fn write_call(
        &mut self,
        now: Time,
        shard: ShardId,
        posted: Posted,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Left>, Posted> {
        if self.differs(posted.request.method().id) {
            return Ok(Some(Left::Refused(posted)));
        }
        let head = posted.request.head();
        let kind = if posted.token.is_some() { Kind::Call } else { Kind::Tell };
        let left = (head.deadline != Time::MAX).then(|| head.deadline.since(now));
        let header = Header {
            token: posted.token.unwrap_or(Token::new(0, 0)),
            method: posted.request.method().id.as_u32(),
            left: Header::units_left(left),
            ..Header::new(kind, self.me, shard)
        };
        let callee = Some((&head.to, &head.path));
        let request = &posted.request;
        match self.write(header, callee, &|out| request.encode_args_to(out), out) {
            Ok(Written::Whole(bytes)) => {
                self.session.sent(shard, Credit::units_of(bytes));
                Ok(Some(Left::Sent(posted)))
            }
            Ok(Written::Long(text)) => {
                self.session.sent(shard, 1);
                let (maker, to) = (posted.maker, posted.request.to().clone());
                let transfer = self.begin(shard, text, Source::Call(posted));
                self.held.push(Held { shard, transfer, maker, to, behind: VecDeque::new() });
                Ok(None)
            }
            Err(Stay::NoSlot) => Err(posted),
            Err(Stay::Malformed) => Ok(Some(Left::Refused(posted))),
        }
    }

    fn begin(&mut self, shard: ShardId, text: Text, of: Source) -> Token {
        let lane = self.transfers.entry(shard);
        let lane = lane.or_insert_with(|| transfers::Outgoing::new(self.pace));
        let transfer = lane.begin(text.total());
        self.bulk.insert((shard, transfer), Bulk::new(text, of));
        transfer
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

    fn write_answer(&mut self, answering: Answering, out: &mut Vec<Effect>) -> Option<Answering> {
        let Answering { shard, token, outcome } = &answering;
        let kind = match outcome {
            Outcome::Reply(_) => Kind::Reply,
            Outcome::Failed(_) => Kind::Failed,
        };
        let header = Header { token: *token, ..Header::new(kind, self.me, *shard) };
        match self.write(header, None, &|out| outcome.encode(out), out) {
            Ok(Written::Whole(_)) => self.spent.extend(answering.outcome.spent()),
            Ok(Written::Long(text)) => {
                self.begin(answering.shard, text, Source::Answer(answering.outcome));
            }
            Err(Stay::NoSlot) => return Some(answering),
            Err(Stay::Malformed) => {
                let (shard, token) = (*shard, *token);
                self.spent.extend(answering.outcome.spent());
                let error = CallError::new(ErrorKind::Malformed, Ran::Yes, ChainId::NONE);
                let outcome = Outcome::Failed(error);
                return self.write_answer(Answering { shard, token, outcome }, out);
            }
        }
        None
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

    /// Every call that has not left.
    pub(crate) fn posted(&mut self) -> impl Iterator<Item = &mut Posted> {
        let held = self.held.iter_mut().flat_map(|held| &mut held.behind);
        self.lanes.iter_mut().flatten().chain(held)
    }

    /// Takes back a call that has not left.
    pub(crate) fn withdraw(&mut self, token: Token) -> Option<Posted> {
        let queues = self.lanes.iter_mut().chain(self.held.iter_mut().map(|held| &mut held.behind));
        for queue in queues {
            if let Some(at) = queue.iter().position(|posted| posted.token == Some(token)) {
                self.waiting -= 1;
                return queue.remove(at);
            }
        }
        None
    }

    /// Nobody waits any more for the reply to a call that is leaving. Says whether it is one.
    pub(crate) fn give_up(&mut self, token: Token) -> bool {
        let calls = self.bulk.values_mut().filter_map(|bulk| match &mut bulk.of {
            Source::Call(posted) => Some(posted),
            Source::Answer(_) => None,
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
            }
        }
        calls
    }

    /// Takes back everything that has not left, what waited for a transfer first: calls of the same pair
    /// that wait in a lane were made later (**R3**).
    pub(crate) fn withdraw_all(&mut self) -> Vec<Posted> {
        self.waiting = 0;
        let held = self.held.drain(..).flat_map(|held| held.behind);
        held.chain(self.lanes.iter_mut().flat_map(std::mem::take)).collect()
    }

    fn slot(&mut self) -> Result<FrameMut, Stay> {
        match self.open.take() {
            Some(open) => Ok(open),
            None => Arc::clone(&self.slots).reserve().ok_or(Stay::NoSlot),
        }
    }

    fn transmit(&mut self, head: FrameMut, body: Option<Frame>, out: &mut Vec<Effect>) {
        if !head.is_empty() {
            out.push(Effect::Transmit { link: self.id, head, body });
        }
    }

    /// Writes one message into the open frame, or begins a transfer if no frame can hold it.
    fn write(
        &mut self,
        mut header: Header,
        callee: Option<(&EntityId, &Path)>,
        encode: &Encode<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<Written, Stay> {
        loop {
            let mut frame = self.slot()?;
            // R4: only now is it certain to leave.
            header.credit = plus(header.credit, self.session.take_owed(header.to));
            let before = frame.len();
            match write_into(&mut frame, &header, callee, encode) {
                Ok(bytes) if bytes <= self.bulk_bytes => {
                    self.open = Some(frame);
                    self.transfers.values_mut().for_each(transfers::Outgoing::passed);
                    return Ok(Written::Whole(bytes));
                }
                Err(Unwritten::Malformed) => {
                    self.session.owe_again(header.to, header.credit);
                    self.open = Some(frame);
                    return Err(Stay::Malformed);
                }
                Err(Unwritten::Full) if before > 0 => self.transmit(frame, None, out),
                Ok(_) | Err(Unwritten::Full) => {
                    frame.set_len(before);
                    self.open = Some(frame);
                    let text = Text::new(&header, callee, encode);
                    if text.is_none() {
                        self.session.owe_again(header.to, header.credit);
                    }
                    return text.map(Written::Long).ok_or(Stay::Malformed);
                }
            }
        }
    }

    /// Everything that may leave does, and the open frame with it. What could leave gives its fate.
    pub(crate) fn flush(&mut self, now: Time, out: &mut Vec<Effect>, left: &mut Vec<Left>) {
        self.flush_answers(out);
        self.flush_lanes(now, out, left);
        self.flush_cancels();
        self.flush_transfers(now, out, left);
        self.flush_credits(out);
        if let Some(open) = self.open.take() {
            self.transmit(open, None, out);
        }
    }

    fn flush_answers(&mut self, out: &mut Vec<Effect>) {
        while let Some(answering) = self.answers.pop_front() {
            if let Some(stays) = self.write_answer(answering, out) {
                return self.answers.push_front(stays);
            }
        }
    }

    fn flush_lanes(&mut self, now: Time, out: &mut Vec<Effect>, left: &mut Vec<Left>) {
        if self.waiting == 0 {
            return;
        }
        for index in 0..self.lanes.len() {
            let shard = ShardId::new(u16::try_from(index).unwrap_or(u16::MAX));
            while self.may_send(shard) {
                let Some(posted) = self.lanes[index].pop_front() else { break };
                self.waiting -= 1;
                if let Some(held) = self.held_for(&posted) {
                    self.waiting += 1;
                    self.held[held].behind.push_back(posted);
                    continue;
                }
                match self.write_call(now, shard, posted, out) {
                    Ok(fate) => left.extend(fate),
                    Err(posted) => {
                        self.lanes[index].push_front(posted);
                        self.waiting += 1;
                        return;
                    }
                }
            }
        }
    }

    fn flush_cancels(&mut self) {
        while let Some((shard, token)) = self.cancels.pop() {
            let header = Header { token, ..Header::new(Kind::Cancel, self.me, shard) };
            if !self.append(&header) {
                return self.cancels.push((shard, token));
            }
        }
    }

    /// Appends a message without a payload. Says whether there was a slot for it.
    fn append(&mut self, header: &Header) -> bool {
        let Ok(mut frame) = self.slot() else { return false };
        let fits = header::append(&mut frame, header, &[]);
        self.open = Some(frame);
        fits
    }

    fn flush_transfers(&mut self, now: Time, out: &mut Vec<Effect>, left: &mut Vec<Left>) {
        let shards: Vec<ShardId> = self.transfers.keys().copied().collect();
        for shard in shards {
            while let Some(chunk) = self.next_chunk(shard, out) {
                self.transmit_chunk(shard, &chunk, out);
                if chunk.last {
                    left.extend(self.end_transfer(shard, chunk.transfer));
                    self.release(shard, chunk.transfer);
                    self.flush_lanes(now, out, left);
                }
            }
        }
        self.transfers.retain(|_, lane| !lane.is_idle());
    }

    /// A chunk travels alone. The open frame is empty then.
    fn next_chunk(&mut self, shard: ShardId, out: &mut Vec<Effect>) -> Option<Chunk> {
        if !self.transfers.get(&shard)?.may_send() {
            return None;
        }
        if let Some(open) = self.open.take() {
            self.transmit(open, None, out);
        }
        let slot = self.slot().ok()?;
        let room = match self.pace.is_of_bodies() {
            true => self.pace.chunk,
            false => slot.capacity().saturating_sub(header::CORE_BYTES),
        };
        self.open = Some(slot);
        self.transfers.get_mut(&shard)?.next(room)
    }

    fn transmit_chunk(&mut self, shard: ShardId, chunk: &Chunk, out: &mut Vec<Effect>) {
        let Some(mut frame) = self.open.take() else { return };
        let Some(bulk) = self.bulk.get(&(shard, chunk.transfer)) else { return };
        let header = Header {
            token: chunk.transfer,
            method: chunk.total,
            left: chunk.offset,
            ..Header::new(Kind::Chunk, self.me, shard)
        };
        if header::append_head(&mut frame, &header, chunk.len as usize) {
            let spares = self.pace.is_of_bodies().then_some(&self.spares);
            let body = bulk.fill(chunk, &mut frame, spares);
            self.transmit(frame, body, out);
        }
    }

    /// The last chunk of a message has left. If it was a call, that is its fate.
    fn end_transfer(&mut self, shard: ShardId, transfer: Token) -> Option<Left> {
        match self.bulk.remove(&(shard, transfer))?.of {
            Source::Call(posted) => Some(Left::Sent(posted)),
            Source::Answer(outcome) => {
                self.spent.extend(outcome.spent());
                None
            }
        }
    }

    /// A transfer has left: the calls of its pair that waited go before all that wait in its lane, some
    /// of which may be of the same pair (**R3**).
    fn release(&mut self, shard: ShardId, transfer: Token) {
        let this = |held: &Held| held.shard == shard && held.transfer == transfer;
        let Some(at) = self.held.iter().position(this) else { return };
        let held = self.held.remove(at);
        if let Some(lane) = self.lanes.get_mut(shard.index()) {
            held.behind.into_iter().rev().for_each(|posted| lane.push_front(posted));
        }
    }

    fn flush_credits(&mut self, out: &mut Vec<Effect>) {
        while let Some((shard, bytes)) = self.incoming.next_taken() {
            let header =
                Header { method: 1, left: bytes, ..Header::new(Kind::Credit, self.me, shard) };
            if !self.append_in_room(&header, out) {
                return self.incoming.took(shard, bytes);
            }
        }
        while let Some(shard) = self.session.next_due() {
            let credit = self.session.take_owed(shard);
            let header = Header { credit, ..Header::new(Kind::Credit, self.me, shard) };
            if !self.append_in_room(&header, out) {
                return self.session.owe_again(shard, credit);
            }
        }
    }

    fn append_in_room(&mut self, header: &Header, out: &mut Vec<Effect>) -> bool {
        if self.append(header) {
            return true;
        }
        if let Some(open) = self.open.take() {
            self.transmit(open, None, out);
        }
        self.append(header)
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

/// What a message took.
enum Written {
    /// So many bytes of a frame.
    Whole(usize),
    /// No frame holds it.
    Long(Text),
}

pub(crate) type Encode<'a> = dyn Fn(&mut Out<'_>) -> Result<(), Unwritten> + 'a;

fn plus(a: Credit, b: Credit) -> Credit {
    Credit { messages: a.messages + b.messages, units: a.units + b.units }
}

/// Appends one message to `frame`, and says how many bytes it takes there.
fn write_into(
    frame: &mut FrameMut,
    header: &Header,
    callee: Option<(&EntityId, &Path)>,
    encode: &Encode<'_>,
) -> Result<usize, Unwritten> {
    let start = frame.len();
    let opened = Opened::new(frame, header, callee).ok_or(Unwritten::Full)?;
    let len = opened.fill(frame, encode)?;
    if opened.close(frame, len) { Ok(frame.len() - start) } else { Err(Unwritten::Full) }
}
