//! A fabric for one case: its nodes, a node of this process that takes no entities and calls those of the others, and
//! what is known of who has what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use epicserver::config::{Key, Transport};
use epicserver::{Client, Config, Node};

use crate::account::{self, Account};
use crate::etcd::Etcd;
use crate::load::{self, Done, Load};
use crate::node::{self, By, Other};
use crate::{Failure, hosts, journal};

/// Nodes that have entities.
pub(crate) const NODES: usize = 4;
/// What this process is called in the journal, where it must not occur.
const CALLER: u32 = 99;
/// How long a fabric may take to be as it should be.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes, and calls to them.
pub(crate) struct Fabric {
    pub(crate) nodes: Vec<Other>,
    pub(crate) client: Client,
    pub(crate) entities: u64,
    folder: PathBuf,
    by: By,
    /// Calls that have ended.
    done: Vec<Done>,
    here: Option<Node>,
}

impl Fabric {
    /// Starts four nodes that agree by `by`, waits until each has entities, and calls each of the entities below
    /// `entities` once.
    pub(crate) fn start(folder: &Path, by: By, entities: u64) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        let run = folder.join("run");
        std::fs::create_dir_all(&run)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&run, private)?;
        account::write_to(&node::journal(folder), CALLER)?;
        let mut nodes = Vec::new();
        for at in 0..NODES {
            nodes.push(Other::start(at, folder, by)?);
        }
        let here = here(&run, by)?;
        for node in &mut nodes {
            node.serves()?;
        }
        let client = here.client();
        let mut fabric = Self {
            nodes,
            client,
            entities,
            folder: folder.to_owned(),
            by,
            done: Vec::new(),
            here: Some(here),
        };
        fabric.wait_for(&[0, 1, 2, 3])?;
        let first = load::call_each(&fabric.client, 0..entities);
        println!("  each once: {}", load::describe(first.iter()));
        fabric.done.extend(first);
        Ok(fabric)
    }

    /// Starts node `at` again.
    pub(crate) fn again(&mut self, at: usize) -> Result<(), Failure> {
        self.nodes[at] = Other::start(at, &self.folder, self.by)?;
        self.nodes[at].serves()
    }

    pub(crate) fn load(&self) -> Load {
        Load::start(&self.client, self.entities)
    }

    /// These calls have ended.
    pub(crate) fn take(&mut self, done: &[Done]) {
        self.done.extend_from_slice(done);
    }

    /// Calls `keys` one after another until each has answered, and gives up only after a long while.
    pub(crate) fn insist(&mut self, keys: impl Iterator<Item = u64>) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        for key in keys {
            loop {
                let done = load::call(&self.client, key, None);
                let answered = done.outcome.is_ok();
                self.done.push(done);
                match answered {
                    true => break,
                    false if Instant::now() > until => {
                        return Err(format!("entity {key} does not come back").into());
                    }
                    false => {}
                }
            }
        }
        Ok(())
    }

    /// Calls entities until those of just `wanted` have answered of two hundred.
    pub(crate) fn wait_for(&mut self, wanted: &[u32]) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let done = load::call_each(&self.client, 0..200);
            let mut nodes: Vec<u32> = done
                .iter()
                .filter_map(|done| done.outcome.as_ref().ok())
                .map(|hit| hit.node)
                .collect();
            self.done.extend(done);
            nodes.sort_unstable();
            nodes.dedup();
            if nodes == wanted {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("entities are on nodes {nodes:?} and not on {wanted:?}").into());
            }
        }
    }

    /// Where each entity was last seen, and by which fence.
    pub(crate) fn owners(&self) -> BTreeMap<u64, (u32, u64)> {
        let hits =
            self.done.iter().filter_map(|done| Some((done.key, done.outcome.as_ref().ok()?)));
        hits.map(|(key, hit)| (key, (hit.node, hit.fence))).collect()
    }

    /// Entities that were last seen on node `at`.
    pub(crate) fn keys_of(&self, at: usize) -> Vec<u64> {
        let owners = self.owners();
        owners
            .into_iter()
            .filter(|(_, (node, _))| *node as usize == at)
            .map(|(key, _)| key)
            .collect()
    }

    /// Stops all that runs, and holds what was written down against what was said.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        if let Some(here) = self.here.take() {
            here.stop();
        }
        self.nodes.clear();
        let entries = journal::read(&node::journal(&self.folder))?;
        let refused = journal::refused(&entries);
        let wrong = journal::check(&entries, &refused, &self.done);
        println!(
            "  {} turns were written down, {} calls ended; refused for their fence: {}",
            entries.len() - refused.len(),
            self.done.len(),
            refused.len()
        );
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ").into()) }
    }
}

/// A node that takes no entities.
fn here(run: &Path, by: By) -> Result<Node, Failure> {
    let mut config = Config::default();
    config.fabric.key = Key::new(node::KEY.as_bytes());
    config.fabric.nodes = u32::try_from(NODES + 1)?;
    config.node.weight = 0;
    config.node.shards = std::num::NonZeroUsize::new(1);
    config.network.transport = Transport::Tcp;
    config.network.listen = vec![format!("{}:0", hosts::HERE).parse()?];
    config.runtime.run_dir = Some(run.to_owned());
    if by == By::Etcd {
        config.coordinator.kind = epicserver::config::CoordinatorKind::Etcd;
        config.coordinator.servers = vec![epicserver::config::Secret::new(&Etcd::url())];
    }
    Ok(Node::builder().entity::<Account>().config(&config).pin(false).start()?)
}
