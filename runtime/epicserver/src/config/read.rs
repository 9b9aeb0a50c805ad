//! Reading: the file's text and the variables become one [`Config`], or a list of problems.
//!
//! Each key is tried on its own, so that one run shows all that is wrong. A variable is a key whose
//! value stands elsewhere: `EPICSERVER_NETWORK__TRANSPORT` is `transport` in `[network]`.
//!
//! # Not here
//! What each key may be: the types of `config` say that. The invariants: they are there too.

use std::borrow::Cow;
use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::nearest;
use super::{
    Config, ConfigError, CoordinatorConfig, CoordinatorKind, DiscoveryConfig, FILE, FILE_BYTES_MAX,
    FILE_VARIABLE, FabricConfig, Key, NetworkConfig, NodeConfig, Place, Problem, RuntimeConfig,
    ServerTlsConfig, StoreConfig, StoreKind, TipcConfig, TlsConfig, VerbsConfig,
};
use fields::fields_of;

mod fields;

/// What all our variables begin with.
const PREFIX: &str = "EPICSERVER_";
/// What stands between section and key in a variable's name.
const BETWEEN: &str = "__";
/// Problems after which no more are looked for.
const PROBLEMS_MAX: usize = 32;

/// Every section that there is; one within another has a dot in its name and stands after it.
const SECTIONS: &[Section] = &[
    Section::of::<FabricConfig>("fabric"),
    Section::of::<NodeConfig>("node"),
    Section::of::<CoordinatorConfig>("coordinator"),
    Section::of::<ServerTlsConfig>("coordinator.tls"),
    Section::of::<NetworkConfig>("network"),
    Section::of::<TlsConfig>("network.tls"),
    Section::of::<TipcConfig>("network.tipc"),
    Section::of::<VerbsConfig>("network.verbs"),
    Section::of::<DiscoveryConfig>("discovery"),
    Section::of::<StoreConfig>("store"),
    Section::of::<ServerTlsConfig>("store.tls"),
    Section::of::<RuntimeConfig>("runtime"),
];

impl Config {
    /// Reads the file `path`, else the one that `EPICSERVER_CONFIG` names, else `epicserver.toml`
    /// in the working directory if it is there; and then the variables `EPICSERVER_SECTION__KEY`.
    /// Relative paths count from the working directory. Reads files, and so may block.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem that was found.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path.map(Path::to_owned);
        let named = named.or_else(|| {
            let value = env::var_os(FILE_VARIABLE).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        });
        let (text, path) = match named {
            Some(path) => {
                (read_file(&path).map_err(|error| ConfigError::read(&path, error))?, path)
            }
            None => (read_default()?, PathBuf::from(FILE)),
        };
        Self::parse(&text, &path, &variables()?)
    }

    /// The configuration that `text` gives, with the values of `variables` in place of its own.
    /// `path` is what messages call the text. Reads the key's file, if one is named.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every problem that was found.
    pub fn parse(
        text: &str,
        path: &Path,
        variables: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut reading = Reading { path, text, problems: Vec::new() };
        let config = reading.read(variables);
        match config {
            Some(config) if reading.problems.is_empty() => Ok(config),
            Some(_) | None => {
                reading.problems.sort_by(|a, b| a.place.cmp(&b.place));
                Err(ConfigError::Invalid(reading.problems))
            }
        }
    }
}

/// What is wrong with a coordinator that no key shows alone.
fn wrong_coordinator(config: &CoordinatorConfig) -> Vec<&'static str> {
    let mut found = Vec::new();
    let servers = config.servers.len();
    match config.kind {
        CoordinatorKind::Postgres if servers != 1 => {
            found.push(
                "`coordinator.kind` is \"postgres\", which needs one of `coordinator.servers`",
            );
        }
        CoordinatorKind::Etcd if servers == 0 => {
            found.push(
                "`coordinator.kind` is \"etcd\", which needs at least one of `coordinator.servers`",
            );
        }
        CoordinatorKind::Local | CoordinatorKind::Static if servers > 0 => {
            found.push("`coordinator.servers` is of no use to this `coordinator.kind`");
        }
        CoordinatorKind::Local
        | CoordinatorKind::Static
        | CoordinatorKind::Postgres
        | CoordinatorKind::Etcd => {}
    }
    if config.user.is_some() != config.password.is_some() {
        found.push("`coordinator.user` and `coordinator.password` go together");
    }
    found
}

/// What is wrong with the files by which a server is reached, of the section called `section`.
fn wrong_tls(section: &str, tls: Option<&ServerTlsConfig>) -> Vec<String> {
    let mut found = Vec::new();
    let Some(tls) = tls else { return found };
    if tls.ca.as_os_str().is_empty() {
        found.push(format!("`{section}.tls` needs `ca`"));
    }
    if tls.cert.is_some() != tls.key.is_some() {
        found.push(format!("`{section}.tls.cert` and `{section}.tls.key` go together"));
    }
    found
}

/// What is wrong with a store that no key shows alone.
fn wrong_store(config: &StoreConfig) -> Vec<&'static str> {
    let mut found = Vec::new();
    match (config.kind, config.servers.len()) {
        (StoreKind::Postgres, 0) => {
            found.push("`store.kind` is \"postgres\", which needs at least one of `store.servers`");
        }
        (StoreKind::None | StoreKind::Memory | StoreKind::Redb, 1..) => {
            found.push("`store.servers` is of no use to this `store.kind`");
        }
        (StoreKind::None | StoreKind::Memory | StoreKind::Redb, 0) | (StoreKind::Postgres, 1..) => {
        }
    }
    if config.kind == StoreKind::Redb && config.path.as_os_str().is_empty() {
        found.push("`store.kind` is \"redb\", which needs `store.path`");
    }
    found
}

/// The names of all keys, as `section.key`, in the order of the structs.
#[cfg(test)]
pub(super) fn keys() -> Vec<String> {
    let keys = SECTIONS.iter().flat_map(|of| of.keys().map(|key| format!("{}.{key}", of.name)));
    keys.filter(|key| Section::called(key).is_none()).collect()
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    let most = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX);
    if text.len() > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(text)
}

fn read_default() -> Result<String, ConfigError> {
    match read_file(Path::new(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| ConfigError::read(Path::new(FILE), error)),
    }
}

/// The variables that might be ours.
fn variables() -> Result<Vec<(String, String)>, ConfigError> {
    let mut ours = Vec::new();
    for (name, value) in env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let Some(value) = OsStr::to_str(&value) else {
            let place = Place::Variable(name.to_owned());
            let what = "is not UTF-8".to_owned();
            return Err(ConfigError::Invalid(vec![Problem { place, what }]));
        };
        ours.push((name.to_owned(), value.to_owned()));
    }
    // The environment has no order worth keeping; messages should have one.
    ours.sort_unstable();
    Ok(ours)
}

/// A section: its name, its keys, and whether a table is one.
struct Section {
    name: &'static str,
    fields: fn() -> &'static [&'static str],
    check: fn(Spanned<DeValue<'_>>) -> Result<(), Fault>,
}

impl Section {
    const fn of<T: DeserializeOwned>(name: &'static str) -> Self {
        Self { name, fields: fields_of::<T>, check: |table| deserialise::<T>(table).map(drop) }
    }

    fn called(name: &str) -> Option<&'static Self> {
        SECTIONS.iter().find(|section| section.name == name)
    }

    /// Sections and keys right below the section `name`; the root's is empty.
    fn known(name: &str) -> Vec<&'static str> {
        let Some(section) = Self::called(name) else {
            let roots = SECTIONS.iter().map(|section| section.name);
            return roots.filter(|name| !name.contains('.')).collect();
        };
        section.keys().collect()
    }

    fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        (self.fields)().iter().copied()
    }

    /// The variable that sets `key` of this section.
    fn variable(&self, key: &str) -> String {
        let section = self.name.replace('.', BETWEEN);
        format!("{PREFIX}{section}{BETWEEN}{key}").to_ascii_uppercase()
    }
}

/// Why a table is no section: the key at fault, if that is known, where, and what is wrong.
struct Fault {
    key: Option<String>,
    at: usize,
    what: String,
}

fn deserialise<T: DeserializeOwned>(table: Spanned<DeValue<'_>>) -> Result<T, Fault> {
    let start = table.span().start;
    serde_path_to_error::deserialize(ValueDeserializer::from(table)).map_err(|error| {
        let key = match error.path().iter().next() {
            Some(serde_path_to_error::Segment::Map { key }) => Some(key.clone()),
            Some(_) | None => None,
        };
        let error = error.into_inner();
        Fault { key, at: error.span().map_or(start, |span| span.start), what: one_line(&error) }
    })
}

/// The deserialiser's messages have several lines where they say what was expected.
fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(", ")
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Reading<'a> {
    fn read(&mut self, variables: &'a [(String, String)]) -> Option<Config> {
        let mut root = match DeTable::parse(self.text) {
            Ok(root) => root,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.in_file(at, one_line(&error));
                return None;
            }
        };
        self.refuse_unknown(root.get_mut(), "");
        for section in SECTIONS.iter().filter(|section| !section.name.contains('.')) {
            self.refuse_faults(root.get_mut(), section);
        }
        for (name, value) in variables {
            self.apply_variable(root.get_mut(), name, value);
        }
        if !self.problems.is_empty() {
            return None;
        }
        let contradictory = contradictions(root.get_ref());
        let span = root.span();
        let root = Spanned::new(span, DeValue::Table(root.into_inner()));
        let mut config = match deserialise::<Config>(root) {
            Ok(config) => config,
            Err(fault) => {
                self.in_file(fault.at, fault.what);
                return None;
            }
        };
        contradictory.into_iter().for_each(|what| self.in_whole(what.to_owned()));
        self.finish(&mut config);
        Some(config)
    }

    /// Takes out of `table`, which is the section `name`, what is no key of it (CF2).
    fn refuse_unknown(&mut self, table: &mut DeTable<'_>, name: &str) {
        let known = Section::known(name);
        let mut strangers = Vec::new();
        for (key, value) in table.iter_mut() {
            let inner = if name.is_empty() { key.get_ref().to_string() } else { below(name, key) };
            if !known.contains(&key.get_ref().as_ref()) {
                self.in_file(key.span().start, unknown(name, key.get_ref(), &known));
                strangers.push(key.get_ref().to_string());
            } else if let (Some(_), DeValue::Table(table)) =
                (Section::called(&inner), value.get_mut())
            {
                self.refuse_unknown(table, &inner);
            }
        }
        for key in strangers {
            table.remove(key.as_str());
        }
    }

    /// Takes out of `root` each key of `section` whose value is refused.
    fn refuse_faults(&mut self, root: &mut DeTable<'a>, section: &Section) {
        let name = section.name;
        let Some(value) = root.get_mut(name) else { return };
        if !value.get_ref().is_table() {
            let at = value.span().start;
            self.in_file(at, format!("`{name}` is a section: write [{name}] on a line of its own"));
            root.remove(name);
            return;
        }
        while let Err(fault) = (section.check)(value.clone()) {
            let what = described(name, fault.key.as_deref(), &fault.what);
            self.in_file(fault.at, what);
            let (Some(wrong), DeValue::Table(table)) = (fault.key, value.get_mut()) else { return };
            if table.remove(wrong.as_str()).is_none() {
                // The same fault would be found again, for ever.
                return;
            }
        }
    }

    /// Puts the value of the variable `name` into `root`.
    fn apply_variable(&mut self, root: &mut DeTable<'a>, name: &'a str, value: &'a str) {
        let Some(rest) = name.strip_prefix(PREFIX) else { return };
        let Some((section, key)) = rest.rsplit_once(BETWEEN) else {
            return self.refuse_near_miss(name);
        };
        let section = section.to_ascii_lowercase().replace(BETWEEN, ".");
        let key = key.to_ascii_lowercase();
        let found = Section::called(&section).filter(|of| of.keys().any(|known| known == key));
        let Some(section) = found.filter(|of| of.variable(&key) == name) else {
            let known = all_variables();
            // The prefix that all share would make each of them look near.
            let wrong = rest.to_ascii_uppercase();
            let meant = nearest(&wrong, known.iter().filter_map(|name| name.strip_prefix(PREFIX)));
            let hint = |meant: &str| format!("; did you mean {PREFIX}{meant}?");
            let hint = meant.map_or_else(String::new, hint);
            return self.in_variable(name, format!("unknown setting{hint}"));
        };
        match interpret(section, &key, value) {
            Ok(value) => set(root, section.name, &key, value),
            Err(what) => self.in_variable(name, described(section.name, Some(&key), &what)),
        }
    }

    /// `EPICSERVER_NETWORK_TRANSPORT` would else be passed over in silence.
    fn refuse_near_miss(&mut self, name: &str) {
        let meant = |known: &&String| known.replace(BETWEEN, "_") == *name;
        if let Some(known) = all_variables().iter().find(meant) {
            self.in_variable(name, format!("unknown setting; did you mean {known}?"));
        }
    }

    /// Reads what the configuration names, and checks what no key can check alone.
    fn finish(&mut self, config: &mut Config) {
        if let Some(path) = &config.fabric.key_file {
            match Key::read(path) {
                Ok(key) => config.fabric.key = Some(key),
                Err(what) => self.in_whole(format!("`fabric.key_file`: {what}")),
            }
        }
        let lacking = |tls: &TlsConfig| {
            [&tls.ca, &tls.cert, &tls.key].iter().any(|path| path.as_os_str().is_empty())
        };
        if config.network.tls.as_ref().is_some_and(lacking) {
            self.in_whole("`network.tls` needs all of `ca`, `cert` and `key`".to_owned());
        }
        let Config { coordinator, store, .. } = &*config;
        let wrong = wrong_coordinator(coordinator).into_iter().chain(wrong_store(store));
        wrong.for_each(|what| self.in_whole(what.to_owned()));
        let tls = [("coordinator", &coordinator.tls), ("store", &store.tls)];
        let wrong = tls.into_iter().flat_map(|(section, tls)| wrong_tls(section, tls.as_ref()));
        wrong.for_each(|what| self.in_whole(what));
    }

    fn in_file(&mut self, at: usize, what: String) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        self.push(Place::Line { path: self.path.to_owned(), line, column }, what);
    }

    fn in_variable(&mut self, name: &str, what: String) {
        self.push(Place::Variable(name.to_owned()), what);
    }

    fn in_whole(&mut self, what: String) {
        self.push(Place::Whole, what);
    }

    fn push(&mut self, place: Place, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { place, what });
        }
    }
}

/// Pairs of keys of which one makes the other meaningless.
fn contradictions(root: &DeTable<'_>) -> Vec<&'static str> {
    let has = |section: &str, key: &str| {
        let table = root.get(section).and_then(|value| value.get_ref().as_table());
        table.is_some_and(|table| table.contains_key(key))
    };
    let mut found = Vec::new();
    if has("fabric", "key") && has("fabric", "key_file") {
        found.push("`fabric.key` and `fabric.key_file` are both set: keep one");
    }
    if has("network", "listen") && has("network", "interface") {
        found.push("`network.listen` and `network.interface` are both set: keep one");
    }
    found
}

/// What `value` of a variable means as `key`: itself, if the key takes a text that reads so; else
/// what it is in TOML.
fn interpret<'i>(section: &Section, key: &str, value: &'i str) -> Result<DeValue<'i>, String> {
    let check = |value: DeValue<'i>| {
        let mut table = DeTable::new();
        put(&mut table, key, value);
        (section.check)(Spanned::new(0..0, DeValue::Table(table))).map_err(|fault| fault.what)
    };
    let text = DeValue::String(Cow::Borrowed(value));
    let Err(refused_text) = check(text.clone()) else { return Ok(text) };
    let Ok(parsed) = DeValue::parse(value) else { return Err(refused_text) };
    let parsed = parsed.into_inner();
    check(parsed.clone()).map(|()| parsed)
}

/// Sets `key` of the section `name`, which is made if it is not there.
fn set<'i>(root: &mut DeTable<'i>, name: &str, key: &str, value: DeValue<'i>) {
    let mut table = root;
    for part in name.split('.') {
        if !table.get(part).is_some_and(|value| value.get_ref().is_table()) {
            put(table, part, DeValue::Table(DeTable::new()));
        }
        let Some(DeValue::Table(inner)) = table.get_mut(part).map(Spanned::get_mut) else { return };
        table = inner;
    }
    put(table, key, value);
}

fn put<'i>(table: &mut DeTable<'i>, key: &str, value: DeValue<'i>) {
    table.insert(Spanned::new(0..0, Cow::Owned(key.to_owned())), Spanned::new(0..0, value));
}

fn below(name: &str, key: &Spanned<Cow<'_, str>>) -> String {
    format!("{name}.{}", key.get_ref())
}

/// What is wrong with a value. A message about the fabric's key does not quote anything (CF3).
fn described(section: &str, key: Option<&str>, what: &str) -> String {
    match (section, key) {
        ("fabric", Some("key")) => {
            format!("`fabric.key`: {}", super::key::rule())
        }
        (_, Some(key)) => format!("`{section}.{key}`: {what}"),
        (_, None) => format!("[{section}]: {what}"),
    }
}

fn unknown(section: &str, key: &str, known: &[&str]) -> String {
    let (kind, place) = match section {
        "" => ("section or key", String::new()),
        name => ("key", format!(" in [{name}]")),
    };
    let shown: String = key.chars().take(64).collect();
    let elsewhere = SECTIONS.iter().find(|of| of.keys().any(|known| known == key));
    let hint = match (nearest(key, known.iter().copied()), elsewhere) {
        (_, Some(other)) => format!("it belongs to [{}]", other.name),
        (Some(meant), None) => format!("did you mean `{meant}`?"),
        (None, None) => format!("known are {}", known.join(", ")),
    };
    format!("unknown {kind} `{}`{place}; {hint}", shown.escape_debug())
}

fn all_variables() -> Vec<String> {
    SECTIONS.iter().flat_map(|of| of.keys().map(|key| of.variable(key))).collect()
}
