//! The way into shards from every other thread: a bounded queue a shard, and the bell that wakes it.
//!
//! # Invariants
//! - **H1** Whatever is put into an inlet is seen by its shard, asleep or not: put, then unpark.
//! - **H2** A call is taken and answered, or refused here; its caller is told once. So what comes
//!   after a shard has closed is refused by whoever put it in, and a call that a shard forgets is
//!   answered when it is dropped.
//!
//! # Not here
//! Messages between shards: those have rings.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_channel::Sender;
use crossbeam_queue::{ArrayQueue, SegQueue};
use epicserver_entity::{Answer, Gateway, Pending, Request, TurnId};
use epicserver_node::{Inlet, RootTask, WakeSink};
use epicserver_proto::Ownership;
use epicserver_wire::{CallError, ChainId, ErrorKind, Ran, Time, limits};

use crate::park::Unparker;
use crate::telling::{Telling, Told};

/// What other threads say to a shard.
pub(crate) enum Control {
    Outside(Inlet),
    Root(RootTask),
    View(Arc<Ownership>),
    Evicted,
    Stop,
    Probe(Sender<Probe>),
    Close,
}

/// How a shard stands, for whoever wants to stop the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    pub(crate) quiet: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// One shard's inlet.
pub(crate) struct Door {
    /// Something is inside: so that an idle loop looks at one flag and not at two queues.
    full: AtomicBool,
    /// The shard takes nothing any more.
    closed: AtomicBool,
    control: ArrayQueue<Control>,
    /// Bounded by the wakers' own flags: at most one entry a turn.
    woken: SegQueue<TurnId>,
    unparker: Unparker,
}

impl Door {
    pub(crate) fn new(unparker: Unparker) -> Self {
        let control = ArrayQueue::new(limits::CLIENT_QUEUE_MAX);
        let (full, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { full, closed, control, woken: SegQueue::new(), unparker }
    }

    fn ring(&self) {
        self.full.store(true, Ordering::Release);
        self.unparker.unpark();
    }

    fn put(&self, control: Control) -> Result<(), Control> {
        let put = self.control.push(control);
        // Either this sees that the door is closed, or who closes it sees what was put.
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.refuse_all();
        }
        put?;
        self.ring();
        Ok(())
    }

    /// The shard takes nothing any more: what is inside, and what comes yet, is refused.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.refuse_all();
    }

    fn refuse_all(&self) {
        while let Some(control) = self.control.pop() {
            if let Control::Outside(Inlet { pending: Some(pending), .. }) = control {
                let error = CallError::refused(ErrorKind::Stopping, ChainId::NONE);
                pending.answer(Answer::Failed(error));
            }
        }
    }

    pub(crate) fn unpark(&self) {
        self.unparker.unpark();
    }

    pub(crate) fn unparker(&self) -> &Unparker {
        &self.unparker
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes everything that is inside.
    pub(crate) fn empty(&self, mut control: impl FnMut(Control), mut woken: impl FnMut(TurnId)) {
        if !self.full.swap(false, Ordering::Acquire) {
            return;
        }
        while let Some(turn) = self.woken.pop() {
            woken(turn);
        }
        while let Some(one) = self.control.pop() {
            control(one);
        }
    }
}

impl WakeSink for Door {
    fn wake(&self, turn: TurnId) {
        self.woken.push(turn);
        self.ring();
    }
}

/// The inlets of all shards of a node.
#[derive(Clone)]
pub struct Inlets {
    doors: Arc<[Arc<Door>]>,
    telling: Arc<Telling>,
}

impl Inlets {
    pub(crate) fn new(doors: Vec<Arc<Door>>) -> Self {
        Self { doors: doors.into(), telling: Telling::new() }
    }

    pub(crate) fn telling(&self) -> &Arc<Telling> {
        &self.telling
    }

    /// Puts `control` into the inlet of shard `index`; waits while it is full.
    pub(crate) fn put(&self, index: usize, mut control: Control) {
        let Some(door) = self.doors.get(index) else { return };
        while let Err(back) = door.put(control) {
            control = back;
            std::thread::yield_now();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.doors.len()
    }

    /// This is who owns what from now on.
    pub fn view(&self, ownership: &Arc<Ownership>) {
        for shard in 0..self.doors.len() {
            self.put(shard, Control::View(Arc::clone(ownership)));
        }
    }

    /// Shards of a node that is one of several may run turns and send messages until then, by the clock of
    /// [`now`](crate::now).
    pub fn lease(&self, until: Time) {
        let lapsed = self.telling.lease() <= crate::worker::now();
        self.telling.set_lease(until);
        if lapsed {
            self.doors.iter().for_each(|door| door.unpark());
        }
    }

    /// The node's lease was ended: all that the shards hold is dropped. The next view is another node's.
    pub fn evicted(&self) {
        self.telling.set_lease(Time::ZERO);
        (0..self.doors.len()).for_each(|shard| self.put(shard, Control::Evicted));
    }

    /// What shards tell, if there is something.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        self.telling.take()
    }

    /// From now on `ring` is called, by a shard's thread, when it tells something. It must not block. Only the first that
    /// is given counts.
    pub fn on_told(&self, ring: impl Fn() + Send + Sync + 'static) {
        self.telling.on_told(ring);
    }
}

impl fmt::Debug for Inlets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inlets({})", self.doors.len())
    }
}

impl Gateway for Inlets {
    fn submit(
        &self,
        request: Request,
        timeout: Option<Duration>,
        reply: bool,
    ) -> Result<Arc<dyn Pending>, CallError> {
        let slot = Arc::new(Slot::default());
        let pending = reply.then(|| Arc::new(Promise::new(&slot)) as Arc<dyn Pending>);
        let shards = u16::try_from(self.doors.len()).unwrap_or(u16::MAX);
        let shard = request.to().shard(shards).index();
        let control = Control::Outside(Inlet { request, timeout, pending });
        let refused = |kind| CallError::refused(kind, ChainId::NONE);
        let door = self.doors.get(shard).ok_or_else(|| refused(ErrorKind::Stopping))?;
        door.put(control).map_err(|_| refused(ErrorKind::Overloaded))?;
        Ok(slot)
    }
}

/// What a shard has of a call from outside: one that it drops unanswered is answered by that (**H2**).
struct Promise {
    slot: Arc<Slot>,
    kept: AtomicBool,
}

impl Promise {
    fn new(slot: &Arc<Slot>) -> Self {
        Self { slot: Arc::clone(slot), kept: AtomicBool::new(false) }
    }
}

impl Pending for Promise {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.slot.poll(cx)
    }

    fn answer(&self, answer: Answer) {
        if !self.kept.swap(true, Ordering::Relaxed) {
            self.slot.answer(answer);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let error = CallError::new(ErrorKind::Stopping, Ran::Unknown, ChainId::NONE);
        self.answer(Answer::Failed(error));
    }
}

/// Where a foreign thread waits for its answer.
#[derive(Default)]
struct Slot {
    state: Mutex<(Option<Answer>, Option<Waker>)>,
}

impl Pending for Slot {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = state.0.take() {
            return Poll::Ready(answer);
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }

    fn answer(&self, answer: Answer) {
        let waker = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = Some(answer);
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
