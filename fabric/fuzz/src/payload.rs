//! Payloads: any bytes are arguments of a method, or malformed; and what was read can be written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use epicserver_entity as __private;
use epicserver_entity::{Coded, Entity, EntityType, Message, MethodInfo, Ref, Request, Target};
use epicserver_macros::{entity, message};
use epicserver_wire::frame::{Frame, FrameMut, Part};
use epicserver_wire::limits::KEY_BYTES_MAX;
use epicserver_wire::uuid::Uuid;
use epicserver_wire::view::View;
use epicserver_wire::{CallError, ClassId, EntityId, EntityKey as _};

/// Called by a number.
#[entity(key = u64, crate = __paths)]
#[derive(Default)]
pub struct Numbered;

/// Called by a name.
#[entity(crate = __paths)]
#[derive(Default)]
pub struct Named;

#[entity(crate = __paths)]
impl Named {
    pub fn nothing(&self) {}
}

/// A value that holds values of its own type.
#[message(crate = __paths)]
#[derive(Debug)]
pub enum Tree {
    /// An end.
    Leaf(String),
    /// A list.
    Many(Vec<Self>),
    /// Two ways.
    Fork { left: Box<Self>, right: Option<Box<Self>> },
}

/// A record of many kinds of fields.
#[message(crate = __paths)]
#[derive(Debug)]
pub struct Record {
    name: String,
    mark: char,
    flags: (bool, Option<bool>, Option<Option<u8>>),
    numbers: (i8, u16, i32, u64, i128, f32, f64),
    to: Option<Ref<Named>>,
    outcome: Result<Uuid, CallError>,
}

#[entity(crate = __paths)]
impl Numbered {
    pub fn plain(&self, number: u32, text: String) -> u32 {
        drop(text);
        number
    }

    pub fn nested(&self, lists: Vec<Vec<(String, Option<u64>)>>) -> Vec<String> {
        lists.into_iter().flatten().map(|(text, _)| text).collect()
    }

    pub fn refs(&self, numbered: Ref<Self>, named: Vec<Ref<Named>>) -> Option<Ref<Named>> {
        drop(numbered);
        named.into_iter().next()
    }

    pub fn tree(&self, tree: Tree) -> Tree {
        tree
    }

    pub fn records(&self, records: Vec<Record>) -> Option<Record> {
        records.into_iter().next()
    }

    pub fn maps(
        &self,
        map: BTreeMap<String, Vec<u16>>,
        set: BTreeSet<u64>,
        both: BTreeMap<(u8, String), BTreeMap<u32, Ref<Numbered>>>,
    ) -> u8 {
        u8::try_from(map.len() + set.len() + both.len()).unwrap_or(u8::MAX)
    }

    pub fn views(
        &self,
        bytes: View<Vec<u8>>,
        records: View<Vec<Record>>,
        refs: Vec<View<Ref<Named>>>,
    ) {
        drop((bytes, records, refs));
    }

    pub fn sequences(
        &self,
        queue: VecDeque<Box<[u16]>>,
        fixed: [Option<String>; 3],
        wait: Duration,
    ) {
        drop((queue, fixed, wait));
    }
}

/// What a node does with a message's payload, of the method that the first byte names.
///
/// # Panics
/// If something is wrong.
pub fn payload(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let frame = Frame::copy_of(bytes);
    let methods = <Numbered as Entity>::METHODS;
    match methods.get(usize::from(*choice)) {
        Some(method) => arguments(method, Part::all(&frame)),
        None => replies(*choice, frame),
    }
}

fn target() -> Target {
    Target::new(EntityId::new(Numbered::TYPE_ID, ClassId::DEFAULT, None, 7_u64.to_key()))
}

/// Reads them as a node does; what was read is the same once it was written and read again.
fn arguments(method: &MethodInfo, part: Part<'_>) {
    let Ok(request) = (method.read)(target(), part) else { return };
    let hint = part.bytes().len();
    let first = written(request, hint).freeze();
    let second = (method.read)(target(), Part::all(&first)).expect("what is written can be read");
    assert_eq!(written(second, hint).bytes(), first.bytes());
}

fn written(request: Request, hint: usize) -> FrameMut {
    let mut frame = FrameMut::detached((hint * 8 + 4096).next_multiple_of(16));
    let mut out = epicserver_wire::Out::slot(frame.slot_mut());
    request.encode_args_to(&mut out).expect("what was read can be written");
    let len = epicserver_wire::rkyv::ser::Positional::pos(&out);
    frame.set_len(len);
    request.recycle();
    frame
}

fn replies(choice: u8, frame: Frame) {
    match choice % 9 {
        0 => reply::<CallError>(frame),
        1 => reply::<Result<Tree, CallError>>(frame),
        2 => reply::<Result<Option<Record>, CallError>>(frame),
        3 => reply::<Vec<Result<Ref<Named>, CallError>>>(frame),
        4 => reply::<BTreeMap<u8, BTreeSet<String>>>(frame),
        5 => reply::<Box<[Option<Box<String>>]>>(frame),
        6 => reply::<(char, bool, Duration, Uuid, [CallError; 2])>(frame),
        7 => views(frame),
        _ => id(frame.bytes()),
    }
}

fn reply<T: Message>(frame: Frame) {
    let Ok(mut value) = T::decode_in(Part::all(&frame)) else { return };
    drop(frame);
    value.crossed();
    let first = value.encode().expect("what was read can be written");
    let again = T::decode(&first).expect("what is written can be read");
    assert_eq!(again.encode(), Ok(first));
}

/// Views outlive whoever gave them the frame, and show what a plain value would be.
fn views(frame: Frame) {
    type Viewed = (View<Vec<u8>>, Vec<View<String>>, View<Vec<Ref<Named>>>, Option<View<Tree>>);
    type Plain = (Vec<u8>, Vec<String>, Vec<Ref<Named>>, Option<Tree>);
    let plain = Plain::decode(frame.bytes());
    let viewed = Viewed::decode_in(Part::all(&frame));
    assert_eq!(plain.is_ok(), viewed.is_ok());
    let (Ok(plain), Ok(viewed)) = (plain, viewed) else { return };
    drop(frame);
    assert_eq!(plain.encode(), viewed.encode());
    let (bytes, texts, refs, tree) = viewed;
    assert_eq!(&bytes[..], &plain.0);
    assert!(texts.iter().map(|text| &***text).eq(plain.1.iter().map(String::as_str)));
    assert_eq!(refs.len(), plain.2.len());
    assert_eq!(refs.into_value(), Ok(plain.2));
    assert_eq!(tree.is_some(), plain.3.is_some());
}

fn id(bytes: &[u8]) {
    if let Some(id) = EntityId::from_bytes(bytes) {
        assert_eq!(id.to_bytes(), bytes);
        assert!(id.key().payload().len() <= KEY_BYTES_MAX && !format!("{id:?}").is_empty());
        assert!(id.shard(7).index() < 7);
    }
}

mod __paths {
    pub(crate) use crate::payload::__private::*;
    pub(crate) use epicserver_wire::{self as wire, rkyv};
}

pub(crate) mod samples {
    //! Sound payloads behind the number of what reads them.

    use epicserver_wire::{ChainId, ErrorKind, Ran};

    use super::*;

    fn record() -> Record {
        Record {
            name: "a record with a long name".to_owned(),
            mark: 'é',
            flags: (true, Some(false), Some(None)),
            numbers: (-1, 2, -3, 4, -5, 1.5, -2.5),
            to: Some(Ref::of("bob")),
            outcome: Err(CallError::refused(ErrorKind::Overloaded, ChainId::NONE)),
        }
    }

    fn tree() -> Tree {
        let leaf = || Tree::Leaf("leaf".to_owned());
        let fork = Tree::Fork { left: Box::new(leaf()), right: Some(Box::new(leaf())) };
        Tree::Many(vec![fork, leaf()])
    }

    fn arguments(name: &str, args: &impl Message) -> (String, Vec<u8>) {
        let of_name = |method: &MethodInfo| method.name == name;
        let at = <Numbered as Entity>::METHODS.iter().position(of_name).expect("there is one");
        let bytes = args.encode().expect("a sample can be written");
        let frame = Frame::copy_of(&bytes);
        let read = (<Numbered as Entity>::METHODS[at].read)(target(), Part::all(&frame));
        assert!(read.is_ok(), "a sample can be read");
        (name.to_owned(), [&[u8::try_from(at).expect("there are few")], &bytes[..]].concat())
    }

    fn reply(name: &str, choice: u8, reply: &impl Message) -> (String, Vec<u8>) {
        let bytes = reply.encode().expect("a sample can be written");
        // Beyond the number of any method, and a multiple of nine.
        (format!("reply_{name}"), [&[choice + 0x90], &bytes[..]].concat())
    }

    pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
        let texts = ["a", "a longer text"].map(str::to_owned);
        let pair = |text: &String| (text.clone(), Some(7_u64));
        let map: BTreeMap<String, Vec<u16>> =
            texts.iter().map(|t| (t.clone(), vec![1, 2])).collect();
        let both =
            BTreeMap::from([((1_u8, "k".to_owned()), BTreeMap::from([(2_u32, numbered())]))]);
        let queue: VecDeque<Box<[u16]>> = VecDeque::from([vec![1, 2].into_boxed_slice()]);
        let fixed = [None, Some("x".to_owned()), Some(texts[1].clone())];
        let error = CallError::new(ErrorKind::Panicked, Ran::Yes, ChainId::NONE);
        let named = vec![Ref::<Named>::of("bob"), Ref::of("a name that takes more room")];
        let id = EntityId::new(
            Numbered::TYPE_ID,
            ClassId::of("c"),
            Some(5),
            (1_u64, texts[1].clone()).to_key(),
        );
        let refs: Vec<Result<Ref<Named>, CallError>> =
            named.iter().cloned().map(Ok).chain([Err(error)]).collect();
        let viewed = (vec![7_u8; 300], texts.to_vec(), named.clone(), Some(tree()));
        vec![
            arguments("plain", &(7_u32, texts[1].clone())),
            arguments("nested", &(vec![texts.iter().map(pair).collect::<Vec<_>>(), Vec::new()],)),
            arguments("refs", &(numbered(), named.clone())),
            arguments("tree", &(tree(),)),
            arguments("records", &(vec![record(), record()],)),
            arguments("maps", &(map, BTreeSet::from([1_u64, 2, 3]), both)),
            arguments("views", &(vec![7_u8; 300], vec![record()], named.clone())),
            arguments("sequences", &(queue, fixed, Duration::new(1, 2))),
            reply("error", 0, &error),
            reply("tree", 1, &Ok::<Tree, CallError>(tree())),
            reply("record", 2, &Ok::<Option<Record>, CallError>(Some(record()))),
            reply("refs", 3, &refs),
            reply("sets", 4, &BTreeMap::from([(1_u8, BTreeSet::from(texts.clone()))])),
            reply("boxes", 5, &vec![None, Some(Box::new(texts[1].clone()))].into_boxed_slice()),
            reply(
                "plain",
                6,
                &('x', true, Duration::new(3, 4), Uuid::from_bytes([9; 16]), [error; 2]),
            ),
            reply("views", 7, &viewed),
            ("id".to_owned(), [&[0x98], &id.to_bytes()[..]].concat()),
        ]
    }

    fn numbered() -> Ref<Numbered> {
        Ref::of(7_u64)
    }
}
