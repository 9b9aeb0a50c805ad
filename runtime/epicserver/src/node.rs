//! A node in any program.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use epicserver_entity::{Entity, Pool, Registry, RegistryError};
use epicserver_shard::idle::Mode;
use epicserver_shard::{Host, IoOptions, Options, StartError};
use epicserver_store::Keeper;

use crate::config::Config;
use crate::fabric::{self, Fabric, FabricError, Job, Joining};
use crate::store::StoreError;
use crate::{Client, store};

/// How long a stopping node waits for what is under way, where nothing says otherwise.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a node could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Two entity types or methods cannot be told apart.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A thread, a CPU or the run directory cannot be had.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The node cannot join its fabric.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// There is no store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task that was to run panicked or was dropped.
    #[error("the task panicked, or the node stopped before it was done")]
    TaskLost,
}

/// Sets up a [`Node`].
#[derive(Debug)]
#[must_use = "a node starts with `start`"]
pub struct Builder {
    registry: Result<Registry, RegistryError>,
    shards: Option<NonZeroUsize>,
    idle_mode: Mode,
    memory_bytes_max: u64,
    idle: Option<Duration>,
    direct: bool,
    pin: bool,
    config: Config,
}

impl Builder {
    /// Does as `config` says, in place of all that was set before but the entities. With more than one
    /// node, seeds, multicast or a Slurm step, the node joins others; otherwise it opens no port.
    pub fn config(mut self, config: &Config) -> Self {
        self.idle_mode = config.runtime.idle;
        self.shards = config.node.shards;
        self.memory_bytes_max = config.runtime.memory.unwrap_or(u64::MAX);
        self.idle = config.runtime.idle_after;
        self.config = config.clone();
        self
    }

    /// Serves entities of type `T`.
    pub fn entity<T: Entity>(self) -> Self {
        self.register(|registry| registry.add::<T>())
    }

    /// Serves what `add` registers.
    pub fn register(
        mut self,
        add: impl FnOnce(&mut Registry) -> Result<(), RegistryError>,
    ) -> Self {
        self.registry = self.registry.and_then(|mut registry| {
            add(&mut registry)?;
            Ok(registry)
        });
        self
    }

    /// How many shards, that is, execution threads. By default one for each physical core that the
    /// process may use.
    pub fn shards(mut self, shards: NonZeroUsize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// How idle shards wait: what latency is worth. [`Mode::Balanced`] by default.
    pub fn idle_mode(mut self, mode: Mode) -> Self {
        self.idle_mode = mode;
        self
    }

    /// Bytes that the activations of one shard may take; unbounded by default. Reached, it makes
    /// idle activations leave, least recently used first; then new ones are refused with
    /// [`ErrorKind::OutOfBudget`](crate::ErrorKind::OutOfBudget).
    pub fn memory_bytes_max(mut self, bytes: u64) -> Self {
        self.memory_bytes_max = bytes;
        self
    }

    /// Collects activations that have been idle for so long, where their type does not say. By
    /// default they stay: what is collected is forgotten.
    pub fn idle_after(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Whether a call to an entity of the same shard may run inside its caller's turn; yes by
    /// default. Without it each call goes through a mailbox.
    pub fn direct_calls(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Whether to claim CPUs and pin the threads to them; yes by default. Nodes of one host do not
    /// claim the same CPU while another is free.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Starts the node's threads. Blocks until as many nodes of the fabric are there as its configuration
    /// wants, this one included, or until the job is over that wants them (see
    /// [`Node::wait_for_job`]).
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn start(self) -> Result<Node, NodeError> {
        let registry = Arc::new(self.registry.clone()?);
        let (joining, io) = self.joining(&registry)?.unzip();
        let store = store::open(&self.config, io.is_some())?;
        let options = Options {
            shards: self.shards,
            registry,
            idle_mode: self.idle_mode,
            memory_bytes_max: self.memory_bytes_max,
            idle: self.idle,
            direct: self.direct,
            pin: self.pin,
            run_dir: self.config.runtime.run_dir,
            fabric: io.is_some(),
            io,
            store: store.clone(),
            unsaved_bytes_max: self.config.store.unsaved,
            origin: joining.as_ref().map_or_else(fabric::origin, Joining::origin),
        };
        let host = Host::start(options)?;
        let fabric = joining.map(|joining| Fabric::join(joining, &host)).transpose()?;
        Ok(Node { host, fabric, _store: store })
    }

    fn joining(&self, registry: &Registry) -> Result<Option<(Joining, IoOptions)>, NodeError> {
        let (config, step) = fabric::adapted(&self.config)?;
        let seeks = !config.network.seeds.is_empty() || config.discovery.multicast.is_some();
        if config.fabric.nodes < 2 && !seeks {
            return Ok(None);
        }
        let shards = Host::shards_of(self.shards)?;
        Ok(Some(Joining::new(&config, step.as_ref(), (shards, registry))?))
    }
}

/// A running node: its shards serve entities until it is shut down or dropped.
#[derive(Debug)]
pub struct Node {
    host: Host,
    fabric: Option<Fabric>,
    /// Open for as long as shards save.
    _store: Option<Arc<dyn Keeper>>,
}

impl Node {
    /// Sets up a node.
    pub fn builder() -> Builder {
        Builder {
            registry: Ok(Registry::default()),
            shards: None,
            idle_mode: Mode::Balanced,
            memory_bytes_max: u64::MAX,
            idle: None,
            direct: true,
            pin: true,
            config: Config::default(),
        }
    }

    /// A handle with which any thread can call entities.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Arc::new(self.host.inlets().clone()))
    }

    /// How many shards it has.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.host.shards()
    }

    /// Runs `task` on the first shard, as a task that belongs to no entity, and blocks until it is
    /// done. Not to be called from within an entity: it would wait for itself.
    ///
    /// # Errors
    /// [`NodeError::TaskLost`] if it panicked.
    pub fn run<R: Send + 'static>(
        &self,
        task: impl AsyncFnOnce(Pool) -> R + Send + 'static,
    ) -> Result<R, NodeError> {
        let (give, take) = channel();
        self.host.run_root(epicserver_shard::RootTask::new(move || async move {
            // Nobody may wait any more; then nobody needs the result.
            drop(give.send(task(Pool::new()).await));
        }));
        take.recv().map_err(|_| NodeError::TaskLost)
    }

    /// Blocks until the job is over on whose account this node is there: in a step of a Slurm job (see
    /// [`slurm_port`](crate::config::DiscoveryConfig::slurm_port)), until the task of rank 0 has left, was lost,
    /// or did not come within five minutes. Returns `false`, at once, where there is no such job, as on rank 0 itself.
    #[must_use]
    pub fn wait_for_job(&self) -> bool {
        let job = self.job();
        job.iter().for_each(|job| job.wait());
        job.is_some()
    }

    pub(crate) fn job(&self) -> Option<Arc<Job>> {
        self.fabric.as_ref().and_then(Fabric::job).map(Arc::clone)
    }

    /// Takes no more calls from outside, waits for at most `drain` until what is under way is done,
    /// collects every activation with its `#[deactivate]` hook, and ends the threads. Blocks. Says
    /// whether everything was done in time; what was not ends with
    /// [`ErrorKind::Stopping`](crate::ErrorKind::Stopping).
    pub fn shut_down(self, drain: Duration) -> bool {
        let until = Instant::now() + drain;
        let rest = || until.saturating_duration_since(Instant::now());
        // While shards run still: they hand over what they have, and then end what they have made others do.
        let handed = self.fabric.as_ref().is_none_or(|fabric| fabric.hand_over(drain));
        let drained = self.host.drain(rest());
        let left = self.fabric.as_ref().is_none_or(|fabric| fabric.leave(rest()));
        self.host.shut_down();
        drop(self.fabric);
        handed && drained && left
    }

    /// The same with ten seconds to drain.
    pub fn stop(self) -> bool {
        self.shut_down(DRAIN)
    }
}
