//! The command `store`: what an operator asks of a store, nodes running or not.
//!
//! # Not here
//! Decoding states: only a program that has their types can, which `registry` knows how to ask.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use epicserver_entity::{Registry, Stored};
use epicserver_store::{
    Agenda, Answer, Corrupt, Envelope, Keeper, Kind, Name, Op, OpId, Range, Record, Store, Trouble,
    Wake, limits,
};
use epicserver_wire::TypeId;

use crate::config::{Config, nearest};
use crate::store::{self, StoreError};

/// What can be asked.
pub(super) const QUESTIONS: &[&str] = &["list", "show", "verify", "purge", "export", "import"];

/// Why it cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("{0}")]
    Words(String),
    #[error(transparent)]
    Open(#[from] StoreError),
    #[error("there is no store: `store.kind` of the configuration is \"none\"")]
    None,
    #[error(transparent)]
    Store(#[from] Trouble),
    #[error("{0} rows are corrupt")]
    Corrupt(usize),
    #[error("there is no {0}")]
    Nothing(String),
}

/// A question, understood.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    List,
    Show { of: String, key: String },
    Verify,
    Purge { older_ms: u64 },
    Export(PathBuf),
    Import(PathBuf),
}

impl Question {
    fn parse(words: &[OsString]) -> Result<Self, String> {
        let texts: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        match texts[..] {
            ["list"] => Ok(Self::List),
            ["show", of, key] => Ok(Self::Show { of: of.to_owned(), key: key.to_owned() }),
            ["verify"] => Ok(Self::Verify),
            ["purge", age] => Ok(Self::Purge { older_ms: age_ms(age)? }),
            ["export", _] => Ok(Self::Export(PathBuf::from(&words[1]))),
            ["import", _] => Ok(Self::Import(PathBuf::from(&words[1]))),
            ["show", ..] => Err("write `store show TYPE KEY`".to_owned()),
            ["purge", ..] => Err("write `store purge AGE`, such as `30d`".to_owned()),
            ["export" | "import", ..] => Err(format!("write `store {} FILE`", texts[0])),
            ["list" | "verify", ..] => Err(format!("`store {}` takes nothing more", texts[0])),
            [] => Err(format!("write `store` and one of {}", QUESTIONS.join(", "))),
            [other, ..] => Err(match nearest(other, QUESTIONS.iter().copied()) {
                Some(meant) => format!("`store` does not know `{other}`; did you mean `{meant}`?"),
                None => {
                    format!("`store` does not know `{other}`; it knows {}", QUESTIONS.join(", "))
                }
            }),
        }
    }
}

/// `30d`, `12h`, `90m`, `10s`.
fn age_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no age: write a whole number and `s`, `m`, `h` or `d`");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).ok_or_else(wrong)
}

/// Answers what `words` ask of the store of `config`. Types are called as `registry` does. Blocks.
pub(super) fn answer(
    words: &[OsString],
    config: &Config,
    registry: &Registry,
) -> Result<String, Unanswered> {
    let question = Question::parse(words).map_err(Unanswered::Words)?;
    let keeper = store::open(config, false)?.ok_or(Unanswered::None)?;
    let mut asker = Asker::of(keeper.as_ref())?;
    match question {
        Question::List => list(&mut asker, registry),
        Question::Show { of, key } => show(&mut asker, registry, (&of, &key)),
        Question::Verify => verify(&mut asker),
        Question::Purge { older_ms } => purge(&mut asker, older_ms),
        Question::Export(to) => export(&mut asker, to),
        Question::Import(from) => import(&mut asker, from),
    }
}

/// The store has answered something else.
fn unexpected() -> Unanswered {
    Trouble::Refused("the store answers what was not asked".to_owned()).into()
}

/// A handle that is waited at.
struct Asker(Box<dyn Store>);

impl Asker {
    fn of(keeper: &dyn Keeper) -> Result<Self, Unanswered> {
        let thread = thread::current();
        let handle = keeper.handle(Wake::new(move || thread.unpark()));
        let full = |error: epicserver_store::TooMany| Trouble::Refused(error.to_string());
        Ok(Self(handle.map_err(full)?))
    }

    fn ask(&mut self, op: Op) -> Result<Answer, Trouble> {
        if self.0.submit(OpId(0), op).is_err() {
            return Err(Trouble::Refused("the store takes nothing".to_owned()));
        }
        let mut done = Vec::new();
        loop {
            self.0.poll(&mut done);
            if let Some(done) = done.pop() {
                return done.result;
            }
            thread::park();
        }
    }

    /// Calls `each` for every row of `range`.
    fn scan(
        &mut self,
        range: &Range,
        mut each: impl FnMut(Result<Record, Corrupt>),
    ) -> Result<(), Unanswered> {
        let mut after = None;
        loop {
            let op = Op::Scan { range: range.clone(), after, limit: limits::PAGE_MAX };
            let Answer::Scanned { rows, next } = self.ask(op)? else {
                return Err(unexpected());
            };
            rows.into_iter().for_each(&mut each);
            if next.is_none() {
                return Ok(());
            }
            after = next;
        }
    }
}

/// What there is of one type.
#[derive(Default)]
struct Count {
    states: u64,
    tombstones: u64,
    others: u64,
    bytes: u64,
}

fn list(asker: &mut Asker, registry: &Registry) -> Result<String, Unanswered> {
    let mut types: BTreeMap<TypeId, Count> = BTreeMap::new();
    let mut corrupt = 0;
    asker.scan(&Range::All, |row| {
        let Ok(record) = row else {
            corrupt += 1;
            return;
        };
        let name = record.name();
        let Some(entity) = name.entity() else { return };
        let count = types.entry(entity.type_id()).or_default();
        count.bytes += record.payload().len() as u64;
        match (name.kind(), record.envelope().tombstone) {
            (Some(Kind::State), false) => count.states += 1,
            (Some(Kind::State), true) => count.tombstones += 1,
            (Some(Kind::Reminder | Kind::Answer) | None, _) => count.others += 1,
        }
    })?;
    let mut text = format!(
        "{:<24} {:>12} {:>12} {:>12} {:>16}\n",
        "type", "entities", "tombstones", "other rows", "bytes"
    );
    for (id, count) in types {
        let known = registry.entity(id).map(|info| info.name.to_owned());
        let name = known.unwrap_or_else(|| format!("{id:?}"));
        let Count { states, tombstones, others, bytes } = count;
        let _infallible =
            writeln!(text, "{name:<24} {states:>12} {tombstones:>12} {others:>12} {bytes:>16}");
    }
    if corrupt > 0 {
        let _infallible = writeln!(text, "{corrupt} rows are corrupt: `store verify` names them");
    }
    Ok(text)
}

/// The type that is called `of`, or shown so by `list`.
fn type_of(of: &str) -> TypeId {
    let shown = |id: &TypeId| format!("{id:?}") == of;
    let hex = of.trim_start_matches("type:").trim_start_matches("0x");
    let id = u32::from_str_radix(hex, 16).ok().map(TypeId::from_u32);
    id.filter(shown).unwrap_or_else(|| TypeId::of(of))
}

fn show(
    asker: &mut Asker,
    registry: &Registry,
    (of, key): (&str, &str),
) -> Result<String, Unanswered> {
    let mut found = None;
    asker.scan(&Range::Type(type_of(of)), |row| {
        let (name, shown) = match row {
            Ok(record) => (record.name(), Ok(record)),
            Err(corrupt) => (corrupt.name.clone(), Err(corrupt)),
        };
        if name.entity().is_some_and(|entity| is_key(&format!("{:?}", entity.key()), key)) {
            found = Some((name, shown));
        }
    })?;
    match found {
        Some((name, Ok(record))) => Ok(json(&name, &record, registry)),
        Some((_, Err(corrupt))) => Err(Trouble::Corrupt(corrupt.to_string()).into()),
        None => Err(Unanswered::Nothing(format!("{of} with the key {key}"))),
    }
}

/// Whether a key that is shown as `shown` is meant by `text`: a text needs no quotes.
fn is_key(shown: &str, text: &str) -> bool {
    shown == text || shown.strip_prefix('"').and_then(|s| s.strip_suffix('"')) == Some(text)
}

/// The reminders in a record, as JSON.
fn reminders(record: &Record) -> String {
    let agenda = Agenda::parse(record.agenda()).unwrap_or_default();
    let all = agenda.reminders().iter().map(|reminder| {
        let (label, due_ms) = (escaped(&reminder.label), reminder.due_ms);
        let period_ms = reminder.period_ms;
        format!("{{ \"label\": \"{label}\", \"due_ms\": {due_ms}, \"period_ms\": {period_ms} }}")
    });
    all.collect::<Vec<_>>().join(", ")
}

/// The state in `record` as JSON. Of a type that cannot be shown so, its bytes, in hexadecimal.
fn state(name: &Name, record: &Record, registry: &Registry) -> String {
    let Envelope { schema, layout, tombstone, .. } = record.envelope();
    let info = name.entity().and_then(|entity| registry.entity(entity.type_id()));
    let shown = info.filter(|_| !tombstone).and_then(|info| {
        let stored = Stored { schema, layout, known: (info.layout)(), payload: record.payload() };
        info.show.map(|show| show(stored))
    });
    let unshown = match shown {
        Some(Ok(state)) => return format!("\"state\": {state}"),
        Some(Err(why)) => format!("\"unreadable\": \"{}\",\n  ", escaped(&why)),
        None => String::new(),
    };
    let payload = record.payload().iter().fold(String::new(), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    });
    format!("{unshown}\"payload\": \"{payload}\"")
}

/// One record as JSON.
fn json(name: &Name, record: &Record, registry: &Registry) -> String {
    let Envelope { codec, layout, schema, owner, version, written_ms, tombstone } =
        record.envelope();
    let entity = name.entity().map(|entity| format!("{entity:?}")).unwrap_or_default();
    format!(
        "{{\n  \"entity\": \"{}\",\n  \"deleted\": {tombstone},\n  \"version\": {version},\n  \"schema\": {schema},\n  \
         \"layout\": \"{layout:016x}\",\n  \"codec\": {codec},\n  \"node\": \"{:016x}\",\n  \"epoch\": {},\n  \
         \"written_ms\": {written_ms},\n  \"reminders\": [{}],\n  {}\n}}\n",
        escaped(&entity),
        owner.node.as_u64(),
        owner.epoch,
        reminders(record),
        state(name, record, registry),
    )
}

/// `text` within the quotes of JSON.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
        out
    })
}

fn verify(asker: &mut Asker) -> Result<String, Unanswered> {
    let (mut after, mut total, mut wrong) = (None, 0, Vec::new());
    loop {
        let op = Op::Verify { after, limit: limits::PAGE_MAX };
        let Answer::Verified { sound, corrupt, next } = asker.ask(op)? else {
            return Err(unexpected());
        };
        total += sound;
        wrong.extend(corrupt);
        if next.is_none() {
            break;
        }
        after = next;
    }
    if wrong.is_empty() {
        return Ok(format!("{total} rows are what was written\n"));
    }
    for corrupt in &wrong {
        tracing::error!("{corrupt}");
    }
    Err(Unanswered::Corrupt(wrong.len()))
}

fn purge(asker: &mut Asker, older_ms: u64) -> Result<String, Unanswered> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let before_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(older_ms);
    let mut removed = 0;
    loop {
        let Answer::Purged { count, more } = asker.ask(Op::Purge { before_ms })? else {
            return Err(unexpected());
        };
        removed += count;
        if !more {
            return Ok(format!("{removed} tombstones are gone\n"));
        }
    }
}

fn export(asker: &mut Asker, to: PathBuf) -> Result<String, Unanswered> {
    let Answer::BackedUp { rows, corrupt } = asker.ask(Op::Backup { to })? else {
        return Err(unexpected());
    };
    if corrupt.is_empty() {
        return Ok(format!("{rows} rows are in the file\n"));
    }
    corrupt.iter().for_each(|corrupt| tracing::error!("{corrupt}: it is not in the file"));
    Err(Unanswered::Corrupt(corrupt.len()))
}

fn import(asker: &mut Asker, from: PathBuf) -> Result<String, Unanswered> {
    let Answer::Restored { rows } = asker.ask(Op::Restore { from })? else {
        return Err(unexpected());
    };
    Ok(format!("{rows} rows are in the store\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Question, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Question::parse(&words)
    }

    #[test]
    fn questions_are_understood_and_slips_are_told() {
        assert_eq!(parse(&["purge", "30d"]), Ok(Question::Purge { older_ms: 2_592_000_000 }));
        assert!(parse(&["purge", "30"]).unwrap_err().contains("no age"));
        assert!(parse(&["lst"]).unwrap_err().contains("did you mean `list`"));
        assert!(parse(&["show", "Player"]).unwrap_err().contains("show TYPE KEY"));
        assert!(parse(&[]).unwrap_err().contains("verify"));
    }

    #[test]
    fn a_type_is_meant_by_its_name_or_as_it_is_shown() {
        let id = TypeId::of("Player");
        assert_eq!(type_of("Player"), id);
        assert_eq!(type_of(&format!("{id:?}")), id);
    }

    #[test]
    fn json_is_escaped() {
        assert_eq!(escaped("a\"b\\\n"), "a\\\"b\\\\\\u000a");
    }

    #[cfg(feature = "serde")]
    mod shown {
        use epicserver_macros::entity;
        use epicserver_store::{Memory, Owner, Save, Slot};
        use epicserver_wire::{ClassId, Codec, NodeId, Out, Rkyv};

        use super::*;

        #[entity(key = u64, serde, crate = crate::__private)]
        #[derive(Default)]
        struct Account {
            cents: i64,
            owners: Vec<String>,
        }

        #[entity(crate = crate::__private)]
        impl Account {
            pub fn cents(&self) -> i64 {
                self.cents
            }
        }

        /// A store with one account.
        fn store() -> (Memory, Registry) {
            let mut registry = Registry::default();
            registry.add::<Account>().unwrap();
            let store = Memory::default();
            let info = registry.entities().next().unwrap();
            let entity =
                epicserver_entity::Ref::id(&epicserver_entity::Ref::<Account>::of(7)).clone();
            let owner = Owner { node: NodeId::new(1), epoch: 1 };
            let envelope = Envelope {
                codec: <Rkyv as Codec<()>>::ID,
                layout: (info.layout)(),
                schema: 1,
                owner,
                version: 1,
                written_ms: 1,
                tombstone: false,
            };
            let account = Account { cents: -5, owners: vec!["Ada".to_owned()] };
            let name = Name::state(&entity);
            let record = Record::write_with(&name, &envelope, &Agenda::default(), |bytes| {
                Out::heap(bytes).put(&account).unwrap();
            });
            let state = Some(record.unwrap());
            let slots = vec![Slot { class: ClassId::DEFAULT, index: entity.slot() }];
            let save = Save { entity, owner, expected: 0, state, rows: Vec::new() };
            let mut asker = Asker::of(&store).unwrap();
            asker.ask(Op::Claim { owner, slots }).unwrap();
            asker.ask(Op::Commit(vec![save])).unwrap();
            (store, registry)
        }

        #[test]
        fn a_program_shows_the_states_of_its_types_and_others_their_bytes() {
            let (store, registry) = store();
            let mut asker = Asker::of(&store).unwrap();
            let mut shown = |registry| {
                let text = show(&mut asker, registry, ("Account", "7")).unwrap();
                serde_json::from_str::<serde_json::Value>(&text).unwrap()
            };
            let state = shown(&registry)["state"].clone();
            assert_eq!(state, serde_json::json!({ "cents": -5, "owners": ["Ada"] }));
            assert!(shown(&Registry::default())["payload"].is_string());
        }
    }
}
