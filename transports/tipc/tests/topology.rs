//! The topology service tells of services as they come and go, where the kernel has TIPC: `hw-tests/run tipc`.

#![expect(clippy::print_stderr, reason = "what is skipped is said aloud")]

use std::time::{Duration, Instant};

use epicserver_link::conformance::Seat;
use epicserver_link::driver::{Form, Owner};
use epicserver_link::{Address, Refused, Transport};
use epicserver_shard::driver::open;
use epicserver_tipc::{Config, Importance, Service, Tipc, Topology, own_node};

/// Of no other test.
const KIND: u32 = 4_243;

/// Whether it can be tried here; says so if it cannot, and fails where it must.
fn is_here() -> bool {
    let lacks = match own_node() {
        Ok(Some(_)) => return true,
        Ok(None) => {
            "TIPC has given this machine no address: `tipc bearer enable media eth device IFACE`"
                .to_owned()
        }
        Err(error) => error.to_string(),
    };
    let there = std::env::var_os("EPIC_HW_AREA").is_some_and(|area| area == "tipc");
    assert!(!there, "cannot run: {lacks}");
    eprintln!("skipped: {lacks}; `hw-tests/run tipc` runs it");
    false
}

fn service(instance: u32) -> Service {
    Service::new(KIND, std::process::id() << 16 | instance).expect("a type of our own")
}

fn seat(service: Service) -> Result<Seat, Refused> {
    let config = Config { service, importance: Importance::Low };
    Seat::open(open(Some(Form::Epoll)).expect("every kernel has epoll"), |io| {
        Tipc::listen(Owner(0), config, io).map(|tipc| Box::new(tipc) as Box<dyn Transport>)
    })
}

/// Looks until the services of this process are `wanted`.
fn until(topology: &mut Topology, wanted: &[Service]) {
    let began = Instant::now();
    loop {
        topology.changed();
        let ours = |service: &Service| service.instance() >> 16 == std::process::id() & 0xffff;
        let found: Vec<Service> = topology.services().filter(ours).collect();
        if found == wanted {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{found:?} instead of {wanted:?}");
        std::thread::yield_now();
    }
}

#[test]
fn services_that_come_and_go_are_told_of() {
    if !is_here() {
        return;
    }
    let (one, other) = (service(1), service(2));
    let first = seat(one).unwrap();
    let mut topology = Topology::watch(one).unwrap();
    until(&mut topology, &[one]);
    let second = seat(other).unwrap();
    until(&mut topology, &[one, other]);
    drop(first);
    until(&mut topology, &[other]);
    drop(second);
    until(&mut topology, &[]);
}

#[test]
fn a_node_whose_instance_is_taken_listens_at_the_next_one() {
    if !is_here() {
        return;
    }
    let address = |seat: &Seat| seat.transport.addresses().remove(0);
    let [first, second] = [seat(service(10)).unwrap(), seat(service(10)).unwrap()];
    let expected: [Address; 2] = [service(10).address(), service(11).address()];
    assert_eq!([address(&first), address(&second)], expected);
}
