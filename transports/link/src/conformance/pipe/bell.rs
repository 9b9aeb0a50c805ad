//! The driver of pipes: it has no kernel to ask, and only waits.
//!
//! # Not here
//! Sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::Parcel;
use crate::driver::{
    Completion, Counters, Driver, Form, Handle, Owner, Receive, SocketAddress, Wake,
};

/// What ends a wait: now, or the next one.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_all();
    }
}

impl Bell {
    fn wait(&self, timeout: Option<Duration>) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = timeout.unwrap_or(Duration::MAX);
        let waited = self.heard.wait_timeout_while(rung, timeout, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

/// A driver that does nothing but wait.
#[derive(Default)]
pub(super) struct Still {
    bell: Arc<Bell>,
}

fn refused<R>() -> io::Result<R> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl Driver for Still {
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

    fn wait(&mut self, timeout: Option<Duration>, _: &mut Vec<Completion>) -> io::Result<()> {
        self.bell.wait(timeout);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
