//! Clients: entities called from threads that run none.

mod common;

use std::time::Duration;

use common::{Gate, node, on_nodes, within};
use epicserver::Builder;
use epicserver::prelude::*;

#[entity(key = u64)]
#[derive(Default)]
struct Tally {
    sum: u64,
}

#[entity]
impl Tally {
    pub fn add(&mut self, by: u64) -> u64 {
        self.sum += by;
        self.sum
    }

    pub async fn add_to(_cx: Cx<Self>, other: Ref<Self>, by: u64) -> Result<u64> {
        other.add(by).await
    }
}

async fn add_twenty(one: Ref<Tally>, other: Ref<Tally>) -> Result<()> {
    for _ in 0..10 {
        one.add(1).await?;
        one.add_to(other.clone(), 1).await?;
    }
    Ok(())
}

fn add_until_it_fails(client: &Client, key: u64) {
    let tally = client.get::<Tally>(key);
    while client.block_on(tally.add(1)).is_ok() {}
}

fn all(builder: Builder) -> Builder {
    builder.entity::<Tally>()
}

/// Runs `test` with a client of each setup of a node.
fn with_clients(test: impl Fn(Client) + Copy + Send + 'static) {
    within(move || {
        for (shards, direct) in [(1, true), (1, false), (2, true), (2, false)] {
            let node = all(node(shards, direct)).start().unwrap_or_else(|error| panic!("{error}"));
            test(node.client());
            assert!(node.stop());
        }
    });
}

#[test]
fn a_client_can_be_shared_by_threads() {
    fn is_shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    with_clients(|client| {
        is_shared(&client);
        is_shared(&client.get::<Tally>(1));
    });
}

#[test]
fn many_tasks_of_tokio_call_through_one_client() {
    with_clients(|client| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let sum = runtime.block_on(async {
            let tasks: Vec<_> = (0..200_u64)
                .map(|task| {
                    let client = client.clone();
                    tokio::spawn(add_twenty(client.get(task % 8), client.get(task % 5)))
                })
                .collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
            let mut sum = 0;
            for key in 0..8 {
                sum += client.get::<Tally>(key).add(0).await.unwrap();
            }
            sum
        });
        assert_eq!(sum, 200 * 10 * 2);
    });
}

#[test]
fn plain_threads_block_on_calls() {
    with_clients(|client| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                std::thread::spawn(move || {
                    let tally = client.get::<Tally>(1);
                    (0..100).map(|_| client.block_on(tally.add(1))).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        for thread in threads {
            let sums = thread.join().unwrap().unwrap();
            assert!(sums.is_sorted());
        }
        assert_eq!(client.block_on(client.get::<Tally>(1).add(0)), Ok(400));
    });
}

#[test]
fn calls_from_outside_keep_their_order_when_they_are_told_or_dropped() {
    with_clients(|client| {
        let tally = client.get::<Tally>(1);
        for _ in 0..100 {
            tally.add(1).tell();
            drop(tally.add(1));
        }
        assert_eq!(client.block_on(tally.add(0)), Ok(200));
    });
}

#[test]
fn a_call_from_outside_that_is_late_fails() {
    with_clients(|client| {
        let gate = client.get::<Gate>(1);
        let late = client.block_on(gate.pass().timeout(Duration::from_millis(10))).unwrap_err();
        assert_eq!((late.kind(), late.ran()), (ErrorKind::Deadline, Ran::Yes));
        client.block_on(gate.open()).unwrap();
    });
}

#[test]
fn a_client_outlives_its_node_and_its_calls_fail() {
    within(|| {
        for (shards, stops) in [(1, true), (2, true), (1, false), (2, false)] {
            let node = all(node(shards, true)).start().unwrap();
            let client = node.client();
            assert_eq!(client.block_on(client.get::<Tally>(1).add(1)), Ok(1));
            if stops {
                assert!(node.stop());
            } else {
                drop(node);
            }
            for key in 0..10 {
                let error = client.block_on(client.get::<Tally>(key).add(1)).unwrap_err();
                assert_eq!((error.kind(), error.ran()), (ErrorKind::Stopping, Ran::No));
                client.get::<Tally>(key).add(1).tell();
            }
        }
    });
}

#[test]
fn every_call_made_while_a_node_is_dropped_ends() {
    within(|| {
        for round in 0..20 {
            let node = all(node(1 + round % 2, true)).start().unwrap();
            let client = node.client();
            let threads: Vec<_> = (0..4)
                .map(|key| {
                    let client = client.clone();
                    std::thread::spawn(move || add_until_it_fails(&client, key))
                })
                .collect();
            assert!(client.block_on(client.get::<Tally>(9).add(1)).is_ok());
            drop(node);
            for thread in threads {
                thread.join().unwrap();
            }
        }
    });
}

#[test]
fn a_reference_of_a_client_works_within_an_entity_too() {
    with_clients(|client| {
        let (one, other) = (client.get::<Tally>(1), client.get::<Tally>(2));
        assert_eq!(client.block_on(one.add_to(other.clone(), 5)), Ok(5));
        assert_eq!(client.block_on(other.add(1)), Ok(6));
    });
    on_nodes(&[1], all, async |pool: Pool| {
        assert_eq!(pool.get::<Tally>(1).add(1).await, Ok(1));
    });
}
