//! The folder of the coordinator, and how its files are read and replaced.
//!
//! # Not here
//! Who may do so when: `lock`. What is in the files.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Error, Why};

/// What follows the name of a file that is not finished.
pub(super) const UNFINISHED: &str = ".new";
/// Files of the folder that are gone through: two for each lease, and what was left unfinished.
const FILES_MAX: usize = 4 * crate::LEASES_MAX;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder `path`, and makes it if need be, for this user alone.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let io = |what, path: &Path, source| Error::Io { what, path: path.to_owned(), source };
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => return Err(io("make the folder", &path, source)),
        }
        // Not through a link, which somebody else may have put there.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(CWD, &path, flags, Mode::empty());
        let opened = opened.and_then(|fd| Ok((fstat(&fd)?, fd)));
        let (stat, fd) = opened.map_err(|source| io("open the folder", &path, source))?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(Error::NotOurs { path });
        }
        Ok(Self { fd, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A file of it, which may be made; never another thing of that name.
    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        // Without NONBLOCK, a pipe of that name would stop whoever opens it.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let kind = FileType::from_raw_mode(fstat(&file)?.st_mode);
        if kind == FileType::RegularFile { Ok(File::from(file)) } else { Err(Errno::PERM) }
    }

    /// What is in the file `name`; `None` if there is no such file.
    pub(super) fn read(&self, name: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, Why> {
        let file = match self.open_file(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.why("open", name, errno)),
        };
        let mut bytes = Vec::new();
        // One byte more tells a file that is too long.
        let most = u64::try_from(bytes_max).map_or(u64::MAX, |most| most + 1);
        file.take(most).read_to_end(&mut bytes).map_err(|error| self.why("read", name, error))?;
        if bytes.len() > bytes_max {
            return Err(self.why("use", name, format_args!("it is longer than {bytes_max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Whether there is a file `name`.
    pub(super) fn exists(&self, name: &str) -> Result<bool, Why> {
        match self.open_file(name, OFlags::RDONLY) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.why("open", name, errno)),
        }
    }

    /// Puts `bytes` in place of what is in the file `name`, as one step.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Why> {
        self.put(name, bytes, false).map_err(|errno| self.why("write", name, errno))
    }

    /// The same, and it is on the disk when this returns. If it fails, it may have happened.
    pub(super) fn replace_durably(&self, name: &str, bytes: &[u8]) -> Result<(), Why> {
        self.put(name, bytes, true).map_err(|errno| self.why("write", name, errno))
    }

    fn put(&self, name: &str, bytes: &[u8], durably: bool) -> Result<(), Errno> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{name}.{}.{serial}{UNFINISHED}", std::process::id());
        // What is there by that name is of a process that is gone, or of one in another container.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = self.open_file(&unfinished, flags)?;
        let written = file.write_all(bytes).map_err(|error| errno_of(&error));
        let synced = written.and_then(|()| if durably { fsync(&file) } else { Ok(()) });
        let renamed = synced.and_then(|()| renameat(&self.fd, &unfinished, &self.fd, name));
        if renamed.is_err() {
            self.remove(&unfinished);
        }
        renamed?;
        if durably { fsync(&self.fd) } else { Ok(()) }
    }

    /// Removes `name`, if it can be; who cannot tries again at the next change.
    pub(super) fn remove(&self, name: &str) {
        let _removed = unlinkat(&self.fd, name, AtFlags::empty());
    }

    /// The names of all files.
    pub(super) fn names(&self) -> Result<Vec<String>, Why> {
        let why = |errno| format!("cannot list {}: {errno}", self.path.display());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(why)? {
            let entry = entry.map_err(why)?;
            if names.len() >= FILES_MAX {
                return Err(format!("{} has more than {FILES_MAX} files", self.path.display()));
            }
            names.extend(CStr::to_str(entry.file_name()).ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Why something cannot be done with the file `name`.
    pub(super) fn why(&self, what: &str, name: &str, why: impl std::fmt::Display) -> Why {
        format!("cannot {what} {}: {why}", self.path.join(name).display())
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
