//! The file: its tables, and how it is opened, given up and opened again.
//!
//! Tables, whose keys lie in the order of their bytes:
//!
//! | table | from | to |
//! | --- | --- | --- |
//! | `rows` | name | record |
//! | `owners` | class and slot | owner with a checksum |
//! | `tombstones` | when it was written, name | nothing |
//! | `meta` | `format`, `fabric`, `group` | the format's number, the fabric's name, the number of the last transaction |
//!
//! # Invariants
//! - **BK1** A file of another format or fabric is left as it is.
//! - **BK2** A panic below, as a damaged page may cause, is an error like others: the file is opened again.
//!
//! # Not here
//! What is read and written: `reading`, `writing`.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{PoisonError, RwLock};

use epicserver_store::Trouble;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, TableDefinition, WriteTransaction,
};

pub(crate) const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
pub(crate) const OWNERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("owners");
pub(crate) const TOMBSTONES: TableDefinition<'_, (u64, &[u8]), ()> =
    TableDefinition::new("tombstones");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const FORMAT: &[u8] = &1_u32.to_le_bytes();

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody has it open.
    #[error("another process has it open")]
    Busy,
    /// It is of a format that this program does not know, and is left as it is.
    #[error("its format is not one that this program knows")]
    Format,
    /// It is another fabric's, and is left as it is.
    #[error("it is the store of the fabric {0:?}")]
    Fabric(String),
    /// It cannot be read or written.
    #[error("{0}")]
    Other(String),
}

impl OpenError {
    fn other(error: impl Into<redb::Error>) -> Self {
        Self::Other(error.into().to_string())
    }
}

/// How the file is opened. It holds the file's lock as long as it is open.
pub(crate) type Opener = Box<dyn Fn(&Builder) -> Result<Database, DatabaseError> + Send + Sync>;

/// The file, open or to be opened again.
pub(crate) struct Book {
    opener: Opener,
    fabric: String,
    cache_bytes: usize,
    database: RwLock<Option<Database>>,
}

impl Book {
    pub(crate) fn open(
        opener: Opener,
        fabric: String,
        cache_bytes: usize,
    ) -> Result<Self, OpenError> {
        let book = Self { opener, fabric, cache_bytes, database: RwLock::new(None) };
        let database = book.begin()?;
        *book.write() = Some(database);
        Ok(book)
    }

    fn begin(&self) -> Result<Database, OpenError> {
        let begin = || -> Result<Database, OpenError> {
            let mut builder = Builder::new();
            builder.set_cache_size(self.cache_bytes);
            let database = (self.opener)(&builder).map_err(|error| {
                let busy = matches!(error, DatabaseError::DatabaseAlreadyOpen);
                if busy { OpenError::Busy } else { OpenError::other(error) }
            })?;
            self.look_at(&database)?;
            Ok(database)
        };
        std::panic::catch_unwind(AssertUnwindSafe(begin))
            .unwrap_or_else(|_shown| Err(OpenError::Other("it is damaged".to_owned())))
    }

    /// Sees to it that the file is ours, and has its tables (**BK1**).
    fn look_at(&self, database: &Database) -> Result<(), OpenError> {
        if meta(database, "format")?.is_some_and(|found| found != FORMAT) {
            return Err(OpenError::Format);
        }
        let fabric = meta(database, "fabric")?;
        match fabric {
            Some(found) if found == self.fabric.as_bytes() => return Ok(()),
            Some(found) => {
                let found = String::from_utf8_lossy(&found).into_owned();
                return Err(OpenError::Fabric(found));
            }
            None => {}
        }
        let made = || -> Result<(), redb::Error> {
            let transaction = begin_write(database)?;
            {
                transaction.open_table(ROWS)?;
                transaction.open_table(OWNERS)?;
                transaction.open_table(TOMBSTONES)?;
                let mut meta = transaction.open_table(META)?;
                meta.insert("format", FORMAT)?;
                meta.insert("group", &0_u64.to_le_bytes()[..])?;
                meta.insert("fabric", self.fabric.as_bytes())?;
            }
            transaction.commit()?;
            Ok(())
        };
        made().map_err(OpenError::other)
    }

    /// What `with` makes of the file, which is opened again if there was trouble before.
    ///
    /// # Errors
    /// What `with` says, or [`Trouble::Unavailable`].
    pub(crate) fn with<T>(
        &self,
        with: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Trouble> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &*database {
            Some(database) => std::panic::catch_unwind(AssertUnwindSafe(|| with(database))),
            None => {
                drop(database);
                self.open_again()?;
                return self.with_open(with);
            }
        };
        drop(database);
        self.settle(result)
    }

    fn with_open<T>(
        &self,
        with: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Trouble> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &*database else {
            return Err(Trouble::Unavailable("the file was given up again".to_owned()));
        };
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| with(open)));
        drop(database);
        self.settle(result)
    }

    /// BK2.
    fn settle<T>(&self, result: std::thread::Result<Result<T, redb::Error>>) -> Result<T, Trouble> {
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let trouble = trouble(&error);
                if !matches!(trouble, Trouble::Corrupt(_)) {
                    self.give_up();
                }
                Err(trouble)
            }
            Err(_shown) => {
                self.give_up();
                Err(Trouble::Corrupt("a page of the file is damaged".to_owned()))
            }
        }
    }

    /// Closes the file, so that whoever needs it next opens it again (**RE2**).
    pub(crate) fn give_up(&self) {
        let database = self.write().take();
        // What it says while it is closed was said before.
        let _shown = std::panic::catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    /// Opens the file unless it is open.
    ///
    /// # Errors
    /// [`Trouble::Unavailable`].
    pub(crate) fn open_again(&self) -> Result<(), Trouble> {
        let mut database = self.write();
        if database.is_none() {
            let open = self.begin().map_err(|error| Trouble::Unavailable(error.to_string()))?;
            *database = Some(open);
        }
        Ok(())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the last transaction that the file has.
    pub(crate) fn group(&self) -> Result<u64, Trouble> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            let found = transaction.open_table(META)?.get("group")?;
            Ok(found.and_then(|found| found.value().try_into().ok()).map_or(0, u64::from_le_bytes))
        })
    }
}

/// Begins a transaction that is found again quickly after a crash.
pub(crate) fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Writes down which transaction this is.
pub(crate) fn number(transaction: &WriteTransaction, group: u64) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert("group", &group.to_le_bytes()[..])?;
    Ok(())
}

fn meta(database: &Database, name: &str) -> Result<Option<Vec<u8>>, OpenError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let transaction = database.begin_read()?;
        let table = match transaction.open_table(META) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(table.get(name)?.map(|value| value.value().to_vec()))
    };
    read().map_err(OpenError::other)
}

/// What an error of the file's means to whoever has asked; nothing was done.
pub(crate) fn trouble(error: &redb::Error) -> Trouble {
    let why = error.to_string();
    if let redb::Error::Io(io) = error
        && matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    {
        return Trouble::Full(why);
    }
    let corrupt = matches!(error, redb::Error::Corrupted(_));
    if corrupt { Trouble::Corrupt(why) } else { Trouble::Unavailable(why) }
}
