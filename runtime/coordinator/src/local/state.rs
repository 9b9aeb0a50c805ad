//! The file `state`: the view, its number, and who has ended.
//!
//! Layout, little-endian: 8 bytes that name the kind of file, format (4), checksum of all that follows (8), number (8), bytes
//! of the list of ended nodes (4), that list, the view.
//!
//! # Not here
//! When it may be read and written.

use xxhash_rust::xxh3::xxh3_64;

use super::folder::Folder;
use super::{Why, leases};
use crate::{ENDED_MAX, Ended, VIEW_BYTES_MAX};

const NAME: &str = "state";
const KIND: &[u8; 8] = b"EPICVIEW";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 8 + 4 + 8 + 8 + 4;
const BYTES_MAX: usize = HEAD_BYTES + 8 * ENDED_MAX + VIEW_BYTES_MAX;

/// What `state` holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    /// 0 if there is no view.
    pub(super) number: u64,
    pub(super) view: Vec<u8>,
    pub(super) ended: Ended,
}

impl State {
    /// What is there; nothing has happened if there is no file.
    pub(super) fn read(folder: &Folder) -> Result<Self, Why> {
        let Some(bytes) = folder.read(NAME, BYTES_MAX)? else {
            // A first lease writes it, so it was removed: nobody knows which number comes next.
            if leases::any(folder)? {
                return Err(folder.why("use", NAME, "it is gone, and there are leases"));
            }
            return Ok(Self::default());
        };
        Self::from_bytes(&bytes).map_err(|why| folder.why("use", NAME, why))
    }

    /// Whether there is a file.
    pub(super) fn exists(folder: &Folder) -> Result<bool, Why> {
        folder.exists(NAME)
    }

    pub(super) fn write(&self, folder: &Folder) -> Result<(), Why> {
        folder.replace_durably(NAME, &self.to_bytes())
    }

    pub(super) fn into_view(self) -> Option<(u64, Vec<u8>)> {
        (self.number > 0).then_some((self.number, self.view))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let ended = self.ended.to_bytes();
        let ended_bytes = u32::try_from(ended.len()).unwrap_or(u32::MAX);
        let mut body = Vec::with_capacity(HEAD_BYTES + ended.len() + self.view.len());
        body.extend(self.number.to_le_bytes());
        body.extend(ended_bytes.to_le_bytes());
        body.extend(&ended);
        body.extend(&self.view);
        seal(KIND, FORMAT, &body)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let body = unseal(KIND, FORMAT, bytes)?;
        let parsed = || {
            let (number, rest) = body.split_first_chunk()?;
            let (ended_bytes, rest) = rest.split_first_chunk()?;
            let ended_bytes = usize::try_from(u32::from_le_bytes(*ended_bytes)).ok()?;
            let (ended, view) = rest.split_at_checked(ended_bytes)?;
            let ended = Ended::from_bytes(ended)?;
            Some(Self { number: u64::from_le_bytes(*number), view: view.to_owned(), ended })
        };
        parsed().ok_or_else(|| DAMAGED.to_owned())
    }
}

const DAMAGED: &str = "it is damaged";

/// `body` with a head that tells what it is.
pub(super) fn seal(kind: &[u8; 8], format: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend(kind);
    bytes.extend(format.to_le_bytes());
    bytes.extend(xxh3_64(body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The body of `bytes`, if they were sealed so; else why not.
pub(super) fn unseal<'a>(kind: &[u8; 8], format: u32, bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let head = || {
        let (there, rest) = bytes.split_first_chunk::<8>()?;
        let (format, rest) = rest.split_first_chunk()?;
        (there == kind).then_some((u32::from_le_bytes(*format), rest))
    };
    let Some((there, rest)) = head() else {
        return Err("it is no file of a coordinator".to_owned());
    };
    if there != format {
        return Err(format!("it has format {there}, and this program knows {format}"));
    }
    match rest.split_first_chunk() {
        Some((sum, body)) if u64::from_le_bytes(*sum) == xxh3_64(body) => Ok(body),
        Some(_) | None => Err(DAMAGED.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use epicserver_wire::NodeId;

    use super::*;

    fn state() -> State {
        let mut state = State { number: 3, view: vec![1, 2, 3], ended: Ended::default() };
        state.ended.extend([NodeId::new(5), NodeId::new(u64::MAX)]);
        state
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        assert_eq!(State::from_bytes(&state().to_bytes()), Ok(state()));
        assert_eq!(State::from_bytes(&State::default().to_bytes()), Ok(State::default()));
    }

    #[test]
    fn a_flipped_bit_and_a_cut_are_seen_at_every_place() {
        let bytes = state().to_bytes();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(State::from_bytes(&flipped).is_err(), "a flipped bit of byte {at}");
            assert!(State::from_bytes(&bytes[..at]).is_err(), "cut to {at} bytes");
        }
    }

    #[test]
    fn a_file_of_another_kind_and_of_another_version_are_told_apart() {
        let why = |bytes: &[u8]| State::from_bytes(bytes).unwrap_err();
        assert!(why(b"[node]\nshards = 2\n").contains("no file of a coordinator"));
        assert!(why(&seal(KIND, 2, &[])).contains("format 2"));
        assert!(why(&seal(KIND, FORMAT, &[0; 11])).contains("damaged"));
    }
}
