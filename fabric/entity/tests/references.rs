//! References among other values: whatever is wrong with one is found before any value is read.

use epicserver_entity as __private;
use epicserver_entity::{Coded as _, Ref};
use epicserver_macros::entity;
use epicserver_wire::Malformed;
use epicserver_wire::rkyv::util::AlignedVec;
use epicserver_wire::rkyv::{self, Archived, rancor};

#[entity(key = u64, crate = __paths)]
#[derive(Default)]
struct Barrel;

#[entity(crate = __paths)]
impl Barrel {
    pub fn nothing(&self) {}
}

#[entity(key = u64, crate = __paths)]
#[derive(Default)]
struct Player;

#[entity(crate = __paths)]
impl Player {
    pub fn nothing(&self) {}
}

mod __paths {
    pub(crate) use crate::__private::*;
    pub(crate) use epicserver_wire::{self as wire, rkyv};
}

type Barrels = (String, Vec<Box<Ref<Barrel>>>);
type Players = (String, Vec<Box<Ref<Player>>>);

fn barrels() -> (Barrels, AlignedVec) {
    let barrels = (0_u64..3).map(|key| Box::new(Ref::of(key))).collect();
    let barrels = ("a text that takes memory".to_owned(), barrels);
    let mut bytes = AlignedVec::new();
    bytes.extend_from_slice(&barrels.encode().unwrap_or_default());
    (barrels, bytes)
}

#[test]
fn references_return_as_they_were() {
    let (barrels, bytes) = barrels();
    assert_eq!(Barrels::decode(&bytes), Ok(barrels));
}

#[test]
fn a_reference_to_another_type_is_found_before_any_value_is_read() {
    let (_, bytes) = barrels();
    assert!(rkyv::access::<Archived<Barrels>, rancor::Error>(&bytes).is_ok());
    // The codec would not free what it had read of the list until then.
    assert!(rkyv::access::<Archived<Players>, rancor::Error>(&bytes).is_err());
    assert_eq!(Players::decode(&bytes), Err(Malformed));
}

#[test]
fn a_reference_to_no_entity_is_found_before_any_value_is_read() {
    let (_, bytes) = barrels();
    let form = bytes.windows(2).position(|pair| pair == [0, 1]);
    let form = form.expect("no group, and a key that is a number") + 1;
    for number in [0, 2, 3, 5, 8] {
        let mut bytes = bytes.clone();
        bytes[form] = number;
        let read = Barrels::decode(&bytes);
        // A signed number has the same form as an unsigned one.
        assert_eq!(read.is_err(), number != 2 && number != 5, "{number}");
        let checked = rkyv::access::<Archived<Barrels>, rancor::Error>(&bytes);
        assert_eq!(checked.is_err(), read.is_err());
    }
}
