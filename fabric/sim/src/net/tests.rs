//! What a line promises, over many seeds.
//!
//! # Not here
//! Lines as a transport: the suite of all transports runs on them in `transports/link`.

use super::*;

const OPTIONS: Options = Options {
    delay_max: Duration::from_micros(50),
    frames_max: 4,
    slots: 6,
    slot_bytes: 64,
    body_bytes: 0,
    lines_max: 3,
};

/// A network, its time, and two ends.
struct Pair {
    lines: Lines,
    now: Time,
    near: EndId,
    far: EndId,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let mut lines = Lines::new(seed, OPTIONS);
        let (near, far) = (lines.open(), lines.open());
        Self { lines, now: Time::ZERO, near, far }
    }

    fn dial(&mut self) -> Tip {
        self.lines.dial(self.now, self.near, self.far).unwrap()
    }

    /// A line that is up at both sides.
    fn join(&mut self) -> (Tip, Tip) {
        let near = self.dial();
        let told = self.all();
        assert_eq!(told, [(near.other(), "up".to_owned()), (near, "up".to_owned())]);
        (near, near.other())
    }

    fn say(&mut self, tip: Tip, text: &str) -> bool {
        let mut head = FrameMut::detached(16);
        assert!(head.extend(text.as_bytes()));
        self.lines.send(self.now, tip, Packet { head, body: None }).is_ok()
    }

    /// What is heard until nothing more is, and by whom.
    fn all(&mut self) -> Vec<(Tip, String)> {
        let mut heard = Vec::new();
        while let Some((_, tip, at)) = self.lines.upcoming().min_by_key(|(_, tip, at)| (*at, *tip))
        {
            self.now = self.now.max(at);
            let news = self.lines.take(self.now, tip);
            heard.extend(news.map(|news| (tip, text(&news))));
        }
        heard
    }

    /// What `tip` hears.
    fn heard(&mut self, tip: Tip) -> Vec<String> {
        self.all().into_iter().filter(|(at, _)| *at == tip).map(|(_, text)| text).collect()
    }
}

fn text(news: &News) -> String {
    match news {
        News::Up { .. } => "up".to_owned(),
        News::Frame(frame) => String::from_utf8(frame.bytes().to_vec()).unwrap(),
        News::Room => "room".to_owned(),
        News::Over(why) => format!("{why:?}"),
    }
}

#[test]
fn s8_frames_arrive_in_order_and_a_close_behind_them() {
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        let (near, far) = pair.join();
        for text in ["a", "b", "c"] {
            assert!(pair.say(near, text));
        }
        pair.lines.close(pair.now, near);
        assert!(!pair.say(near, "d"), "it was closed");
        let heard = pair.all();
        let of = |tip| {
            heard.iter().filter(|(at, _)| *at == tip).map(|(_, text)| text.as_str()).collect()
        };
        let (at_far, at_near): (Vec<&str>, Vec<&str>) = (of(far), of(near));
        assert_eq!(at_far, ["a", "b", "c", "Closed"]);
        assert_eq!(at_near, ["Closed"]);
        assert!(!pair.say(far, "e"), "the line is no more");
    }
}

#[test]
fn s8_what_a_dead_end_had_under_way_arrives_up_to_a_point_and_then_the_end() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        let (near, far) = pair.join();
        for text in ["a", "b", "c"] {
            assert!(pair.say(near, text) && pair.say(far, text));
        }
        pair.lines.kill(pair.now, pair.near);
        assert!(!pair.say(near, "d"), "it is dead");
        assert!(pair.say(far, "e"), "it has not heard yet");
        let heard = pair.all();
        assert!(heard.iter().all(|(tip, _)| *tip == far), "the dead hear nothing: {heard:?}");
        let texts: Vec<&str> = heard.iter().map(|(_, text)| text.as_str()).collect();
        let (last, before) = texts.split_last().unwrap();
        assert_eq!(*last, "Cut");
        assert_eq!(before, &["a", "b", "c"][..before.len()]);
        lengths.insert(before.len());
    }
    assert_eq!(lengths.len(), 4, "nothing, a part and all of it arrive: {lengths:?}");
}

#[test]
fn s8_a_dial_that_dies_is_heard_with_its_end_or_not_at_all() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut pair = Pair::new(seed);
        let near = pair.dial();
        pair.lines.cut(pair.now, near);
        seen.insert(pair.heard(near.other()));
    }
    let both = [vec![], vec!["up".to_owned(), "Cut".to_owned()]];
    assert!(seen.iter().eq(&both), "{seen:?}");
}

#[test]
fn nobody_and_the_dead_are_over_for_who_dials_them() {
    let mut pair = Pair::new(1);
    let nobody = pair.lines.dial(pair.now, pair.near, EndId::new(77)).unwrap();
    assert_eq!(pair.heard(nobody), ["Nobody"]);
    let dying = pair.dial();
    pair.lines.kill(pair.now, pair.far);
    assert_eq!(pair.heard(dying), ["Cut"]);
    let dead = pair.dial();
    assert_eq!(pair.heard(dead), ["Nobody"]);
    assert!(pair.lines.dial(pair.now, pair.far, pair.near).is_none(), "the dead dial nobody");
}

#[test]
fn a_dial_that_is_closed_is_never_up_for_who_dialled() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed);
        let near = pair.dial();
        assert!(pair.say(near, "early"), "a frame may follow the dial");
        pair.lines.close(pair.now, near);
        let heard = pair.all();
        let at_far: Vec<_> = heard.iter().filter(|(tip, _)| *tip != near).map(|(_, t)| t).collect();
        assert_eq!(at_far, ["up", "early", "Closed"]);
        assert_eq!(heard.last(), Some(&(near, "Closed".to_owned())));
        assert_eq!(heard.len(), 4);
    }
}

#[test]
fn s9_a_full_line_refuses_and_says_when_there_is_room() {
    let mut pair = Pair::new(3);
    let (near, _) = pair.join();
    let taken = (0..10).filter(|_| pair.say(near, "x")).count();
    assert_eq!(taken, OPTIONS.frames_max);
    assert_eq!(pair.heard(near), ["room"]);
    assert_eq!(pair.all(), []);
    assert!(pair.say(near, "y"));
}

#[test]
fn s7_slots_run_out_and_are_free_once_their_frames_have_arrived() {
    let mut pair = Pair::new(4);
    let near = pair.dial();
    let mut slots = None;
    while let Some((_, tip, at)) = pair.lines.upcoming().min_by_key(|(_, _, at)| *at) {
        pair.now = pair.now.max(at);
        match pair.lines.take(pair.now, tip) {
            Some(News::Up { slots: lender, accepted: false, .. }) => slots = Some(lender),
            Some(News::Up { .. } | News::Frame(_) | News::Room | News::Over(_)) | None => {}
        }
    }
    let slots = slots.unwrap();
    let reserve = || Arc::clone(&slots).reserve();
    let mut taken: Vec<FrameMut> = (0..OPTIONS.slots).map(|_| reserve().unwrap()).collect();
    assert!(reserve().is_none());
    let head = taken.pop().unwrap();
    assert!(pair.lines.send(pair.now, near, Packet { head, body: None }).is_ok());
    assert!(reserve().is_none(), "it has not arrived");
    assert_eq!(pair.heard(near), ["room"]);
    let again = reserve().unwrap();
    // What a dead side had under way needs no slots of its own.
    assert!(pair.lines.send(pair.now, near, Packet { head: again, body: None }).is_ok());
    pair.lines.cut(pair.now, near);
    assert!(reserve().is_some());
}

#[test]
fn there_are_only_so_many_lines_and_those_that_are_over_do_not_count() {
    let mut pair = Pair::new(5);
    let tips: Vec<Tip> = (0..OPTIONS.lines_max).map(|_| pair.dial()).collect();
    assert!(pair.lines.dial(pair.now, pair.near, pair.far).is_none());
    drop(pair.all());
    pair.lines.close(pair.now, tips[0]);
    drop(pair.all());
    pair.dial();
}

#[test]
fn the_same_calls_give_the_same_times() {
    let run = |seed| {
        let mut pair = Pair::new(seed);
        let (near, _) = pair.join();
        assert!(pair.say(near, "a"));
        drop(pair.all());
        pair.now
    };
    assert_eq!(run(6), run(6));
    assert_ne!(run(6), run(7));
}

#[test]
fn s13_a_node_that_ends_in_order_is_heard_to_its_end_on_all_lines_before_the_link_is_down() {
    for seed in 0..50 {
        let mut net = Net::new(Rng::new(seed));
        (0..2).for_each(|_| net.open());
        let party = |node| Party { node, id: NodeId::new(node as u64 + 1), shards: 3 };
        let [up, _] = net.connect(Time::ZERO, [party(0), party(1)]).unwrap();
        let mut head = up.slots.reserve().unwrap();
        assert!(head.extend(b"farewell"));
        net.send(Time::ZERO, (0, 1, up.link), (head, None));
        net.close(Time::ZERO, 0);
        let mut heard = Vec::new();
        while let Some(at) = net.deadline() {
            let tip = net.arrived(at).next().unwrap();
            heard.extend(net.take(at, tip).map(|arrival| match arrival {
                Arrival::Frame { frame, .. } => String::from_utf8_lossy(frame.bytes()).into(),
                Arrival::Room { .. } => "room".to_owned(),
                Arrival::Down { .. } => "down".to_owned(),
            }));
        }
        assert_eq!(heard, ["farewell", "down"], "seed {seed}");
    }
}
