//! A fabric whose nodes are replaced one after the other by those of a program whose entities have changed.

#[expect(dead_code, reason = "its setups are of nodes that save nothing")]
mod common;
#[path = "rolling/node.rs"]
mod node;
#[path = "rolling/programs.rs"]
mod programs;
#[path = "common/run_dir.rs"]
mod run_dir;

use std::collections::{BTreeMap, BTreeSet};

use common::within;
use node::{Replaceable, stored};
use programs::CAREFUL;
use run_dir::RunDir;

/// Entities that are called: enough that each of two nodes has some.
pub(crate) const KEYS: u64 = 24;

/// Two nodes of the first program, of which the second one is calling all accounts, again and again.
fn two_under_load(folder: &RunDir) -> (Replaceable, Replaceable) {
    let (mut one, mut other) = (Replaceable::start(folder, 1), Replaceable::start(folder, 1));
    one.serves();
    other.serves();
    other.begin_to_load();
    other.rounds(2);
    (one, other)
}

/// Keys by the process that has them, once none but `nodes` have any.
fn homes(asker: &mut Replaceable, nodes: &[u64]) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut before = BTreeMap::new();
    loop {
        let mut homes = BTreeMap::<u64, BTreeSet<u64>>::new();
        for key in 0..KEYS {
            homes.entry(asker.number("process", key)).or_default().insert(key);
        }
        // While a view spreads, some are asked for before it and some after.
        if homes.keys().eq(nodes) && homes == before {
            return homes;
        }
        before = homes;
    }
}

/// Those two, sorted as [`homes`] has them.
fn sorted(one: &Replaceable, other: &Replaceable) -> [u64; 2] {
    let mut both = [one.id(), other.id()];
    both.sort_unstable();
    both
}

#[test]
fn calls_go_on_while_nodes_are_replaced_by_those_of_the_next_program() {
    within(|| {
        let folder = RunDir::new();
        let (one, mut other) = two_under_load(&folder);
        let mut new = Replaceable::start(&folder, 2);
        new.serves();
        assert!(one.stops());
        other.rounds(2);
        let nodes = sorted(&other, &new);
        homes(&mut other, &nodes);
        other.rounds(2);
        let added = other.end_load();
        let homes = homes(&mut other, &nodes);
        for key in 0..KEYS {
            let (schema, _) = stored(&folder, key);
            assert_eq!(schema, if homes[&new.id()].contains(&key) { 2 } else { 1 }, "{key}");
        }
        new.begin_to_load();
        new.rounds(2);
        let mut newer = Replaceable::start(&folder, 2);
        newer.serves();
        assert!(other.stops());
        new.rounds(2);
        let added = added + new.end_load();
        for key in 0..KEYS {
            assert_eq!(newer.number("add", key), added + 1, "{key}");
            assert_eq!(stored(&folder, key).0, 2);
        }
        assert!(new.stops() && newer.stops());
    });
}

/// A node of each of two programs, and the keys that each has.
fn one_of_each(folder: &RunDir, programs: [u32; 2]) -> [(Replaceable, BTreeSet<u64>); 2] {
    let [mut old, mut new] = programs.map(|number| Replaceable::start(folder, number));
    old.serves();
    new.serves();
    let nodes = sorted(&old, &new);
    let mut homes = homes(&mut old, &nodes);
    let (of_old, of_new) = (homes.remove(&old.id()), homes.remove(&new.id()));
    [(old, of_old.expect("it has some")), (new, of_new.expect("it has some"))]
}

#[test]
fn nodes_of_two_programs_refuse_each_other_what_only_one_of_them_knows() {
    within(|| {
        let folder = RunDir::new();
        let [(mut old, of_old), (mut new, of_new)] = one_of_each(&folder, [1, 2]);
        for key in 0..KEYS {
            assert_eq!(old.call("add", key), "ok 1");
            assert_eq!(new.call("add", key), "ok 2");
        }
        for key in of_old {
            assert_eq!(new.call("give", key), "UnknownMethod No");
            assert_eq!(new.call("describe", key), "Malformed No");
            assert_eq!(old.call("describe", key), "ok 2 cents");
        }
        for key in of_new {
            assert_eq!(new.call("give", key), "ok Bob");
            assert_eq!(old.call("describe", key), "Malformed No");
            assert_eq!(new.call("describe", key), "ok (2, \"Bob\")");
        }
        // Entities of a type that only one of them has are placed on both.
        let audited: BTreeSet<String> = (0..KEYS).map(|key| new.call("audit", key)).collect();
        assert_eq!(audited, BTreeSet::from(["UnknownType No", "ok 1"].map(str::to_owned)));
    });
}

#[test]
fn what_the_next_program_has_saved_is_not_served_by_the_one_before_and_not_lost() {
    within(|| {
        let folder = RunDir::new();
        let [(mut old, of_old), (mut new, of_new)] = one_of_each(&folder, [1, 2]);
        for key in 0..KEYS {
            assert_eq!(old.call("add", key), "ok 1");
        }
        of_new.iter().for_each(|key| assert_eq!(new.call("give", *key), "ok Bob"));
        let before: Vec<_> = of_new.iter().map(|key| stored(&folder, *key)).collect();
        assert!(new.stops());
        // Both times: an error changes nothing.
        for key in of_new.iter().chain(&of_new) {
            assert_eq!(old.call("add", *key), "StateUnreadable No");
        }
        let why = "it has schema version 2, and this program reads up to 1";
        // The log may lag behind the last reply.
        assert!(old.log(&folder).matches(why).count() >= of_new.len());
        let after: Vec<_> = of_new.iter().map(|key| stored(&folder, *key)).collect();
        assert_eq!(before, after);
        of_old.iter().for_each(|key| assert_eq!(old.call("add", *key), "ok 2"));
        let mut newer = Replaceable::start(&folder, 2);
        newer.serves();
        assert!(old.stops());
        of_old.iter().for_each(|key| assert_eq!(newer.call("add", *key), "ok 3"));
        for key in of_new {
            assert_eq!(newer.call("add", key), "ok 2");
            assert_eq!(newer.call("describe", key), "ok (2, \"Bob\")");
        }
        assert!(newer.stops());
    });
}

#[test]
fn what_is_written_as_by_the_program_before_goes_back_and_forth_until_none_does_so_any_more() {
    within(|| {
        let folder = RunDir::new();
        let [(mut old, _), (mut both, of_both)] = one_of_each(&folder, [1, CAREFUL]);
        let key = *of_both.first().expect("it has some");
        assert_eq!(both.call("give", key), "ok Bob");
        (0..KEYS).for_each(|key| assert_eq!(both.call("add", key), "ok 1"));
        assert!(both.stops());
        (0..KEYS).for_each(|key| assert_eq!(old.call("add", key), "ok 2"));
        let mut both = Replaceable::start(&folder, CAREFUL);
        both.serves();
        assert!(old.stops());
        (0..KEYS).for_each(|key| assert_eq!(both.call("add", key), "ok 3"));
        let schemas = |of: &BTreeSet<u64>| -> BTreeSet<u64> {
            of.iter().map(|key| stored(&folder, *key).0).collect()
        };
        assert_eq!(schemas(&(0..KEYS).collect()), BTreeSet::from([1]));
        // The next program is the same but for that: what it has written is read by those that are still there.
        let mut new = Replaceable::start(&folder, 2);
        new.serves();
        let nodes = sorted(&both, &new);
        let of_new = homes(&mut both, &nodes).remove(&new.id()).expect("it has some");
        of_new.iter().for_each(|key| assert_eq!(new.call("give", *key), "ok Bob"));
        assert!(new.stops());
        for key in 0..KEYS {
            assert_eq!(both.call("add", key), "ok 4");
        }
        assert_eq!(schemas(&of_new), BTreeSet::from([2]));
        of_new.iter().for_each(|key| assert_eq!(both.call("describe", *key), "ok (4, \"Bob\")"));
        assert!(both.stops());
    });
}
