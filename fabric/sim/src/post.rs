//! The post between shards: delays, order, the codec, and most of the mutants' faults.
//!
//! # Invariants
//! - **S3** Messages of one shard to another arrive in the order in which they were sent, as they
//!   do by the rings of the runtime.
//!
//! # Not here
//! What a message means.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epicserver_entity::{Answer, Caller, MethodInfo, Request, Target};
use epicserver_node::Message;
use epicserver_wire::frame::{Frame, Part};
use epicserver_wire::{CallError, ChainId, EntityId, ErrorKind, Path, Time, Token};

use crate::mutant::Mutant;
use crate::rng::Rng;

/// What is known of a call until its reply passes.
struct Sent {
    method: &'static MethodInfo,
    to: EntityId,
    args: Vec<u8>,
}

type Key = (usize, u32, u32);
/// Two shards of the world.
pub(crate) type Pair = (usize, usize);

pub(crate) struct Post {
    rng: Rng,
    /// By the shard that sends, and the one that it sends to.
    links: BTreeMap<Pair, VecDeque<(Time, Message)>>,
    by_bytes: bool,
    mutant: Option<Mutant>,
    sent: BTreeMap<Key, Sent>,
    slow: u64,
    births: u64,
}

/// What no seed determines: it goes on from run to run.
static UNSEEDED: AtomicU64 = AtomicU64::new(0);

impl Post {
    pub(crate) fn new(mut rng: Rng, mutant: Option<Mutant>) -> Self {
        let copies = [Some(Mutant::DuplicateReply), Some(Mutant::DuplicateCall)].contains(&mutant);
        Self {
            by_bytes: rng.one_in(2) || copies,
            slow: 1 << (8 + rng.below(14)),
            links: BTreeMap::new(),
            mutant,
            sent: BTreeMap::new(),
            births: 1 << 20,
            rng,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.links.values().all(VecDeque::is_empty)
    }

    /// When the first message of each pair arrives.
    pub(crate) fn upcoming(&self) -> impl Iterator<Item = (Pair, Time)> + '_ {
        self.links.iter().filter_map(|(pair, link)| Some((*pair, link.front()?.0)))
    }

    /// Takes the first message of a pair.
    pub(crate) fn take(&mut self, pair: Pair) -> Option<Message> {
        Some(self.links.get_mut(&pair)?.pop_front()?.1)
    }

    /// The shards in `of` are no more.
    pub(crate) fn kill(&mut self, of: &std::ops::Range<usize>) {
        self.links.retain(|(from, to), _| !of.contains(from) && !of.contains(to));
        self.sent.retain(|key, _| !of.contains(&key.0));
    }

    pub(crate) fn send(&mut self, now: Time, from: usize, to: usize, message: Message) {
        if self.mutant == Some(Mutant::LostMessage) && self.rng.one_in(64) {
            return;
        }
        let copy = self.copy(to, &message);
        let message = match message {
            Message::Call(request) => Message::Call(self.call(from, request)),
            Message::Reply { token, answer } => {
                Message::Reply { token, answer: self.answer(to, token, answer) }
            }
            other @ (Message::Returned { .. }
            | Message::Due { .. }
            | Message::Flush { .. }
            | Message::Flushed { .. }) => other,
        };
        self.put(now, (from, to), message);
        if let Some(copy) = copy {
            self.put(now, (from, to), copy);
        }
    }

    fn put(&mut self, now: Time, pair: Pair, message: Message) {
        let mut delay = self.rng.below(self.slow);
        if self.mutant == Some(Mutant::HashOrder) {
            delay ^= UNSEEDED.fetch_add(1, Ordering::Relaxed) & 0xff;
        }
        let link = self.links.entry(pair).or_default();
        let last = link.back().map_or(Time::ZERO, |(at, _)| *at);
        let at = last.max(now + Duration::from_nanos(delay));
        link.push_back((at, message));
        let waiting = link.len();
        if self.mutant == Some(Mutant::ReorderPair) && waiting > 1 && self.rng.one_in(4) {
            link.swap(waiting - 1, waiting - 2);
        }
    }

    /// The call as the other side reads it.
    fn call(&mut self, from: usize, mut request: Request) -> Request {
        let chain = request.head().path.chain();
        match self.mutant {
            Some(Mutant::ForgottenSections) => request.head_mut().path = Path::new(chain),
            Some(Mutant::NoWaitDie) => request.head_mut().path = self.oldest(&request),
            _ => {}
        }
        if !self.by_bytes {
            return request;
        }
        let (method, to) = (request.method(), request.to().clone());
        let args = request.encode_args().expect("arguments can be written");
        let copied = read(method, &to, &args, &request);
        if let Caller::Token { token, .. } = request.head().caller {
            let key = (from, token.index(), token.generation());
            self.sent.insert(key, Sent { method, to, args });
        }
        request.recycle();
        copied
    }

    /// The path of `request`, but of a chain that was born before all others.
    fn oldest(&mut self, request: &Request) -> Path {
        self.births -= 1;
        let chain = ChainId::new(Time::from_nanos(self.births), 0);
        let sections = request.head().path.sections();
        sections.iter().fold(Path::new(chain), |path, section| path.with(*section).unwrap_or(path))
    }

    /// The answer as the other side reads it.
    fn answer(&mut self, to: usize, token: Token, answer: Answer) -> Answer {
        let sent = self.sent.remove(&(to, token.index(), token.generation()));
        match (answer, sent) {
            (Answer::Reply(request), Some(sent)) => {
                let bytes = request.encode_reply().expect("replies can be written");
                let copied = reply(&sent, &bytes);
                request.recycle();
                Answer::Reply(copied)
            }
            (Answer::Failed(error), _) if self.mutant == Some(Mutant::DishonestError) => {
                Answer::Failed(CallError::refused(error.kind(), error.chain()))
            }
            (answer, _) => answer,
        }
    }

    /// A message that a mutant sends beside `message`.
    fn copy(&mut self, to: usize, message: &Message) -> Option<Message> {
        match (message, self.mutant) {
            (Message::Call(request), Some(Mutant::DuplicateCall)) if self.rng.one_in(16) => {
                let args = request.encode_args().ok()?;
                Some(Message::Call(read(request.method(), request.to(), &args, request)))
            }
            (
                Message::Reply { token, answer: Answer::Reply(request) },
                Some(Mutant::DuplicateReply),
            ) => {
                let own = (to, token.index(), token.generation());
                let other = self.sent.iter().find(|(key, sent)| {
                    key.0 == to && **key != own && sent.method.id == request.method().id
                });
                let (key, sent) = other?;
                let answer = Answer::Reply(reply(sent, &request.encode_reply().ok()?));
                Some(Message::Reply { token: Token::new(key.1, key.2), answer })
            }
            _ => None,
        }
    }
}

fn read(method: &'static MethodInfo, to: &EntityId, args: &[u8], of: &Request) -> Request {
    let copied = (method.read)(Target::new(to.clone()), Part::all(&Frame::copy_of(args)));
    let mut copied = copied.expect("arguments that were written can be read");
    let (head, from) = (copied.head_mut(), of.head());
    head.caller = from.caller;
    head.path = from.path.clone();
    head.deadline = from.deadline;
    if let Some(id) = of.request_id() {
        copied.set_request_id(id);
    }
    copied
}

fn reply(sent: &Sent, bytes: &[u8]) -> Request {
    let request =
        (sent.method.read)(Target::new(sent.to.clone()), Part::all(&Frame::copy_of(&sent.args)));
    let mut request = request.expect("arguments that were read once can be read again");
    request
        .decode_reply(Part::all(&Frame::copy_of(bytes)))
        .expect("replies that were written can be read");
    request
}

/// Whether `kind` is one that a run may meet without anything being wrong; where nodes are `lost`, more are.
pub(crate) fn is_expected(kind: ErrorKind, lost: bool) -> bool {
    let needs_loss = matches!(kind, ErrorKind::NodeLost | ErrorKind::Moved | ErrorKind::Nowhere);
    let is_wrong = matches!(
        kind,
        ErrorKind::Malformed
            | ErrorKind::UnknownType
            | ErrorKind::UnknownMethod
            | ErrorKind::KeyTooLong
            | ErrorKind::Stopping
            | ErrorKind::NotInAnEntity
    );
    !is_wrong && (lost || !needs_loss)
}
