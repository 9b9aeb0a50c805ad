//! What leaves by a link: messages are written into frames, those that may leave later at a flush.
//!
//! # Not here
//! What is posted, and what may not leave yet (`link`).

use std::collections::VecDeque;
use std::sync::Arc;

use epicserver_entity::Request;
use epicserver_proto::SlotId;
use epicserver_proto::passage::Emptying;
use epicserver_proto::transfers::{self, Chunk};
use epicserver_wire::frame::{Frame, FrameMut};
use epicserver_wire::header::{self, Address, Credit, Header, Kind, Opened};
use epicserver_wire::rkyv::ser::Writer as _;
use epicserver_wire::{CallError, ChainId, ErrorKind, Out, Ran, ShardId, Time, Token, Unwritten};

use super::bulk::{Bulk, Source, Text};
use super::link::{Answering, Back, Held, Left, Link, Outcome, Posted};
use crate::Effect;

/// Bytes of a slot in the answer to a flush.
pub(super) const SLOT_BYTES: usize = 4;

/// Why something stays where it is.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    /// No slot is free.
    NoSlot,
    /// It cannot be written.
    Malformed,
}

impl Link {
    /// Writes a call; if its transfer has only begun, its fate comes later. Gives it back if no slot is free.
    pub(super) fn write_call(
        &mut self,
        now: Time,
        shard: ShardId,
        posted: Posted,
        out: &mut Vec<Effect>,
    ) -> Result<Left, Posted> {
        if self.differs(posted.request.method().id) {
            return Ok(Left::Refused(posted));
        }
        if self.passages[shard.index()].say(self.view) && !self.announce(shard, out) {
            return Err(posted);
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
        let request = &posted.request;
        let callee = Some(address_of(request));
        match self.write(header, callee, &|out| request.encode_args_to(out), out) {
            Ok(Written::Whole(bytes)) => {
                self.session.sent(shard, Credit::units_of(bytes));
                Ok(Left::Sent(posted, self.id))
            }
            Ok(Written::Long(text)) => {
                self.session.sent(shard, 1);
                let (maker, to, token) = (posted.maker, posted.request.to().clone(), posted.token);
                let transfer = self.begin(shard, text, Source::Call(posted));
                let (behind, any) = (VecDeque::new(), false);
                self.held.push(Held { shard, transfer, maker, to, behind, any });
                Ok(Left::Begun(token))
            }
            Err(Stay::NoSlot) => Err(posted),
            Err(Stay::Malformed) => Ok(Left::Refused(posted)),
        }
    }

    /// Says under which view the next messages to a shard are. Says whether there was a slot for it.
    fn announce(&mut self, shard: ShardId, out: &mut Vec<Effect>) -> bool {
        let header = Header::new(Kind::Flush, self.me, shard).under(self.view);
        let said = self.append_in_room(&header, out);
        if said {
            self.passages[shard.index()].announced(self.view);
        }
        said
    }

    fn begin(&mut self, shard: ShardId, text: Text, of: Source) -> Token {
        let lane = self.transfers.entry(shard);
        let lane = lane.or_insert_with(|| transfers::Outgoing::new(self.pace));
        let transfer = lane.begin(text.total());
        self.bulk.insert((shard, transfer), Bulk::new(text, of));
        transfer
    }

    pub(super) fn write_answer(
        &mut self,
        answering: Answering,
        out: &mut Vec<Effect>,
    ) -> Option<Answering> {
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
        callee: Option<Address<'_>>,
        encode: &Encode<'_>,
        out: &mut Vec<Effect>,
    ) -> Result<Written, Stay> {
        loop {
            let mut frame = match self.slot() {
                Ok(frame) => frame,
                Err(stay) => {
                    // What it took along for the frame before, which had no room for it.
                    self.session.owe_again(header.to, header.credit);
                    return Err(stay);
                }
            };
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

    /// Everything that may leave does, and the open frame with it. What could leave gives its fate. What waits may
    /// not have to leave any more: `look` says what it is now.
    pub(crate) fn flush(
        &mut self,
        now: Time,
        out: &mut Vec<Effect>,
        left: &mut Vec<Left>,
        look: &Look<'_>,
    ) {
        self.flush_answers(out);
        self.flush_backs(now, out);
        self.flush_lanes(now, out, left, look);
        self.flush_flushes(out);
        self.flush_cancels();
        self.flush_transfers(now, out, left, look);
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

    fn flush_backs(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.backs.is_empty() {
            return;
        }
        let shards: Vec<ShardId> = self.backs.keys().copied().collect();
        for shard in shards {
            // What was given back keeps its order: a long one is waited for.
            while !self.returning.contains_key(&shard)
                && let Some(back) = self.backs.get_mut(&shard).and_then(VecDeque::pop_front)
            {
                if let Err(stays) = self.write_back(now, shard, back, out) {
                    self.backs.entry(shard).or_default().push_front(stays);
                    return;
                }
            }
        }
        self.backs.retain(|_, backs| !backs.is_empty());
    }

    fn write_back(
        &mut self,
        now: Time,
        shard: ShardId,
        back: Back,
        out: &mut Vec<Effect>,
    ) -> Result<(), Back> {
        let header = |kind, view| Header::new(kind, self.me, shard).under(view);
        match back {
            Back::Moved { token, view } => {
                let header = Header { token, ..header(Kind::Moved, view) };
                if self.append_in_room(&header, out) { Ok(()) } else { Err(back) }
            }
            Back::Flushed { view, ref emptying } => {
                let (method, slots) = self.listed(emptying);
                let header = Header { method, ..header(Kind::Flushed, view) };
                let written = self.write(
                    header,
                    None,
                    &|out| out.write(&slots).map_err(|_| Unwritten::Full),
                    out,
                );
                if written.is_ok() { Ok(()) } else { Err(back) }
            }
            Back::Returned { request, view } => {
                self.write_returned(now, shard, (request, view), out)
            }
        }
    }

    /// The payload of an answer to a flush, and whether there are more slots than it lists.
    fn listed(&self, emptying: &Emptying) -> (u32, Vec<u8>) {
        let room = self.slots.slot_bytes().min(self.bulk_bytes).saturating_sub(header::CORE_BYTES);
        match emptying {
            Emptying::These(slots) if slots.len() * SLOT_BYTES <= room => {
                let slot = |slot: &SlotId| {
                    let [a, b] = slot.class.as_u16().to_le_bytes();
                    let [c, d] = slot.index.to_le_bytes();
                    [a, b, c, d]
                };
                (0, slots.iter().flat_map(slot).collect())
            }
            Emptying::These(_) | Emptying::Any => (Header::MORE, Vec::new()),
        }
    }

    fn write_returned(
        &mut self,
        now: Time,
        shard: ShardId,
        (request, view): (Request, u64),
        out: &mut Vec<Effect>,
    ) -> Result<(), Back> {
        let head = request.head();
        let left = (head.deadline != Time::MAX).then(|| head.deadline.since(now));
        let header = Header {
            method: request.method().id.as_u32(),
            left: Header::units_left(left),
            ..Header::new(Kind::Returned, self.me, shard)
        };
        let callee = Some(address_of(&request));
        let encode = |out: &mut Out<'_>| request.encode_args_to(out);
        match self.write(header.under(view), callee, &encode, out) {
            Err(Stay::NoSlot) => return Err(Back::Returned { request, view }),
            Ok(Written::Whole(_)) | Err(Stay::Malformed) => self.spent.push(request),
            Ok(Written::Long(text)) => {
                let transfer = self.begin(shard, text, Source::Returned(request));
                self.returning.insert(shard, transfer);
            }
        }
        Ok(())
    }

    /// Asks shards to decide what was said to them, behind all that was.
    fn flush_flushes(&mut self, out: &mut Vec<Effect>) {
        for _ in 0..self.flushes.len() {
            let Some(asking) = self.flushes.pop_front() else { return };
            let (shard, view) = (asking.shard, asking.view);
            let leaves = |transfer: &Token| self.bulk.contains_key(&(shard, *transfer));
            let header =
                Header { method: Header::ANSWER, ..Header::new(Kind::Flush, self.me, shard) };
            let early = asking.after.iter().any(leaves);
            if early || !self.append_in_room(&header.under(view), out) {
                self.flushes.push_back(asking);
            }
        }
    }

    fn flush_lanes(
        &mut self,
        now: Time,
        out: &mut Vec<Effect>,
        left: &mut Vec<Left>,
        look: &Look<'_>,
    ) {
        if self.waiting == 0 {
            return;
        }
        for index in 0..self.lanes.len() {
            let shard = ShardId::new(u16::try_from(index).unwrap_or(u16::MAX));
            while self.may_send(shard) {
                let Some(mut posted) = self.lanes[index].pop_front() else { break };
                self.waiting -= 1;
                if look(&mut posted) {
                    left.push(Left::Late(posted));
                    continue;
                }
                if let Some(held) = self.held_for(&posted) {
                    self.stand_behind(held, posted);
                    continue;
                }
                match self.write_call(now, shard, posted, out) {
                    Ok(fate) => left.push(fate),
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

    fn flush_transfers(
        &mut self,
        now: Time,
        out: &mut Vec<Effect>,
        left: &mut Vec<Left>,
        look: &Look<'_>,
    ) {
        let shards: Vec<ShardId> = self.transfers.keys().copied().collect();
        for shard in shards {
            while let Some(chunk) = self.next_chunk(shard, out) {
                self.transmit_chunk(shard, &chunk, out);
                if chunk.last {
                    left.extend(self.end_transfer(shard, chunk.transfer));
                    self.release(shard, chunk.transfer);
                    self.flush_backs(now, out);
                    self.flush_lanes(now, out, left, look);
                    self.flush_flushes(out);
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
            Source::Call(posted) => Some(Left::Sent(posted, self.id)),
            Source::Answer(outcome) => {
                self.spent.extend(outcome.spent());
                None
            }
            Source::Returned(request) => {
                self.spent.push(request);
                self.returning.remove(&shard);
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

/// What a message took.
enum Written {
    /// So many bytes of a frame.
    Whole(usize),
    /// No frame holds it.
    Long(Text),
}

/// Whether a call that waits is late; if its maker has given up the answer, it goes on as a tell.
pub(crate) type Look<'a> = dyn Fn(&mut Posted) -> bool + 'a;
pub(crate) type Encode<'a> = dyn Fn(&mut Out<'_>) -> Result<(), Unwritten> + 'a;

fn plus(a: Credit, b: Credit) -> Credit {
    Credit { messages: a.messages + b.messages, units: a.units + b.units }
}

/// Whom `request` is for.
fn address_of(request: &Request) -> Address<'_> {
    let head = request.head();
    Address { to: &head.to, path: &head.path, request: request.request_id() }
}

/// Appends one message to `frame`, and says how many bytes it takes there.
fn write_into(
    frame: &mut FrameMut,
    header: &Header,
    callee: Option<Address<'_>>,
    encode: &Encode<'_>,
) -> Result<usize, Unwritten> {
    let start = frame.len();
    let opened = Opened::new(frame, header, callee).ok_or(Unwritten::Full)?;
    let len = opened.fill(frame, encode)?;
    if opened.close(frame, len) { Ok(frame.len() - start) } else { Err(Unwritten::Full) }
}
