//! The greeting: how two processes come to share memory, over a Unix socket.
//!
//! The one that dials makes the memory, seals its size, and sends it with a short greeting in one
//! message. The one that accepts looks at all of it before it maps anything, and answers one byte.
//!
//! | bytes of the greeting | what |
//! | --- | --- |
//! | 0..8 | `EPICSHM` and a zero |
//! | 8..12 | version of the layout, little-endian |
//! | 12..16 | bytes of the memory, little-endian |
//!
//! # Invariants
//! - **U1** Each end talks only to processes of its own user, or of root.
//! - **U2** Memory of a peer is used only if its seals forbid it to shrink or grow, and nobody can
//!   take them off; it has the size that the layout has; and it is ordinary memory, since huge pages
//!   may be missing when they are touched.
//! - **U3** A socket's file has its name only while somebody listens there, so one that refuses a
//!   connection was left by a process that is gone.
//!
//! # Not here
//! Links; how long a peer may take.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    fstatfs, memfd_create,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    bind, connect, listen, recvmsg, send, sendmsg, socket_with, sockopt,
};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::layout::{MAP_BYTES, VERSION};

const MAGIC: [u8; 8] = *b"EPICSHM\0";
const GREETING_BYTES: usize = 16;
/// What the names of sockets begin with.
const PREFIX: &str = "epic-";
/// What follows the name of one at which nobody listens yet.
const UNBORN: &str = ".new";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;
/// What the kernel calls the file system of ordinary shared memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What the one that accepts answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Answer {
    /// The link is up.
    Welcome = 1,
    /// The greeting is none, or of another version.
    Version = 2,
    /// The memory is not as it has to be (**U2**).
    Memory = 3,
    /// The processes are of two users (**U1**).
    User = 4,
    /// There are as many links as there may be.
    Full = 5,
}

impl Answer {
    const ALL: [Self; 5] = [Self::Welcome, Self::Version, Self::Memory, Self::User, Self::Full];

    pub(crate) fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|answer| *answer as u8 == byte)
    }

    /// What it says to the one that dialled.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Welcome => "the peer is ready",
            Self::Version => "the peer speaks another version of the layout of shared memory",
            Self::Memory => "the peer cannot use the memory that it was given",
            Self::User => "the peer runs as another user",
            Self::Full => "the peer has as many links as it may have",
        }
    }
}

/// The file of a socket; it goes when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    pub(crate) name: String,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If somebody else has removed it, all is well.
        drop(std::fs::remove_file(&self.path));
    }
}

/// A socket in `dir`, with a name of its own, at which this process listens from now on.
pub(crate) fn listen_in(dir: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    sweep(dir);
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let name = format!("{PREFIX}{}-{:016x}", std::process::id(), u64::from_le_bytes(random));
    let unborn = SocketFile { path: dir.join(format!("{name}{UNBORN}")), name: String::new() };
    let socket = unix_socket()?;
    bind(&socket, &SocketAddrUnix::new(&unborn.path)?)?;
    listen(&socket, BACKLOG)?;
    let file = SocketFile { path: dir.join(&name), name };
    // U3.
    std::fs::rename(&unborn.path, &file.path)?;
    Ok((socket, file))
}

/// Removes what processes left behind that were killed (**U3**). What fails is of no interest: it is
/// tried again by the next one.
fn sweep(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_name)) {
        if connect_to(&entry.path())
            .is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::CONNREFUSED))
        {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

/// Whether a socket may be called `name`: so that one that a peer has made up leads nowhere else.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    name.len() <= 64 && name.starts_with(PREFIX) && name.bytes().all(plain)
}

/// Which host this is, until it is started again: what no other host calls itself.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// A connection to the socket at `path`. It is there at once or not at all.
pub(crate) fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The number of the process at the other end, if it may be talked to (**U1**).
pub(crate) fn trusted(socket: &OwnedFd) -> io::Result<i32> {
    let peer = sockopt::socket_peercred(socket)?;
    if peer.uid == rustix::process::geteuid() || peer.uid.is_root() {
        return Ok(peer.pid.as_raw_nonzero().get());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

/// Memory for one link, with all its pages, so that none is missing later; and sealed (**U2**).
pub(crate) fn memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create(c"epicserver-shm", flags | MemfdFlags::NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(Errno::INVAL) => memfd_create(c"epicserver-shm", flags)?,
        made => made?,
    };
    fallocate(&file, FallocateFlags::empty(), 0, MAP_BYTES as u64)?;
    fcntl_add_seals(&file, wanted_seals())?;
    Ok(file)
}

fn wanted_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

/// Whether memory that came from a peer can be used (**U2**).
fn is_sound(file: &OwnedFd) -> bool {
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(wanted_seals()));
    let long = fstat(file).is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(MAP_BYTES as u64));
    // The type of the field is not the same on all machines.
    let kind = fstatfs(file).map(|stat| i128::from(stat.f_type));
    sealed && long && kind == Ok(i128::from(TMPFS_MAGIC))
}

/// The bytes of a greeting.
pub(crate) fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..].copy_from_slice(&u32::try_from(MAP_BYTES).unwrap_or(0).to_le_bytes());
    bytes
}

/// Sends the greeting, and `memory` with it. A new socket has room for all of it.
pub(crate) fn greet(socket: &OwnedFd, memory: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [memory.as_fd()];
    let fits = control.push(SendAncillaryMessage::ScmRights(&files));
    debug_assert!(fits, "U2: the space is for one file");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let bytes = greeting();
    match sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)? {
        GREETING_BYTES => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// The memory that came with a greeting; `None` if nothing has come yet.
///
/// # Errors
/// What the peer is to be answered.
pub(crate) fn greeted(socket: &OwnedFd) -> Result<Option<OwnedFd>, Answer> {
    let mut bytes = [0; GREETING_BYTES];
    // One file more than is wanted, so that two are seen to be two.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(_) => return Err(Answer::Version),
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more);
        }
    }
    if received.bytes != GREETING_BYTES || bytes != greeting() {
        return Err(Answer::Version);
    }
    let whole = files.len() == 1 && !received.flags.contains(ReturnFlags::CTRUNC);
    let file = files.pop().filter(|file| whole && is_sound(file));
    file.map(Some).ok_or(Answer::Memory)
}

/// Sends one byte, an answer or a ring of the bell. If the socket has no room, the peer has bytes
/// enough to wake it; if it is closed, it says so by itself.
pub(crate) fn send_byte(socket: &OwnedFd, byte: u8) {
    let _sent = send(socket, &[byte], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}
