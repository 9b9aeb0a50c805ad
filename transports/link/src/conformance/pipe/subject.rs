//! Pipes, as the suite tests them.
//!
//! # Not here
//! What it asks of them.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use epicserver_wire::frame::Frame;

use super::bell::{Bell, Still};
use super::{Flaw, Hub, Pipe, SCHEME, Wire};
use crate::conformance::{Raw, Seat, Subject};
use crate::driver::Driver;
use crate::{Address, Transport};

/// Pipes that can reach each other.
#[derive(Default)]
pub struct Pipes {
    hub: Rc<RefCell<Hub>>,
    flaw: Option<Flaw>,
}

impl Pipes {
    /// Pipes that are wrong in one way.
    #[must_use]
    pub fn with(flaw: Flaw) -> Self {
        Self { hub: Rc::default(), flaw: Some(flaw) }
    }
}

impl Subject for Pipes {
    fn seat(&self) -> Seat {
        let driver: Box<dyn Driver> = Box::new(Still::default());
        let pipe = Pipe::open(&self.hub, driver.waker(), self.flaw);
        Seat { transport: Box::new(pipe) as Box<dyn Transport>, driver }
    }

    fn malformed(&self) -> Vec<Address> {
        ["x", "-1", "1 ", "99999999999"].map(|rest| Address::new(SCHEME, rest)).to_vec()
    }

    fn nobody(&self) -> Address {
        Address::new(SCHEME, "4000000000")
    }

    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        let number = self.hub.borrow_mut().add(Arc::new(Bell::default()));
        Some((Address::new(SCHEME, &number.to_string()), Box::new(())))
    }

    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let to = to.rest().parse().ok()?;
        let wire = self.hub.borrow_mut().connect((0, to), Arc::new(Bell::default()))?;
        wire.borrow_mut().halves[0].begun = true;
        Some(Box::new(RawPipe { wire }))
    }

    fn patience(&self) -> Duration {
        // All that can happen happens in the rounds of the two ends.
        Duration::from_millis(100)
    }
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("flaw", &self.flaw).finish_non_exhaustive()
    }
}

struct RawPipe {
    wire: Rc<RefCell<Wire>>,
}

impl Raw for RawPipe {
    fn write(&mut self, bytes: &[u8]) {
        let mut wire = self.wire.borrow_mut();
        wire.halves[0].frames.push_back(Frame::copy_of(bytes));
        wire.bells[1].wake();
    }

    fn has_ended(&mut self) -> bool {
        self.wire.borrow().halves[1].closed
    }
}

impl Drop for RawPipe {
    fn drop(&mut self) {
        let mut wire = self.wire.borrow_mut();
        wire.halves[0].closed = true;
        wire.bells[1].wake();
    }
}
