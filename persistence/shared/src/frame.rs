//! Frames: what two processes say to each other.
//!
//! A frame is its length in four bytes, a byte that says its kind, and the rest. Who asks begins with a hello. Its magic, version
//! and kind, and the whole of a refusal, never change, so that programs of all versions understand that they do not
//! understand each other.
//!
//! # Invariants
//! - **FR1** Any bytes are a frame or are refused.
//!
//! # Not here
//! Who says what when: `asking`, `peers`.

use epicserver_store::{Answer, Op, Trouble};

use crate::bytes::{Coded, Malformed, Parser};

/// The version of all that is said.
pub(crate) const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"EPICSHRD";

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Frame {
    /// Who asks begins so.
    Hello(Hello),
    /// The file is open, and ops are taken.
    Welcome,
    /// Nothing will be taken.
    Refuse(Refusal),
    /// Nothing but a sign of life.
    Beat,
    /// An op, under a number of the asker's own.
    Ask(u64, Op),
    /// What came of it.
    Done(u64, Result<Answer, Trouble>),
    /// Whatever was asked and is not answered was not taken, and will not be.
    Bye,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    /// How often it wants to hear something, in milliseconds.
    pub(crate) beat_ms: u32,
    /// Whose store it takes this for.
    pub(crate) fabric: String,
}

/// Why nothing will be taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "it speaks version {0} of what they say to each other, and this program version {VERSION}"
    )]
    Version(u16),
    #[error("it is the store of the fabric {0:?}")]
    Fabric(String),
    #[error("it serves as many processes as it can")]
    Full,
}

impl Frame {
    /// Appends it behind its length. A frame that is too long is refused where it is read; none is made (`limits`).
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        self.put(out);
        let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// The frame whose bytes behind the length these are.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut parser = Parser::new(bytes);
        let frame = parser.take()?;
        if !matches!(&frame, Self::Hello(hello) if hello.version != VERSION) {
            parser.end()?;
        }
        Ok(frame)
    }
}

impl Coded for Frame {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                0_u8.put(out);
                hello.put(out);
            }
            Self::Welcome => 1_u8.put(out),
            Self::Refuse(refusal) => {
                2_u8.put(out);
                refusal.put(out);
            }
            Self::Beat => 3_u8.put(out),
            Self::Ask(id, op) => {
                4_u8.put(out);
                id.put(out);
                op.put(out);
            }
            Self::Done(id, result) => {
                5_u8.put(out);
                id.put(out);
                result.put(out);
            }
            Self::Bye => 6_u8.put(out),
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Hello(from.take()?),
            1 => Self::Welcome,
            2 => Self::Refuse(from.take()?),
            3 => Self::Beat,
            4 => Self::Ask(from.take()?, from.take()?),
            5 => Self::Done(from.take()?, from.take()?),
            6 => Self::Bye,
            _ => return Err(Malformed("a frame")),
        })
    }
}

impl Coded for Hello {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        self.version.put(out);
        self.beat_ms.put(out);
        self.fabric.put(out);
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        if from.raw(MAGIC.len())? != MAGIC {
            return Err(Malformed("a hello"));
        }
        let version = from.take()?;
        if version != VERSION {
            return Ok(Self { version, beat_ms: 0, fabric: String::new() });
        }
        Ok(Self { version, beat_ms: from.take()?, fabric: from.take()? })
    }
}

impl Coded for Refusal {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Version(version) => {
                0_u8.put(out);
                version.put(out);
            }
            Self::Fabric(fabric) => {
                1_u8.put(out);
                fabric.put(out);
            }
            Self::Full => 2_u8.put(out),
        }
    }

    fn take(from: &mut Parser<'_>) -> Result<Self, Malformed> {
        Ok(match from.take::<u8>()? {
            0 => Self::Version(from.take()?),
            1 => Self::Fabric(from.take()?),
            2 => Self::Full,
            _ => return Err(Malformed("a refusal")),
        })
    }
}
