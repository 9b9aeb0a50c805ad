//! The layout of the memory that two ends share.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..512 | a line for each end of what it has taken, and one for its sleeping flag |
//! | 4096.. | the cells of each direction, the dialler's first |
//! | after them | the byte ring of each direction |
//!
//! What one end writes and the other polls lies in a pair of cache lines of its own, as x86 fetches
//! them in pairs.
//!
//! # Invariants
//! - **Y1** A cell's stamp lies where no payload ever does, whatever the lap: so what was sent once
//!   is never taken for a stamp.
//! - **Y2** One byte ring holds several of the largest pieces: a sender that waits for room gets it
//!   before its receiver has taken all.
//!
//! # Not here
//! Who reads and writes what, and when.

/// The version of this layout and of the greeting.
pub(crate) const VERSION: u32 = 1;
/// Cells of one direction.
pub(crate) const CELLS: usize = 1024;
/// Bytes of one cell.
pub(crate) const CELL_BYTES: usize = 256;
/// Where the payload of a cell begins: its stamp, and how long the payload is, come before.
pub(crate) const CELL_HEAD: usize = 16;
/// The longest piece that lies in a cell; a longer one lies in the byte ring.
pub(crate) const INLINE_MAX: usize = CELL_BYTES - CELL_HEAD;
/// Bytes of one byte ring.
pub(crate) const RING_BYTES: usize = 1 << 20;
/// The longest piece. A longer parcel is sent as several.
pub(crate) const PIECE_MAX: usize = 128 << 10;

const LINES: usize = 128;
const CELLS_AT: usize = 4096;
const RINGS_AT: usize = CELLS_AT + 2 * CELLS * CELL_BYTES;
/// Bytes of all of it.
pub(crate) const MAP_BYTES: usize = RINGS_AT + 2 * RING_BYTES;

const _: () = assert!(CELLS.is_power_of_two() && RING_BYTES.is_power_of_two(), "masks index them");
const _: () = assert!(INLINE_MAX.is_multiple_of(16), "a piece is a multiple of 16");
const _: () = assert!(CELL_BYTES.is_multiple_of(LINES), "Y1: cells share no lines");
const _: () = assert!(4 * PIECE_MAX <= RING_BYTES, "Y2: a ring holds several pieces");
const _: () = assert!(4 * LINES <= CELLS_AT, "the lines of both ends lie before the cells");
const _: () = assert!(MAP_BYTES.is_multiple_of(4096), "a mapping is whole pages");

/// One of the two ends of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The one that made the memory.
    Dialler,
    /// The one that was given it.
    Acceptor,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Dialler => 0,
            Self::Acceptor => 1,
        }
    }

    /// Where the cell of position `position` lies, of those that this end fills.
    pub(crate) fn cell(self, position: u64) -> usize {
        let all = CELLS_AT + self.index() * CELLS * CELL_BYTES;
        all + low(position) % CELLS * CELL_BYTES
    }

    /// Where the byte ring lies that this end fills.
    pub(crate) fn ring(self) -> usize {
        RINGS_AT + self.index() * RING_BYTES
    }

    /// Where this end writes how many cells it has taken; how many bytes of the ring, 8 bytes later.
    pub(crate) fn taken(self) -> usize {
        self.index() * 2 * LINES
    }

    /// Where this end's sleeping flag lies.
    pub(crate) fn doze(self) -> usize {
        self.taken() + LINES
    }
}

/// How far into the byte ring the byte of position `position` lies.
pub(crate) fn ring_offset(position: u64) -> usize {
    low(position) % RING_BYTES
}

/// The low bits: all that a power of two looks at.
fn low(position: u64) -> usize {
    usize::try_from(position & u64::from(u32::MAX)).unwrap_or(0)
}
