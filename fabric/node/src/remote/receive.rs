//! What comes from other nodes: packets, the messages in them, and what follows from each.
//!
//! # Not here
//! What leaves (`link`, `leave`).

use epicserver_entity::{Answer, Caller, Desk, Target};
use epicserver_wire::frame::Frame;
use epicserver_wire::header::{Credit, Header, Kind, Message as Parsed, Violation};
use epicserver_wire::{CallError, Codec, ErrorKind, LinkId, MethodId, Ran, Rkyv, Time, Token};

use super::Sent;
use crate::Effect;
use crate::core::Core;

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
            Kind::Moved | Kind::Returned | Kind::Flush | Kind::Flushed => {
                return Err(Violation::Unexpected("a message about views"));
            }
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
        let bytes = message.payload_of(frame.bytes());
        let whole = {
            let mut remote = self.remote.borrow_mut();
            let Some((_, link)) = remote.by_link(link) else { return Ok(()) };
            link.incoming.chunk(&message.header, bytes)?
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
