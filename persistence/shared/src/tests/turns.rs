//! Several ends in one process that have the file in turn.

use std::time::Duration;

use epicserver_store::conformance::{Client, Scratch, Writing, barrel, owner};
use epicserver_store::limits::RECORD_BYTES_MAX;
use epicserver_store::{Answer, Keeper as _, Op, Outcome, Slot, Trouble};

use super::{Files, LONG};
use crate::limits::OP_BYTES_MAX;
use crate::{Error, Options, open};

fn save(key: u64, version: u64) -> Op {
    Op::Commit(vec![Writing::of(barrel(key), version).state(&[version as u8; 3000])])
}

fn saved() -> Result<Answer, Trouble> {
    Ok(Answer::Committed(vec![Outcome::Saved]))
}

#[test]
fn sh2_whoever_leaves_in_order_loses_nothing_of_the_others() {
    let files = Files::new();
    let mut holder = files.open();
    let keepers: Vec<_> = (0..4).map(|_| files.open()).collect();
    let mut clients: Vec<_> =
        keepers.iter().map(|keeper| Client::with_patience(keeper, LONG)).collect();
    assert_eq!(clients[0].claim(owner(1, 1), &[Slot::of(&barrel(0))]), []);
    let mut keepers = keepers.into_iter();
    let mut version = 0;
    while !clients.is_empty() {
        let mut asked = Vec::new();
        for (key, client) in clients.iter_mut().enumerate() {
            for step in 0..60 {
                asked.push((key, client.submit(save(key as u64, version + step)).unwrap()));
                let load = Op::Load { entity: barrel(7777), claim: None };
                client.submit(load).unwrap();
            }
        }
        drop(holder);
        for (key, id) in asked {
            assert_eq!(clients[key].answer(id), saved());
        }
        // Whichever has it now leaves it when its turn comes; the last client's keeper goes with the last round.
        holder = match keepers.next_back() {
            Some(keeper) => keeper,
            None => return,
        };
        clients.pop();
        version += 60;
    }
}

#[test]
fn sh1_one_of_many_that_open_at_once_has_it() {
    let files = Files::new();
    for _ in 0..5 {
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| files.open())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().filter(|shared| shared.holds()).count(), 1, "SH1: not one has it");
    }
}

#[test]
fn a_file_that_somebody_has_who_does_not_share_is_waited_for() {
    let files = Files::new();
    let options = Options { patience: Duration::from_millis(100), ..files.options() };
    let alone = epicserver_redb::open(&epicserver_redb::Options {
        path: options.path.clone(),
        fabric: options.fabric.clone(),
        cache_bytes: options.cache_bytes,
    })
    .unwrap();
    let error = open(&options).unwrap_err();
    assert!(matches!(&error, Error::Nobody { .. }), "{error}");
    assert!(error.to_string().contains("another process has it open"), "{error}");
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| files.open());
        drop(alone);
        waits.join().unwrap()
    });
    assert!(waits.holds());
}

#[test]
fn a_back_up_of_a_path_that_begins_here_lies_where_the_asker_means() {
    let files = Files::new();
    let (_near, far) = (files.open(), files.open());
    let mut client = Client::with_patience(&far, LONG);
    assert_eq!(client.claim(owner(1, 1), &[Slot::of(&barrel(0))]), []);
    client.must_save(vec![Writing::of(barrel(1), 0).state(b"x")]);
    let copy = Scratch::new("copy");
    let answer = client.ask(Op::Backup { to: copy.0.clone() });
    assert_eq!(answer, Ok(Answer::BackedUp { rows: 1, corrupt: Vec::new() }));
    assert!(copy.0.exists());
}

#[test]
fn an_op_that_is_too_long_for_a_frame_is_refused_at_both_ends() {
    let files = Files::new();
    let (near, far) = (files.open(), files.open());
    let long = vec![1; OP_BYTES_MAX / 4];
    assert!(long.len() < RECORD_BYTES_MAX);
    let saves = (0..4).map(|key| Writing::of(barrel(key), 0).state(&long)).collect::<Vec<_>>();
    for keeper in [&near, &far] {
        let answer = Client::with_patience(keeper, LONG).ask(Op::Commit(saves.clone()));
        assert!(matches!(&answer, Err(Trouble::Refused(why)) if why.contains("the most")));
    }
}

#[test]
fn a_link_leads_to_the_same_place() {
    let files = Files::new();
    let near = files.open();
    let link = Scratch::new("link");
    std::os::unix::fs::symlink(files.path(), &link.0).unwrap();
    let far = open(&Options { path: link.0.clone(), ..files.options() }).unwrap();
    assert!(near.holds() && !far.holds());
    assert_eq!(far.name(), near.name());
}
