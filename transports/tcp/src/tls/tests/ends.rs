//! Ends of links over the loopback, and certificates for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Config, Tcp, Tls};
use epicserver_link::driver::{Completion, Driver, Form, Owner};
use epicserver_link::{Address, Down, Event, Io, Parcel, Transport};
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use epicserver_wire::header::{Glance, Header, Kind, append, append_head};
use epicserver_wire::{LinkId, ShardId, Time};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Where slots of a link come from.
pub(crate) type AnySlots = Arc<dyn Slots>;

/// A transport with a driver of its own.
pub(crate) struct End {
    driver: Box<dyn Driver>,
    pub(crate) tcp: Tcp,
    pub(crate) events: Vec<Event>,
    done: Vec<Completion>,
    next_link: u32,
    pub(crate) now: Time,
}

impl End {
    pub(crate) fn new(tls: Option<&Tls>) -> Self {
        Self::of((Form::Epoll, "127.0.0.1:0"), tls)
    }

    pub(crate) fn of((form, listen): (Form, &str), tls: Option<&Tls>) -> Self {
        let mut driver = epicserver_shard::driver::open(Some(form)).unwrap();
        let (mut events, mut next_link) = (Vec::new(), 0);
        let now = Time::ZERO;
        let config = Config { addresses: vec![listen.parse().unwrap()], tls: tls.cloned() };
        let mut io =
            Io { now, driver: &mut *driver, events: &mut events, next_link: &mut next_link };
        let tcp = Tcp::listen(Owner(0), config, &mut io).unwrap();
        Self { driver, tcp, events, done: Vec::new(), next_link, now }
    }

    pub(crate) fn with<R>(&mut self, call: impl FnOnce(&mut Tcp, &mut Io<'_>) -> R) -> R {
        let mut io = Io {
            now: self.now,
            driver: &mut *self.driver,
            events: &mut self.events,
            next_link: &mut self.next_link,
        };
        call(&mut self.tcp, &mut io)
    }

    pub(crate) fn round(&mut self) {
        self.driver.wait(Some(Duration::from_millis(1)), &mut self.done).unwrap();
        for completion in std::mem::take(&mut self.done) {
            self.with(|tcp, io| tcp.complete(io, completion));
        }
        self.with(|tcp, io| tcp.poll(io));
        self.with(Tcp::flush);
    }

    pub(crate) fn take<R>(&mut self, pick: impl Fn(&Event) -> Option<R>) -> Option<R> {
        let at = self.events.iter().position(|event| pick(event).is_some())?;
        pick(&self.events.remove(at))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.tcp.addresses().remove(0).rest().parse().unwrap()
    }

    pub(crate) fn dial(&mut self, link: u32, to: SocketAddr) {
        let to = Address::new("tcp", &to.to_string());
        self.with(|tcp, io| tcp.dial(io, LinkId::new(link), &to)).unwrap();
    }
}

pub(crate) fn up(event: &Event) -> Option<(LinkId, Arc<dyn Slots>)> {
    match event {
        Event::Up { link, slots, .. } => Some((*link, Arc::clone(slots))),
        Event::Frame { .. } | Event::Room { .. } | Event::Down { .. } => None,
    }
}

pub(crate) fn down(event: &Event) -> Option<Down> {
    match event {
        Event::Down { why, .. } => Some(why.clone()),
        Event::Frame { .. } | Event::Room { .. } | Event::Up { .. } => None,
    }
}

pub(crate) fn frame(event: &Event) -> Option<Frame> {
    match event {
        Event::Frame { frame, .. } => Some(frame.clone()),
        Event::Down { .. } | Event::Room { .. } | Event::Up { .. } => None,
    }
}

/// Goes round with all `ends` until `is` has found something.
pub(crate) fn until<const N: usize, R>(
    ends: &mut [End; N],
    mut is: impl FnMut(&mut [End; N]) -> Option<R>,
) -> R {
    for _ in 0..40_000 {
        if let Some(found) = is(ends) {
            return found;
        }
        ends.iter_mut().for_each(End::round);
    }
    panic!("it never came");
}

/// Why a link of each of two ends is down.
pub(crate) fn both_down(ends: &mut [End; 2]) -> [Down; 2] {
    let first = until(ends, |ends| ends[0].take(down));
    [first, until(ends, |ends| ends[1].take(down))]
}

/// What becomes of a link that the first of two ends has dialled, and that the second refuses or loses: one
/// that was never up there is in its log alone.
pub(crate) fn both_end(ends: &mut [End; 2]) -> [String; 2] {
    let here = until(ends, |ends| ends[0].take(down));
    let there = until(ends, |ends| {
        let lost = ends[1].take(down).map(|why| why.to_string());
        lost.or_else(|| Some(ends[1].tcp.refusals.last().to_owned()).filter(|why| !why.is_empty()))
    });
    [here.to_string(), there]
}

/// Two ends whose link is up.
pub(crate) struct Joined {
    pub(crate) ends: [End; 2],
    pub(crate) links: [LinkId; 2],
    pub(crate) slots: [Arc<dyn Slots>; 2],
}

/// Joins two ends; the first dials `to`, or the second one.
pub(crate) fn join(mut ends: [End; 2], to: Option<SocketAddr>) -> Joined {
    let to = to.unwrap_or_else(|| ends[1].address());
    ends[0].dial(7_000, to);
    let (dialled, here) = until(&mut ends, |ends| ends[0].take(up));
    let (accepted, there) = until(&mut ends, |ends| ends[1].take(up));
    Joined { ends, links: [dialled, accepted], slots: [here, there] }
}

/// A message of `len` bytes `fill`; `None` while there is no slot.
pub(crate) fn message(slots: &Arc<dyn Slots>, fill: u8, len: usize) -> Option<Parcel> {
    let header = Header::new(Kind::Reply, ShardId::new(0), ShardId::new(0));
    let mut head = Arc::clone(slots).reserve()?;
    if append(&mut head, &header, &vec![fill; len]) {
        return Some(Parcel::of(head));
    }
    assert!(append_head(&mut head, &header, len));
    let mut body = FrameMut::detached(len.next_multiple_of(16));
    assert!(body.extend(&vec![fill; len]));
    body.set_len(len.next_multiple_of(16));
    Some(Parcel { head, body: Some(body.freeze()) })
}

/// The first byte and the length of each message.
pub(crate) fn read(frame: &Frame) -> Vec<(u8, usize)> {
    let (mut at, mut read) = (0, Vec::new());
    assert!(frame.is_aligned(), "T2");
    while at < frame.len() {
        let glance = Glance::at(frame.bytes(), at).expect("T2: whole messages");
        let payload = glance.payload_of(frame.bytes());
        assert!(payload.iter().all(|byte| *byte == payload[0]), "T1");
        read.push((payload.first().copied().unwrap_or(0), payload.len()));
        at = glance.end;
    }
    read
}

/// An authority, and a folder for what it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("epic-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("ca.pem"), own.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    /// Has the certificate of a node made, as `change` wants it. Says where it and its key are.
    pub(crate) fn sign(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        // A name that nobody is dialled by: it is not looked at (TL2).
        let mut params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let files = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        std::fs::write(&files.0, signed.pem()).unwrap();
        write_secret(&files.1, &key.serialize_pem());
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// What a sound node of this authority has.
    pub(crate) fn member(&self) -> Tls {
        self.member_with(|params| {
            let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.extended_key_usages = uses.to_vec();
        })
    }

    pub(crate) fn member_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Tls {
        let (cert, key) = self.sign("node", change);
        Tls::load(&self.ca(), &cert, &key).unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
