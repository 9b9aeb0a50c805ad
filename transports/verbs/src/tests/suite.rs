//! Verbs pass the suite of all transports: on a device that ends the process when it is used wrongly, and on a real one
//! where there is any.
//!
//! # Not here
//! Other machines: one is enough for all that a link does.

use std::any::Any;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use epicserver_link::conformance::{Lacks, Raw, Seat, Subject};
use epicserver_link::driver::{Form, Owner};
use epicserver_link::{Address, Refused, Transport};
use epicserver_shard::driver::{DriverError, open};

use super::end::config;
use super::fake;
use super::raw::RawPeer;
use crate::choose::{self, Choice};
use crate::ffi::library::Library;
use crate::{SCHEME, Verbs};

struct Over {
    form: Form,
    library: Arc<Library>,
    choice: Choice,
}

/// The fake device, with drivers of `form`.
fn fake(form: Form) -> Result<Over, Lacks> {
    match open(Some(form)) {
        Ok(_) => Ok(Over { form, library: fake::library(), choice: choice() }),
        // What the kernel says has a number.
        Err(DriverError::Unavailable { source, .. }) if source.raw_os_error().is_none() => {
            Err(Lacks::Code(format!("there is no driver for {form}")))
        }
        Err(error) => Err(Lacks::Machine(error.to_string())),
    }
}

/// A device of this machine.
fn device(form: Form) -> Result<Over, Lacks> {
    let lacks = |why: String| Lacks::Area("verbs", why);
    let library = Library::load().map_err(|error| lacks(error.to_string()))?;
    let found = choose::look(&library, Path::new("/sys"));
    let found = found.map_err(|error| lacks(format!("{error}: {}", error.source)))?;
    let choice = choose::choose(&found, &config()).map_err(lacks)?;
    open(Some(form)).map_err(|error| lacks(error.to_string()))?;
    Ok(Over { form, library, choice })
}

pub(super) fn choice() -> Choice {
    let candidates = choose::look(&fake::library(), Path::new("/nowhere")).unwrap();
    choose::choose(&candidates, &config()).unwrap()
}

impl Subject for Over {
    fn seat(&self) -> Seat {
        let driver = open(Some(self.form)).unwrap();
        let seat = Seat::open(driver, |io| {
            let verbs = Verbs::listen_by(&self.library, Owner(0), config(), io);
            match verbs {
                Ok(verbs) => Ok(Box::new(verbs) as Box<dyn Transport>),
                Err(error) => panic!("{error}"),
            }
        });
        seat.unwrap_or_else(|refused: Refused| panic!("{refused}"))
    }

    fn malformed(&self) -> Vec<Address> {
        let rests = ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "localhost:1", "::1:1"];
        let all = rests.into_iter().map(|rest| Address::new(SCHEME, rest));
        all.chain([Address::new("tcp", "127.0.0.1:1")]).collect()
    }

    fn nobody(&self) -> Address {
        Address::new(SCHEME, "127.0.0.1:1")
    }

    /// A socket at which somebody listens and never looks.
    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let address = Address::new(SCHEME, &listener.local_addr().ok()?.to_string());
        Some((address, Box::new(listener)))
    }

    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let to = to.rest().parse().ok()?;
        Some(Box::new(RawPeer::new(&self.library, self.choice.clone(), (config().key, to))))
    }
}

epicserver_link::conformance!(mod fake_epoll, fake(Form::Epoll));
epicserver_link::conformance!(mod fake_uring, fake(Form::Uring));
epicserver_link::conformance!(mod device_epoll, device(Form::Epoll));
epicserver_link::conformance!(mod device_uring, device(Form::Uring));
