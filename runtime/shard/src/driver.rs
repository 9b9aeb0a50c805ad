//! The drivers: the ways of an I/O thread to the kernel.
//!
//! # Invariants
//! - **K1** A handle that was closed is never taken for the one that has its place now.
//!
//! # Not here
//! Transports: they see the trait alone.

mod bell;
mod buffers;
mod epoll;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use epicserver_link::driver::{Driver, Form, SocketAddress};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, connect};

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The kernel refuses this form.
    #[error("the kernel has no {form} for this process")]
    Unavailable {
        /// Which form.
        form: Form,
        /// What it said.
        source: io::Error,
    },
}

/// Opens the best driver that the kernel has, or the one of `form`. Says in the log which it is.
///
/// # Errors
/// [`DriverError::Unavailable`].
pub fn open(form: Option<Form>) -> Result<Box<dyn Driver>, DriverError> {
    let form = form.unwrap_or(Form::Epoll);
    let driver = match form {
        Form::Epoll => epoll::Epoll::open().map(|driver| Box::new(driver) as Box<dyn Driver>),
        Form::Uring => Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    let driver = driver.map_err(|source| DriverError::Unavailable { form, source })?;
    tracing::info!(%form, "driver");
    Ok(driver)
}

fn connect_to(socket: &impl AsFd, to: &SocketAddress) -> Result<(), Errno> {
    match to {
        SocketAddress::Inet(SocketAddr::V4(address)) => connect(socket, address),
        SocketAddress::Inet(SocketAddr::V6(address)) => connect(socket, address),
        SocketAddress::Unix(path) => connect(socket, &SocketAddrUnix::new(path.as_path())?),
        SocketAddress::Tipc(..) => Err(Errno::AFNOSUPPORT),
    }
}
