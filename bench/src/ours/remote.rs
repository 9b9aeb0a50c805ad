//! Our own side of suite `remote`: two nodes of one shard, each a process pinned to its own CPU.
//!
//! The measuring process is one of the nodes, and a peer is the other. They find each other as any
//! nodes of one host do, by a run directory, which is theirs alone. Calls go from the task of
//! `Node::run`, or from tasks of an entity beside it, to entities that the other node owns.
//!
//! What is not set here is as the configuration says: `EPICSERVER_NETWORK__DRIVER=epoll` measures
//! that driver, on both sides.
//!
//! # Not here
//! Floors, rounds, verdicts. What is called: `entities`.

mod entities;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use epicserver::config::{IoThreads, Transport};
use epicserver::prelude::*;
use epicserver::{Config, IdleMode};

use crate::case::{Effort, Failure, Round, Sample, Skipped};
use crate::peer::{self, Peer};
use entities::{Callers, Echo};

pub(crate) const PEER: &str = "node";
/// How long the two nodes may take to find each other.
const JOIN: Duration = Duration::from_secs(20);
/// Keys tried until one is found that the wanted node owns: each is as likely here as there.
const KEYS: u64 = 256;
const OPS: u32 = 1_000;
/// Calls between two looks at the clock, where many are under way.
const LAP_CALLS: u32 = 32_768;
/// Bytes sent between two looks at the clock.
const LAP_BYTES: usize = 32 << 20;
/// An argument that small calls should not have to wait for.
const BULK: usize = 64 << 20;
/// How many times as long a round of `p99` is: several such arguments should arrive in it.
const P99_ROUND: u32 = 5;

/// Exists once the kernel has loaded TIPC.
const TIPC_LOADED: &str = "/proc/sys/net/tipc";

/// Exists once the kernel has a device for RDMA.
const DEVICES: &str = "/dev/infiniband";

/// What the two nodes talk over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Tcp,
    Shm,
    Tipc,
    Verbs,
}

impl Link {
    const ALL: [(&'static str, Self); 4] =
        [("tcp", Self::Tcp), ("shm", Self::Shm), ("tipc", Self::Tipc), ("verbs", Self::Verbs)];
}

/// How the two nodes are set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) link: Link,
    pub(crate) idle: IdleMode,
}

impl Setting {
    /// As words on a peer's command line.
    fn words(self) -> [&'static str; 2] {
        let known = Link::ALL.iter().find(|(_, link)| *link == self.link);
        let link = known.map_or("", |(name, _)| name);
        let idle = match self.idle {
            IdleMode::Latency => "latency",
            IdleMode::Balanced => "balanced",
            IdleMode::Power => "power",
        };
        [link, idle]
    }

    fn of_words(link: &str, idle: &str) -> Option<Self> {
        let idles = [IdleMode::Latency, IdleMode::Balanced, IdleMode::Power];
        let all = idles
            .into_iter()
            .flat_map(|idle| Link::ALL.into_iter().map(move |(_, link)| Self { link, idle }));
        all.into_iter().find(|setting| setting.words() == [link, idle])
    }

    /// Starts a node. Blocks until the other one is there, and fails if that takes too long.
    fn start(self, folder: &Path) -> Result<Node, Failure> {
        let mut config = Config::load(None)?;
        config.fabric.nodes = 2;
        config.node.shards = NonZeroUsize::new(1);
        config.network.transport = match self.link {
            Link::Tcp => Transport::Tcp,
            Link::Shm => Transport::Shm,
            Link::Tipc => Transport::Tipc,
            Link::Verbs => Transport::Verbs,
        };
        config.network.io = config.network.io.or(Some(IoThreads::Fused));
        config.runtime.idle = self.idle;
        config.runtime.run_dir = Some(folder.to_owned());
        let builder = Node::builder().entity::<Echo>().entity::<Callers>().config(&config);
        // Its threads inherit the pin of this one; a claim could be refused by who else builds here.
        let builder = builder.pin(false);
        let (tell, started) = mpsc::channel();
        std::thread::spawn(move || tell.send(builder.start()).ok());
        let node = started.recv_timeout(JOIN).map_err(|_| "the nodes do not find each other")?;
        Ok(node?)
    }
}

/// A run directory of one round, removed with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("epicserver-bench-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind it harms nobody: its name is not used again.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Entities of the two nodes.
struct There {
    echo: Ref<Echo>,
    /// Another one of the other node.
    other: Ref<Echo>,
    /// In this process.
    callers: Ref<Callers>,
}

impl There {
    async fn find(pool: &Pool) -> Result<Self, Failure> {
        let me = std::process::id();
        let mut found = Vec::new();
        let mut callers = None;
        for key in 0..KEYS {
            let (echo, caller) = (pool.get::<Echo>(key), pool.get::<Callers>(key));
            if echo.process().await? != me {
                found.push(echo);
            }
            if caller.process().await? == me {
                callers = Some(caller);
            }
            if let (Some(callers), [echo, other, ..]) = (&callers, found.as_slice()) {
                let (echo, other, callers) = (echo.clone(), other.clone(), callers.clone());
                return Ok(Self { echo, other, callers });
            }
        }
        Err("no key is owned by the wanted node".into())
    }
}

/// Runs `task` in a node here, beside another one in a process of its own.
fn between_two_nodes(
    round: &Round,
    setting: Setting,
    task: impl AsyncFnOnce(There) -> Result<Sample, Failure> + Send + 'static,
) -> Result<Sample, Failure> {
    if setting.link == Link::Tipc && !Path::new(TIPC_LOADED).exists() {
        let why = "no TIPC here; `hw-tests/run tipc` runs this where it is".to_owned();
        return Err(Skipped(why).into());
    }
    if setting.link == Link::Verbs && !Path::new(DEVICES).exists() {
        let why = "no device for RDMA; `hw-tests/run verbs` runs this where one is".to_owned();
        return Err(Skipped(why).into());
    }
    let folder = Folder::new();
    let path = folder.0.to_str().ok_or("the folder for temporary files has a strange name")?;
    let [link, idle] = setting.words();
    let _peer = Peer::start(PEER, round.cpus[1], &[path, link, idle])?;
    let node = setting.start(&folder.0)?;
    match (setting.link, has_tcp_connection()?) {
        (Link::Shm, true) => return Err(Skipped("the link runs over tcp".to_owned()).into()),
        (Link::Tipc, true) => return Err("the link runs over tcp".into()),
        // Its control connection is one.
        (Link::Verbs, _) if has_device()? => {}
        (Link::Verbs, _) => return Err("the link does not run over verbs".into()),
        (Link::Tcp, false) => return Err("the link does not run over tcp".into()),
        (Link::Tcp, true) | (Link::Shm | Link::Tipc, false) => {}
    }
    let sample = node.run(async move |pool| task(There::find(&pool).await?).await)??;
    if !node.stop() {
        return Err("calls were still under way at the end".into());
    }
    Ok(sample)
}

/// Whether this process has a device for RDMA open.
fn has_device() -> Result<bool, Failure> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // One that was closed meanwhile is not the device.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        if target.starts_with(DEVICES) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this process has an established TCP connection. Floors have closed theirs (B3), so it is
/// the link's.
fn has_tcp_connection() -> Result<bool, Failure> {
    let mut own = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // One that was closed meanwhile is not the link.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let socket = target.to_string_lossy().into_owned();
        let inode = socket.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        own.extend(inode.map(str::to_owned));
    }
    let mut table = std::fs::read_to_string("/proc/self/net/tcp")?;
    table.push_str(&std::fs::read_to_string("/proc/self/net/tcp6").unwrap_or_default());
    Ok(table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let established = words.get(3) == Some(&"01");
        established && words.get(9).is_some_and(|inode| own.iter().any(|own| own == inode))
    }))
}

/// Is the other node.
pub(crate) fn serve(args: &[String]) -> Result<(), Failure> {
    let folder: PathBuf = peer::argument(args, 0)?;
    let (link, idle): (String, String) = (peer::argument(args, 1)?, peer::argument(args, 2)?);
    let setting = Setting::of_words(&link, &idle).ok_or("no such setting")?;
    // Earlier than it serves: its start waits for the other node.
    peer::announce("starts")?;
    let _node = setting.start(&folder)?;
    let (_held, never) = mpsc::channel::<()>();
    Ok(never.recv()?)
}

/// Nanoseconds of one call of 64 bytes there and back, each timed.
pub(crate) fn small(round: &Round, setting: Setting) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    between_two_nodes(round, setting, async move |there| {
        while laps.begin() {
            there.echo.small([1; 64]).await?;
            laps.end_one()?;
        }
        laps.time()
    })
}

/// The same by the thousand: for links on which reading the clock would show.
pub(crate) fn small_in_batches(round: &Round, setting: Setting) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    between_two_nodes(round, setting, async move |there| {
        while laps.begin() {
            for _ in 0..OPS {
                there.echo.small([1; 64]).await?;
            }
            laps.end(OPS);
        }
        laps.time()
    })
}

/// Nanoseconds of one call with `size` bytes there and back.
pub(crate) fn sized(round: &Round, setting: Setting, size: usize) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    between_two_nodes(round, setting, async move |there| {
        let mut bytes = vec![1; size];
        while laps.begin() {
            bytes = there.echo.echo(bytes).await?;
            laps.end_one()?;
        }
        laps.time()
    })
}

/// Calls of 64 bytes a second, by `in_flight` tasks that each call one after the other.
pub(crate) fn rate(round: &Round, setting: Setting, in_flight: u32) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    let calls = LAP_CALLS / in_flight;
    between_two_nodes(round, setting, async move |there| {
        while laps.begin() {
            there.callers.small(there.echo.clone(), in_flight, calls).await?;
            laps.end(in_flight * calls);
        }
        laps.rate()
    })
}

/// MiB a second in arguments of `size` bytes, `in_flight` at a time.
pub(crate) fn stream(
    round: &Round,
    setting: Setting,
    (size, in_flight): (usize, u32),
) -> Result<Sample, Failure> {
    let mut laps = round.laps();
    let calls = u32::try_from(LAP_BYTES / size)?.div_ceil(in_flight);
    between_two_nodes(round, setting, async move |there| {
        while laps.begin() {
            there.callers.put(there.echo.clone(), in_flight, (calls, size as u64)).await?;
            laps.end(in_flight * calls);
        }
        Ok(laps.rate()?.mib_a_second(size))
    })
}

/// The slowest in a hundred of small calls, in nanoseconds; beside `bulk`, while long arguments are
/// under way to another entity of the same node all the time.
pub(crate) fn p99(round: &Round, setting: Setting, bulk: bool) -> Result<Sample, Failure> {
    let effort = round.effort;
    let effort = Effort { measured: effort.measured * P99_ROUND, ..effort };
    let mut laps = Round { effort, ..*round }.laps();
    between_two_nodes(round, setting, async move |there| {
        if bulk {
            there.callers.flood(there.other.clone(), BULK as u64).await?;
        }
        while laps.begin() {
            there.echo.small([1; 64]).await?;
            laps.end_one()?;
        }
        if bulk {
            there.callers.end_flood().await?;
        }
        let Sample { latencies, .. } = laps.time()?;
        let p99 = latencies.as_ref().map(|latencies| latencies.value_at_quantile(0.99));
        Ok(Sample { value: p99.ok_or("nothing was measured")? as f64, latencies })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_survives_the_command_line() {
        let setting = Setting { link: Link::Shm, idle: IdleMode::Power };
        let [link, idle] = setting.words();
        let again = Setting::of_words(link, idle).unwrap();
        assert_eq!(again.words(), setting.words());
        assert!(Setting::of_words("tcp", "tired").is_none());
    }

    #[test]
    fn an_established_connection_of_this_process_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(has_tcp_connection().unwrap());
    }
}
