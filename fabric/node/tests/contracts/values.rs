//! Values as the codec writes them: arguments, replies, errors, saved state. And what a method is called.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use epicserver_entity as __private;
use epicserver_entity::{Coded, EntityType, Form, Message, Ref};
use epicserver_macros::{entity, message};
use epicserver_wire::uuid::Uuid;
use epicserver_wire::{CallError, ChainId, Codec, ErrorKind, MethodId, Progress, Ran, Rkyv, Time};

use crate::page::{Page, hex};

/// An entity as users write them.
#[entity(key = u64, crate = __paths)]
#[derive(Default)]
struct Sample {
    told: u32,
}

#[entity(crate = __paths)]
impl Sample {
    pub fn tell(&mut self, told: u32, to: String) -> u32 {
        drop(to);
        self.told += told;
        self.told
    }

    pub fn nothing(&self) {}
}

#[message(crate = __paths)]
#[derive(Debug)]
struct Point {
    near: u8,
    far: u32,
    name: String,
}

#[message(crate = __paths)]
#[derive(Debug)]
enum Shape {
    Empty,
    Dot(u16),
    Line { from: Point, to: Option<Box<Self>> },
}

mod __paths {
    pub(crate) use crate::values::__private::*;
    pub(crate) use epicserver_wire::{self as wire, rkyv};
}

pub(crate) fn render(page: &mut Page) {
    page.section("an entity: its methods, and the arguments of a call");
    page.line("type", format!("{} {:?}", Sample::NAME, Sample::TYPE_ID));
    for method in <Sample as __private::Entity>::METHODS {
        let id = format!("{:08x}", method.id.as_u32());
        page.line(method.name, format!("{id} {:?}, form {:016x}", method.mode, (method.form)()));
        assert_eq!(method.id, MethodId::of(Sample::NAME, method.name), "ids follow from names");
    }
    value(page, "tell(0x04030201, \"bob\")", &(0x0403_0201_u32, "bob".to_owned()));
    value(page, "nothing()", &());
    forms(page);
    page.section("values");
    page.line("number of the codec", <Rkyv as Codec<u8>>::ID);
    plain(page);
    containers(page);
    records(page);
    errors(page);
}

/// The texts whose hashes nodes compare before they call each other by a method.
fn forms(page: &mut Page) {
    page.section("forms: what the bytes of a value are made of, as text");
    page.text(&Form::text_of::<(u32, Vec<Option<String>>, [u8; 4], Result<(), Box<i8>>)>());
    page.text(&Form::text_of::<(BTreeMap<u8, BTreeSet<Uuid>>, VecDeque<Duration>, Box<[char]>)>());
    page.text(&Form::text_of::<(Point, Ref<Sample>, CallError)>());
    page.text(&Form::text_of::<Shape>());
}

fn value<T: Message>(page: &mut Page, name: &str, value: &T) {
    let bytes = value.encode().unwrap_or_default();
    assert!(T::decode(&bytes).is_ok(), "{name} can be read");
    page.bytes(name, &bytes);
}

fn plain(page: &mut Page) {
    value(page, "true", &true);
    value(page, "'é'", &'é');
    value(page, "(1_u8, 0x0201_u16)", &(1_u8, 0x0201_u16));
    value(page, "(1_u8, 0x04030201_u32)", &(1_u8, 0x0403_0201_u32));
    value(page, "(1_u8, 0x0807060504030201_u64)", &(1_u8, 0x0807_0605_0403_0201_u64));
    value(page, "(1_u8, 1_u128)", &(1_u8, 1_u128));
    value(page, "(-1_i8, -2_i16, -3_i32, -4_i64)", &(-1_i8, -2_i16, -3_i32, -4_i64));
    value(page, "(1.5_f32, -2.5_f64)", &(1.5_f32, -2.5_f64));
    value(page, "1 s and 2 ns", &Duration::new(1, 2));
    value(page, "a uuid", &Uuid::from_bytes([0xcc; 16]));
}

fn containers(page: &mut Page) {
    value(page, "\"\"", &String::new());
    value(page, "\"8 bytes.\"", &"8 bytes.".to_owned());
    value(page, "\"9 bytes..\"", &"9 bytes..".to_owned());
    value(page, "vec![1_u8, 2, 3]", &vec![1_u8, 2, 3]);
    value(
        page,
        "vec![\"a\", \"a longer text\"]",
        &vec!["a".to_owned(), "a longer text".to_owned()],
    );
    value(page, "an empty Vec<u64>", &Vec::<u64>::new());
    value(page, "VecDeque [1_u16, 2]", &VecDeque::from([1_u16, 2]));
    value(page, "Box<[1_u16, 2]>", &vec![1_u16, 2].into_boxed_slice());
    value(page, "[1_u16, 2]", &[1_u16, 2]);
    value(page, "Box(7_u64)", &Box::new(7_u64));
    value(page, "Some(7_u32)", &Some(7_u32));
    value(page, "None::<u32>", &None::<u32>);
    value(page, "Ok::<u32, String>(7)", &Ok::<u32, String>(7));
    value(page, "Err::<u32, String>(\"no\")", &Err::<u32, String>("no".to_owned()));
    value(page, "BTreeMap {1: \"a\", 2: \"b\"}", &map([1, 2]));
    value(page, "BTreeMap of 0 to 5", &map([0, 1, 2, 3, 4, 5]));
    value(page, "an empty BTreeSet<u8>", &BTreeSet::<u8>::new());
    value(page, "Sample 7", &Ref::<Sample>::of(7_u64));
}

fn map<const N: usize>(keys: [u8; N]) -> BTreeMap<u8, String> {
    keys.into_iter().map(|key| (key, format!("{key}"))).collect()
}

fn records(page: &mut Page) {
    let point = |near| Point { near, far: 0x0403_0201, name: "here".to_owned() };
    value(page, "Point { u8, u32, String }", &point(9));
    value(page, "Shape::Empty", &Shape::Empty);
    value(page, "Shape::Dot(0x0201)", &Shape::Dot(0x0201));
    let line = |to| Shape::Line { from: point(1), to };
    value(page, "Shape::Line within a Shape::Line", &line(Some(Box::new(line(None)))));
}

fn error(kind: ErrorKind, ran: Ran) -> CallError {
    CallError::new(kind, ran, ChainId::NONE)
}

/// Numbers are asked from the reader: whichever it takes at the place where two errors differ.
fn errors(page: &mut Page) {
    let chain = ChainId::new(Time::from_nanos(0x0807_0605_0403_0201), 0x1817_1615_1413_1211);
    page.section("why a call failed");
    let queued = Progress::QueuedBehind(MethodId::from_u32(0x0403_0201));
    value(page, "deadline, queued behind 0x04030201", &CallError::deadline(Ran::No, chain, queued));
    let running = Progress::RunningForMs(0x0403_0201);
    value(
        page,
        "deadline, running for 0x04030201 ms",
        &CallError::deadline(Ran::Yes, chain, running),
    );
    let plain = error(ErrorKind::Deadline, Ran::No);
    let other = error(ErrorKind::Overloaded, Ran::No);
    numbers(page, "kind", (&plain, &other), |error| format!("{:?}", error.kind()));
    let other = error(ErrorKind::Deadline, Ran::Yes);
    numbers(page, "ran", (&plain, &other), |error| format!("{:?}", error.ran()));
    let other = CallError::deadline(Ran::No, ChainId::NONE, Progress::Queued);
    numbers(page, "progress", (&plain, &other), |error| format!("{:?}", error.progress()));
}

fn numbers(
    page: &mut Page,
    what: &str,
    pair: (&CallError, &CallError),
    of: impl Fn(CallError) -> String,
) {
    let [mut bytes, other] = [pair.0, pair.1].map(|error| error.encode().unwrap_or_default());
    let differs: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != other[*at]).collect();
    assert_eq!(differs.len(), 1, "the number of {what} has one byte: {}", hex(&other));
    page.line(&format!("{what}, at"), differs[0]);
    for number in 0..=u8::MAX {
        bytes[differs[0]] = number;
        if let Ok(error) = CallError::decode(&bytes) {
            page.line(&format!("{number:3}"), of(error));
        }
    }
}
