//! Multicast on the local network: nodes tell each other by mDNS where they are, as DNS-SD services of the
//! type [`SERVICE`].
//!
//! A node is an instance for each port at which it listens. The text beside it says `v=1`, the fabric's name
//! and the node's id. The fabric's key and what proves it are in none of it, and nothing that is heard so is
//! trusted.
//!
//! In: what the network says   Out: [`Candidate`]
//!
//! # Invariants
//! - **MC1** However much the network says, memory stays bounded: of what the service daemon keeps nothing
//!   is left after a second in which that was more than [`RECORDS_MAX`].
//! - **MC2** A daemon that has ended, or does not listen any more, is started again after [`REST`].
//!
//! # Not here
//! The protocols: `mdns-sd` speaks them, on a thread of its own. What instances say: that is `instances`.

mod instances;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use epicserver_link::Address;
use epicserver_wire::NodeId;
use mdns_sd::{IfKind, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};

pub use self::instances::SERVICE;
use self::instances::{Announcement, InstanceCounts, Instances, announcements};
use super::source::{Candidate, Source};

/// Records and timers that the daemon may keep.
pub const RECORDS_MAX: i64 = 64 << 10;
/// How long it is silent after it had to be ended.
pub const REST: Duration = Duration::from_secs(60);
/// How often it is asked what it keeps.
const CHECK: Duration = Duration::from_secs(1);
/// Events that one poll takes.
const EVENTS_MAX: usize = 256;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(250);

/// Nodes that multicast finds.
#[derive(Debug)]
pub struct Multicast {
    /// The interface that is used; all that have multicasts, without one.
    interface: Option<String>,
    instances: Instances,
    announced: Vec<Announcement>,
    /// The daemon, or when the next one is to be started.
    daemon: Result<Daemon, Instant>,
    /// How much it may keep.
    records_max: i64,
    /// How often it had to be ended.
    rests: u64,
}

impl Multicast {
    /// Looks for nodes of `fabric` at `interface`, or at all interfaces but the loopback. Starts when it is
    /// polled first.
    #[must_use]
    pub fn new(fabric: &str, interface: Option<&str>, now: Instant) -> Self {
        Self {
            interface: interface.map(str::to_owned),
            instances: Instances::new(fabric),
            announced: Vec::new(),
            daemon: Err(now),
            records_max: RECORDS_MAX,
            rests: 0,
        }
    }

    /// The addresses of the interfaces that are used.
    fn own(&self) -> Vec<IpAddr> {
        let all = if_addrs::get_if_addrs().unwrap_or_else(|error| {
            tracing::warn!(%error, "the addresses of this host's interfaces are not known");
            Vec::new()
        });
        let wanted = |name: &str| self.interface.as_ref().is_none_or(|interface| interface == name);
        all.into_iter().filter(|of| wanted(&of.name)).map(|of| of.ip()).collect()
    }

    /// Takes what the daemon has. Says why it must be ended, if it must.
    fn hear(&mut self, now: Instant) -> Option<&'static str> {
        let Ok(daemon) = &mut self.daemon else { return None };
        for _ in 0..EVENTS_MAX {
            match daemon.events.try_recv() {
                Ok(ServiceEvent::ServiceResolved(of)) => {
                    let ips = of.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr);
                    let text = |key: &str| of.txt_properties.get_property_val_str(key);
                    self.instances.insert(&of.fullname, text, (of.port, ips));
                }
                Ok(ServiceEvent::ServiceRemoved(_, name)) => self.instances.remove(&name),
                // A search that begins or ends, or a name of which nothing else is known yet.
                Ok(_) => {}
                Err(_) if daemon.events.is_disconnected() => {
                    return Some("it does not listen any more");
                }
                Err(_) => break,
            }
        }
        (daemon.kept(now) > self.records_max).then_some("the network says more than it can keep")
    }
}

impl Drop for Multicast {
    fn drop(&mut self) {
        // The process may be about to end, and others should hear that this node is gone.
        let done = self.daemon.as_ref().map(|daemon| daemon.service.shutdown());
        if let Ok(Ok(done)) = done {
            let _said = done.recv_timeout(GOODBYE);
        }
    }
}

impl Source for Multicast {
    fn name(&self) -> &'static str {
        "multicast"
    }

    fn is_trusted(&self) -> bool {
        false
    }

    fn announce(&mut self, node: NodeId, addresses: &[Address]) {
        self.announced = announcements(node, addresses, &self.own());
        if self.announced.is_empty() {
            tracing::warn!(
                "nobody is told of this node by multicast: it listens at no address of that network"
            );
        }
        if let Ok(daemon) = &self.daemon {
            daemon.announce(&self.announced, self.instances.fabric());
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Vec<Candidate>> {
        if self.daemon.as_ref().is_err_and(|due| now >= *due) {
            self.daemon = Daemon::start(self.interface.as_deref(), now).map_err(|error| {
                tracing::warn!(%error, "multicast does not work; it is tried again");
                now + REST
            });
            if let Ok(daemon) = &self.daemon {
                daemon.announce(&self.announced, self.instances.fabric());
            }
        }
        // MC1, MC2.
        if let Some(why) = self.hear(now) {
            tracing::warn!(why, counts = ?self.instances.counts(), "multicast rests for a while");
            self.daemon = Err(now + REST);
            self.rests += 1;
            self.instances.clear();
        }
        self.instances.take_changed()
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = self.instances.counts();
        let InstanceCounts { foreign, ignored, beyond } = counts;
        vec![("foreign", foreign), ("ignored", ignored), ("beyond", beyond), ("rests", self.rests)]
    }
}

/// The daemon, and what it tells.
struct Daemon {
    service: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    /// When it is asked what it keeps, and the answer that is under way.
    due: Instant,
    answer: Option<Receiver<mdns_sd::Metrics>>,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

impl Daemon {
    fn start(interface: Option<&str>, now: Instant) -> mdns_sd::Result<Self> {
        let service = ServiceDaemon::new()?;
        match interface {
            Some(name) => {
                service.disable_interface(IfKind::All)?;
                service.enable_interface(name)?;
            }
            None => service.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6])?,
        }
        let events = service.browse(SERVICE)?;
        Ok(Self { service, events, due: now + CHECK, answer: None })
    }

    fn announce(&self, announcements: &[Announcement], fabric: &str) {
        for one in announcements {
            let text = one.text(fabric);
            let host = format!("{}.local.", one.name);
            let info =
                ServiceInfo::new(SERVICE, &one.name, &host, &one.ips[..], one.port, &text[..]);
            match info.and_then(|info| self.service.register(info)) {
                Ok(()) => {
                    tracing::info!(name = one.name, ips = ?one.ips, port = one.port, "multicast")
                }
                Err(error) => tracing::warn!(%error, "nobody is told of this node by multicast"),
            }
        }
    }

    /// How much it keeps, as far as that is known; asks it again, without waiting.
    fn kept(&mut self, now: Instant) -> i64 {
        let answer = self.answer.as_ref().and_then(|answer| answer.try_recv().ok());
        if now >= self.due {
            self.due = now + CHECK;
            self.answer = self.service.get_metrics().ok();
        }
        answer.map_or(0, |metrics| kept(&metrics))
    }
}

/// What of `metrics` grows with what the network says.
fn kept(metrics: &mdns_sd::Metrics) -> i64 {
    let grows = |name: &str| name.starts_with("cached-") || name == "timer";
    metrics.iter().filter(|(name, _)| grows(name)).map(|(_, count)| count).sum()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that is dead already needs no end.
        let _asked = self.service.shutdown();
    }
}
