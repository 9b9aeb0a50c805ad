//! Golden files: what a state was stored as, kept beside a test so that it stays readable.
//!
//! # Invariants
//! - **GO1** A file that exists is never written to: what is stored somewhere does not change either.
//!
//! # Not here
//! What a stored state means; how one is found in a store.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use epicserver_entity::{Entity, Ref, Stored, Unreadable, fields_of, layout_of};
use epicserver_store::{Envelope, Flaw, Name, Owner, Record, TooLong};
use epicserver_wire::{Codec, EntityId, IntoKey, NodeId, Out, Rkyv, form_hash};

/// The variable that lets files be added.
const VARIABLE: &str = "UPDATE_GOLDEN";
/// How their names end.
const ENDING: &str = ".golden";
/// Bytes of a record that are shown in one line.
const LINE: usize = 32;

/// Holds what states of type `T` are stored as: for a test of a program whose states are to outlive it.
///
/// `folder` has a file for each version of `T`, such as `Player.2.golden`; relative paths begin where the package lies. The
/// file of today's version says what `state`, stored under `key`, looked like when the version was new, envelope and all. The
/// test fails if other bytes are written today, or if any older file is not read. A file that is missing is added where the
/// environment has `UPDATE_GOLDEN=1`; one that exists is never changed. Commit them.
///
/// Gives what the older versions become today, by their numbers, for the test to look at.
///
/// ```no_run
/// use epicserver::prelude::*;
///
/// #[message]
/// pub struct PlayerV1 { name: String }
///
/// #[entity(upgrades(PlayerV1))]
/// #[derive(Default)]
/// pub struct Player { name: String, score: u32 }
///
/// #[entity]
/// impl Player {}
///
/// impl From<PlayerV1> for Player {
///     fn from(old: PlayerV1) -> Self { Self { name: old.name, score: 0 } }
/// }
///
/// # #[allow(unused_attributes)]
/// #[test]
/// fn players_that_are_stored_stay_readable() {
///     let bob = Player { name: "Bob".to_owned(), score: 60 };
///     let older = epicserver::golden("tests/golden", "bob", &bob);
///     assert_eq!(older[&1].name, "Bob");
/// }
/// ```
///
/// A `HashMap` in a state has an order of its own in each run: give it one entry at the most.
///
/// # Panics
/// If something stored would not be read or not be found any more, or is written otherwise. The text says what to do.
#[track_caller]
pub fn golden<T: Entity>(
    folder: impl AsRef<Path>,
    key: impl IntoKey<T::Key>,
    state: &T,
) -> BTreeMap<u32, T> {
    let adds = std::env::var_os(VARIABLE).is_some_and(|value| value == "1");
    let files = Files { folder: folder.as_ref(), adds };
    let id = Ref::<T>::id(&Ref::of(key)).clone();
    match files.hold(&id, state) {
        Ok(older) => older,
        Err(why) => panic!("{why}"),
    }
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{} is missing: run the test with `{VARIABLE}=1` once, and commit the file", path.display())]
    Missing { path: PathBuf },
    #[error("{} is not what was written there: {why}; a golden file is never edited, take the committed one", path.display())]
    Edited { path: PathBuf, why: String },
    #[error(
        "the bytes of version {version} of `{name}` have changed: it had the fields {was}, and has {is}. Give it version \
         {} and name the old one in `upgrades(..)`; or, if nothing was ever stored of version {version}, delete its file",
        version + 1
    )]
    Fields { name: &'static str, version: u32, was: String, is: String },
    #[error(
        "the bytes of version {version} of `{name}` have changed, though its fields have not: what is written as {is} was {was}. \
         Give it version {} and name the old one in `upgrades(..)`",
        version + 1
    )]
    Bytes { name: &'static str, version: u32, was: String, is: String },
    #[error("the state that the test gives is not the one in {}: leave it as it was, since the file does not change", path.display())]
    State { path: PathBuf },
    #[error(
        "{} is of another entity: what was stored of `{name}` would not be found, since its name, class, group or type of key \
         has changed; or the test gives another key",
        path.display()
    )]
    Named { name: &'static str, path: PathBuf },
    #[error("version {version} of `{name}` is not read any more: {why}. {advice}")]
    Unread { name: &'static str, version: u32, why: Unreadable, advice: String },
    #[error(
        "what version {version} of `{name}` becomes is not written as it was, but as {is}, which was {was}: while the type has \
         `writes = {version}`, what makes that version of it has to undo what `upgrades(..)` does"
    )]
    Undone { name: &'static str, version: u32, was: String, is: String },
    #[error("{} is of a later version than `{name}` has, which is {version}", path.display())]
    Later { name: &'static str, version: u32, path: PathBuf },
    #[error("`{name}` cannot be written")]
    Unwritten { name: &'static str },
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Where the files are.
struct Files<'a> {
    folder: &'a Path,
    adds: bool,
}

/// A file, read.
struct Golden {
    path: PathBuf,
    fields: String,
    record: Record,
}

impl Files<'_> {
    fn hold<T: Entity>(&self, id: &EntityId, state: &T) -> Result<BTreeMap<u32, T>, Broken> {
        let versions = self.versions(T::NAME)?;
        if let Some(later) = versions.iter().find(|version| **version > T::SCHEMA) {
            let path = self.path(T::NAME, *later);
            return Err(Broken::Later { name: T::NAME, version: T::SCHEMA, path });
        }
        let is_new = !versions.contains(&T::SCHEMA);
        let older = versions.into_iter().filter(|version| *version < T::SCHEMA);
        let older = older.map(|version| {
            let golden = self.read::<T>(id, version)?;
            Ok((version, upgraded(&golden, id)?))
        });
        let older = older.collect::<Result<_, Broken>>()?;
        if is_new {
            self.add(id, state)?;
        }
        same(&self.read::<T>(id, T::SCHEMA)?, id, state)?;
        Ok(older)
    }

    fn path(&self, name: &str, version: u32) -> PathBuf {
        self.folder.join(format!("{}{version}{ENDING}", stem(name)))
    }

    /// Of which versions there are files.
    fn versions(&self, name: &str) -> Result<Vec<u32>, Broken> {
        let failed = |error| Broken::File { path: self.folder.to_owned(), error };
        let entries = match fs::read_dir(self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let stem = stem(name);
        let mut versions = Vec::new();
        for entry in entries {
            let file = entry.map_err(failed)?.file_name();
            let number = file.to_str().and_then(|file| file.strip_prefix(&stem));
            let number = number.and_then(|rest| rest.strip_suffix(ENDING));
            versions.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        versions.sort_unstable();
        Ok(versions)
    }

    fn add<T: Entity>(&self, id: &EntityId, state: &T) -> Result<(), Broken> {
        let path = self.path(T::NAME, T::SCHEMA);
        if !self.adds {
            return Err(Broken::Missing { path });
        }
        let text =
            text(T::NAME, T::SCHEMA, &fields_of(T::form), record(id, state, T::SCHEMA)?.as_bytes());
        let write = || {
            fs::create_dir_all(self.folder)?;
            // GO1: somebody else may have been quicker.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|error| Broken::File { path: path.clone(), error })
    }

    fn read<T: Entity>(&self, id: &EntityId, version: u32) -> Result<Golden, Broken> {
        let path = self.path(T::NAME, version);
        let text = fs::read_to_string(&path);
        let text = text.map_err(|error| Broken::File { path: path.clone(), error })?;
        let (fields, name, record) = parsed(&text, T::NAME, version)
            .map_err(|why| Broken::Edited { path: path.clone(), why })?;
        if name != Name::state(id) {
            return Err(Broken::Named { name: T::NAME, path });
        }
        Ok(Golden { path, fields, record })
    }
}

/// What the names of a type's files begin with.
fn stem(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '-' { c } else { '_' };
    format!("{}.", name.chars().map(plain).collect::<String>())
}

/// What a store would keep of `state` as version `schema`, were it saved at a certain time by a certain node.
fn record<T: Entity>(id: &EntityId, state: &T, schema: u32) -> Result<Record, Broken> {
    let own = schema == T::SCHEMA;
    let envelope = Envelope {
        codec: <Rkyv as Codec<()>>::ID,
        layout: if own { layout_of(T::form) } else { T::written_layout() },
        schema,
        owner: Owner { node: NodeId::new(1), epoch: 1 },
        version: 1,
        written_ms: 0,
        tombstone: false,
    };
    let mut written = Ok(());
    let record = Record::write(&Name::state(id), &envelope, |bytes| {
        written = state.write(schema, &mut Out::heap(bytes));
    });
    written.map_err(|_| Broken::Unwritten { name: T::NAME })?;
    Ok(record?)
}

/// Today's version is written as it was, and read.
fn same<T: Entity>(golden: &Golden, id: &EntityId, state: &T) -> Result<(), Broken> {
    let (name, version) = (T::NAME, T::SCHEMA);
    let today = record(id, state, T::SCHEMA)?;
    let is = fields_of(T::form);
    if golden.fields != is {
        return Err(Broken::Fields { name, version, was: golden.fields.clone(), is });
    }
    let again = record(id, &read::<T>(golden)?, T::SCHEMA)?;
    if again != golden.record {
        let (was, is) = (hex(golden.record.as_bytes()), hex(again.as_bytes()));
        return Err(Broken::Bytes { name, version, was, is });
    }
    if today != golden.record {
        return Err(Broken::State { path: golden.path.clone() });
    }
    Ok(())
}

/// What an older version becomes. If that is the one which is written, it is written as it was.
fn upgraded<T: Entity>(golden: &Golden, id: &EntityId) -> Result<T, Broken> {
    let (state, version) = (read::<T>(golden)?, golden.record.envelope().schema);
    if version == T::WRITES {
        let again = record(id, &state, version)?;
        if again != golden.record {
            let (was, is) = (hex(golden.record.as_bytes()), hex(again.as_bytes()));
            return Err(Broken::Undone { name: T::NAME, version, was, is });
        }
    }
    Ok(state)
}

/// What was stored, as the type is today.
fn read<T: Entity>(golden: &Golden) -> Result<T, Broken> {
    let Envelope { schema, layout, .. } = golden.record.envelope();
    let known = layout_of(T::form);
    T::read(Stored { schema, layout, known, payload: golden.record.payload() }).map_err(|why| {
        let advice = if matches!(why, Unreadable::Schema { .. }) {
            format!(
                "Name the type that it was in `upgrades(..)`; or, if no store has it any more, delete {}",
                golden.path.display()
            )
        } else {
            format!("What `upgrades(..)` names for it has to have the fields {}", golden.fields)
        };
        Broken::Unread { name: T::NAME, version: schema, why, advice }
    })
}

/// A file of a version.
fn text(name: &str, version: u32, fields: &str, record: &[u8]) -> String {
    let mut text = format!(
        "# What version {version} of {name} is stored as. Files like this one are added, never changed.\n\
         type {name}\nversion {version}\nfields {fields}\nrecord\n"
    );
    for line in record.chunks(LINE) {
        text.push_str(&hex(line));
        text.push('\n');
    }
    text
}

/// What [`text`] has written.
fn parsed(text: &str, name: &str, version: u32) -> Result<(String, Name, Record), String> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut line = |word: &str| {
        let (first, rest) = lines.next().map(|line| line.split_once(' ').unwrap_or((line, "")))?;
        (first == word).then(|| rest.to_owned())
    };
    let head = [line("type"), line("version"), line("fields"), line("record")];
    let [Some(named), Some(numbered), Some(fields), Some(_)] = head else {
        return Err("its head is no such file's".to_owned());
    };
    let bytes = unhex(&lines.collect::<String>()).ok_or("its record is no row of hexadecimals")?;
    let (row, record) = Record::open_any(&bytes).map_err(|flaw: Flaw| flaw.to_string())?;
    let envelope = record.envelope();
    if named != name || numbered != version.to_string() || envelope.schema != version {
        return Err(format!("it is of version {numbered} of `{named}`"));
    }
    if envelope.layout != form_hash(&fields) {
        return Err("its fields are not those of its record".to_owned());
    }
    Ok((fields, row, record))
}

/// `bytes` in hexadecimal, in groups of eight digits.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 5 / 2);
    for (at, byte) in bytes.iter().enumerate() {
        let gap = if at > 0 && at.is_multiple_of(4) { " " } else { "" };
        // A string takes whatever is written to it.
        let _written = write!(text, "{gap}{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: char| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Option<Vec<u8>> = text.chars().filter(|c| !c.is_whitespace()).map(digit).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests;
