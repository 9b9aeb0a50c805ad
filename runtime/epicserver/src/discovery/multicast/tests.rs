//! The life of the daemon, at the loopback interface, where it hears nobody but itself.

use super::*;

fn polled(now: Instant) -> Multicast {
    let mut multicast = Multicast::new("game", Some("lo"), now);
    multicast.announce(NodeId::new(7), &[Address::new("tcp", "127.0.0.1:7")]);
    let _found = multicast.poll(now);
    assert!(multicast.daemon.is_ok());
    multicast
}

/// Polls at `now` until the daemon was ended, and says until when it rests.
fn rests(multicast: &mut Multicast, now: Instant) -> Instant {
    loop {
        let _found = multicast.poll(now);
        if let Err(until) = &multicast.daemon {
            return *until;
        }
    }
}

#[test]
fn mc1_a_daemon_that_keeps_too_much_is_ended_and_forgets() {
    let now = Instant::now();
    let mut multicast = polled(now);
    multicast.records_max = -1;
    let later = now + CHECK;
    assert_eq!(rests(&mut multicast, later), later + REST);
    assert_eq!(multicast.counts().last(), Some(&("rests", 1)));
    let metrics = [("cached-ptr", 3), ("cached-addr", 4), ("timer", 5), ("respond", 100)];
    assert_eq!(kept(&metrics.map(|(name, count)| (name.to_owned(), count)).into()), 12);
}

#[test]
fn mc1_the_daemon_names_what_it_keeps_as_we_think() {
    let multicast = polled(Instant::now());
    let Ok(daemon) = &multicast.daemon else { panic!("it has just begun") };
    let metrics = daemon.service.get_metrics().unwrap().recv().unwrap();
    let names = ["cached-ptr", "cached-srv", "cached-addr", "cached-txt", "cached-nsec", "timer"];
    for name in names {
        assert!(metrics.contains_key(name), "{name} is not in {metrics:?}");
    }
}

#[test]
fn mc2_a_daemon_that_has_ended_is_started_again() {
    let now = Instant::now();
    let mut multicast = polled(now);
    let Ok(daemon) = &multicast.daemon else { panic!("it has just begun") };
    let _status = daemon.service.shutdown().unwrap().recv().unwrap();
    let until = rests(&mut multicast, now);
    let _found = multicast.poll(until - Duration::from_millis(1));
    assert!(multicast.daemon.is_err());
    let _found = multicast.poll(until);
    assert!(multicast.daemon.is_ok());
}
