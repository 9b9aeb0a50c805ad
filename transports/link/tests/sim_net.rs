//! The suite of all transports on the network of the simulator: what the simulator calls a link keeps the
//! promises that every link keeps, whatever its delays are.
//!
//! # Not here
//! What the network's lines promise by themselves: their own tests.

mod sim;

use std::time::Duration;

use epicserver_link::conformance;
use sim::SimNet;

conformance!(mod at_once, Ok(SimNet::new(1, Duration::ZERO)));
conformance!(mod in_nanoseconds, Ok(SimNet::new(2, Duration::from_nanos(40))));
conformance!(mod in_microseconds, Ok(SimNet::new(3, Duration::from_micros(60))));
conformance!(mod in_milliseconds, Ok(SimNet::new(4, Duration::from_millis(2))));
conformance!(mod in_many_milliseconds, Ok(SimNet::new(5, Duration::from_millis(15))));
