//! Answers as bytes.
//!
//! # Not here
//! Who waits for them.

use epicserver_store::{Answer, Found, Outcome, Trouble};

use crate::bytes::{Coded, Malformed, Parser, put_bytes};
use crate::limits::TEXT_BYTES_MAX;

impl Coded for Answer {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Claimed { refused } => {
                0_u8.put(out);
                refused.put(out);
            }
            Self::Loaded(found) => {
                1_u8.put(out);
                found.put(out);
            }
            Self::Committed(outcomes) => {
                2_u8.put(out);
                outcomes.put(out);
            }
            Self::Scanned { rows, next } => {
                3_u8.put(out);
                rows.put(out);
                next.put(out);
            }
            Self::Purged { count, more } => {
                4_u8.put(out);
                count.put(out);
                more.put(out);
            }
            Self::Verified { sound, corrupt, next } => {
                5_u8.put(out);
                sound.put(out);
                corrupt.put(out);
                next.put(out);
            }
            Self::BackedUp { rows, corrupt } => {
                6_u8.put(out);
                rows.put(out);
                corrupt.put(out);
            }
            Self::Restored { rows } => {
                7_u8.put(out);
                rows.put(out);
            }
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Claimed { refused: from.take()? },
            1 => Self::Loaded(from.take()?),
            2 => Self::Committed(from.take()?),
            3 => Self::Scanned { rows: from.take()?, next: from.take()? },
            4 => Self::Purged { count: from.take()?, more: from.take()? },
            5 => Self::Verified { sound: from.take()?, corrupt: from.take()?, next: from.take()? },
            6 => Self::BackedUp { rows: from.take()?, corrupt: from.take()? },
            7 => Self::Restored { rows: from.take()? },
            _ => return Err(Malformed("an answer")),
        })
    }
}

impl Coded for Found {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => 0_u8.put(out),
            Self::Tombstone(envelope) => {
                1_u8.put(out);
                envelope.put(out);
            }
            Self::State(record) => {
                2_u8.put(out);
                record.put(out);
            }
            Self::Fenced(owner) => {
                3_u8.put(out);
                owner.put(out);
            }
            Self::Corrupt(corrupt) => {
                4_u8.put(out);
                corrupt.put(out);
            }
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Nothing,
            1 => Self::Tombstone(from.take()?),
            2 => Self::State(from.take()?),
            3 => Self::Fenced(from.take()?),
            4 => Self::Corrupt(from.take()?),
            _ => return Err(Malformed("what was found")),
        })
    }
}

impl Coded for Outcome {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Saved => 0_u8.put(out),
            Self::Fenced(owner) => {
                1_u8.put(out);
                owner.put(out);
            }
            Self::Conflict { found, by } => {
                2_u8.put(out);
                found.put(out);
                by.put(out);
            }
            Self::Corrupt(corrupt) => {
                3_u8.put(out);
                corrupt.put(out);
            }
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Saved,
            1 => Self::Fenced(from.take()?),
            2 => Self::Conflict { found: from.take()?, by: from.take()? },
            3 => Self::Corrupt(from.take()?),
            _ => return Err(Malformed("an outcome")),
        })
    }
}

impl Coded for Trouble {
    fn put(&self, out: &mut Vec<u8>) {
        let (number, why) = match self {
            Self::Unavailable(why) => (0_u8, why),
            Self::Unknown(why) => (1, why),
            Self::Full(why) => (2, why),
            Self::Corrupt(why) => (3, why),
            Self::Refused(why) => (4, why),
        };
        number.put(out);
        put_bytes(cut(why).as_bytes(), out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        let (number, why) = from.take::<(u8, String)>()?;
        Ok(match number {
            0 => Self::Unavailable(why),
            1 => Self::Unknown(why),
            2 => Self::Full(why),
            3 => Self::Corrupt(why),
            4 => Self::Refused(why),
            _ => return Err(Malformed("a trouble")),
        })
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or(text)
}
