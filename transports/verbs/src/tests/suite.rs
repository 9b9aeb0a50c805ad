//! Verbs pass the suite of all transports, on a device that ends the process when it is used wrongly.
//!
//! # Not here
//! Real devices: the same suite runs on them where there are any.

use std::any::Any;
use std::net::TcpListener;

use epicserver_link::conformance::{Lacks, Raw, Seat, Subject};
use epicserver_link::driver::{Form, Owner};
use epicserver_link::{Address, Refused, Transport};
use epicserver_shard::driver::{DriverError, open};

use super::fake;
use super::raw::RawPeer;
use crate::choose::{self, Choice};
use crate::{Config, Key, SCHEME, Verbs};

struct Over(Form);

fn over(form: Form) -> Result<Over, Lacks> {
    match open(Some(form)) {
        Ok(_) => Ok(Over(form)),
        // What the kernel says has a number.
        Err(DriverError::Unavailable { source, .. }) if source.raw_os_error().is_none() => {
            Err(Lacks::Code(format!("there is no driver for {form}")))
        }
        Err(error) => Err(Lacks::Machine(error.to_string())),
    }
}

fn config() -> Config {
    let addresses = vec!["127.0.0.1:0".parse().unwrap()];
    Config { addresses, key: Key([3; 32]), ..Config::default() }
}

pub(super) fn choice() -> Choice {
    let candidates = choose::look(&fake::library(), std::path::Path::new("/nowhere")).unwrap();
    choose::choose(&candidates, &config()).unwrap()
}

impl Subject for Over {
    fn seat(&self) -> Seat {
        let driver = open(Some(self.0)).unwrap();
        let seat = Seat::open(driver, |io| {
            let verbs = Verbs::listen_by(&fake::library(), Owner(0), config(), io);
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
        let peer = RawPeer::new(&fake::library(), choice(), (Key([3; 32]), to));
        Some(Box::new(peer))
    }
}

epicserver_link::conformance!(mod epoll, over(Form::Epoll));
epicserver_link::conformance!(mod uring, over(Form::Uring));
