//! The suite, held against the forms that need nothing.

use epicserver_wire::NodeId;

use super::{Lacks, Subject, names};
use crate::{Coordinator, Memory, Static, Wake, fixed};

struct OfMemory(Memory);

impl Subject for OfMemory {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        Ok(Box::new(self.0.handle(wake)))
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self(Memory::new()))
    }

    fn forget(&self, node: NodeId) -> bool {
        self.0.forget(node);
        true
    }
}

fn memory() -> Result<OfMemory, Lacks> {
    Ok(OfMemory(Memory::new()))
}

struct Given;

impl Subject for Given {
    fn open(&self, wake: Wake) -> Result<Box<dyn Coordinator>, String> {
        let members = [2, 1].map(|node| (NodeId::new(node), b"given".to_vec()));
        let options =
            fixed::Options { number: 77, view: b"view".to_vec(), members: members.into() };
        Static::new(options, wake)
            .map(|fixed| Box::new(fixed) as Box<dyn Coordinator>)
            .map_err(|error| error.to_string())
    }

    fn another(&self) -> Box<dyn Subject> {
        Box::new(Self)
    }
}

fn given() -> Result<Given, Lacks> {
    Ok(Given)
}

crate::conformance!(mod of_memory, memory());
crate::conformance!(fixed mod of_given, given());

#[test]
fn behaviours_have_names_of_their_own() {
    let mut all: Vec<&str> = names().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(count >= 30, "{count} behaviours");
}

#[test]
fn what_the_machine_lacks_is_skipped_unless_all_is_required() {
    let lacks = || Err::<OfMemory, _>(Lacks("no memory: apt-get install memory".to_owned()));
    let skipped = std::panic::catch_unwind(|| super::or_skip(lacks(), "a test").is_none());
    let all = std::env::var_os("EPIC_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert_eq!(skipped.ok(), (!all).then_some(true));
}

#[test]
fn a_clock_that_is_put_forward_ends_leases() {
    let memory = Memory::new();
    let subject = OfMemory(memory.clone());
    let (mut one, mut other) = (super::Client::open(&subject), super::Client::open(&subject));
    let (node, ttl) = (NodeId::new(1), std::time::Duration::from_secs(3));
    assert_eq!(one.renew(node, b"", ttl), crate::Answer::Renewed { number: 0 });
    memory.skip(ttl);
    assert!(other.read().1[0].left.is_zero());
    assert_eq!(other.change(0, b"", &[node]), crate::Answer::Changed { number: 1 });
}
