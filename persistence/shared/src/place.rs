//! Where processes meet: beside the file lie its lock, `<file>.lock`, and a socket, `<file>.sock`.
//!
//! The lock is an empty file that is never removed; the kernel frees it with the process that holds it, however that ends.
//! redb's own lock is not enough: it is given up where there is trouble with the disk and the file is opened again.
//!
//! # Invariants
//! - **PL1** Only whoever holds the lock makes or removes the socket.
//! - **PL2** A path of any length has a socket: it is reached by way of its folder.
//!
//! # Not here
//! What is said over the socket.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The folder of a file, and what lies beside the file.
#[derive(Debug)]
pub(crate) struct Place {
    /// The file itself, wherever a link has led to.
    pub(crate) file: PathBuf,
    folder: OwnedFd,
    lock: OsString,
    socket: OsString,
}

/// The right to open the file, and the socket at which others are served.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) listener: UnixListener,
    pub(crate) lock: OwnedFd,
}

impl Place {
    /// The place of the file at `path`, which need not be there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
        let name = file.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, file.parent().unwrap_or(&file), flags, Mode::empty())?;
        let beside = |ending: &str| {
            let mut beside = name.to_owned();
            beside.push(ending);
            beside
        };
        let (lock, socket) = (beside(".lock"), beside(".sock"));
        Ok(Self { file, folder, lock, socket })
    }

    /// Takes the lock; `None` if another has it.
    pub(crate) fn take(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&self.folder, &self.lock, flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Listens, now that the lock is held (**PL1**).
    pub(crate) fn listen(&self, lock: OwnedFd) -> io::Result<Seat> {
        self.remove_socket();
        let path = self.reach(&self.socket);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Seat { listener, lock })
    }

    /// To be called only while the lock is held.
    pub(crate) fn remove_socket(&self) {
        // It may not be there.
        let _removed = unlinkat(&self.folder, &self.socket, AtFlags::empty());
    }

    /// Connects to whoever listens; `None` if nobody does, or too many wait there.
    pub(crate) fn connect(&self) -> io::Result<Option<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let to = SocketAddrUnix::new(self.reach(&self.socket))?;
        match connect(&socket, &to) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// PL2.
    fn reach(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()));
        path.push(name);
        path
    }
}
