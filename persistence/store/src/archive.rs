//! Back-ups: all rows of a store in one file, which any store restores.
//!
//! The file: `epicback`, a format number (4 bytes), then each record with its length (4 bytes) before it, then a length of 0, the
//! number of records (8 bytes), and the CRC-64/XZ of all that came before (8 bytes). Integers are little-endian.
//!
//! # Invariants
//! - **AR1** A file is there as a whole or not at all: it is written beside its place, synced, and then moved there.
//! - **AR2** What a reader gives is known to be whole only after [`Reader::next`] has given the end; whoever restores takes
//!   nothing in before.
//!
//! # Not here
//! Reading the rows of a store. Epochs: a fabric that begins anew begins with those of its coordinator.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crc64fast::Digest;

use crate::limits::{PAGE_MAX, RECORD_BYTES_MAX};
use crate::{Answer, Corrupt, Name, Record, Trouble};

const MAGIC: &[u8; 8] = b"epicback";
const FORMAT: u32 = 1;

/// A back-up that is being written. If it is dropped before [`finish`](Self::finish), no file is left.
pub struct Writer {
    to: PathBuf,
    beside: PathBuf,
    out: Option<BufWriter<File>>,
    sum: Digest,
    rows: u64,
    corrupt: Vec<Corrupt>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("to", &self.to)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins one that will be at `to`.
    ///
    /// # Errors
    /// [`Trouble::Refused`] if there is a file, or none can be made.
    pub fn create(to: &Path) -> Result<Self, Trouble> {
        if to.exists() {
            return Err(Trouble::Refused(format!("{} is there already", to.display())));
        }
        let mut beside = to.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside);
        let file = file.map_err(|error| {
            Trouble::Refused(format!("cannot write {}: {error}", beside.display()))
        })?;
        let mut writer = Self {
            to: to.to_owned(),
            beside,
            out: Some(BufWriter::new(file)),
            sum: Digest::new(),
            rows: 0,
            corrupt: Vec::new(),
        };
        writer.write(MAGIC)?;
        writer.write(&FORMAT.to_le_bytes())?;
        Ok(writer)
    }

    /// Takes in the row that lies under `name` as `bytes`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn push(&mut self, name: &[u8], bytes: &[u8]) -> Result<(), Trouble> {
        let mut page = crate::Verify::new(2);
        let _room = page.push(name, bytes);
        if let Answer::Verified { corrupt, .. } = page.finish()
            && let Some(corrupt) = corrupt.into_iter().next()
        {
            if self.corrupt.len() < PAGE_MAX {
                self.corrupt.push(corrupt);
            }
            return Ok(());
        }
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.write(&len.to_le_bytes())?;
        self.write(bytes)?;
        self.rows += 1;
        Ok(())
    }

    /// Takes in a row that was found to be corrupt.
    pub fn push_corrupt(&mut self, corrupt: Corrupt) {
        if self.corrupt.len() < PAGE_MAX {
            self.corrupt.push(corrupt);
        }
    }

    /// Ends the file, and has it on the disk (**AR1**).
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(mut self) -> Result<Answer, Trouble> {
        self.write(&0_u32.to_le_bytes())?;
        self.write(&self.rows.to_le_bytes())?;
        let sum = self.sum.sum64();
        self.write(&sum.to_le_bytes())?;
        let ended = self.end();
        ended.map_err(|error| trouble(&self.to, &error))?;
        Ok(Answer::BackedUp { rows: self.rows, corrupt: std::mem::take(&mut self.corrupt) })
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(out) = self.out.take() {
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
        }
        std::fs::rename(&self.beside, &self.to)?;
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.sum.write(bytes);
        let Some(out) = &mut self.out else { return Ok(()) };
        out.write_all(bytes).map_err(|error| trouble(&self.to, &error))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.out.take().is_some() {
            // What cannot be removed is overwritten by the next one.
            let _removed = std::fs::remove_file(&self.beside);
        }
    }
}

/// A back-up that is being read.
pub struct Reader {
    from: PathBuf,
    input: BufReader<File>,
    sum: Digest,
    rows: u64,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Reader {
    /// Begins to read the one at `from`.
    ///
    /// # Errors
    /// [`Trouble::Refused`] if it is none.
    pub fn open(from: &Path) -> Result<Self, Trouble> {
        let file = File::open(from).map_err(|error| trouble(from, &error))?;
        let mut reader = Self {
            from: from.to_owned(),
            input: BufReader::new(file),
            sum: Digest::new(),
            rows: 0,
        };
        let magic = reader.array::<8>()?;
        let format = u32::from_le_bytes(reader.array()?);
        if magic != *MAGIC || format != FORMAT {
            return Err(reader.refused("it is no back-up of a format that this program knows"));
        }
        Ok(reader)
    }

    /// The next row; `None` at the end, by which all is known to be whole (**AR2**).
    ///
    /// # Errors
    /// [`Trouble::Refused`] if it is not.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<(Name, Record)>, Trouble> {
        let len = u32::from_le_bytes(self.array()?);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len == 0 {
            return self.end().map(|()| None);
        }
        if len > RECORD_BYTES_MAX {
            return Err(self.refused("it is not whole"));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        let row = Record::open_any(&bytes).map_err(|flaw| self.refused(&flaw.to_string()))?;
        self.rows += 1;
        Ok(Some(row))
    }

    /// Reads all of the one at `from`, to see whether it is whole; gives the number of its rows.
    ///
    /// # Errors
    /// [`Trouble::Refused`] if it is not.
    pub fn check(from: &Path) -> Result<u64, Trouble> {
        let mut reader = Self::open(from)?;
        while reader.next()?.is_some() {}
        Ok(reader.rows)
    }

    fn end(&mut self) -> Result<(), Trouble> {
        let rows = u64::from_le_bytes(self.array()?);
        let sum = self.sum.sum64();
        let written = u64::from_le_bytes(self.array()?);
        let more = self.input.read(&mut [0]).map_err(|error| trouble(&self.from, &error))?;
        if rows != self.rows || sum != written || more > 0 {
            return Err(self.refused("it is not whole"));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Trouble> {
        match self.input.read_exact(bytes) {
            Ok(()) => self.sum.write(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.refused("it is cut off"));
            }
            Err(error) => return Err(trouble(&self.from, &error)),
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> Trouble {
        Trouble::Refused(format!("{}: {why}", self.from.display()))
    }
}

fn trouble(path: &Path, error: &io::Error) -> Trouble {
    let why = format!("{}: {error}", path.display());
    if error.kind() == io::ErrorKind::StorageFull {
        Trouble::Full(why)
    } else {
        Trouble::Refused(why)
    }
}
