//! Two nodes of two shards each, joined by hand: calls between them, and what ends them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use epicserver_entity as __private;
use epicserver_entity::{At, Cx, Entity as _, Pool, Ref, Registry, TurnId};
use epicserver_macros::{entity, exclusive};
use epicserver_node::{Config, Effect, Event, LinkUp, RootTask, Shard, WakeSink};
use epicserver_proto::session::Window;
use epicserver_proto::view::Share;
use epicserver_proto::{Directory, Ownership};
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::{Glance, Header, Kind, append};
use epicserver_wire::view::Slot;
use epicserver_wire::{CallError, ErrorKind, LinkId, MethodId, NodeId, Ran, ShardId, Time};

#[entity(key = u64, crate = __paths)]
#[derive(Default)]
struct Echo {
    seen: Vec<u32>,
}

#[entity(crate = __paths)]
impl Echo {
    pub fn add(&mut self, n: u32, padding: Vec<u8>) -> u32 {
        drop(padding);
        self.seen.push(n);
        n
    }

    pub fn seen(&self) -> Vec<u32> {
        self.seen.clone()
    }

    pub fn big(&self, len: u32) -> Vec<u8> {
        vec![7; len as usize]
    }

    pub fn words(&self, words: Vec<String>) -> Vec<String> {
        words
    }

    pub async fn ask(cx: Cx<Self>, other: Ref<Echo>) -> Result<u32, CallError> {
        let n = other.add(1, Vec::new()).await?;
        cx.with(|echo| echo.seen.push(n));
        Ok(n)
    }

    pub async fn sleep(cx: Cx<Self>, ms: u64) -> Result<u64, CallError> {
        cx.sleep(Duration::from_millis(ms)).await?;
        Ok(ms)
    }

    #[exclusive]
    pub async fn hold(&mut self, at: At<Self>, other: Ref<Echo>) -> Result<(), CallError> {
        drop(at);
        other.back(Ref::of(*self.seen.first().unwrap_or(&0) as u64)).await
    }

    pub async fn back(cx: Cx<Self>, to: Ref<Echo>) -> Result<(), CallError> {
        drop(cx);
        to.add(9, Vec::new()).await.map(drop)
    }
}

mod __paths {
    pub(crate) use crate::__private::*;
    pub(crate) use epicserver_wire::{self as wire, rkyv};
}

struct NoWakes;

impl WakeSink for NoWakes {
    fn wake(&self, _: TurnId) {}
}

/// Slots of a transport that takes bodies up to so many bytes.
#[derive(Debug)]
struct Heap(usize);

impl Slots for Heap {
    fn slot_bytes(&self) -> usize {
        4096
    }

    fn reserve(self: Arc<Self>) -> Option<FrameMut> {
        Some(FrameMut::detached(4096))
    }

    fn give_back(&self, slot: Box<dyn Slot>) {
        drop(slot);
    }

    fn body_bytes(&self) -> usize {
        self.0
    }
}

const LINK: LinkId = LinkId::new(1);
const WINDOW: Window = Window { messages: 8, units: 64 };

struct Node {
    id: NodeId,
    shards: Vec<Shard>,
}

impl Node {
    fn new(id: u64) -> Self {
        let mut registry = Registry::default();
        registry.add::<Echo>().expect("one type alone does not collide");
        let registry = Arc::new(registry);
        let shard = |index: u16| {
            Shard::new(Config {
                shard: ShardId::new(index),
                shards: 2,
                fabric: true,
                origin: u32::try_from(id).expect("it is small") * 16 + u32::from(index),
                registry: Arc::clone(&registry),
                memory_bytes_max: u64::MAX,
                idle: None,
                direct: true,
                seed: id,
                wakes: Arc::new(NoWakes),
                saves: None,
                clock: None,
                fault: None,
            })
        };
        Self { id: NodeId::new(id), shards: (0..2).map(shard).collect() }
    }
}

/// Two nodes, and what is under way between them.
struct Pair {
    nodes: Vec<Node>,
    wires: [VecDeque<Frame>; 2],
    cut: bool,
    violations: Vec<String>,
    now: Time,
    /// Methods that each node believes the other to have in another form.
    differing: [Vec<MethodId>; 2],
    bulk_bytes: usize,
    body_bytes: usize,
    /// The longest body that left.
    longest: usize,
}

impl Pair {
    fn new() -> Self {
        let nodes = vec![Node::new(11), Node::new(22)];
        let wires = [VecDeque::new(), VecDeque::new()];
        let now = Time::from_nanos(1_000);
        let differing = [Vec::new(), Vec::new()];
        let mut pair = Self {
            nodes,
            wires,
            cut: false,
            violations: Vec::new(),
            now,
            differing,
            bulk_bytes: usize::MAX,
            body_bytes: 0,
            longest: 0,
        };
        let directory = Arc::new(Directory::of(pair.nodes.iter().map(|node| Share::of(node.id))));
        for at in 0..2 {
            let view = Ownership::whole(1, pair.nodes[at].id, Arc::clone(&directory));
            let view = Arc::new(view);
            pair.tell(at, || Event::View(Arc::clone(&view)));
        }
        pair.join();
        pair
    }

    fn join(&mut self) {
        self.cut = false;
        for at in 0..2 {
            let node = self.nodes[1 - at].id;
            let up = LinkUp {
                link: LINK,
                node,
                shards: 2,
                theirs: WINDOW,
                ours: WINDOW,
                slots: Arc::new(Heap(self.body_bytes)),
                differing: self.differing[at].clone().into(),
                bulk_bytes: self.bulk_bytes,
            };
            self.tell(at, || Event::LinkUp(up.clone()));
        }
    }

    fn cut(&mut self) {
        self.cut = true;
        self.wires = [VecDeque::new(), VecDeque::new()];
        for at in 0..2 {
            self.tell(at, || Event::LinkDown(LINK));
        }
    }

    fn tell(&mut self, node: usize, event: impl Fn() -> Event) {
        for shard in 0..2 {
            self.handle(node, shard, event());
        }
    }

    fn handle(&mut self, node: usize, shard: usize, event: Event) {
        let mut out = Vec::new();
        self.nodes[node].shards[shard].handle(self.now, event, &mut out);
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    self.handle(node, to.index(), Event::Message(message));
                }
                Effect::Transmit { head, body, .. } => {
                    let mut bytes = head.bytes().to_vec();
                    self.longest = self.longest.max(body.as_ref().map_or(0, Frame::len));
                    bytes.extend_from_slice(body.as_ref().map_or(&[], Frame::bytes));
                    assert!(bytes.len().is_multiple_of(16), "messages are padded");
                    self.wires[1 - node].push_back(Frame::copy_of(&bytes));
                }
                Effect::Close { why, .. } => self.violations.push(why.to_string()),
                Effect::Wall { .. }
                | Effect::Random { .. }
                | Effect::Store { .. }
                | Effect::Drained { .. }
                | Effect::Behind { .. }
                | Effect::Notice(_) => {}
            }
        }
    }

    /// Runs until nothing is left to do at this time.
    fn settle(&mut self) {
        loop {
            let mut busy = false;
            for node in 0..2 {
                busy |= self.work(node, 0) | self.work(node, 1);
                while let Some(frame) = self.wires[node].pop_front() {
                    busy = true;
                    self.deliver(node, &frame);
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Runs what a shard has ready. Says whether it said anything.
    fn work(&mut self, node: usize, shard: usize) -> bool {
        let mut out = Vec::new();
        while self.nodes[node].shards[shard].run(self.now, 64, &mut out) {}
        self.nodes[node].shards[shard].flush(self.now, &mut out);
        let busy = !out.is_empty();
        self.carry_out(node, out);
        busy
    }

    fn deliver(&mut self, node: usize, frame: &Frame) {
        let mut at = 0;
        while at < frame.len() {
            let glance = Glance::at(frame.bytes(), at).expect("whole messages");
            let frame = frame.slice(at, glance.end).expect("it is as long");
            self.handle(node, glance.to.index(), Event::Packet { link: LINK, frame });
            at = glance.end;
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.settle();
    }

    /// Starts `task` on the first shard of the first node.
    fn start<R: Send + 'static>(
        &mut self,
        task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
    ) -> Receiver<R> {
        let (give, take) = channel();
        let root = RootTask::new(move || async move {
            drop(give.send(task(Pool::new()).await));
        });
        self.handle(0, 0, Event::Root(root));
        take
    }

    fn run<R: Send + 'static>(&mut self, task: impl AsyncFnOnce(Pool) -> R + Send + 'static) -> R {
        let result = self.start(task);
        self.settle();
        assert_eq!(self.violations, Vec::<String>::new());
        result.try_recv().expect("the task is done")
    }

    /// A key whose entity the other node owns, or this one.
    fn key(&self, node: usize) -> u64 {
        let directory = Directory::of(self.nodes.iter().map(|node| Share::of(node.id)));
        let owned = |key: &u64| {
            directory.owner(Ref::id(&Ref::<Echo>::of(*key))) == Some(self.nodes[node].id)
        };
        (100..).find(owned).expect("each node owns some")
    }

    fn remote_calls(&self) -> u64 {
        self.nodes.iter().flat_map(|node| &node.shards).map(|shard| shard.counters().remote).sum()
    }
}

#[test]
fn a_call_to_an_entity_of_another_node_runs_there_and_its_reply_comes_back() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let got = pair.run(async move |pool| pool.get::<Echo>(key).add(5, vec![1, 2, 3]).await);
    assert_eq!(got, Ok(5));
    assert_eq!(pair.remote_calls(), 1);
    let there: u32 = pair.nodes[1].shards.iter().map(|shard| shard.activations().0).sum();
    assert_eq!(there, 1);
}

#[test]
fn a_method_that_two_nodes_have_in_different_forms_is_refused_by_either_and_the_others_go_on() {
    for believer in 0..2 {
        let mut pair = Pair::new();
        let key = pair.key(1);
        let add = Echo::METHODS.iter().find(|method| method.name == "add").expect("it is there");
        pair.differing[believer] = vec![add.id];
        pair.join();
        let got = pair.run(async move |pool| {
            let echo = pool.get::<Echo>(key);
            let refused = echo.add(5, Vec::new()).await.expect_err("its form differs");
            (refused.kind(), refused.ran(), echo.seen().await)
        });
        assert_eq!(got, (ErrorKind::Malformed, Ran::No, Ok(Vec::new())));
    }
}

#[test]
fn messages_above_the_bound_that_was_set_leave_in_chunks_in_order_with_the_others() {
    let mut pair = Pair::new();
    pair.bulk_bytes = 1_000;
    pair.join();
    let key = pair.key(1);
    let seen = pair.run(async move |pool| {
        let echo = pool.get::<Echo>(key);
        let calls = (0..20).map(|n| echo.add(n, vec![0; 400 * n as usize]));
        for call in calls.collect::<Vec<_>>() {
            call.await?;
        }
        echo.seen().await
    });
    assert_eq!(seen, Ok((0..20).collect()));
}

#[test]
fn a_chain_of_calls_crosses_nodes_to_and_fro() {
    let mut pair = Pair::new();
    let (here, there) = (pair.key(0), pair.key(1));
    let got = pair.run(async move |pool| {
        let back = pool.get::<Echo>(here);
        pool.get::<Echo>(there).ask(back).await
    });
    assert_eq!(got, Ok(1));
    assert_eq!(pair.remote_calls(), 2);
}

#[test]
fn i4_calls_of_one_caller_run_in_order_though_the_window_is_small() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let seen = pair.run(async move |pool| {
        let echo = pool.get::<Echo>(key);
        let calls: Vec<_> = (0..100).map(|n| echo.add(n, vec![0; 300])).collect();
        for call in calls {
            call.await?;
        }
        echo.seen().await
    });
    assert_eq!(seen, Ok((0..100).collect()));
}

#[test]
fn i4_a_long_argument_keeps_its_place_before_later_calls_of_its_pair() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let seen = pair.run(async move |pool| {
        let echo = pool.get::<Echo>(key);
        let long = echo.add(1, vec![0; 3 << 20]);
        let short = echo.add(2, Vec::new());
        short.await?;
        long.await?;
        echo.seen().await
    });
    assert_eq!(seen, Ok(vec![1, 2]));
}

#[test]
fn a_long_reply_arrives_whole() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let got = pair.run(async move |pool| pool.get::<Echo>(key).big(5 << 20).await);
    assert_eq!(got.map(|bytes| bytes.len()), Ok(5 << 20));
}

#[test]
fn a_long_value_of_many_pieces_arrives_whole() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let words: Vec<String> = (0..3_000).map(|n| format!("{n:400}")).collect();
    let sent = words.clone();
    let got = pair.run(async move |pool| pool.get::<Echo>(key).words(sent).await);
    assert_eq!(got, Ok(words));
}

#[test]
fn where_bodies_are_taken_long_messages_leave_as_such_and_keep_their_place() {
    let mut pair = Pair::new();
    pair.body_bytes = 1 << 20;
    pair.join();
    let key = pair.key(1);
    let got = pair.run(async move |pool| {
        let echo = pool.get::<Echo>(key);
        let lens = [3 << 20, 0, 100_000, 50, 70_000];
        let calls: Vec<_> = (0..).zip(lens).map(|(n, len)| echo.add(n, vec![0; len])).collect();
        for call in calls {
            call.await?;
        }
        Ok::<_, CallError>((echo.seen().await?, echo.big(5 << 20).await?.len()))
    });
    assert_eq!(got, Ok(((0..5).collect(), 5 << 20)));
    assert_eq!(pair.longest, 1 << 20);
}

/// A call of which the first chunks have left. The rest waits until the other node has taken them in.
fn half_sent(pair: &mut Pair, key: u64) -> Receiver<Result<u32, CallError>> {
    let long = pair.start(async move |pool| {
        pool.get::<Echo>(key).add(1, vec![0; 3 << 20]).timeout(Duration::from_millis(10)).await
    });
    pair.work(0, 0);
    assert!(!pair.wires[1].is_empty() && long.try_recv().is_err());
    long
}

#[test]
fn r1_a_call_that_has_left_in_part_ends_with_its_link() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let long = half_sent(&mut pair, key);
    pair.cut();
    pair.settle();
    let error = long.try_recv().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.ran()), (ErrorKind::NodeLost, Ran::Unknown));
    pair.join();
    let seen = pair.run(async move |pool| pool.get::<Echo>(key).seen().await);
    assert_eq!(seen, Ok(Vec::new()));
}

#[test]
fn r1_a_deadline_ends_a_call_that_has_left_in_part_and_the_rest_of_it_leaves() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let long = half_sent(&mut pair, key);
    pair.now = pair.now + Duration::from_millis(11);
    pair.work(0, 0);
    let error = long.try_recv().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.ran()), (ErrorKind::Deadline, Ran::Unknown));
    pair.settle();
    let seen = pair.run(async move |pool| pool.get::<Echo>(key).seen().await);
    assert_eq!(seen, Ok(vec![1]));
}

#[test]
fn i4_calls_that_waited_for_a_transfer_keep_their_place_over_a_lost_link() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let shard = |key: u64| Ref::id(&Ref::<Echo>::of(key)).shard(2);
    let theirs = Directory::of(pair.nodes.iter().map(|node| Share::of(node.id)));
    let there = |other: &u64| {
        theirs.owner(Ref::id(&Ref::<Echo>::of(*other))) == Some(pair.nodes[1].id)
            && shard(*other) == shard(key)
    };
    let other = (key + 1..).find(there).unwrap();
    let made = pair.start(async move |pool| {
        let (echo, other) = (pool.get::<Echo>(key), pool.get::<Echo>(other));
        let long = echo.add(0, vec![0; 3 << 20]);
        let held = echo.add(1, Vec::new());
        // More than the window takes: what comes next waits behind them.
        let fill: Vec<_> = (0..200).map(|n| other.add(n, vec![0; 1_000])).collect();
        let last = echo.add(2, Vec::new());
        assert!(long.await.is_err());
        last.await?;
        held.await?;
        drop(fill);
        echo.seen().await
    });
    pair.work(0, 0);
    pair.cut();
    pair.join();
    pair.settle();
    assert_eq!(made.try_recv().unwrap(), Ok(vec![1, 2]));
}

#[test]
fn a_lost_link_ends_calls_that_left_as_unknown_and_keeps_those_that_had_not() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let asleep = pair.start(async move |pool| pool.get::<Echo>(key).sleep(1_000).await);
    pair.settle();
    pair.cut();
    let waits = pair.start(async move |pool| pool.get::<Echo>(key).add(3, Vec::new()).await);
    pair.settle();
    let error = asleep.try_recv().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.ran()), (ErrorKind::NodeLost, Ran::Unknown));
    assert!(waits.try_recv().is_err());
    pair.join();
    pair.settle();
    assert_eq!(waits.try_recv().unwrap(), Ok(3));
}

#[test]
fn a_deadline_ends_a_call_and_its_late_reply_is_dropped() {
    let mut pair = Pair::new();
    let key = pair.key(1);
    let late = pair.start(async move |pool| {
        pool.get::<Echo>(key).sleep(1_000).timeout(Duration::from_millis(10)).await
    });
    pair.settle();
    pair.pass(Duration::from_millis(11));
    let error = late.try_recv().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.ran()), (ErrorKind::Deadline, Ran::Unknown));
    pair.pass(Duration::from_secs(2));
    let got = pair.run(async move |pool| pool.get::<Echo>(key).add(4, Vec::new()).await);
    assert_eq!(got, Ok(4));
}

#[test]
fn i6_a_cycle_over_two_nodes_through_an_exclusive_section_is_refused() {
    let mut pair = Pair::new();
    let (here, there) = (pair.key(0), pair.key(1));
    let got = pair.run(async move |pool| {
        let first = pool.get::<Echo>(here);
        first.add(u32::try_from(here).unwrap_or(0), Vec::new()).await?;
        first.hold(pool.get::<Echo>(there)).await
    });
    let error = got.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
    assert_eq!(error.ran(), Ran::Yes, "the handler that passes it on ran");
}

#[test]
fn hostile_bytes_end_the_link_and_nothing_else() {
    let mut pair = Pair::new();
    let frame = Frame::copy_of(&[0xff; 64]);
    pair.handle(0, 0, Event::Packet { link: LINK, frame });
    assert_eq!(pair.violations.len(), 1);
}

#[test]
fn what_comes_from_a_shard_that_the_peer_has_not_ends_the_link() {
    // A chunk too: each sending shard may have transfers open, which take memory.
    for kind in [Kind::Chunk, Kind::Reply, Kind::Failed, Kind::Cancel, Kind::Credit] {
        let mut pair = Pair::new();
        let header = Header::new(kind, ShardId::new(2), ShardId::new(0));
        let mut frame = FrameMut::detached(4096);
        assert!(append(&mut frame, &Header { method: 64, ..header }, &[0; 16]));
        pair.handle(0, 0, Event::Packet { link: LINK, frame: frame.freeze() });
        assert_eq!(pair.violations.len(), 1, "{kind:?}");
    }
}
