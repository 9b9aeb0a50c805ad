//! The driver of one end: it has no kernel, and a wait of it is the time of the network passing.
//!
//! # Not here
//! Sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epicserver_link::Parcel;
use epicserver_link::driver::{
    Completion, Counters, Driver, Form, Handle, Owner, Receive, SocketAddress, Wake,
};
use epicserver_sim::net::EndId;

use super::Shared;

/// Somebody wants the next wait to end at once. None lasts: one thread drives all ends.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) struct SimDriver {
    network: Shared,
    end: EndId,
    bell: Arc<Bell>,
}

impl SimDriver {
    pub(super) fn new(network: Shared, end: EndId) -> Self {
        Self { network, end, bell: Arc::default() }
    }
}

fn refused<R>() -> io::Result<R> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl Driver for SimDriver {
    fn form(&self) -> Form {
        Form::Epoll
    }

    fn listen(&mut self, _: Owner, _: OwnedFd) -> io::Result<Handle> {
        refused()
    }

    fn connect(
        &mut self,
        _: Owner,
        _: OwnedFd,
        _: &SocketAddress,
        _: Receive,
    ) -> io::Result<Handle> {
        refused()
    }

    fn adopt(&mut self, _: Owner, _: OwnedFd, _: Receive) -> io::Result<Handle> {
        refused()
    }

    fn watch(&mut self, _: Owner, _: OwnedFd) -> io::Result<Handle> {
        refused()
    }

    fn send(&mut self, _: Handle, parcel: Parcel) -> Result<(), Parcel> {
        Err(parcel)
    }

    fn close(&mut self, _: Handle, _: bool) {}

    fn poll(&mut self, _: &mut Vec<Completion>) -> io::Result<()> {
        Ok(())
    }

    /// Time passes until something arrives at this end, and no longer than `timeout`.
    fn wait(&mut self, timeout: Option<Duration>, _: &mut Vec<Completion>) -> io::Result<()> {
        if self.bell.0.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut network = self.network.borrow_mut();
        let (now, next) = (network.now, network.next_at(self.end));
        let woken = next.into_iter().chain(timeout.map(|timeout| now + timeout)).min();
        network.now = woken.map_or(now, |woken| woken.max(now));
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
