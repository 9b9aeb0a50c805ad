//! Where the endpoint runs: on a thread of its own, or on that of the first shard.
//!
//! # Invariants
//! - **H12** A node has started only when its endpoint is open, and says so if it is not.
//!
//! # Not here
//! What the endpoint does in a round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use epicserver_wire::Time;

use crate::cpus::Claim;
use crate::idle::{Crowd, Policy, Step};
use crate::inlet::Door;
use crate::io::{Endpoint, IoError, IoOptions, Outlet, Port, Wires, port};
use crate::park::{Parker, Unparker};
use crate::worker::{IDLE_CLOCKS, IDLE_LOOKS, now};

/// What opens the endpoint, on the thread that will drive it.
pub(crate) struct Opening {
    options: IoOptions,
    ports: Vec<Port>,
    wires: Arc<Wires>,
    opened: Sender<Result<(), IoError>>,
}

/// What whoever starts the node has of an endpoint that is being opened.
pub(crate) struct Wiring {
    pub(crate) opening: Opening,
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) wires: Arc<Wires>,
    pub(crate) opened: Receiver<Result<(), IoError>>,
}

impl Wiring {
    /// Rings between the shards behind `doors` and the endpoint on the thread that `unparker` wakes.
    pub(crate) fn new(options: IoOptions, doors: &[Arc<Door>], unparker: &Unparker) -> Self {
        let wires = Wires::new(unparker.clone());
        let ends = doors.iter().map(|door| port(Arc::clone(door), unparker.clone()));
        let (ports, outlets) = ends.unzip();
        let (tell, opened) = bounded(1);
        let opening = Opening { options, ports, wires: Arc::clone(&wires), opened: tell };
        Self { opening, outlets, wires, opened }
    }
}

impl Opening {
    /// Opens the endpoint, on the thread whose parker this is, and says how that went (**H12**).
    pub(crate) fn open(self, parker: &Parker) -> Option<Endpoint> {
        let Self { options, ports, wires, opened } = self;
        let (endpoint, told) = match Endpoint::open(options, ports, wires, (parker, now())) {
            Ok(endpoint) => (Some(endpoint), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // Whoever starts the node waits for this.
        drop(opened.send(told));
        endpoint
    }
}

/// The thread of an endpoint.
#[derive(Debug)]
pub(crate) struct IoThread {
    stop: Arc<AtomicBool>,
    unparker: Unparker,
    thread: JoinHandle<()>,
}

/// What the thread needs beside the endpoint itself.
pub(crate) struct IoSeat {
    pub(crate) parker: Parker,
    pub(crate) unparker: Unparker,
    pub(crate) policy: Policy,
    pub(crate) crowd: Option<Crowd>,
    pub(crate) crowded: bool,
    pub(crate) claim: Option<Claim>,
}

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub(crate) fn start(opening: Opening, seat: IoSeat) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let unparker = seat.unparker.clone();
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("epic-io".to_owned());
        let thread = thread.spawn(move || work(opening, seat, &told))?;
        Ok(Self { stop, unparker, thread })
    }

    /// Closes the links, and ends the thread. Blocks.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.unparker.unpark();
        // A thread of ours that panicked has stopped the process already.
        drop(self.thread.join());
    }
}

fn work(opening: Opening, mut seat: IoSeat, stop: &AtomicBool) {
    let _stop = crate::host::StopOnPanic;
    if let Some(claim) = &seat.claim
        && let Err(error) = claim.pin_current_thread()
    {
        tracing::warn!(%error, "the I/O thread runs unpinned");
    }
    let Some(mut endpoint) = opening.open(&seat.parker) else { return };
    let mut time = now();
    let mut idle_since = time;
    while !stop.load(Ordering::SeqCst) {
        if endpoint.round(time) {
            time = now();
            idle_since = time;
        } else {
            time = be_idle(&mut endpoint, &mut seat, (idle_since, stop));
        }
    }
    endpoint.shut_down(now());
}

/// Waits a little, or a lot, for something to do. Says what time it is afterwards.
fn be_idle(endpoint: &mut Endpoint, seat: &mut IoSeat, (since, stop): (Time, &AtomicBool)) -> Time {
    for _ in 0..IDLE_CLOCKS {
        let time = now();
        let nanos = u64::try_from(time.since(since).as_nanos()).unwrap_or(u64::MAX);
        let crowd = seat.crowd.as_mut().is_some_and(|crowd| crowd.is_crowded(time.as_nanos()));
        match seat.policy.step(nanos, seat.crowded || crowd) {
            Step::Spin => {}
            Step::Yield => std::thread::yield_now(),
            Step::Park => {
                let work = || stop.load(Ordering::SeqCst);
                endpoint.wait(&mut seat.parker, (time, None), work);
                break;
            }
        }
        let mut looks = 0..IDLE_LOOKS;
        if looks.any(|_| {
            std::hint::spin_loop();
            endpoint.stirs()
        }) {
            break;
        }
    }
    now()
}
