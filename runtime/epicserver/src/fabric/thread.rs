//! The control thread: the host of the control machine, and of the search for other nodes.
//!
//! It gives the machine what the coordinator answers, what links and shards tell and what other control threads
//! say, and carries out what the machine asks for. No user code runs on it, so that leases are renewed whatever shards do.
//!
//! # Invariants
//! - **FA2** A node begins only once it knows where it listens, since its peers learn that from the view.
//! - **FA3** Whoever waits for the node to be ready waits until it has links to as many members of the view as are
//!   wanted, itself counted, and serves all that it owns of it; or until its job is over, after which nobody comes.
//! - **FA11** A question that the coordinator does not take is answered as failed.
//!
//! # Not here
//! Who is a member, who owns what, who may serve: the machine decides. Whom to dial: the search.

use std::sync::Arc;
use std::time::{Duration, Instant};

use epicserver_coordinator::{AskId, Coordinator};
use epicserver_link::{Address, Down};
use epicserver_proto::control::{self, Control, Effect, Event, Notice, Stage};
use epicserver_proto::coordinator::{Answer, Ask};
use epicserver_proto::view::{Member, View};
use epicserver_shard::{Inlets, Order, Report, Told, Wires};
use epicserver_wire::NodeId;

use super::bell::Bell;
use super::gate::{Gate, Progress};
use super::job::Job;
use super::ways::Ways;
use super::{random, unix_ms};
use crate::config::CoordinatorKind;
use crate::discovery::{Candidate, Discovery, Search, Strangers};

/// How long the thread waits at the most before it looks round.
const TICK: Duration = Duration::from_millis(100);
/// How long it waits until it writes its entry in the run directory again, when that failed.
const REPUBLISH: Duration = Duration::from_secs(1);
/// What log lines call the nodes of this host.
const HOST: &str = "run directory";
/// And those of the view.
const VIEW: &str = "view";

/// What the thread needs.
pub(super) struct Seat {
    pub(super) member: Member,
    pub(super) coordinator: Box<dyn Coordinator>,
    /// Who the coordinator is: `local` is for the nodes of one host alone.
    pub(super) kind: CoordinatorKind,
    pub(super) discovery: Discovery,
    pub(super) search: Search,
    pub(super) ways: Ways,
    pub(super) wanted: usize,
    pub(super) inlets: Inlets,
    pub(super) wires: Arc<Wires>,
    pub(super) gate: Arc<Gate>,
    pub(super) bell: Bell,
    /// The job on whose account the node is there.
    pub(super) job: Option<Arc<Job>>,
}

/// The control thread.
pub(super) struct Thread {
    seat: Seat,
    machine: Control,
    effects: Vec<Effect>,
    answers: Vec<(AskId, Answer)>,
    begun: bool,
    leaving: bool,
    quiet: bool,
    over: bool,
    /// The addresses of which others could not be told, and when that was tried.
    unpublished: Option<(Vec<Address>, Instant)>,
    strangers: Strangers,
    /// The nodes of this host that were seen last.
    here: Vec<NodeId>,
}

impl Thread {
    pub(super) fn new(seat: Seat, config: control::Config) -> Self {
        Self {
            seat,
            machine: Control::new(config),
            effects: Vec::new(),
            answers: Vec::new(),
            begun: false,
            leaving: false,
            quiet: false,
            over: false,
            unpublished: None,
            strangers: Strangers::default(),
            here: Vec::new(),
        }
    }

    fn me(&self) -> NodeId {
        self.seat.member.node()
    }

    /// Runs until the node has left, or is told to stop.
    pub(super) fn run(mut self) {
        let mut changed = true;
        while !self.over && !self.seat.gate.is_stopping() {
            while let Some(report) = self.seat.wires.report() {
                self.note(report);
                changed = true;
            }
            while let Some(told) = self.seat.inlets.told() {
                self.told(told);
            }
            self.hear_coordinator();
            if self.machine.deadline().is_some_and(|at| at <= epicserver_shard::now()) {
                self.tell(Event::Time);
            }
            self.depart();
            self.seek(changed);
            self.follow_job();
            self.show();
            changed = self.wait();
        }
        self.seat.gate.show(Progress::Over);
    }

    fn wait(&mut self) -> bool {
        let due = self.machine.deadline().map(|at| at.since(epicserver_shard::now()));
        let wait = due.unwrap_or(TICK).min(TICK);
        self.seat.bell.wait(self.seat.discovery.watched(), wait);
        self.seat.discovery.changed(Duration::ZERO)
    }

    /// Tells the machine, and does what it wants then.
    fn tell(&mut self, event: Event<'_>) {
        self.machine.handle(epicserver_shard::now(), event, &mut self.effects);
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Ask { id, ask } => self.ask(id, ask),
            Effect::Lease { until } => self.seat.inlets.lease(until),
            Effect::View(view) => self.view(&view),
            Effect::Serve(served) => self.seat.inlets.view(&Arc::new(served.ownership())),
            Effect::Say { to, bytes } => {
                // What gets lost is said again.
                let _taken = self.seat.wires.order(Order::Say { node: to, bytes });
            }
            Effect::Gone { node, left } => self.gone(node, left),
            Effect::Evicted { node } => self.evicted(node),
            Effect::HandedOver => {
                tracing::info!(node = %self.me(), "handed everything over");
                self.seat.gate.show(Progress::HandedOver);
            }
            Effect::Left => {
                tracing::info!(node = %self.me(), "left the fabric");
                self.over = true;
            }
            Effect::Notice(notice) => report(&notice),
        }
    }

    fn ask(&mut self, control::AskId(id): control::AskId, ask: Ask) {
        if let Err(ask) = self.seat.coordinator.ask(AskId(id), ask) {
            // FA11.
            let why = format!("the coordinator is busy, and does not take {ask:?}");
            self.answers.push((AskId(id), Answer::Failed { why }));
            self.seat.bell.ring();
        }
    }

    fn hear_coordinator(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        self.seat.coordinator.poll(&mut answers);
        for (AskId(id), answer) in answers {
            self.tell(Event::Answer { id: control::AskId(id), answer });
        }
    }

    fn view(&mut self, view: &Arc<View>) {
        tracing::info!(number = view.number, members = view.members.len(), "a view of the fabric");
        let candidate = |member: &Member| {
            let addresses = member.addresses.iter().filter_map(|text| Address::parse(text));
            Candidate::node(member.node(), addresses.collect())
        };
        self.seat.search.hear(VIEW, true, view.members.iter().map(candidate).collect());
    }

    fn gone(&mut self, node: NodeId, left: bool) {
        if left {
            return tracing::info!(%node, "a node has left the fabric");
        }
        tracing::warn!(%node, "a node is lost");
        if !self.seat.wires.order(Order::Ban(node)) {
            tracing::warn!("the I/O endpoint does not keep up with what it is told");
        }
    }

    /// This node's lease has ended: it drops what it holds, and begins again as another one.
    fn evicted(&mut self, node: NodeId) {
        tracing::error!(%node, "this node's lease has ended; it begins again as another one");
        self.seat.inlets.evicted();
        self.seat.member.share.node = NodeId::new(random());
        let me = self.me();
        if !self.seat.wires.order(Order::Become(me)) {
            tracing::error!("the I/O endpoint does not keep up with what it is told");
        }
        let addresses = self.addresses();
        self.seat.search.is_now(me, &addresses);
        self.publish(addresses);
        self.begin();
    }

    fn begin(&mut self) {
        let member = self.seat.member.clone();
        self.begun = true;
        self.tell(Event::Begin { member, seed: random() });
    }

    fn addresses(&self) -> Vec<Address> {
        let texts = self.seat.member.addresses.iter();
        texts.filter_map(|text| Address::parse(text)).collect()
    }

    fn depart(&mut self) {
        if !self.leaving && self.seat.gate.is_leaving() {
            self.leaving = true;
            if self.begun {
                self.tell(Event::Leave);
            } else {
                self.over = true;
            }
        }
        if !self.quiet && self.seat.gate.is_quiet() {
            self.quiet = true;
            self.tell(Event::Quiet);
        }
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Drained { shard, view, slots } => {
                self.tell(Event::Drained { view, shard, slots });
            }
            Told::Behind { view } => self.tell(Event::Behind { view }),
        }
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::Listening(addresses) => {
                self.seat.search.listening(&addresses);
                self.seat.member.addresses = addresses.iter().map(ToString::to_string).collect();
                self.publish(addresses);
                // FA2.
                self.begin();
            }
            Report::Up { node, shards, here, dialled } => {
                tracing::info!(%node, shards, "linked");
                if self.seat.kind == CoordinatorKind::Local && !here {
                    return self.refuse_other_host(node);
                }
                self.seat.search.linked(node, dialled.as_ref(), Instant::now());
                self.tell(Event::Linked { node });
            }
            Report::Down { node, why } => {
                tracing::info!(%node, %why, "unlinked");
                self.seat.search.unlinked(node, why == Down::There, Instant::now());
            }
            Report::Control { node, bytes } => self.tell(Event::Said { from: node, bytes: &bytes }),
            Report::Unreachable { address, why, refused } => {
                tracing::debug!(%address, %why, "unreachable");
                self.seat.search.unreachable(&address, refused, Instant::now());
                self.seat.ways.failed(address, Instant::now());
            }
        }
    }

    fn refuse_other_host(&mut self, node: NodeId) {
        tracing::error!(
            %node,
            "a node of another machine, or one that agrees in another folder, is not let in: the coordinator `local` agrees \
             on the nodes of one machine, in one folder; set `dir` in [coordinator] to that, or `kind` to \"static\", \"postgres\" or \"etcd\" on all nodes"
        );
        let _taken = self.seat.wires.order(Order::Ban(node));
    }

    /// Tells the nodes of this host where this one is. Those with smaller ids find it by that alone, so what
    /// fails is tried again.
    fn publish(&mut self, addresses: Vec<Address>) {
        let node = self.me();
        match self.seat.discovery.publish(node, &addresses, unix_ms()) {
            Ok(()) => tracing::info!(?addresses, %node, "listening"),
            Err(error) => {
                tracing::warn!(%error, "nodes of this host cannot find this one");
                self.unpublished = Some((addresses, Instant::now()));
            }
        }
    }

    /// Looks for nodes, and dials whom it should have a link to and has none.
    fn seek(&mut self, changed: bool) {
        if let Some((addresses, _)) =
            self.unpublished.take_if(|(_, tried)| tried.elapsed() >= REPUBLISH)
        {
            self.publish(addresses);
        }
        self.strangers.watch(|why| self.seat.wires.refused(why), Instant::now());
        let due = self.seat.search.poll(Instant::now());
        if !(due || changed) || !self.begun {
            return;
        }
        self.look_here();
        let now = Instant::now();
        let Seat { search, ways, wires, .. } = &mut self.seat;
        for address in search.due(now, |addresses| ways.best(addresses, now)) {
            if !wires.order(Order::Dial(address.clone())) {
                tracing::warn!("the I/O endpoint does not keep up with what it is to dial");
                search.unreachable(&address, None, now);
            }
        }
    }

    /// The nodes of this host. One that is gone from there has ended, however that happened.
    fn look_here(&mut self) {
        let found = self.seat.discovery.peers().unwrap_or_else(|error| {
            tracing::warn!(%error, "the run directory cannot be read");
            Vec::new()
        });
        let here: Vec<NodeId> = found.iter().map(|found| found.node).collect();
        for node in std::mem::replace(&mut self.here, here) {
            if !self.here.contains(&node) {
                self.tell(Event::Died { node });
            }
        }
        let candidates =
            found.into_iter().map(|found| Candidate::node(found.node, found.addresses));
        self.seat.search.hear(HOST, true, candidates.collect());
    }

    /// Ends the job once it is over.
    fn follow_job(&mut self) {
        if let Some(job) = &self.seat.job
            && self.seat.search.is_job_over(Instant::now())
        {
            job.end();
            // Whoever still waits for others waits in vain.
            self.seat.gate.show(Progress::Ready);
        }
    }

    /// Lets those who wait see how far the node is.
    fn show(&mut self) {
        let Some(view) = self.machine.view().filter(|view| view.has(self.me())) else { return };
        let linked = |member: &&Member| self.seat.search.is_linked(member.node());
        let reached = 1 + view.members.iter().filter(linked).count();
        // FA3.
        if self.machine.stage() == Stage::Steady && reached >= self.seat.wanted {
            self.seat.gate.show(Progress::Ready);
        }
    }
}

fn report(notice: &Notice) {
    match notice {
        Notice::Said { from, why } => {
            tracing::warn!(%from, ?why, "what another node's control thread said cannot be read");
        }
        Notice::View { why } => tracing::error!(?why, "the fabric's view cannot be read"),
        Notice::Failed { why } => tracing::warn!(%why, "the coordinator did not answer"),
        Notice::TooLong { bytes } => {
            tracing::error!(bytes, "a view would be too long: no further node can join");
        }
        _ => tracing::warn!(?notice, "the control thread notes"),
    }
}
