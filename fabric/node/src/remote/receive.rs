//! What comes from other nodes: packets, the messages in them, and what follows from each.
//!
//! # Not here
//! What leaves (`link`, `leave`).

use epicserver_entity::{Answer, Caller, Desk, Request, Target};
use epicserver_proto::SlotId;
use epicserver_proto::passage::Emptying;
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Credit, Header, Kind, Message as Parsed, Violation};
use epicserver_wire::{
    CallError, ClassId, Codec, ErrorKind, LinkId, MethodId, Ran, Rkyv, Time, Token, limits,
};

use super::leave::SLOT_BYTES;
use super::{Posted, Sent};
use crate::Effect;
use crate::core::Core;
use crate::realm::Lane;
use crate::tokens::Way;

impl Core {
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
        let said;
        {
            let mut remote = self.remote.borrow_mut();
            // A link that is down by now has said its last.
            let Some((at, link)) = remote.by_link(link) else { return Ok(()) };
            // What is kept for each sending shard is bounded only by how many there are.
            if header.from.index() >= link.session.shards() {
                return Err(Violation::Unexpected("a shard that it has not"));
            }
            said = link.view_of(header.from);
            let credited = link.session.credited(header.from, header.credit)?;
            if matches!(header.kind, Kind::Call | Kind::Tell) {
                link.session.consumed(header.from, units)?;
            }
            if credited || header.kind != Kind::Reply {
                remote.soil(at);
            }
        }
        match header.kind {
            Kind::Call | Kind::Tell => self.called(desk, (link, said), frame, message)?,
            Kind::Reply => self.replied(desk, link, frame, &message),
            Kind::Failed => self.failed(desk, link, frame, &message),
            Kind::Cancel | Kind::Credit => self.noted(link, &header)?,
            Kind::Chunk => self.chunk(desk, link, frame, &message)?,
            Kind::Moved => self.moved(desk, link, &header),
            Kind::Returned => self.came_whole(desk, link, frame, message),
            Kind::Flush => self.flush_from(desk, link, &header)?,
            Kind::Flushed => self.flushed_from(desk, link, frame, &message)?,
            Kind::Ping | Kind::Pong | Kind::Goodbye | Kind::Handshake | Kind::Control => {
                return Err(Violation::Unexpected("a message of the link among those of shards"));
            }
        }
        Ok(())
    }

    fn called(
        &self,
        desk: &Desk,
        (link, said): (LinkId, u64),
        frame: &Frame,
        message: Parsed,
    ) -> Result<(), Violation> {
        let header = message.header;
        let shard = header.from;
        let caller = match header.kind == Kind::Call {
            true => Caller::Remote { link, shard, token: header.token },
            false => Caller::RemoteTeller { link, shard },
        };
        let Some(callee) = &message.callee else { return Ok(()) };
        let chain = callee.path.chain();
        if callee.to.shard(self.config.shards) != self.shard_id() {
            return Err(Violation::Unexpected("a call for another shard"));
        }
        match self.read_call(link, frame, message) {
            Ok(mut request) => {
                request.head_mut().caller = caller;
                self.admit(desk, request, said, true);
            }
            Err(kind) => {
                let error = CallError::refused(kind, chain);
                self.answer(desk, caller, Answer::Failed(error));
            }
        }
        Ok(())
    }

    /// A call as it lies in `frame`.
    fn read_call(
        &self,
        link: LinkId,
        frame: &Frame,
        message: Parsed,
    ) -> Result<Request, ErrorKind> {
        let (header, payload) = (message.header, message.payload_in(frame));
        let Some(callee) = message.callee else { return Err(ErrorKind::Malformed) };
        let entity = self.config.registry.entity(callee.to.type_id());
        let entity = entity.ok_or(ErrorKind::UnknownType)?;
        let method = entity.methods.iter().find(|method| method.id == header.method_id());
        let method = method.ok_or(ErrorKind::UnknownMethod)?;
        if self.differs(link, method.id) {
            return Err(ErrorKind::Malformed);
        }
        let read = (method.read)(Target::new(callee.to), payload);
        let mut request = read.map_err(|_| ErrorKind::Malformed)?;
        if let Some(id) = callee.request {
            request.set_request_id(id);
        }
        let head = request.head_mut();
        head.path = callee.path;
        head.deadline = header.deadline_left().map_or(Time::MAX, |left| self.time() + left);
        Ok(request)
    }

    /// A call that left by the link has not run, and has to go elsewhere.
    fn moved(&self, desk: &Desk, link: LinkId, header: &Header) {
        let Some(Sent { posted, .. }) = self.take_sent(link, header.token) else {
            return self.count(|c| c.late += 1);
        };
        self.set_way(header.token, Way::Here);
        self.came_back(desk, Lane::There(link, header.from), header.view(), posted);
    }

    /// So has one for whose reply nobody waits: it is all there is of it.
    fn came_whole(&self, desk: &Desk, link: LinkId, frame: &Frame, message: Parsed) {
        let header = message.header;
        let chain = message.callee.as_ref().map(|callee| callee.path.chain()).unwrap_or_default();
        match self.read_call(link, frame, message) {
            Ok(mut request) => {
                request.head_mut().caller = Caller::Nobody;
                let posted = Posted { request, token: None, maker: Posted::ANY, tried: None };
                self.came_back(desk, Lane::There(link, header.from), header.view(), posted);
            }
            Err(kind) => self.tell_refused(CallError::refused(kind, chain)),
        }
    }

    /// A shard there speaks under another view from now on.
    fn flush_from(&self, desk: &Desk, link: LinkId, header: &Header) -> Result<(), Violation> {
        let view = header.view();
        if let Some((_, link)) = self.remote.borrow_mut().by_link(link) {
            link.announced(header.from, view);
        }
        if header.method & Header::ANSWER == 0 {
            return Ok(());
        }
        if self.realm.borrow().flushes.len() >= limits::FLUSHES_MAX {
            return Err(Violation::Unexpected("flushes without end"));
        }
        self.flush_asked(desk, Lane::There(link, header.from), view);
        Ok(())
    }

    /// A shard there has decided what was said to it.
    fn flushed_from(
        &self,
        desk: &Desk,
        link: LinkId,
        frame: &Frame,
        message: &Parsed,
    ) -> Result<(), Violation> {
        let header = message.header;
        let emptying = if header.method & Header::MORE == 0 {
            let (slots, rest) = message.payload_of(frame.bytes()).as_chunks::<SLOT_BYTES>();
            if !rest.is_empty() {
                return Err(Violation::Unexpected("a part of a slot"));
            }
            let slot = |&[a, b, c, d]: &[u8; SLOT_BYTES]| SlotId {
                class: ClassId::from_u16(u16::from_le_bytes([a, b])),
                index: u16::from_le_bytes([c, d]),
            };
            Emptying::These(slots.iter().map(slot).collect())
        } else {
            Emptying::Any
        };
        self.flushed(desk, Lane::There(link, header.from), header.view(), emptying)
    }

    fn replied(&self, desk: &Desk, link: LinkId, frame: &Frame, message: &Parsed) {
        let token = message.header.token;
        let Some(Sent { posted, .. }) = self.take_sent(link, token) else {
            return self.count(|c| c.late += 1);
        };
        self.set_way(token, Way::Here);
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
        self.set_way(token, Way::Here);
        posted.request.recycle();
        self.complete(desk, token, Answer::Failed(error));
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
            && matches!(inner.header.kind, Kind::Call | Kind::Tell | Kind::Reply | Kind::Returned);
        if !sound {
            return Err(Violation::Unexpected("a transfer of something else than one message"));
        }
        self.message(desk, link, &whole, (inner, 1))
    }
}
