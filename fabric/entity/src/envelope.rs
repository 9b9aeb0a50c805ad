//! Envelopes: a call's head, its arguments, and later its reply, in one reused box.
//!
//! The box that leaves with the arguments comes back with the reply, so that a call inside one
//! process allocates nothing in steady state and moves two words.
//!
//! # Invariants
//! - **E4** An envelope holds arguments until its method starts, a reply after it ended, and
//!   neither when it lies in a pool.
//!
//! # Not here
//! Where an envelope goes.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use epicserver_wire::frame::Part;
use epicserver_wire::{
    CallError, EntityId, LinkId, Malformed, Out, Path, ShardId, Time, Token, Unwritten, limits,
};

use crate::cell::{AnyCell, Place, StateCell};
use crate::entity::{Method, MethodInfo, typed_cell};
use crate::message::{Coded, Message};
use crate::reference::Target;
use crate::running::{AnyStarted, Started};

/// Who gets the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Nobody: a tell, or a call that was dropped before it left.
    Nobody,
    /// The holder of `token` on `shard`.
    Token {
        /// The shard that gave the token.
        shard: ShardId,
        /// The token.
        token: Token,
    },
    /// A shard of another node.
    Remote {
        /// The link that the call came by.
        link: LinkId,
        /// The shard there that gave the token.
        shard: ShardId,
        /// The token.
        token: Token,
    },
    /// Nobody, and another shard of this node has made it: it goes back there if it cannot run here.
    Teller {
        /// Which shard.
        shard: ShardId,
    },
    /// Nobody, and a shard of another node has made it.
    RemoteTeller {
        /// The link that it came by.
        link: LinkId,
        /// The shard there.
        shard: ShardId,
    },
}

/// What a call carries beside its arguments.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Head {
    /// Who is called.
    pub to: EntityId,
    /// The chain that the call belongs to and the sections held along it.
    pub path: Path,
    /// When nobody waits any more.
    pub deadline: Time,
    /// Who gets the reply.
    pub caller: Caller,
    /// Where the callee's activation was last seen; a hint.
    pub place: Place,
    /// Which of those that were at that place it was, as the host counts them; 0 if that is not known.
    pub birth: u32,
}

// What is written at each call fits one cache line; the id before it is only read, and stays with
// both cores when the envelope goes to and fro between them.
const _: () = assert!(size_of::<Head>() - size_of::<EntityId>() <= 64);

/// One call of `M`. Aligned, so that it takes as few cache lines as it can.
#[repr(C, align(64))]
pub struct Envelope<M: Method> {
    head: Head,
    args: Option<M::Args>,
    reply: Option<M::Reply>,
    /// The request's id, if it has one. Rare, and a word to keep the envelope short.
    request: Option<Box<u128>>,
}

impl<M: Method> Envelope<M> {
    /// A call of `target` that has not left yet.
    #[inline]
    pub(crate) fn new(target: &Target, args: M::Args) -> Box<Self> {
        M::pool().with(|pool| pool.fill(target, args))
    }

    #[cold]
    #[inline(never)]
    fn first(target: &Target) -> Box<Self> {
        let head = Head {
            to: target.id().clone(),
            place: target.place(),
            birth: 0,
            caller: Caller::Nobody,
            path: Path::default(),
            deadline: Time::MAX,
        };
        Box::new(Self { head, args: None, reply: None, request: None })
    }

    /// Aims an emptied envelope. The rest of its head is written when the call leaves, unless it runs directly.
    #[inline]
    fn aim(&mut self, target: &Target) {
        // One of the last call to the same entity still knows where that was.
        if self.head.to != *target.id() {
            self.head.to = target.id().clone();
            (self.head.place, self.head.birth) = (target.place(), 0);
        }
    }

    /// What a call carries beside its arguments.
    #[inline]
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// The call of `target` whose arguments lie in `part`.
    pub(crate) fn read(target: Target, part: Part<'_>) -> Result<Request, Malformed> {
        Ok(Request::new(Self::new(&target, M::Args::decode_in(part)?)))
    }

    /// # Panics
    /// If the method was started before (**E4**).
    #[inline]
    pub(crate) fn take_args(&mut self) -> M::Args {
        self.args.take().expect("E4: a method is started once")
    }

    #[inline]
    pub(crate) fn set_reply(&mut self, reply: M::Reply) {
        self.reply = Some(reply);
    }

    /// What the caller gets, errors inside it crossed; the envelope returns to its pool.
    pub(crate) fn into_outcome(mut self: Box<Self>) -> Result<M::Reply, CallError> {
        let mut reply = self.reply.take().expect("E4: an answered call holds its reply");
        self.recycle();
        reply.crossed();
        Ok(reply)
    }

    #[inline]
    pub(crate) fn recycle(mut self: Box<Self>) {
        if self.args.is_some() || self.reply.is_some() {
            self.args = None;
            self.reply = None;
        }
        if self.request.is_some() {
            self.request = None;
        }
        M::pool().with(|pool| pool.keep_envelope(self));
    }
}

impl<M: Method> fmt::Debug for Envelope<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {:?}", M::INFO, self.head.to)
    }
}

/// What is kept for reuse of one method on one thread, bounded by [`limits::POOL_MAX`]; and the method's call that
/// was made last, while it stands apart at its desk.
pub struct Pool<M: Method> {
    latest: Cell<Option<Box<Envelope<M>>>>,
    spare: Cell<Option<Box<Envelope<M>>>>,
    spares: RefCell<Vec<Box<Envelope<M>>>>,
    slots: RefCell<Vec<Box<dyn Any>>>,
}

impl<M: Method> Pool<M> {
    /// A pool with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            latest: Cell::new(None),
            spare: Cell::new(None),
            spares: RefCell::new(Vec::new()),
            slots: RefCell::new(Vec::new()),
        }
    }

    #[inline]
    fn fill(&self, target: &Target, args: M::Args) -> Box<Envelope<M>> {
        let spare = self.spare.take().or_else(|| self.spares.borrow_mut().pop());
        let mut envelope = spare.unwrap_or_else(|| Envelope::first(target));
        envelope.aim(target);
        envelope.args = Some(args);
        envelope
    }

    #[inline]
    fn keep_envelope(&self, envelope: Box<Envelope<M>>) {
        if let Some(other) = self.spare.replace(Some(envelope)) {
            self.keep_another(other);
        }
    }

    fn keep_another(&self, envelope: Box<Envelope<M>>) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < limits::POOL_MAX {
            spares.push(envelope);
        }
    }

    /// Makes the call of `target` that stands apart. Gives it back if another desk of this thread has such a call.
    #[inline]
    pub(crate) fn make(&self, target: &Target, args: M::Args) -> Result<(), Box<Envelope<M>>> {
        let envelope = self.fill(target, args);
        match self.latest.take() {
            None => {
                self.latest.set(Some(envelope));
                Ok(())
            }
            another @ Some(_) => {
                self.latest.set(another);
                Err(envelope)
            }
        }
    }

    /// Takes the call that stands apart.
    #[inline]
    pub(crate) fn take_latest(&self) -> Option<Box<Envelope<M>>> {
        self.latest.take()
    }

    #[inline]
    pub(crate) fn take_slot(&self) -> Option<Box<dyn Any>> {
        self.slots.borrow_mut().pop()
    }

    #[inline]
    pub(crate) fn keep_slot(&self, slot: Box<dyn Any>) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() < limits::POOL_MAX {
            slots.push(slot);
        }
    }
}

impl<M: Method> Default for Pool<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Method> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("spares", &self.spares.borrow().len()).finish_non_exhaustive()
    }
}

/// An envelope whose method is not known at compile time.
trait AnyEnvelope: Any + Send + fmt::Debug {
    fn head(&self) -> &Head;
    fn head_mut(&mut self) -> &mut Head;
    fn method(&self) -> &'static MethodInfo;
    fn args(&self) -> Option<&dyn Any>;
    fn request_id(&self) -> Option<u128>;
    fn set_request_id(&mut self, id: u128);
    fn start(self: Box<Self>, cell: Rc<dyn AnyCell>) -> AnyStarted;
    fn encode_args(&self) -> Result<Vec<u8>, Malformed>;
    fn encode_args_to(&self, out: &mut Out<'_>) -> Result<(), Unwritten>;
    fn encode_reply_to(&self, out: &mut Out<'_>) -> Result<(), Unwritten>;
    fn encode_reply(&self) -> Result<Vec<u8>, Malformed>;
    fn decode_reply(&mut self, part: Part<'_>) -> Result<(), Malformed>;
    fn put_reply(&mut self, reply: Box<dyn Any>) -> Result<(), &'static str>;
    fn recycle(self: Box<Self>);
}

impl<M: Method> AnyEnvelope for Envelope<M> {
    fn head(&self) -> &Head {
        &self.head
    }

    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    fn method(&self) -> &'static MethodInfo {
        M::INFO
    }

    fn args(&self) -> Option<&dyn Any> {
        self.args.as_ref().map(|args| args as &dyn Any)
    }

    fn request_id(&self) -> Option<u128> {
        self.request.as_deref().copied()
    }

    fn set_request_id(&mut self, id: u128) {
        self.request = Some(Box::new(id));
    }

    fn start(self: Box<Self>, cell: Rc<dyn AnyCell>) -> AnyStarted {
        let cell: Rc<StateCell<M::Entity>> = typed_cell(cell);
        match M::start(self, cell) {
            Started::Ready(mut call, reply) => {
                call.set_reply(reply);
                AnyStarted::Ready(Request::new(call))
            }
            Started::Running(running) => AnyStarted::Running(running),
        }
    }

    fn encode_args(&self) -> Result<Vec<u8>, Malformed> {
        self.args.as_ref().ok_or(Malformed)?.encode()
    }

    fn encode_args_to(&self, out: &mut Out<'_>) -> Result<(), Unwritten> {
        out.put(self.args.as_ref().ok_or(Unwritten::Malformed)?)
    }

    fn encode_reply_to(&self, out: &mut Out<'_>) -> Result<(), Unwritten> {
        out.put(self.reply.as_ref().ok_or(Unwritten::Malformed)?)
    }

    fn encode_reply(&self) -> Result<Vec<u8>, Malformed> {
        self.reply.as_ref().ok_or(Malformed)?.encode()
    }

    fn decode_reply(&mut self, part: Part<'_>) -> Result<(), Malformed> {
        self.reply = Some(M::Reply::decode_in(part)?);
        Ok(())
    }

    fn put_reply(&mut self, reply: Box<dyn Any>) -> Result<(), &'static str> {
        let reply = reply.downcast().map_err(|_| std::any::type_name::<M::Reply>())?;
        self.reply = Some(*reply);
        Ok(())
    }

    fn recycle(self: Box<Self>) {
        Self::recycle(self);
    }
}

/// A call whose method is not known at compile time: plain data, with its head readable.
pub struct Request(Box<dyn AnyEnvelope>);

impl Request {
    pub(crate) fn new<M: Method>(call: Box<Envelope<M>>) -> Self {
        Self(call)
    }

    /// The call of `M` that this is.
    #[inline]
    pub(crate) fn typed<M: Method>(self) -> Option<Box<Envelope<M>>> {
        let any: Box<dyn Any> = self.0;
        any.downcast().ok()
    }

    /// What it carries beside its arguments.
    #[must_use]
    pub fn head(&self) -> &Head {
        self.0.head()
    }

    /// What it carries beside its arguments, to be filled in when it leaves.
    pub fn head_mut(&mut self) -> &mut Head {
        self.0.head_mut()
    }

    /// Who is called.
    #[must_use]
    pub fn to(&self) -> &EntityId {
        &self.head().to
    }

    /// Which method.
    #[must_use]
    pub fn method(&self) -> &'static MethodInfo {
        self.0.method()
    }

    /// The arguments, if they are an `A` (always a tuple) and the method has not started.
    #[must_use]
    pub fn args<A: Message>(&self) -> Option<&A> {
        self.0.args()?.downcast_ref()
    }

    /// By which it is known again, if it is sent again.
    #[must_use]
    pub fn request_id(&self) -> Option<u128> {
        self.0.request_id()
    }

    /// Gives it an id.
    pub fn set_request_id(&mut self, id: u128) {
        self.0.set_request_id(id);
    }

    /// Runs the first turn on `cell`, or makes it ready to run.
    pub fn start(self, cell: Rc<dyn AnyCell>) -> AnyStarted {
        self.0.start(cell)
    }

    /// The bytes of the arguments.
    ///
    /// # Errors
    /// [`Malformed`] if the method has started, or a hand-written implementation refuses.
    pub fn encode_args(&self) -> Result<Vec<u8>, Malformed> {
        self.0.encode_args()
    }

    /// Writes the arguments where they leave from.
    ///
    /// # Errors
    /// [`Unwritten`]; `Malformed` if the method has started.
    pub fn encode_args_to(&self, out: &mut Out<'_>) -> Result<(), Unwritten> {
        self.0.encode_args_to(out)
    }

    /// Writes the reply where it leaves from.
    ///
    /// # Errors
    /// [`Unwritten`]; `Malformed` if there is no reply.
    pub fn encode_reply_to(&self, out: &mut Out<'_>) -> Result<(), Unwritten> {
        self.0.encode_reply_to(out)
    }

    /// The bytes of the reply.
    ///
    /// # Errors
    /// [`Malformed`] if there is no reply, or a hand-written implementation refuses.
    pub fn encode_reply(&self) -> Result<Vec<u8>, Malformed> {
        self.0.encode_reply()
    }

    /// Puts in the reply that lies in `part`.
    ///
    /// # Errors
    /// [`Malformed`] if they are not those of such a reply.
    pub fn decode_reply(&mut self, part: Part<'_>) -> Result<(), Malformed> {
        self.0.decode_reply(part)
    }

    /// Puts in a reply.
    ///
    /// # Errors
    /// The name of the type that the method returns, if `reply` is of another one.
    pub fn put_reply<R: Message>(&mut self, reply: R) -> Result<(), &'static str> {
        self.0.put_reply(Box::new(reply))
    }

    /// Gives the emptied envelope back to the pool of its method on this thread.
    pub fn recycle(self) {
        self.0.recycle();
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// By method, callee and the bytes of the arguments.
impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.method().id == other.method().id
            && self.to() == other.to()
            && self.encode_args().ok() == other.encode_args().ok()
    }
}
