//! What states of many kinds of fields were stored as, by this release and by those before: the files in `golden`.
//!
//! A file that does not fit any more says that something written by an earlier release would not be read. A release that
//! writes otherwise, by another codec or envelope, adds files of types of its own; those that are here stay.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use epicserver::prelude::*;

/// Relative to the package, where cargo runs tests.
const FOLDER: &str = "tests/golden";

/// A part of a state that is a message of its own.
#[message]
#[derive(Debug, PartialEq, Clone)]
struct Crate {
    label: String,
    weight: u32,
    opened: Option<Duration>,
}

/// The same in version 1 of those who hold it.
#[message]
#[derive(Debug, PartialEq)]
struct CrateV1 {
    label: String,
    weight: u16,
}

impl From<CrateV1> for Crate {
    fn from(old: CrateV1) -> Self {
        Self { label: old.label, weight: u32::from(old.weight), opened: None }
    }
}

#[message]
#[derive(Debug, PartialEq)]
enum Course {
    Moored,
    Towards { port: String, knots: f32 },
    Following(Ref<Ship>, Box<Self>),
}

#[message]
struct ShipV1 {
    name: String,
    tons: u32,
    crew: Vec<String>,
    hold: BTreeMap<String, CrateV1>,
    course: Course,
    harbour: Option<Ref<Lock>>,
}

/// Many kinds of fields, and a key of several parts.
#[entity(key = (u32, String), upgrades(ShipV1))]
#[derive(Debug, PartialEq)]
struct Ship {
    name: String,
    tons: u64,
    crew: Vec<String>,
    hold: BTreeMap<String, Crate>,
    course: Course,
    harbour: Option<Ref<Lock>>,
    flags: (bool, char, Option<()>),
    sizes: [i16; 3],
    numbers: (u8, i8, u16, i32, i64, u128, i128, f64),
    ports: BTreeSet<(u8, String)>,
    log: VecDeque<Result<u32, String>>,
    id: Uuid,
    #[unsaved]
    looked_at: u32,
}

#[entity]
impl Ship {
    #[activate]
    fn new(_at: At<Self>) -> Self {
        fleet()
    }
}

impl From<ShipV1> for Ship {
    fn from(old: ShipV1) -> Self {
        Self {
            name: old.name,
            tons: u64::from(old.tons),
            crew: old.crew,
            hold: old.hold.into_iter().map(|(at, crate_)| (at, crate_.into())).collect(),
            course: old.course,
            harbour: old.harbour,
            flags: (false, 'a', None),
            sizes: [0; 3],
            numbers: (0, 0, 0, 0, 0, 0, 0, 0.0),
            ports: BTreeSet::new(),
            log: VecDeque::new(),
            id: Uuid::nil(),
            looked_at: 0,
        }
    }
}

/// What the files say, as it was in version 1.
fn first() -> ShipV1 {
    ShipV1 {
        name: "Ägir".to_owned(),
        tons: 40_000,
        crew: vec![
            "Bob".to_owned(),
            "a name that is longer than what fits".to_owned(),
            String::new(),
        ],
        hold: BTreeMap::from([
            ("aft".to_owned(), CrateV1 { label: "salt".to_owned(), weight: 65_535 }),
            ("fore".to_owned(), CrateV1 { label: "a long label of a crate".to_owned(), weight: 1 }),
        ]),
        course: Course::Following(
            Ref::of((8, "Rán".to_owned())),
            Box::new(Course::Towards { port: "Kiel".to_owned(), knots: 12.5 }),
        ),
        harbour: Some(Ref::of(77)),
    }
}

/// What they say now.
fn fleet() -> Ship {
    let (aft, fore) = (Duration::from_nanos(1_000_000_007), "a long label of a crate".to_owned());
    Ship {
        tons: 1 << 40,
        hold: BTreeMap::from([
            (
                "aft".to_owned(),
                Crate { label: "salt".to_owned(), weight: 70_000, opened: Some(aft) },
            ),
            ("fore".to_owned(), Crate { label: fore, weight: 1, opened: None }),
        ]),
        flags: (true, 'ß', Some(())),
        sizes: [-1, 2, i16::MAX],
        numbers: (1, -2, 3, -4, i64::MIN, u128::MAX - 5, -6, 7.25),
        ports: BTreeSet::from([(2, "b".to_owned()), (1, "Kiel".to_owned())]),
        log: VecDeque::from([Ok(5), Err("aground".to_owned())]),
        id: Uuid::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        looked_at: 3,
        ..first().into()
    }
}

#[test]
fn a_ship_is_stored_as_it_was_and_one_of_before_is_read() {
    let older = epicserver::golden(FOLDER, (7, "Ägir".to_owned()), &fleet());
    assert_eq!(older, BTreeMap::from([(1, first().into())]));
}

#[message]
enum LockV1 {
    Open,
    Filling(u8),
}

/// An enum, in a class and a group of its own; its second version is the third form that it had.
#[entity(key = u64, class = "canals", group = |key| key / 10, version = 3, upgrades(LockV1))]
#[derive(Debug, PartialEq)]
enum Lock {
    Open,
    Filling { tenths: u8, ship: Option<Ref<Ship>> },
    Broken(Vec<u8>),
}

#[entity]
impl Lock {
    #[activate]
    fn new(_at: At<Self>) -> Self {
        Self::Open
    }
}

impl From<LockV1> for Lock {
    fn from(old: LockV1) -> Self {
        match old {
            LockV1::Open => Self::Open,
            LockV1::Filling(tenths) => Self::Filling { tenths, ship: None },
        }
    }
}

#[test]
fn a_lock_is_stored_as_it_was_and_one_of_before_is_read() {
    let lock = Lock::Filling { tenths: 3, ship: Some(Ref::of((7, "Ägir".to_owned()))) };
    let older = epicserver::golden(FOLDER, 77, &lock);
    assert_eq!(older, BTreeMap::from([(2, Lock::Filling { tenths: 9, ship: None })]));
}

#[message]
#[derive(Debug, PartialEq)]
struct Branch {
    leaves: u32,
    next: Vec<Self>,
}

/// A state that holds values of its own kind, under a key that is a text, and of one version still.
#[entity]
#[derive(Debug, PartialEq)]
struct Tree {
    root: Branch,
    #[unsaved]
    birds: u32,
}

#[entity]
impl Tree {
    #[activate]
    fn new(_at: At<Self>) -> Self {
        Self { root: Branch { leaves: 0, next: Vec::new() }, birds: 0 }
    }
}

#[test]
fn a_tree_is_stored_as_it_was() {
    let twig = |leaves| Branch { leaves, next: Vec::new() };
    let bough = Branch { leaves: 4, next: vec![twig(5), twig(6)] };
    let tree = Tree { root: Branch { leaves: 1, next: vec![twig(2), bough] }, birds: 9 };
    assert_eq!(
        epicserver::golden(FOLDER, "a key that is longer than what an id has room for", &tree),
        BTreeMap::new()
    );
}
