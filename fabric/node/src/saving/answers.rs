//! Requests that have an id: a repeat gets the answer that the first one got.
//!
//! What was answered is a row beside the state, written by the commit that saves what the request has changed. An activation
//! reads those of its entity when the first request with an id comes, and keeps them.
//!
//! # Invariants
//! - **N37** An answer and what its request has changed are durable together, or neither is; and the answer leaves when they are.
//! - **N38** An entity keeps the answers of its last [`ANSWERS_MAX`] requests, none for longer than [`KEPT_MS`].
//!
//! # Not here
//! Who may send one: methods of one turn and exclusive ones of `every_turn` entities, which the call sees to.

use std::collections::{BTreeMap, BTreeSet};

use epicserver_entity::{Answer as Told, Desk, Mode, Policy, Request};
use epicserver_record::limits::PAGE_MAX;
use epicserver_record::{Answer, Envelope, Name, Op, Range, Record, Row, TooLong, Trouble};
use epicserver_wire::frame::{Frame, Part};
use epicserver_wire::{CallError, EntityId, ErrorKind, Ran};

use super::{Asked, Kept};
use crate::Fault;
use crate::core::Core;

/// Answers that one entity keeps.
const ANSWERS_MAX: usize = 1_000;
/// How long one is kept, in ms: a day.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;
/// Answers that one save takes; further requests wait for the next.
pub(super) const ANSWERS_A_SAVE: usize = 32;
/// Before the bytes of a reply: the method that gave it, padded.
const HEAD: usize = 16;

/// What an activation knows of the answers that its entity has given.
#[derive(Debug, Default)]
pub(super) enum Answers {
    /// Nothing.
    #[default]
    Unread,
    /// They are being read by this op; the activation is shut.
    Reading(u64, Box<Known>),
    /// They could not be, for this reason.
    Failed(ErrorKind),
    /// All.
    Known(Box<Known>),
}

/// The answers of an entity.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Each reply behind its head, with when it was given.
    replies: BTreeMap<u128, (u64, Box<[u8]>)>,
    order: BTreeSet<(u64, u128)>,
    /// Rows that are not stored, or may not be.
    unsaved: BTreeSet<u128>,
    /// Rows that are to go, or may be.
    gone: BTreeSet<u128>,
    /// Those that the commit under way writes, and takes away.
    sent: (BTreeSet<u128>, BTreeSet<u128>),
    /// The activation is shut until a commit makes room.
    full: bool,
}

impl Known {
    fn take_in(&mut self, record: &Record) {
        let name = record.name();
        let Some(id) = request_of(&name) else { return };
        let at_ms = record.envelope().written_ms;
        self.replies.insert(id, (at_ms, record.payload().into()));
        self.order.insert((at_ms, id));
    }

    fn add(&mut self, id: u128, now_ms: u64, reply: Box<[u8]>) {
        self.replies.insert(id, (now_ms, reply));
        self.order.insert((now_ms, id));
        self.unsaved.insert(id);
        while let Some((at_ms, old)) = self.order.first().copied() {
            if self.replies.len() <= ANSWERS_MAX && at_ms.saturating_add(KEPT_MS) > now_ms {
                break;
            }
            self.order.pop_first();
            self.replies.remove(&old);
            self.unsaved.remove(&old);
            self.gone.insert(old);
        }
    }

    fn is_full(&self) -> bool {
        self.unsaved.len() + self.sent.0.len() >= ANSWERS_A_SAVE
    }

    /// What is to change of the rows; of those that go, as many as there is room for.
    fn rows(
        &mut self,
        entity: &EntityId,
        envelope: &Envelope,
        room: usize,
    ) -> Result<Vec<Row>, TooLong> {
        let mut rows = Vec::new();
        for id in &self.unsaved {
            let Some((at_ms, reply)) = self.replies.get(id) else { continue };
            let envelope = Envelope { written_ms: *at_ms, ..*envelope };
            rows.push(Row::Put(Record::seal(&Name::answer(entity, *id), &envelope, reply)?));
        }
        let room = room.saturating_sub(rows.len());
        let gone: BTreeSet<u128> = self.gone.iter().copied().take(room).collect();
        rows.extend(gone.iter().map(|id| Row::Remove(Name::answer(entity, *id))));
        self.gone.retain(|id| !gone.contains(id));
        self.sent = (std::mem::take(&mut self.unsaved), gone);
        Ok(rows)
    }
}

fn request_of(name: &Name) -> Option<u128> {
    name.as_bytes().last_chunk().map(|bytes| u128::from_le_bytes(*bytes))
}

impl Answers {
    pub(super) fn is_unsaved(&self) -> bool {
        matches!(self, Self::Known(known) if !known.unsaved.is_empty())
    }

    pub(super) fn rows(
        &mut self,
        entity: &EntityId,
        envelope: &Envelope,
        room: usize,
    ) -> Result<Vec<Row>, TooLong> {
        match self {
            Self::Known(known) => known.rows(entity, envelope, room),
            Self::Unread | Self::Reading(..) | Self::Failed(_) => Ok(Vec::new()),
        }
    }

    /// The commit under way is done. Says whether the activation was shut until then.
    pub(super) fn are_saved(&mut self) -> bool {
        let Self::Known(known) = self else { return false };
        known.sent = Default::default();
        std::mem::take(&mut known.full)
    }

    /// It is not, or nobody knows: all of it is to be written again.
    pub(super) fn undone(&mut self) {
        let Self::Known(known) = self else { return };
        let (put, gone) = std::mem::take(&mut known.sent);
        let there = |id: &u128| known.replies.contains_key(id);
        known.unsaved.extend(put.into_iter().filter(there));
        known.gone.extend(gone);
    }
}

/// What becomes of a request.
enum Next {
    Run,
    /// It was answered before, so.
    Repeat(Box<[u8]>),
    Wait,
    /// It waits for what is to be read first.
    Read,
    Fail(ErrorKind),
}

impl Core {
    /// A call is about to begin: gives it back if it is to. One that has a request's id may have been answered.
    pub(crate) fn begins(&self, desk: &Desk, place: u32, request: Request) -> Option<Request> {
        let request = self.may_change(place, request)?;
        let Some(id) = request.request_id() else { return Some(request) };
        let policy = self.kept(place, |kept| kept.policy);
        if policy != Some(Policy::EveryTurn) || request.method().mode == Mode::Shared {
            // Without a store nothing is kept that a repeat could get.
            let kind = match policy {
                None => ErrorKind::StoreUnavailable,
                Some(_) => ErrorKind::Malformed,
            };
            self.refuse(desk, request, kind);
            return None;
        }
        let next = self.kept(place, |kept| match &mut kept.answers {
            Answers::Unread => Next::Read,
            Answers::Reading(..) => Next::Wait,
            Answers::Failed(kind) => {
                let kind = *kind;
                kept.answers = Answers::Unread;
                Next::Fail(kind)
            }
            Answers::Known(known) => match known.replies.get(&id) {
                Some((_, reply)) => Next::Repeat(reply.clone()),
                None if known.is_full() => {
                    known.full = true;
                    Next::Wait
                }
                None => Next::Run,
            },
        });
        match next? {
            Next::Run => return Some(request),
            Next::Repeat(reply) => self.repeat(desk, place, request, &reply),
            Next::Wait => self.wait_shut(place, request),
            Next::Read => {
                self.wait_shut(place, request);
                self.read_answers(place, None, Box::default());
            }
            Next::Fail(kind) => self.refuse(desk, request, kind),
        }
        None
    }

    /// Asks for what the entity at `place` has answered, from behind a row on; `known` is what came before.
    fn read_answers(&self, place: u32, after: Option<Name>, known: Box<Known>) {
        let Some(cell) = self.cell(place) else { return };
        let range = Range::Answers(cell.id().clone());
        let op = Op::Scan { range, after, limit: PAGE_MAX };
        let id = self.ask_load(op, Asked::Answers(place));
        self.kept(place, |kept| kept.answers = Answers::Reading(id, known));
    }

    /// A page of them.
    pub(super) fn found_answers(&self, (place, op): (u32, u64), result: Result<Answer, Trouble>) {
        let read = |kept: &mut Kept| match &mut kept.answers {
            Answers::Reading(asked, known) if *asked == op => Some(std::mem::take(known)),
            Answers::Unread | Answers::Reading(..) | Answers::Failed(_) | Answers::Known(_) => None,
        };
        let Some(mut known) = self.kept(place, read).flatten() else { return };
        let answers = match result {
            Ok(Answer::Scanned { rows, next }) => {
                let mut corrupt = None;
                for row in rows {
                    match row {
                        Ok(record) => known.take_in(&record),
                        Err(row) => corrupt = Some(row),
                    }
                }
                match (corrupt, next) {
                    (Some(corrupt), _) => {
                        self.unreadable_row(corrupt);
                        Answers::Failed(ErrorKind::StateUnreadable)
                    }
                    (None, Some(next)) => return self.read_answers(place, Some(next), known),
                    (None, None) => Answers::Known(known),
                }
            }
            Ok(_) | Err(_) => Answers::Failed(ErrorKind::StoreUnavailable),
        };
        self.kept(place, |kept| kept.answers = answers);
        self.open_again(place);
    }

    /// Gives `request` the reply that its first one got.
    fn repeat(&self, desk: &Desk, place: u32, mut request: Request, reply: &[u8]) {
        let (caller, chain) = (request.head().caller, request.head().path.chain());
        let method = request.method().id.as_u32().to_le_bytes();
        let read = match reply.split_at_checked(HEAD) {
            Some((head, reply)) if head.starts_with(&method) => {
                let frame = Frame::copy_of(reply);
                request.decode_reply(Part::all(&frame)).is_ok()
            }
            Some(_) | None => false,
        };
        if read {
            return self.reply_from(desk, place, caller, request);
        }
        // The id was another method's, or the type of the reply has changed.
        request.recycle();
        let error = CallError::new(ErrorKind::Malformed, Ran::Yes, chain);
        self.answer(desk, caller, Told::Failed(error));
    }

    /// A method has replied to a request that has an id: that is kept, to be saved with what it has changed.
    pub(super) fn keep_answer(&self, place: u32, request: &Request) {
        let Some(id) = request.request_id() else { return };
        if self.config.fault == Some(Fault::AnswerForgotten) {
            return;
        }
        let Ok(reply) = request.encode_reply() else { return };
        let mut bytes = request.method().id.as_u32().to_le_bytes().to_vec();
        bytes.resize(HEAD, 0);
        bytes.extend(reply);
        let now_ms = self.wall_ms();
        self.kept(place, |kept: &mut Kept| {
            if let Answers::Known(known) = &mut kept.answers
                && !known.replies.contains_key(&id)
            {
                known.add(id, now_ms, bytes.into());
                kept.unsaved = true;
            }
        });
    }
}
