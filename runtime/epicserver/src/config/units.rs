//! Values as people write them: sizes, durations, names, addresses; each within its bounds.
//!
//! # Not here
//! The bounds and the invariants: they are in `config`.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use epicserver_link::Address;
use epicserver_shard::idle::Mode as IdleMode;
use epicserver_verbs::Mtu;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{
    CLASSES_MAX, DEVICE_BYTES_MAX, IDLE_AFTER_MS_MAX, IDLE_AFTER_MS_MIN, LISTEN_MAX,
    MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, Multicast, NAME_BYTES_MAX, SEEDS_MAX, SERVER_BYTES_MAX,
    SERVERS_MAX, SHARDS_MAX, SLOT_BYTES_MAX, SLOT_BYTES_MIN, Secret,
};

/// Longest name of a network interface that the kernel has.
const INTERFACE_BYTES_MAX: usize = 15;

/// The name of a fabric or a node: 1 to [`NAME_BYTES_MAX`] ASCII letters, digits, `-`, `_` and `.`,
/// of which the first is a letter or digit. So it can be part of a file's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

impl Name {
    /// The name `text`; `None` if it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let sound = (1..=NAME_BYTES_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(inner);
        sound.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "a name is 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`, and begins with a \
                 letter or digit"
            ))
        })
    }
}

/// A whole number of `MIN` to `MAX`.
pub(super) fn whole<'de, const MIN: u64, const MAX: u64, T, D>(
    deserializer: D,
) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let number = i64::deserialize(deserializer)?;
    let fitting = u64::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
    fitting
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| D::Error::custom(format!("must be {MIN} to {MAX}, not {number}")))
}

/// The same, of a key that may be absent.
pub(super) fn some_whole<'de, const MIN: u64, const MAX: u64, T, D>(
    deserializer: D,
) -> Result<Option<T>, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    whole::<MIN, MAX, T, D>(deserializer).map(Some)
}

/// Where a coordinator is reached. What is wrong with one is said without quoting it.
pub(super) fn servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    let servers: Vec<Secret> =
        Vec::deserialize(deserializer).map_err(|_| D::Error::custom("must be a list of texts"))?;
    let long = |server: &Secret| server.reveal().len() > SERVER_BYTES_MAX;
    if servers.len() > SERVERS_MAX || servers.iter().any(long) {
        let what =
            format!("at most {SERVERS_MAX} servers, each of at most {SERVER_BYTES_MAX} bytes");
        return Err(D::Error::custom(what));
    }
    Ok(servers)
}

/// Names of placement classes.
pub(super) fn classes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Name>>, D::Error> {
    let names: Vec<Name> = Vec::deserialize(deserializer)?;
    if names.len() > CLASSES_MAX {
        let many = format!("at most {CLASSES_MAX} classes, not {}", names.len());
        return Err(D::Error::custom(many));
    }
    Ok(Some(names))
}

/// A number of shards.
pub(super) fn shards<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NonZeroUsize>, D::Error> {
    let shards: usize = whole::<1, SHARDS_MAX, usize, D>(deserializer)?;
    Ok(NonZeroUsize::new(shards))
}

/// A size of `MIN` to `MAX` bytes, such as `"64KiB"`.
pub(super) fn bytes<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<u64, D::Error> {
    let bytes = deserializer.deserialize_any(Size)?;
    if (MIN..=MAX).contains(&bytes) {
        return Ok(bytes);
    }
    let (least, most) = (show_size(MIN), show_size(MAX));
    Err(D::Error::custom(format!("must be {least} to {most}, not {}", show_size(bytes))))
}

/// A budget of memory.
pub(super) fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    bytes::<MEMORY_BYTES_MIN, MEMORY_BYTES_MAX, D>(deserializer).map(Some)
}

/// A time of `MIN_MS` to `MAX_MS` milliseconds, such as `"30s"`.
pub(super) fn duration<'de, const MIN_MS: u64, const MAX_MS: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse_duration(&text).map_err(D::Error::custom)?;
    let (least, most) = (Duration::from_millis(MIN_MS), Duration::from_millis(MAX_MS));
    if (least..=most).contains(&time) {
        return Ok(time);
    }
    Err(D::Error::custom(format!("must be {least:?} to {}h, not {text}", most.as_secs() / 3600)))
}

/// How long an activation may be idle.
pub(super) fn idle_after<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration::<IDLE_AFTER_MS_MIN, IDLE_AFTER_MS_MAX, D>(deserializer).map(Some)
}

/// The idle policy's name.
pub(super) fn idle_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IdleMode, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Named {
        Latency,
        Balanced,
        Power,
    }
    Ok(match Named::deserialize(deserializer)? {
        Named::Latency => IdleMode::Latency,
        Named::Balanced => IdleMode::Balanced,
        Named::Power => IdleMode::Power,
    })
}

/// The addresses to listen at.
pub(super) fn listen<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<SocketAddr>, D::Error> {
    let listen = deserializer.deserialize_any(Texts { most: LISTEN_MAX })?;
    if listen.is_empty() {
        return Err(D::Error::custom("a node listens at one address at least"));
    }
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is no socket address; write 127.0.0.1:7400, [::1]:7400, or port 0 for any"
            ))
        })
    };
    listen.iter().map(parse).collect()
}

/// The name of a network interface.
pub(super) fn interface<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let refused = |c: char| c.is_whitespace() || c == '/';
    if (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && !name.contains(refused) {
        return Ok(Some(name));
    }
    Err(D::Error::custom(format!("`{}` is no name of an interface", name.escape_debug())))
}

/// The name of a device.
pub(super) fn device<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let sound = |c: char| c.is_ascii_graphic() && c != '/';
    if (1..=DEVICE_BYTES_MAX).contains(&name.len()) && name.chars().all(sound) {
        return Ok(Some(name));
    }
    Err(D::Error::custom(format!("`{}` is no name of a device", name.escape_debug())))
}

/// A port of a device.
pub(super) fn device_port<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u8>, D::Error> {
    whole::<1, 254, u8, D>(deserializer).map(Some)
}

/// An index into a port's table of GIDs.
pub(super) fn gid_index<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u8>, D::Error> {
    whole::<0, 255, u8, D>(deserializer).map(Some)
}

/// A partition.
pub(super) fn pkey<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    whole::<1, 65_535, u16, D>(deserializer).map(Some)
}

/// The bytes of one packet.
pub(super) fn mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mtu>, D::Error> {
    let bytes: u32 = whole::<0, 65_536, u32, D>(deserializer)?;
    let refused = || format!("must be 256, 512, 1024, 2048 or 4096, not {bytes}");
    Mtu::of_bytes(bytes).map(Some).ok_or_else(|| D::Error::custom(refused()))
}

/// The size of a slot.
pub(super) fn slot_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let bytes = bytes::<SLOT_BYTES_MIN, SLOT_BYTES_MAX, D>(deserializer)?;
    if bytes.is_multiple_of(1024) {
        return Ok(bytes);
    }
    Err(D::Error::custom(format!("must be whole KiB, not {bytes}B")))
}

/// A port that somebody may listen at.
pub(super) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    whole::<1, { u16::MAX as u64 }, u16, D>(deserializer).map(Some)
}

/// Where to use multicast.
pub(super) fn multicast<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Multicast>, D::Error> {
    let name = interface(deserializer)?;
    let all = |name: &String| name == "all";
    Ok(name.map(|name| if all(&name) { Multicast::All } else { Multicast::Interface(name) }))
}

/// The nodes to begin with.
pub(super) fn seeds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let seeds = deserializer.deserialize_any(Texts { most: SEEDS_MAX })?;
    let parse = |text: &String| {
        parse_seed(text)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no seed; write tcp://host:port")))
    };
    seeds.iter().map(parse).collect()
}

fn parse_seed(text: &str) -> Option<Address> {
    let address = Address::parse(text)?;
    let (host, port) = address.rest().rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let plain = !host.is_empty() && !host.contains([':', '/', '[', ']']);
    let sound = matches!(address.scheme(), "tcp" | "verbs")
        && (bracketed || plain)
        && !host.contains(char::is_whitespace)
        && port.parse::<u16>().is_ok_and(|port| port > 0);
    sound.then_some(address)
}

/// Reads `64KiB`, `2 GiB`, `512B` or a bare number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is no size; write 64KiB, 8MiB or 2GiB");
    let (number, unit) = split(text).ok_or_else(refused)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(refused()),
    };
    number.checked_mul(1 << shift).ok_or_else(refused)
}

/// Reads `250ms`, `5 s`, `10min` or `2h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is no duration; write 250ms, 5s, 10min or 2h");
    let (number, unit) = split(text).ok_or_else(refused)?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or_else(refused);
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "min" => seconds(60),
        "h" => seconds(3600),
        _ => Err(refused()),
    }
}

/// The whole number at the start of `text`, and the unit that follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// `bytes` in the largest unit of which it is a whole number.
fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A size, written as text or as a bare number of bytes.
struct Size;

impl Visitor<'_> for Size {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"64KiB\"")
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<u64, E> {
        u64::try_from(bytes).map_err(|_| E::custom(format!("`{bytes}` is no size")))
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        parse_size(text).map_err(E::custom)
    }
}

/// A list of texts: an array, or one text with commas, as a variable has it.
struct Texts {
    most: usize,
}

impl Texts {
    fn too_many<E: Error>(&self) -> E {
        E::custom(format!("has more than {} entries", self.most))
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
        if texts.len() > self.most { Err(self.too_many()) } else { Ok(texts) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = seq.next_element()? {
            if texts.len() == self.most {
                return Err(self.too_many());
            }
            texts.push(text);
        }
        Ok(texts)
    }
}
