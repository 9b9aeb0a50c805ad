//! The drivers: the ways of an I/O thread to the kernel.
//!
//! # Invariants
//! - **K1** A handle that was closed is never taken for the one that has its place now.
//! - **K2** A buffer is filled only while nobody has a frame of it.
//! - **K3** A driver has at most `BUFFERS_MAX` of them.
//!
//! # Not here
//! Transports: they see the trait alone.

mod bell;
mod epoll;
mod sockets;
#[cfg(test)]
pub(crate) mod tests;
#[expect(unsafe_code, reason = "an address of TIPC is told to the kernel as it lies in memory")]
mod tipc;
#[expect(unsafe_code, reason = "the kernel reads and writes memory by its address")]
mod uring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use epicserver_link::buffers::Buffers;
use epicserver_link::driver::{Driver, Form, SocketAddress};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, connect};

/// Bytes of one receive buffer.
const BUFFER_BYTES: usize = 128 << 10;
/// Receive buffers of one driver.
const BUFFERS_MAX: usize = 256;

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

/// Opens the driver of `form`, or the best that the kernel has: io_uring, and epoll where it is too old or
/// forbids the other. Says in the log which it is, and why not the other.
///
/// # Errors
/// [`DriverError::Unavailable`].
pub fn open(form: Option<Form>) -> Result<Box<dyn Driver>, DriverError> {
    let driver = match form {
        Some(form) => open_form(form),
        None => open_form(Form::Uring).or_else(|error| {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            tracing::info!(why, "{error}, which is faster");
            open_form(Form::Epoll)
        }),
    }?;
    tracing::info!(form = %driver.form(), "driver");
    Ok(driver)
}

fn open_form(form: Form) -> Result<Box<dyn Driver>, DriverError> {
    let driver = match form {
        Form::Epoll => epoll::Epoll::open().map(|driver| Box::new(driver) as Box<dyn Driver>),
        Form::Uring => uring::Uring::open().map(|driver| Box::new(driver) as Box<dyn Driver>),
    };
    driver.map_err(|source| DriverError::Unavailable { form, source })
}

/// The receive buffers of one driver (**K2**, **K3**).
fn receive_buffers() -> Buffers {
    Buffers::new(BUFFERS_MAX, BUFFER_BYTES)
}

fn connect_to(socket: &impl AsFd, to: &SocketAddress) -> Result<(), Errno> {
    match to {
        SocketAddress::Inet(SocketAddr::V4(address)) => connect(socket, address),
        SocketAddress::Inet(SocketAddr::V6(address)) => connect(socket, address),
        SocketAddress::Unix(path) => connect(socket, &SocketAddrUnix::new(path.as_path())?),
        SocketAddress::Tipc(service, instance) => {
            connect(socket, &tipc::ServiceAddress::new(*service, *instance))
        }
    }
}
