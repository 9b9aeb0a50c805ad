//! The plan: which view should come next, by what the coordinator says.
//!
//! In: the view and the leases   Out: the next view and whose leases end with it, if there is anything to change
//!
//! # Invariants
//! - **PL1** A member that is none in the next view is among the ends: so its lease has ended when the view is there.
//! - **PL2** The history of the next view holds each earlier one by which somebody may hold a slot that a later one of
//!   them gives to another. A view is left out when each member that has not ended knows a later one and holds nothing
//!   by this one, or when its living members and their shares are just those of the next one that is kept: then each of
//!   their slots is theirs there, too.
//! - **PL3** Ends alone never lengthen the history, so the dead can be removed even when it is full.
//!
//! # Not here
//! Who proposes it, and when.

use std::time::Duration;

use epicserver_wire::NodeId;

use crate::coordinator::Lease;
use crate::view::{HISTORY_MAX, MEMBERS_MAX, Member, Past, Record, Share, View, Wants};

/// Leases of others than members that may have expired before a view is made to end them.
const STRAYS_MAX: usize = 16;

/// What one lease says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lessee {
    pub(super) node: NodeId,
    /// `None` if it cannot be read.
    pub(super) record: Option<Record>,
    pub(super) lives: bool,
    /// How long it lasts still.
    pub(super) left: Duration,
}

impl Lessee {
    pub(super) fn of(lease: &Lease) -> Self {
        let record = Record::read(&lease.record).ok();
        // What it says of another node is not for it to say.
        let record = record.filter(|record| record.member.node() == lease.node);
        Self { node: lease.node, record, lives: !lease.left.is_zero(), left: lease.left }
    }

    /// What it wants, if its lease lasts.
    fn wants_alive(&self) -> Option<Wants> {
        self.record.as_ref().map(|record| record.wants).filter(|_| self.lives)
    }
}

/// The lease of `node` among all, which are by node.
pub(super) fn lease_of(lessees: &[Lessee], node: NodeId) -> Option<&Lessee> {
    let at = lessees.binary_search_by_key(&node, |lessee| lessee.node).ok()?;
    lessees.get(at)
}

/// A change of the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) view: View,
    pub(super) ends: Vec<NodeId>,
}

/// What should be changed, if anything; `lessees` are by node.
pub(super) fn plan(current: Option<&View>, lessees: &[Lessee]) -> Option<Plan> {
    let nothing = View { number: 0, members: Vec::new(), history: Vec::new() };
    let current = current.unwrap_or(&nothing);
    next(current, lessees, true).or_else(|| next(current, lessees, false))
}

/// The next view: with all that is wanted, or without those that are gone and nothing else (**PL3**).
fn next(current: &View, lessees: &[Lessee], all: bool) -> Option<Plan> {
    let mut members = Vec::new();
    let mut ends = Vec::new();
    for member in &current.members {
        match lease_of(lessees, member.node()).filter(|lessee| lessee.lives) {
            Some(lessee) if all => members.push(renewed(member, lessee)),
            Some(_) => members.push(member.clone()),
            None => ends.push(member.node()), // PL1
        }
    }
    if all {
        let room = MEMBERS_MAX.saturating_sub(members.len());
        members.extend(joining(current, lessees).take(room));
        members.sort_unstable_by_key(Member::node);
    }
    let history = history(current, &members, lessees);
    if history.len() > HISTORY_MAX {
        return None;
    }
    let strays = lessees.iter().filter(|lessee| !lessee.lives && !current.has(lessee.node));
    let strays: Vec<NodeId> = strays.map(|lessee| lessee.node).collect();
    let shrinks = history.len() < current.history.len()
        && (history.is_empty() || current.history.len() > HISTORY_MAX / 2);
    if members == current.members && ends.is_empty() && !shrinks && strays.len() <= STRAYS_MAX {
        return None;
    }
    ends.extend(strays);
    ends.sort_unstable();
    Some(Plan { view: View { number: current.number + 1, members, history }, ends })
}

/// A member by what it says of itself now.
fn renewed(member: &Member, lessee: &Lessee) -> Member {
    let Some(record) = lessee.record.as_ref().filter(|_| !member.leaving) else {
        return member.clone();
    };
    let mut renewed = Member { leaving: record.wants == Wants::Leave, ..record.member.clone() };
    if renewed.leaving {
        renewed.share.weight = 0;
    }
    renewed
}

fn joining<'a>(current: &'a View, lessees: &'a [Lessee]) -> impl Iterator<Item = Member> + 'a {
    let joins =
        |lessee: &&Lessee| lessee.wants_alive() == Some(Wants::Join) && !current.has(lessee.node);
    let records = lessees.iter().filter(joins).filter_map(|lessee| lessee.record.as_ref());
    records.map(|record| Member { leaving: false, ..record.member.clone() })
}

/// The history of the view after `current` whose members are `members` (**PL2**).
fn history(current: &View, members: &[Member], lessees: &[Lessee]) -> Vec<Past> {
    if current.number == 0 {
        return Vec::new();
    }
    let stayed = members.iter().filter(|member| current.has(member.node()));
    let Some(settled) = stayed.map(|member| settled_of(member.node(), current, lessees)).min()
    else {
        return Vec::new(); // All that held anything have ended.
    };
    let mut next: Vec<Share> = members.iter().map(|member| member.share.clone()).collect();
    let earlier = current.history.iter().filter(|past| past.number >= settled).cloned();
    let mut kept: Vec<Past> = Vec::new();
    let all: Vec<Past> = earlier.chain([current.as_past()]).collect();
    for past in all.into_iter().rev() {
        if !is_implied(&past, &next, members) {
            next.clone_from(&past.shares);
            kept.push(past);
        }
    }
    kept.reverse();
    kept
}

/// The number of a view such that `node` holds nothing which that view does not give it.
fn settled_of(node: NodeId, current: &View, lessees: &[Lessee]) -> u64 {
    // It held nothing before it was a member.
    let first = current.history.iter().find(|past| past.has(node));
    let first = first.map_or(current.number, |past| past.number);
    let said = lease_of(lessees, node).and_then(|lessee| lessee.record.as_ref());
    said.map_or(0, |record| record.settled.min(current.number)).max(first)
}

/// Whether what the living of `past` owned there is theirs by `next` as well: nobody bids there who did not before, and
/// the living bid as they did.
fn is_implied(past: &Past, next: &[Share], members: &[Member]) -> bool {
    let lives = |node: NodeId| members.binary_search_by_key(&node, Member::node).is_ok();
    let same = |share: &Share, others: &[Share]| {
        let at = others.binary_search_by_key(&share.node, |other| other.node).ok();
        at.is_some_and(|at| others[at] == *share)
    };
    past.shares.iter().all(|share| !lives(share.node) || same(share, next))
        && next.iter().all(|share| same(share, &past.shares))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_secs(1);

    fn member(node: u64) -> Member {
        Member::of(NodeId::new(node), 1)
    }

    fn lessee(node: u64, wants: Wants, settled: u64) -> Lessee {
        let record = Some(Record { member: member(node), wants, settled });
        Lessee { node: NodeId::new(node), record, lives: true, left: LEFT }
    }

    fn expired(node: u64) -> Lessee {
        Lessee { lives: false, ..lessee(node, Wants::Stay, 0) }
    }

    fn past(number: u64, nodes: &[u64]) -> Past {
        Past { number, shares: nodes.iter().map(|node| member(*node).share).collect() }
    }

    fn view(number: u64, nodes: &[u64], history: Vec<Past>) -> View {
        View { number, members: nodes.iter().map(|node| member(*node)).collect(), history }
    }

    fn ids(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().map(|node| NodeId::new(*node)).collect()
    }

    fn stay(nodes: &[u64], settled: u64) -> Vec<Lessee> {
        nodes.iter().map(|node| lessee(*node, Wants::Stay, settled)).collect()
    }

    #[test]
    fn the_first_view_has_all_who_wait() {
        let lessees = [lessee(1, Wants::Join, 0), lessee(4, Wants::Join, 0), expired(6)];
        let ends = ids(&[6]);
        assert_eq!(plan(None, &lessees), Some(Plan { view: view(1, &[1, 4], Vec::new()), ends }));
        assert_eq!(plan(None, &[]), None);
    }

    #[test]
    fn who_joins_finds_the_view_before_in_the_history() {
        let current = view(5, &[1, 2], Vec::new());
        let mut lessees = stay(&[1, 2], 5);
        lessees.push(lessee(3, Wants::Join, 0));
        let next = view(6, &[1, 2, 3], vec![past(5, &[1, 2])]);
        assert_eq!(plan(Some(&current), &lessees), Some(Plan { view: next, ends: Vec::new() }));
    }

    #[test]
    fn pl1_who_has_no_lease_or_an_expired_one_ends() {
        let current = view(5, &[1, 2, 3], Vec::new());
        let lessees = [lessee(1, Wants::Stay, 5), expired(3)];
        let next = Plan { view: view(6, &[1], Vec::new()), ends: ids(&[2, 3]) };
        assert_eq!(plan(Some(&current), &lessees), Some(next));
    }

    #[test]
    fn who_leaves_stays_a_member_that_owns_nothing_until_its_lease_has_ended() {
        let current = view(5, &[1, 2], Vec::new());
        let lessees = [lessee(1, Wants::Stay, 5), lessee(2, Wants::Leave, 5)];
        let first = plan(Some(&current), &lessees).unwrap();
        let mut leaving = member(2);
        (leaving.leaving, leaving.share.weight) = (true, 0);
        assert_eq!(first.view.members, [member(1), leaving]);
        assert_eq!(first.view.history, [past(5, &[1, 2])]);
        assert_eq!(plan(Some(&first.view), &lessees), None, "it is handing over");
        let gone = plan(Some(&first.view), &lessees[..1]).unwrap();
        assert_eq!((gone.view, gone.ends), (view(7, &[1], Vec::new()), ids(&[2])));
    }

    #[test]
    fn pl2_a_history_that_all_have_settled_is_dropped() {
        let current = view(6, &[1, 2, 3], vec![past(5, &[1, 2])]);
        let mut lessees = stay(&[1, 2], 6);
        lessees.push(lessee(3, Wants::Stay, 0));
        let next = Plan { view: view(7, &[1, 2, 3], Vec::new()), ends: Vec::new() };
        assert_eq!(plan(Some(&current), &lessees), Some(next), "3 never held anything before");
        lessees[1] = lessee(2, Wants::Stay, 5);
        assert_eq!(plan(Some(&current), &lessees), None);
    }

    #[test]
    fn pl2_of_views_that_differ_by_the_dead_alone_the_last_is_kept() {
        let current = view(7, &[1, 2, 4], vec![past(5, &[1, 2]), past(6, &[1, 2, 3, 4])]);
        let mut lessees = stay(&[1, 2, 4], 5);
        lessees.push(lessee(9, Wants::Join, 0));
        let next = plan(Some(&current), &lessees).unwrap().view;
        assert_eq!(next.history, [past(5, &[1, 2]), past(7, &[1, 2, 4])]);
    }

    #[test]
    fn pl3_when_the_history_is_full_the_dead_are_removed_and_all_others_wait() {
        let pasts = (1..=16).map(|number| past(number, &(1..=number).collect::<Vec<u64>>()));
        let nodes: Vec<u64> = (1..=17).collect();
        let current = view(17, &nodes, pasts.collect());
        let mut lessees = stay(&nodes, 1);
        lessees.push(lessee(18, Wants::Join, 0));
        assert_eq!(plan(Some(&current), &lessees), None);
        lessees[3].lives = false;
        let Plan { view: next, ends } = plan(Some(&current), &lessees).unwrap();
        assert_eq!(ends, ids(&[4]));
        assert!(next.history.len() <= HISTORY_MAX);
        assert!(!next.has(NodeId::new(18)));
        let lessees: Vec<Lessee> =
            (stay(&nodes, 9)).into_iter().chain([lessee(18, Wants::Join, 0)]).collect();
        assert!(plan(Some(&current), &lessees).unwrap().view.has(NodeId::new(18)));
    }

    #[test]
    fn strays_are_ended_with_the_next_change_or_when_they_are_many() {
        let current = view(5, &[1], Vec::new());
        let mut lessees = stay(&[1], 5);
        lessees.extend((10..26).map(expired));
        assert_eq!(plan(Some(&current), &lessees), None);
        lessees.push(expired(26));
        assert_eq!(
            plan(Some(&current), &lessees).unwrap().ends,
            ids(&(10..=26).collect::<Vec<u64>>())
        );
    }

    #[test]
    fn what_a_member_says_anew_of_itself_is_taken_over_and_what_cannot_be_read_changes_nothing() {
        let current = view(5, &[1, 2], Vec::new());
        let mut lessees = stay(&[1, 2], 5);
        lessees[0].record.as_mut().unwrap().member.share.weight = 7;
        lessees[1].record = None;
        let next = plan(Some(&current), &lessees).unwrap().view;
        assert_eq!(next.members[0].share.weight, 7);
        assert_eq!(next.members[1], member(2));
        assert_eq!(next.history, [past(5, &[1, 2])]);
    }

    #[test]
    fn a_lease_that_speaks_for_another_node_says_nothing() {
        let record = Record { member: member(2), wants: Wants::Join, settled: 0 };
        let lease = Lease { node: NodeId::new(1), record: record.write(), left: LEFT };
        assert_eq!(Lessee::of(&lease), Lessee { record: None, ..lessee(1, Wants::Join, 0) });
    }
}
