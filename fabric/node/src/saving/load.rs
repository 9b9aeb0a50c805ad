//! Loading: what an activation begins with.
//!
//! # Invariants
//! - **N30** Nobody enters an activation before its state is there: what was stored, or, where nothing is, a new one.
//! - **N40** A state is never written as an earlier schema version than the one that is stored.
//!
//! # Not here
//! Making a new state (`collect`).

use std::rc::Rc;

use epicserver_entity::{AnyCell, Desk, Policy, Stored, TypeInfo};
use epicserver_record::{Answer, Found, Op, Record, Trouble};
use epicserver_wire::{Codec, ErrorKind, Path, Rkyv};

use super::{Answers, Asked, Kept, Reminders, Stage};
use crate::core::Core;
use crate::{Effect, Notice};

impl Core {
    /// If entities of this type are saved, what is stored of the one that becomes active at `place` is loaded. Says whether
    /// that is so.
    pub(crate) fn begins_to_load(
        &self,
        (place, list): (u32, usize),
        info: &TypeInfo,
        cell: &Rc<dyn AnyCell>,
        path: &Path,
    ) -> bool {
        let Some(saves) = self.saves(info) else { return false };
        let kept = Kept {
            stage: Stage::Loading(path.clone()),
            policy: info.saved,
            list,
            owner: self.owner_of(cell.id(), saves),
            stored: 0,
            schema: info.writes,
            tried: 0,
            sum: None,
            op: None,
            listed: false,
            unsaved: false,
            deleted: false,
            counts: 0,
            reminders: None,
            answers: Answers::default(),
            hook: info.reminds.map(|reminds| reminds.hook),
            waits: super::Waits::default(),
        };
        {
            let saving = &mut *self.saving.borrow_mut();
            let index = place as usize;
            if saving.kept.len() <= index {
                saving.kept.resize_with(index + 1, || None);
            }
            saving.kept[index] = Some(Box::new(kept));
        }
        self.load(place, path.clone());
        true
    }

    /// Asks for the state of the activation at `place`, which is shut until it comes.
    pub(super) fn load(&self, place: u32, path: Path) {
        let Some(entity) = self.table.borrow().state(place).map(|cell| cell.id().clone()) else {
            return;
        };
        self.table.borrow_mut().set_shut(place, true);
        let Some(owner) = self.kept(place, |kept| kept.owner) else { return };
        let id = self.ask_load(Op::Load { entity, claim: Some(owner) }, Asked::Load(place));
        self.kept(place, |kept| {
            (kept.stage, kept.op) = (Stage::Loading(path), Some((id, None)));
            // What it was is of no matter any more.
            kept.unsaved = false;
        });
    }

    /// What is stored for the activation at `place`, as the op numbered `op` was to find out.
    pub(super) fn found(
        &self,
        desk: &Desk,
        (place, op): (u32, u64),
        result: Result<Answer, Trouble>,
    ) {
        let path = self.kept(place, |kept| {
            let mine = kept.op.take_if(|(asked, _)| *asked == op).is_some();
            match &kept.stage {
                Stage::Loading(path) if mine => Some(path.clone()),
                Stage::Loading(_) | Stage::Active | Stage::Resetting | Stage::Leaving => None,
            }
        });
        let (Some(Some(path)), Some(cell)) = (path, self.cell(place)) else { return };
        let found = match result {
            Ok(Answer::Loaded(found)) => found,
            Ok(other) => {
                return self.cannot_load(desk, place, &Trouble::Refused(format!("{other:?}")));
            }
            Err(trouble) => return self.cannot_load(desk, place, &trouble),
        };
        self.out_of_trouble();
        match found {
            Found::Nothing => self.begin_anew(desk, place, &cell, (&path, 0)),
            Found::Tombstone(envelope) => {
                self.begin_anew(desk, place, &cell, (&path, envelope.version));
            }
            Found::State(record) => self.take_state(desk, place, &cell, (&path, &record)),
            Found::Fenced(by) => {
                let why = format!("its slot is owned by {by:?}");
                self.not_loaded(desk, place, why, ErrorKind::Moved);
            }
            Found::Corrupt(corrupt) => self.unreadable(desk, place, corrupt.to_string()),
        }
    }

    fn cannot_load(&self, desk: &Desk, place: u32, trouble: &Trouble) {
        self.in_trouble(trouble);
        self.abandon(desk, place, ErrorKind::StoreUnavailable);
    }

    fn unreadable(&self, desk: &Desk, place: u32, why: String) {
        self.not_loaded(desk, place, why, ErrorKind::StateUnreadable);
    }

    fn not_loaded(&self, desk: &Desk, place: u32, why: String, kind: ErrorKind) {
        if let Some(cell) = self.cell(place) {
            let entity = cell.id().clone();
            self.effect(Effect::Notice(Notice::NotLoaded { entity, why }));
        }
        self.abandon(desk, place, kind);
    }

    /// Nothing is stored, or that the entity was deleted.
    fn begin_anew(
        &self,
        desk: &Desk,
        place: u32,
        cell: &Rc<dyn AnyCell>,
        (path, version): (&Path, u64),
    ) {
        self.kept(place, |kept| {
            (kept.stage, kept.stored, kept.sum) = (Stage::Active, version, None);
            kept.reminders = None;
            kept.answers = Answers::default();
            kept.tried = kept.tried.max(version);
        });
        self.table.borrow_mut().set_shut(place, false);
        if self.make_state(desk, place, cell, path).is_ok() && cell.has_state() {
            self.opened(desk, place, cell, true);
        }
    }

    fn take_state(
        &self,
        desk: &Desk,
        place: u32,
        cell: &Rc<dyn AnyCell>,
        (path, record): (&Path, &Record),
    ) {
        let envelope = record.envelope();
        let codec = <Rkyv as Codec<()>>::ID;
        if envelope.codec != codec {
            let why = format!("it is of codec {}, and this program reads {codec}", envelope.codec);
            return self.unreadable(desk, place, why);
        }
        let Some(reminders) = Reminders::stored(cell.id(), record.agenda()) else {
            return self.unreadable(desk, place, "its reminders cannot be read".to_owned());
        };
        self.kept(place, |kept| {
            kept.reminders = reminders;
            kept.answers = Answers::default();
        });
        let known = self.layout_of(place);
        let (schema, layout, payload) = (envelope.schema, envelope.layout, record.payload());
        let read = self.run_hook(desk, place, path.clone(), || {
            Rc::clone(cell).load(Stored { schema, layout, known, payload })
        });
        match read {
            Some(Ok(())) => {}
            Some(Err(why)) => return self.unreadable(desk, place, why.to_string()),
            // The hook has panicked, as one that makes a state might.
            None => return self.abandon(desk, place, ErrorKind::ActivationFailed),
        }
        let version = envelope.version;
        let written = self.schema_after(cell, schema);
        // What was upgraded is another state.
        let sum = (schema == written).then(|| record.content_sum());
        self.kept(place, |kept| {
            (kept.stage, kept.stored, kept.sum) = (Stage::Active, version, sum);
            kept.schema = written;
            kept.tried = kept.tried.max(version);
        });
        self.count(|c| c.loaded += 1);
        self.table.borrow_mut().set_shut(place, false);
        self.opened(desk, place, cell, false);
    }

    pub(super) fn schema_of(&self, cell: &Rc<dyn AnyCell>) -> u32 {
        self.config.registry.entity(cell.id().type_id()).map_or(0, |info| info.schema)
    }

    /// The schema version that a state is written as of which `stored` was loaded: never an earlier one, which would lose what
    /// that has not (**N40**).
    fn schema_after(&self, cell: &Rc<dyn AnyCell>, stored: u32) -> u32 {
        let info = self.config.registry.entity(cell.id().type_id());
        info.map_or(0, |info| if stored <= info.writes { info.writes } else { info.schema })
    }

    /// A state is there, new or loaded: if it is saved, it is known from now on when it changes. Says whether it is.
    pub(crate) fn opened(
        &self,
        desk: &Desk,
        place: u32,
        cell: &Rc<dyn AnyCell>,
        new: bool,
    ) -> bool {
        let Some(policy) = self.kept(place, |kept| kept.policy) else { return false };
        let info = self.config.registry.entity(cell.id().type_id());
        cell.watch();
        if policy == Policy::EveryTurn {
            // Its replies may have to wait.
            self.table.borrow_mut().set_apart(place);
        }
        if new && info.is_some_and(|info| info.makes) {
            self.kept(place, |kept| kept.unsaved = true);
            self.changed_at(place);
        }
        match self.settle_in(desk, place, cell) {
            Ok(()) => self.schedule(place),
            Err(kind) => self.abandon(desk, place, kind),
        }
        true
    }
}
