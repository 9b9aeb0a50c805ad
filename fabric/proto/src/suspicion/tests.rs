//! Nodes that gossip over a network of queues.

use super::*;

const ME: NodeId = NodeId::new(1);

struct Net {
    now: Time,
    nodes: BTreeMap<NodeId, Suspicion>,
    away: BTreeSet<NodeId>,
    under_way: Vec<(Time, NodeId, NodeId, Vec<u8>)>,
}

impl Net {
    fn new(count: u64) -> Self {
        let ids: Vec<NodeId> = (1..=count).map(NodeId::new).collect();
        let mut nodes = BTreeMap::new();
        for id in &ids {
            let mut suspicion = Suspicion::new(*id, Draw::new(id.as_u64()));
            suspicion.set_members(Time::ZERO, ids.iter().copied());
            nodes.insert(*id, suspicion);
        }
        Self { now: Time::ZERO, nodes, away: BTreeSet::new(), under_way: Vec::new() }
    }

    fn run(&mut self, for_how_long: Duration) {
        let until = self.now + for_how_long;
        while self.now < until {
            self.now = self.now + Duration::from_millis(5);
            let (due, later) = std::mem::take(&mut self.under_way)
                .into_iter()
                .partition::<Vec<_>, _>(|(at, ..)| *at <= self.now);
            self.under_way = later;
            for (_, from, to, bytes) in due {
                if !self.away.contains(&to) {
                    assert!(self.nodes.get_mut(&to).unwrap().heard(self.now, from, &bytes));
                }
            }
            let arrives = self.now + Duration::from_millis(3);
            for (from, node) in &mut self.nodes {
                node.time(self.now);
                let away = self.away.contains(from);
                let sent = node.take_sends().filter(|_| !away);
                self.under_way.extend(sent.map(|(to, bytes)| (arrives, *from, to, bytes)));
            }
        }
    }

    fn dead(&self, node: u64) -> Vec<u64> {
        self.nodes[&NodeId::new(node)].dead().iter().map(|node| node.as_u64()).collect()
    }
}

#[test]
fn nobody_looks_dead_who_answers_and_who_does_not_looks_dead_soon() {
    let mut net = Net::new(5);
    net.run(Duration::from_secs(5));
    assert!((1..=5).all(|node| net.dead(node).is_empty()));
    net.away.insert(NodeId::new(3));
    net.run(Duration::from_millis(3_500));
    assert!([1, 2, 4, 5].into_iter().all(|node| net.dead(node) == [3]));
}

#[test]
fn who_comes_back_looks_dead_no_more() {
    let mut net = Net::new(4);
    net.away.insert(NodeId::new(2));
    net.run(Duration::from_secs(8));
    assert_eq!(net.dead(1), [2]);
    assert_eq!(net.dead(2), [1, 3, 4], "it heard nobody either");
    net.away.clear();
    net.run(Duration::from_secs(12));
    assert!((1..=4).all(|node| net.dead(node).is_empty()));
}

#[test]
fn su1_who_says_something_lives_and_who_is_seen_to_go_does_not() {
    let mut suspicion = Suspicion::new(ME, Draw::new(7));
    suspicion.set_members(Time::ZERO, [ME, NodeId::new(2)].into_iter());
    suspicion.died(NodeId::new(2));
    suspicion.died(NodeId::new(9));
    assert!(suspicion.is_dead(NodeId::new(2)));
    assert!(!suspicion.is_dead(NodeId::new(9)), "it is no member");
    suspicion.lives(NodeId::new(2));
    assert!(!suspicion.is_dead(NodeId::new(2)));
}

#[test]
fn who_is_no_member_any_more_is_forgotten_whatever_is_said_of_it() {
    let mut net = Net::new(4);
    net.run(Duration::from_secs(2));
    let members: Vec<NodeId> = [1, 2, 3].map(NodeId::new).to_vec();
    net.away.insert(NodeId::new(4));
    for node in &members {
        net.nodes.get_mut(node).unwrap().set_members(net.now, members.iter().copied());
    }
    net.run(Duration::from_secs(15));
    for node in &members {
        let node = &net.nodes[node];
        assert!(node.dead().is_empty());
        assert_eq!(node.foca.iter_membership_state().count(), 2, "{node:?}");
    }
}

#[test]
fn garbage_is_refused_and_strangers_are_not_listened_to() {
    let mut suspicion = Suspicion::new(ME, Draw::new(7));
    suspicion.set_members(Time::ZERO, [ME, NodeId::new(2)].into_iter());
    assert!(!suspicion.heard(Time::ZERO, NodeId::new(2), b"garbage"));
    assert!(!suspicion.heard(Time::ZERO, NodeId::new(2), &[0; 4000]));
    assert!(suspicion.heard(Time::ZERO, NodeId::new(9), b"garbage"));
}

#[test]
fn su2_what_strangers_make_up_is_not_remembered_for_ever() {
    use foca::Codec as _;
    let mut suspicion = Suspicion::new(ME, Draw::new(7));
    suspicion.set_members(Time::ZERO, [ME, NodeId::new(2)].into_iter());
    for packet in 0..300_u64 {
        let mut bytes = Vec::new();
        let (src, dst) = (Name { node: NodeId::new(2), turn: 0 }, Name { node: ME, turn: 0 });
        let header = foca::Header { src, src_incarnation: 0, dst, message: foca::Message::Gossip };
        Codec.encode_header(&header, &mut bytes).unwrap();
        bytes.extend([0, 80]);
        for made_up in 0..80 {
            let name = Name { node: NodeId::new(1_000 + packet * 80 + made_up), turn: 0 };
            Codec.encode_member(&foca::Member::alive(name), &mut bytes).unwrap();
        }
        assert!(suspicion.heard(Time::ZERO, NodeId::new(2), &bytes));
        assert!(suspicion.foca.iter_membership_state().len() <= KNOWN_MAX);
    }
}
