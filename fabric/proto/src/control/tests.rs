//! Each test puts a node in a state, lets one thing happen, and looks at what it asks for.

use super::said::{About, Said};
use super::*;
use crate::coordinator::Lease;
use crate::ownership::{Epoch, Ownership, Standing};
use crate::view::{Delta, Past, Record, Wants};

const ME: NodeId = NodeId::new(20);
const LOW: NodeId = NodeId::new(10);
const HIGH: NodeId = NodeId::new(30);
const CLASS: ClassId = ClassId::DEFAULT;

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn lease(node: NodeId, wants: Wants, settled: u64) -> Lease {
    let record = Record { member: Member::of(node, 1), wants, settled }.write();
    Lease { node, record, left: TTL }
}

/// The leases of a view that nobody has to change.
fn alive(view: &View) -> Vec<Lease> {
    view.members.iter().map(|member| lease(member.node(), Wants::Stay, view.number)).collect()
}

fn expired(node: NodeId) -> Lease {
    Lease { left: Duration::ZERO, ..lease(node, Wants::Stay, 0) }
}

fn view(number: u64, nodes: &[NodeId], history: &[(u64, &[NodeId])]) -> View {
    let members = nodes.iter().map(|node| Member::of(*node, 1)).collect();
    let past = |(number, nodes): &(u64, &[NodeId])| Past {
        number: *number,
        shares: nodes.iter().map(|node| Member::of(*node, 1).share).collect(),
    };
    View { number, members, history: history.iter().map(past).collect() }
}

struct Node {
    now: Time,
    control: Control,
    out: Vec<Effect>,
}

impl Node {
    /// One that has begun and has asked for its first renewal.
    fn begun() -> Self {
        let mut node =
            Self { now: at(1_000), control: Control::new(Config::default()), out: Vec::new() };
        node.handle(Event::Begin { member: Member::of(ME, 1), seed: 7 });
        node
    }

    /// One that is a member of `view`, which nobody has to change.
    fn member_of(view: &View) -> Self {
        let mut node = Self::begun();
        node.renewed(view.number);
        node.handle(Event::Said { from: LOW, bytes: &Said::Whole(view.clone()).write().unwrap() });
        node.read(view, &alive(view));
        node.out.clear();
        node
    }

    fn handle(&mut self, event: Event<'_>) {
        self.control.handle(self.now, event, &mut self.out);
    }

    fn wait_until(&mut self, time: Time) {
        while let Some(due) = self.control.deadline().filter(|due| *due <= time) {
            self.now = self.now.max(due);
            self.handle(Event::Time);
        }
        self.now = time;
    }

    /// The last question of this kind.
    fn asked(&self, kind: impl Fn(&Ask) -> bool) -> Option<(AskId, Ask)> {
        let asks = self.out.iter().rev().filter_map(|effect| {
            let Effect::Ask { id, ask } = effect else { return None };
            Some((*id, ask.clone()))
        });
        asks.into_iter().find(|(_, ask)| kind(ask))
    }

    fn answer(&mut self, kind: impl Fn(&Ask) -> bool, answer: Answer) {
        let (id, _) = self.asked(kind).expect("it has asked");
        self.handle(Event::Answer { id, answer });
    }

    fn renewed(&mut self, number: u64) {
        self.answer(|ask| matches!(ask, Ask::Renew { .. }), Answer::Renewed { number });
    }

    fn read(&mut self, view: &View, leases: &[Lease]) {
        let view = (view.number > 0).then(|| (view.number, view.write()));
        self.answer(|ask| *ask == Ask::Read, Answer::State { view, leases: leases.to_vec() });
    }

    fn said(&self, to: NodeId) -> Vec<Said<'_>> {
        let said = self.out.iter().filter_map(|effect| {
            let Effect::Say { to: node, bytes } = effect else { return None };
            Said::read(bytes).ok().filter(|_| *node == to)
        });
        said.filter(|said| !matches!(said, Said::Suspicion(_))).collect()
    }

    fn hear(&mut self, from: NodeId, said: &Said<'_>) {
        self.handle(Event::Said { from, bytes: &said.write().unwrap() });
    }

    fn served(&self) -> Option<Arc<Ownership>> {
        self.out.iter().rev().find_map(|effect| {
            let Effect::Serve(served) = effect else { return None };
            Some(Arc::new(served.ownership()))
        })
    }

    fn changed(&self) -> Option<(u64, View, Vec<NodeId>)> {
        let (_, ask) = self.asked(|ask| matches!(ask, Ask::Change { .. }))?;
        let Ask::Change { from, view, ends } = ask else { return None };
        Some((from, View::read(&view).unwrap(), ends))
    }

    fn record(&self) -> Record {
        let (_, ask) = self.asked(|ask| matches!(ask, Ask::Renew { .. })).expect("it has asked");
        let Ask::Renew { record, .. } = ask else { unreachable!("it was looked for") };
        Record::read(&record).unwrap()
    }
}

fn slots(ownership: &Ownership, of: fn(Standing) -> bool) -> usize {
    (0..=u16::MAX).filter(|slot| of(ownership.standing_of(CLASS, *slot))).count()
}

fn serving(ownership: &Ownership) -> usize {
    slots(ownership, |standing| matches!(standing, Standing::Serving(_)))
}

fn waiting(ownership: &Ownership) -> usize {
    slots(ownership, |standing| standing == Standing::Waiting)
}

#[test]
fn a_node_begins_by_a_lease_that_says_that_it_wants_to_join() {
    let node = Node::begun();
    assert_eq!(node.record().wants, Wants::Join);
    assert_eq!(node.record().settled, 0);
    assert_eq!(node.control.stage(), Stage::Joining);
}

#[test]
fn re1_the_deadline_counts_from_the_sending() {
    let mut node = Node::begun();
    node.now = at(1_900);
    node.renewed(0);
    let until = node.out.iter().find_map(|effect| {
        let Effect::Lease { until } = effect else { return None };
        Some(*until)
    });
    assert_eq!(until, Some(at(1_000 + 3_000 - 500)));
}

#[test]
fn a_lease_is_renewed_however_many_answers_are_lost() {
    let mut node = Node::begun();
    node.out.clear();
    node.wait_until(at(1_000 + 3_000));
    let renewals = node.out.iter().filter(|effect| matches!(effect, Effect::Ask { .. })).count();
    assert!((4..=5).contains(&renewals), "{renewals}");
}

#[test]
fn the_first_of_those_who_find_no_view_makes_one() {
    let mut node = Node::begun();
    node.renewed(0);
    node.read(&view(0, &[], &[]), &[lease(ME, Wants::Join, 0), lease(HIGH, Wants::Join, 0)]);
    assert_eq!(node.changed(), Some((0, view(1, &[ME, HIGH], &[]), Vec::new())));
    node.answer(|ask| matches!(ask, Ask::Change { .. }), Answer::Changed { number: 1 });
    assert!(serving(&node.served().unwrap()) > 30_000);
    assert_eq!(node.said(HIGH), [Said::Whole(view(1, &[ME, HIGH], &[]))]);
}

#[test]
fn the_second_steps_in_when_the_first_does_nothing() {
    let mut node = Node::begun();
    let leases = [lease(LOW, Wants::Join, 0), lease(ME, Wants::Join, 0)];
    node.renewed(0);
    node.read(&view(0, &[], &[]), &leases);
    assert_eq!(node.changed(), None);
    node.out.clear();
    node.wait_until(at(1_000 + 1_250));
    node.read(&view(0, &[], &[]), &leases);
    assert_eq!(node.changed(), Some((0, view(1, &[LOW, ME], &[]), Vec::new())));
}

#[test]
fn cn1_a_change_of_which_nobody_knows_is_looked_for() {
    let mut node = Node::begun();
    node.renewed(0);
    node.read(&view(0, &[], &[]), &[lease(ME, Wants::Join, 0)]);
    let why = "lost".to_owned();
    node.answer(|ask| matches!(ask, Ask::Change { .. }), Answer::Failed { why });
    assert!(node.served().is_none());
    node.out.clear();
    node.wait_until(at(1_500));
    node.read(&view(1, &[ME], &[]), &[lease(ME, Wants::Join, 0)]);
    assert_eq!(serving(&node.served().unwrap()), 1 << 16);
}

#[test]
fn an_expired_lease_of_a_member_ends_with_the_next_view() {
    let mut node = Node::member_of(&view(4, &[ME, HIGH], &[]));
    node.wait_until(node.now + RENEW);
    node.read(&view(4, &[ME, HIGH], &[]), &[lease(ME, Wants::Stay, 4), expired(HIGH)]);
    assert_eq!(node.changed(), Some((4, view(5, &[ME], &[]), vec![HIGH])));
    node.answer(|ask| matches!(ask, Ask::Change { .. }), Answer::Changed { number: 5 });
    assert_eq!(serving(&node.served().unwrap()), 1 << 16, "it waits for nobody");
    assert!(
        node.out.iter().any(|effect| matches!(effect, Effect::Gone { node: HIGH, left: false }))
    );
}

#[test]
fn a_lease_that_lasts_after_all_changes_nothing() {
    let mut node = Node::member_of(&view(4, &[ME, HIGH], &[]));
    node.wait_until(node.now + RENEW);
    node.read(&view(4, &[ME, HIGH], &[]), &[lease(ME, Wants::Stay, 4), expired(HIGH)]);
    node.answer(|ask| matches!(ask, Ask::Change { .. }), Answer::Alive { node: HIGH });
    assert_eq!(node.control.view().unwrap().number, 4);
    node.out.clear();
    node.wait_until(node.now + RENEW);
    assert!(node.asked(|ask| *ask == Ask::Read).is_some(), "it looks again");
}

#[test]
fn a_member_that_was_overtaken_fetches_the_view_of_the_other() {
    let mut node = Node::member_of(&view(4, &[ME, HIGH], &[]));
    node.wait_until(node.now + RENEW);
    node.read(&view(4, &[ME, HIGH], &[]), &[lease(ME, Wants::Stay, 4), expired(HIGH)]);
    node.answer(|ask| matches!(ask, Ask::Change { .. }), Answer::Overtaken { number: 5 });
    node.out.clear();
    node.wait_until(node.now + Duration::from_millis(100));
    node.read(&view(5, &[ME], &[]), &[lease(ME, Wants::Stay, 4)]);
    assert_eq!(node.control.view().unwrap().number, 5);
}

#[test]
fn cn2_an_older_view_is_passed_over_wherever_it_comes_from() {
    let mut node = Node::member_of(&view(4, &[LOW, ME], &[]));
    node.hear(LOW, &Said::Whole(view(3, &[ME], &[])));
    node.hear(LOW, &Said::Whole(view(4, &[ME], &[])));
    assert!(node.served().is_none());
    node.hear(LOW, &Said::Whole(view(5, &[ME], &[])));
    assert_eq!(serving(&node.served().unwrap()), 1 << 16);
}

#[test]
fn a_view_that_grew_comes_as_a_delta_or_is_fetched() {
    let (before, after) = (view(4, &[LOW, ME], &[]), view(5, &[LOW, ME, HIGH], &[(4, &[LOW, ME])]));
    let mut node = Node::member_of(&before);
    let delta = Delta::between(&before, &after).unwrap();
    node.hear(LOW, &Said::Delta(delta));
    assert_eq!(node.control.view().unwrap().number, 5);
    let later = View { number: 7, ..after.clone() };
    let delta = Delta::between(&View { number: 6, ..after }, &later).unwrap();
    node.hear(LOW, &Said::Delta(delta));
    assert_eq!(node.control.view().unwrap().number, 5);
    node.out.clear();
    node.wait_until(node.now + Duration::from_millis(100));
    assert!(node.asked(|ask| *ask == Ask::Read).is_some());
}

#[test]
fn who_wins_slots_asks_for_them_and_serves_what_was_let_go_of() {
    let mut node = Node::member_of(&view(4, &[ME, HIGH], &[]));
    node.hear(HIGH, &Said::Whole(view(6, &[ME], &[(4, &[ME, HIGH])])));
    assert_eq!(serving(&node.served().unwrap()), 1 << 16, "HIGH is no member: its lease has ended");
    let mut node = Node::member_of(&view(4, &[LOW, ME, HIGH], &[]));
    let mut light = view(5, &[LOW, ME, HIGH], &[(4, &[LOW, ME, HIGH])]);
    (light.members[2].share.weight, light.members[2].leaving) = (0, true);
    node.hear(LOW, &Said::Whole(light));
    let snapshot = node.served().unwrap();
    assert!(waiting(&snapshot) > 5_000);
    let asks = node.said(HIGH).into_iter().filter_map(|said| {
        let Said::Ask(about) = said else { return None };
        Some(about)
    });
    let asks: Vec<About> = asks.collect();
    assert_eq!(asks.iter().map(|ask| ask.slots.len()).sum::<usize>(), waiting(&snapshot));
    node.out.clear();
    for ask in asks {
        node.hear(HIGH, &Said::Released(ask));
    }
    node.wait_until(node.now + Duration::from_millis(10));
    let snapshot = node.served().unwrap();
    assert_eq!(waiting(&snapshot), 0);
    let epochs = (0..=u16::MAX).filter_map(|slot| snapshot.epoch_of(CLASS, slot));
    assert!(
        epochs.clone().any(|epoch| epoch == Epoch(5))
            && epochs.into_iter().any(|epoch| epoch == Epoch(4))
    );
}

#[test]
fn who_is_not_told_reads_what_others_have_settled() {
    let grown = view(5, &[LOW, ME], &[(4, &[LOW])]);
    let mut node = Node::begun();
    node.renewed(4);
    node.read(&grown, &[lease(LOW, Wants::Stay, 4), lease(ME, Wants::Join, 0)]);
    assert_eq!(serving(&node.served().unwrap()), 0);
    node.out.clear();
    node.wait_until(node.now + Duration::from_secs(2));
    let asks = node.said(LOW).into_iter().filter(|said| matches!(said, Said::Ask(_))).count();
    assert!(asks >= 2, "it asks again");
    node.read(&grown, &[lease(LOW, Wants::Stay, 5), lease(ME, Wants::Join, 0)]);
    assert_eq!(waiting(&node.served().unwrap()), 0);
}

#[test]
fn who_loses_slots_tells_the_new_owner_once_they_are_drained_and_settles() {
    let mut node = Node::member_of(&view(4, &[ME], &[]));
    let grown = view(5, &[LOW, ME], &[(4, &[ME])]);
    node.hear(LOW, &Said::Whole(grown));
    let theirs: Vec<u16> = {
        let snapshot = node.served().unwrap();
        (0..=u16::MAX).filter(|slot| snapshot.epoch_of(CLASS, *slot).is_none()).collect()
    };
    assert!(!node.said(LOW).iter().any(|said| matches!(said, Said::Released(_))));
    let about = About { number: 5, class: CLASS, slots: theirs.iter().take(9).copied().collect() };
    node.hear(LOW, &Said::Ask(about.clone()));
    assert_eq!(node.said(LOW), [], "it holds them still");
    let shard = ShardId::new(0);
    let drained =
        |slots: &[u16]| Event::Drained { view: 5, shard, slots: vec![(CLASS, slots.to_vec())] };
    node.handle(drained(&theirs[..9]));
    assert_eq!(node.said(LOW), [Said::Released(about.clone())]);
    node.out.clear();
    node.hear(LOW, &Said::Ask(about.clone()));
    assert_eq!(node.said(LOW), [Said::Released(about)], "whoever asks is told again");
    node.handle(drained(&theirs));
    node.out.clear();
    node.wait_until(node.now + RENEW);
    assert_eq!(node.record().settled, 5);
}

#[test]
fn who_leaves_hands_over_and_then_releases_until_it_is_done() {
    let mut node = Node::member_of(&view(4, &[LOW, ME], &[]));
    node.handle(Event::Leave);
    assert_eq!(node.record().wants, Wants::Leave);
    let mut leaving = view(5, &[LOW, ME], &[(4, &[LOW, ME])]);
    (leaving.members[1].share.weight, leaving.members[1].leaving) = (0, true);
    node.out.clear();
    node.hear(LOW, &Said::Whole(leaving));
    let release = |ask: &Ask| matches!(ask, Ask::Release { .. });
    assert_eq!(node.asked(release), None);
    let all = vec![(CLASS, (0..=u16::MAX).collect())];
    node.handle(Event::Drained { view: 5, shard: ShardId::new(0), slots: all });
    assert!(
        !node.out.iter().any(|effect| matches!(effect, Effect::HandedOver)),
        "LOW may not know"
    );
    let mut known = view(6, &[LOW, ME], &[]);
    (known.members[1].share.weight, known.members[1].leaving) = (0, true);
    node.hear(LOW, &Said::Whole(known));
    assert!(matches!(node.out.last(), Some(Effect::HandedOver)));
    node.wait_until(node.now + TTL);
    assert_eq!(node.asked(release), None, "CN4: something may be under way");
    node.handle(Event::Quiet);
    node.answer(release, Answer::Failed { why: "lost".to_owned() });
    node.out.clear();
    node.wait_until(node.now + Duration::from_secs(1));
    node.answer(release, Answer::Released);
    assert!(matches!(node.out.last(), Some(Effect::Left)));
    assert_eq!(node.control.stage(), Stage::Over);
    assert_eq!(node.control.deadline(), None);
}

#[test]
fn who_has_not_joined_leaves_at_once() {
    let mut node = Node::begun();
    node.handle(Event::Leave);
    assert!(matches!(node.out.last(), Some(Effect::HandedOver | Effect::Ask { .. })));
    node.handle(Event::Quiet);
    node.answer(|ask| matches!(ask, Ask::Release { .. }), Answer::Released);
    assert!(matches!(node.out.last(), Some(Effect::Left)));
}

#[test]
fn in2_who_leaves_before_it_has_joined_serves_nothing_though_a_view_has_it() {
    let mut node = Node::begun();
    node.renewed(0);
    node.handle(Event::Leave);
    node.handle(Event::Quiet);
    node.hear(LOW, &Said::Whole(view(1, &[LOW, ME], &[])));
    assert!(node.served().is_none());
    node.answer(|ask| matches!(ask, Ask::Release { .. }), Answer::Released);
    assert!(matches!(node.out.last(), Some(Effect::Left)));
}

#[test]
fn cn3_a_node_whose_lease_has_ended_is_over_and_begins_again_as_another() {
    let mut node = Node::member_of(&view(4, &[LOW, ME], &[]));
    node.wait_until(node.now + RENEW);
    node.answer(|ask| matches!(ask, Ask::Renew { .. }), Answer::Evicted);
    assert!(matches!(node.out.last(), Some(Effect::Evicted { node: ME })));
    node.out.clear();
    node.hear(LOW, &Said::Whole(view(5, &[LOW, ME], &[])));
    node.wait_until(node.now + TTL);
    assert!(node.out.is_empty(), "{:?}", node.out);
    node.handle(Event::Begin { member: Member::of(HIGH, 1), seed: 8 });
    assert_eq!(node.record().member.node(), HIGH);
}

#[test]
fn cn3_a_view_without_a_member_tells_it_that_its_lease_has_ended() {
    let mut node = Node::member_of(&view(4, &[LOW, ME], &[]));
    node.hear(LOW, &Said::Whole(view(5, &[LOW], &[])));
    assert!(matches!(node.out.last(), Some(Effect::Evicted { node: ME })));
}

#[test]
fn answers_to_another_life_and_twice_the_same_one_are_nothing() {
    let mut node = Node::begun();
    let (id, _) = node.asked(|ask| matches!(ask, Ask::Renew { .. })).unwrap();
    node.handle(Event::Answer { id, answer: Answer::Evicted });
    node.handle(Event::Begin { member: Member::of(HIGH, 1), seed: 8 });
    node.handle(Event::Answer { id, answer: Answer::Evicted });
    assert_eq!(node.control.stage(), Stage::Joining);
}

#[test]
fn lo1_when_a_process_is_seen_to_go_the_first_looks_at_once_and_the_others_later() {
    let mut node = Node::member_of(&view(4, &[LOW, ME, HIGH], &[]));
    node.handle(Event::Died { node: HIGH });
    assert_eq!(node.asked(|ask| *ask == Ask::Read), None, "LOW looks");
    node.handle(Event::Died { node: LOW });
    assert!(node.asked(|ask| *ask == Ask::Read).is_some());
    assert_eq!(node.control.suspects(), [LOW, HIGH]);
}

#[test]
fn a_proposer_looks_again_when_the_lease_of_a_suspect_should_end() {
    let members = view(4, &[ME, HIGH], &[]);
    let mut node = Node::member_of(&members);
    node.handle(Event::Died { node: HIGH });
    let mut leases = [lease(ME, Wants::Stay, 4), lease(HIGH, Wants::Stay, 4)];
    leases[1].left = Duration::from_millis(100);
    node.read(&members, &leases);
    node.out.clear();
    node.wait_until(node.now + Duration::from_millis(125));
    assert!(node.asked(|ask| *ask == Ask::Read).is_some());
}

#[test]
fn garbage_is_noticed_and_does_nothing_else() {
    let mut node = Node::member_of(&view(4, &[LOW, ME], &[]));
    node.handle(Event::Said { from: LOW, bytes: b"\x02garbage" });
    assert!(matches!(node.out[..], [Effect::Notice(Notice::Said { from: LOW, .. })]));
    node.out.clear();
    node.handle(Event::Said { from: LOW, bytes: &[200, 1, 2] });
    assert!(node.out.is_empty(), "a later version may say more");
}
