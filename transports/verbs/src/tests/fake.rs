//! A device that is none: libibverbs in 500 lines, for queue pairs of one process.
//!
//! It is stricter than any device. It ends the process if something is used after it was given back, ends before what
//! was made from it, is posted twice, lies in memory that is not registered for it, or finds no slot: none of these
//! ever happens to a sound user.
//!
//! # Not here
//! Time: a request that is posted is done before the call returns. Loss; real devices' ways of being wrong.

#![expect(unsafe_code, reason = "it stands for a library in C")]

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{ThreadId, current};

use rustix::event::{EventfdFlags, eventfd};

use crate::ffi::library::{Functions, Library};
use crate::ffi::{self, Wc};

/// What it shows as its one device.
const C_NAME: &std::ffi::CStr = c"fake0";
/// The GID of its one port at index 1.
pub(crate) const GID: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
/// Bytes that it copies as they are posted.
const INLINE_MAX: u32 = 256;

/// Something impossible happened: no test goes on after it, on whatever thread.
macro_rules! demand {
    ($is:expr, $($why:tt)*) => {
        if !$is {
            let why = format!($($why)*);
            let _told = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("the fake device: {why}\n").as_bytes(),
            );
            std::process::abort();
        }
    };
}

#[derive(Debug, Default)]
struct Queue {
    entries: usize,
    done: VecDeque<Done>,
    channel: usize,
    armed: bool,
    users: usize,
}

#[derive(Debug)]
struct Done(Wc);

#[derive(Debug, Default)]
struct SharedQueue {
    domain: usize,
    most: usize,
    slots: VecDeque<(u64, Place)>,
    users: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    len: usize,
    key: u32,
}

#[derive(Debug)]
struct Pair {
    number: u32,
    domain: usize,
    completions: usize,
    queue: usize,
    requests: usize,
    /// Requests that were posted and of which no completion has told.
    outstanding: VecDeque<u64>,
    state: c_uint,
    peer: u32,
    reads: bool,
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    domain: usize,
    at: u64,
    len: usize,
    access: c_int,
}

#[derive(Debug, Default)]
struct Device {
    contexts: BTreeMap<usize, Context>,
    /// By address: how many things were made from each.
    domains: BTreeMap<usize, (usize, usize)>,
    channels: BTreeMap<usize, (usize, usize)>,
    queues: BTreeMap<usize, Queue>,
    shared: BTreeMap<usize, SharedQueue>,
    pairs: BTreeMap<usize, Pair>,
    memory: BTreeMap<u32, Memory>,
    next: u32,
}

#[derive(Debug)]
struct Context {
    /// Whoever opened it: each test has a thread.
    of: ThreadId,
    bell: OwnedFd,
    incidents: VecDeque<(c_uint, usize)>,
    users: usize,
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

thread_local! {
    /// Whether registrations by this thread are refused.
    static SHORT: Cell<bool> = const { Cell::new(false) };
}

struct Locked(MutexGuard<'static, Option<Device>>);

impl std::ops::Deref for Locked {
    type Target = Device;
    fn deref(&self) -> &Device {
        match &*self.0 {
            Some(device) => device,
            None => unreachable!("it was made when it was locked"),
        }
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Device {
        self.0.get_or_insert_default()
    }
}

fn device() -> Locked {
    let mut device = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    device.get_or_insert_default();
    Locked(device)
}

/// The library.
pub(crate) fn library() -> Arc<Library> {
    Library::of(Functions {
        get_device_list,
        free_device_list,
        get_device_name,
        open_device,
        close_device,
        query_device,
        query_port,
        query_gid,
        query_pkey,
        get_async_event,
        ack_async_event,
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_comp_channel,
        destroy_comp_channel,
        create_cq,
        destroy_cq,
        get_cq_event,
        ack_cq_events,
        create_srq,
        destroy_srq,
        create_qp,
        modify_qp,
        destroy_qp,
    })
}

/// The device says `incident` of its pair `number`, or of itself, to all who have opened it on this thread.
pub(crate) fn say(incident: c_uint, number: Option<u32>) {
    let mut device = device();
    let pair = number.and_then(|number| {
        device.pairs.iter().find(|(_, pair)| pair.number == number).map(|(at, _)| *at)
    });
    for context in device.contexts.values_mut().filter(|context| context.of == current().id()) {
        context.incidents.push_back((incident, pair.unwrap_or(0)));
        ring(&context.bell);
    }
}

/// The peer of the pair `number` does not answer any more.
pub(crate) fn cut(number: u32) {
    for pair in device().pairs.values_mut().filter(|pair| pair.number == number) {
        pair.peer = u32::MAX;
    }
}

/// The pair `number` fails, and nobody is told.
pub(crate) fn fail_silently(number: u32) {
    for pair in device().pairs.values_mut().filter(|pair| pair.number == number) {
        pair.state = ffi::QPS_ERR;
    }
}

/// Whether registrations by this thread are refused from now on.
pub(crate) fn set_short(short: bool) {
    SHORT.set(short);
}

/// Completions that wait where the pair `number` reports to.
pub(crate) fn waiting(number: u32) -> usize {
    let device = device();
    let pair = device.pairs.values().find(|pair| pair.number == number);
    let queue = pair.and_then(|pair| device.queues.get(&pair.completions));
    queue.map_or(0, |queue| queue.done.len())
}

/// How often the device is open on this thread.
pub(crate) fn opened() -> usize {
    device().contexts.values().filter(|context| context.of == current().id()).count()
}

/// Makes the descriptor readable once more.
fn ring(bell: &OwnedFd) {
    let rung = rustix::io::write(bell, &1_u64.to_le_bytes());
    demand!(rung.is_ok(), "a bell that does not ring: {rung:?}");
}

/// Makes it so once less, and says whether it was.
fn hush(bell: &OwnedFd) -> bool {
    rustix::io::read(bell, &mut [0_u8; 8]).is_ok()
}

fn fail(errno: c_int) {
    // SAFETY: it is where the C library keeps the number, for this thread.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place = errno };
}

fn address<T>(of: *mut T) -> usize {
    of.addr()
}

fn leak<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Frees what `leak` gave.
fn free<T>(what: *mut T) {
    // SAFETY: the tables had it, once.
    drop(unsafe { Box::from_raw(what) });
}

unsafe extern "C" fn get_device_list(count: *mut c_int) -> *mut *mut ffi::Device {
    // SAFETY: the caller says where.
    unsafe { *count = 1 };
    let mut list: [*mut ffi::Device; 2] = [C_NAME.as_ptr().cast_mut().cast(), null_mut()];
    list[1] = null_mut();
    leak(list).cast()
}

unsafe extern "C" fn free_device_list(list: *mut *mut ffi::Device) {
    free(list.cast::<[*mut ffi::Device; 2]>());
}

unsafe extern "C" fn get_device_name(device: *mut ffi::Device) -> *const c_char {
    device.cast::<c_char>().cast_const()
}

unsafe extern "C" fn open_device(_: *mut ffi::Device) -> *mut ffi::Context {
    let Ok(bell) = eventfd(0, EventfdFlags::SEMAPHORE) else { return null_mut() };
    // SAFETY: a context is pointers and numbers, and zeroes are none.
    let mut context: ffi::Context = unsafe { std::mem::zeroed() };
    context.ops.poll_cq = Some(poll_cq);
    context.ops.req_notify_cq = Some(req_notify_cq);
    context.ops.post_srq_recv = Some(post_srq_recv);
    context.ops.post_send = Some(post_send);
    context.async_fd = bell.as_raw_fd();
    let context = leak(context);
    let incidents = VecDeque::new();
    device()
        .contexts
        .insert(address(context), Context { of: current().id(), bell, incidents, users: 0 });
    context
}

unsafe extern "C" fn close_device(context: *mut ffi::Context) -> c_int {
    let gone = device().contexts.remove(&address(context));
    demand!(gone.is_some_and(|gone| gone.users == 0), "a device was closed that is in use");
    free(context);
    0
}

unsafe extern "C" fn query_device(_: *mut ffi::Context, attr: *mut ffi::DeviceAttr) -> c_int {
    // SAFETY: the caller says where.
    let attr = unsafe { &mut *attr };
    (attr.max_qp, attr.max_qp_wr, attr.max_cqe) = (4096, 4096, 32_767);
    (attr.max_srq_wr, attr.max_qp_rd_atom, attr.max_qp_init_rd_atom) = (32_768, 16, 16);
    attr.phys_port_cnt = 1;
    0
}

unsafe extern "C" fn query_port(_: *mut ffi::Context, _: u8, attr: *mut ffi::PortAttr) -> c_int {
    let port = ffi::PortAttr {
        state: ffi::PORT_ACTIVE,
        active_mtu: 3,
        gid_tbl_len: 2,
        pkey_tbl_len: 1,
        link_layer: ffi::LINK_LAYER_ETHERNET,
        ..ffi::PortAttr::default()
    };
    // SAFETY: the caller says where.
    unsafe { *attr = port };
    0
}

unsafe extern "C" fn query_gid(
    _: *mut ffi::Context,
    _: u8,
    index: c_int,
    gid: *mut ffi::Gid,
) -> c_int {
    // SAFETY: the caller says where.
    unsafe { *gid = ffi::Gid(if index == 1 { GID } else { [0; 16] }) };
    0
}

unsafe extern "C" fn query_pkey(_: *mut ffi::Context, _: u8, _: c_int, pkey: *mut u16) -> c_int {
    // SAFETY: the caller says where.
    unsafe { *pkey = u16::MAX };
    0
}

unsafe extern "C" fn get_async_event(
    context: *mut ffi::Context,
    event: *mut ffi::AsyncEvent,
) -> c_int {
    let mut device = device();
    let Some(of) = device.contexts.get_mut(&address(context)) else { return -1 };
    let Some((event_type, pair)) = of.incidents.pop_front() else { return -1 };
    let _was = hush(&of.bell);
    let element = std::ptr::with_exposed_provenance_mut::<c_void>(pair);
    // SAFETY: the caller says where.
    unsafe { *event = ffi::AsyncEvent { element, event_type } };
    0
}

unsafe extern "C" fn ack_async_event(_: *mut ffi::AsyncEvent) {}

unsafe extern "C" fn alloc_pd(context: *mut ffi::Context) -> *mut ffi::Pd {
    let mut device = device();
    let Some(of) = device.contexts.get_mut(&address(context)) else { return null_mut() };
    of.users += 1;
    let domain = leak(0_u64).cast::<ffi::Pd>();
    device.domains.insert(address(domain), (address(context), 0));
    domain
}

unsafe extern "C" fn dealloc_pd(domain: *mut ffi::Pd) -> c_int {
    let mut device = device();
    let gone = device.domains.remove(&address(domain));
    demand!(matches!(gone, Some((_, 0))), "a domain was given back that is in use");
    let context = gone.and_then(|(context, _)| device.contexts.get_mut(&context));
    context.into_iter().for_each(|context| context.users -= 1);
    free(domain.cast::<u64>());
    0
}

unsafe extern "C" fn reg_mr(
    domain: *mut ffi::Pd,
    at: *mut c_void,
    len: usize,
    access: c_int,
) -> *mut ffi::Mr {
    if SHORT.get() {
        fail(libc::ENOMEM);
        return null_mut();
    }
    let mut device = device();
    device.next += 1;
    let key = 0x1000 + device.next;
    let Some((_, users)) = device.domains.get_mut(&address(domain)) else { return null_mut() };
    *users += 1;
    let memory = Memory { domain: address(domain), at: at.expose_provenance() as u64, len, access };
    device.memory.insert(key, memory);
    let (context, pd, addr) = (null_mut(), domain, at);
    leak(ffi::Mr { context, pd, addr, length: len, handle: 0, lkey: key, rkey: key })
}

unsafe extern "C" fn dereg_mr(mr: *mut ffi::Mr) -> c_int {
    // SAFETY: it is what `reg_mr` gave.
    let key = unsafe { (*mr).lkey };
    let mut device = device();
    let posted = |queue: &SharedQueue| queue.slots.iter().any(|(_, place)| place.key == key);
    demand!(!device.shared.values().any(posted), "memory was given back that lies in a queue");
    let gone = device.memory.remove(&key);
    demand!(gone.is_some(), "memory was given back twice");
    if let Some((_, users)) = gone.and_then(|gone| device.domains.get_mut(&gone.domain)) {
        *users -= 1;
    }
    free(mr);
    0
}

unsafe extern "C" fn create_comp_channel(context: *mut ffi::Context) -> *mut ffi::CompChannel {
    let Ok(bell) = eventfd(0, EventfdFlags::SEMAPHORE) else { return null_mut() };
    let fd = std::os::fd::IntoRawFd::into_raw_fd(bell);
    let channel = leak(ffi::CompChannel { context, fd, refcnt: 0 });
    let mut device = device();
    device.channels.insert(address(channel), (address(context), 0));
    if let Some(context) = device.contexts.get_mut(&address(context)) {
        context.users += 1;
    }
    channel
}

unsafe extern "C" fn destroy_comp_channel(channel: *mut ffi::CompChannel) -> c_int {
    let mut device = device();
    let gone = device.channels.remove(&address(channel));
    demand!(matches!(gone, Some((_, 0))), "a channel was given back that is in use");
    let context = gone.and_then(|(context, _)| device.contexts.get_mut(&context));
    context.into_iter().for_each(|context| context.users -= 1);
    drop(bell_of(channel));
    free(channel);
    0
}

/// The descriptor of a channel, which is closed when that is dropped.
fn bell_of(channel: *mut ffi::CompChannel) -> OwnedFd {
    // SAFETY: it is what `create_comp_channel` gave.
    let fd = unsafe { (*channel).fd };
    // SAFETY: as above, and who calls this owns it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

unsafe extern "C" fn create_cq(
    _: *mut ffi::Context,
    entries: c_int,
    _: *mut c_void,
    channel: *mut ffi::CompChannel,
    _: c_int,
) -> *mut ffi::Cq {
    let queue = leak(0_u64).cast::<ffi::Cq>();
    let entries = usize::try_from(entries).unwrap_or(0);
    let mut device = device();
    if let Some((_, users)) = device.channels.get_mut(&address(channel)) {
        *users += 1;
    }
    let channel = channel.expose_provenance();
    device.queues.insert(address(queue), Queue { entries, channel, ..Queue::default() });
    queue
}

unsafe extern "C" fn destroy_cq(queue: *mut ffi::Cq) -> c_int {
    let mut device = device();
    let gone = device.queues.remove(&address(queue));
    demand!(gone.as_ref().is_some_and(|gone| gone.users == 0), "a completion queue is in use");
    let channel = gone.and_then(|gone| device.channels.get_mut(&gone.channel));
    channel.into_iter().for_each(|(_, users)| *users -= 1);
    free(queue.cast::<u64>());
    0
}

unsafe extern "C" fn req_notify_cq(queue: *mut ffi::Cq, _: c_int) -> c_int {
    let mut device = device();
    let queue = device.queues.get_mut(&address(queue));
    queue.into_iter().for_each(|queue| queue.armed = true);
    0
}

unsafe extern "C" fn get_cq_event(
    channel: *mut ffi::CompChannel,
    _: *mut *mut ffi::Cq,
    _: *mut *mut c_void,
) -> c_int {
    let bell = std::mem::ManuallyDrop::new(bell_of(channel));
    if hush(&bell) { 0 } else { -1 }
}

unsafe extern "C" fn ack_cq_events(_: *mut ffi::Cq, _: c_uint) {}

unsafe extern "C" fn poll_cq(queue: *mut ffi::Cq, most: c_int, out: *mut Wc) -> c_int {
    let mut device = device();
    let Some(queue) = device.queues.get_mut(&address(queue)) else { return -1 };
    let mut count = 0;
    while count < most
        && let Some(Done(wc)) = queue.done.pop_front()
    {
        let place = out.wrapping_add(usize::try_from(count).unwrap_or(0));
        // SAFETY: the caller has room for so many.
        unsafe { *place = wc };
        count += 1;
    }
    count
}

unsafe extern "C" fn create_srq(
    domain: *mut ffi::Pd,
    attr: *mut ffi::SrqInitAttr,
) -> *mut ffi::Srq {
    // SAFETY: the caller says where.
    let most = unsafe { (*attr).max_wr } as usize;
    let queue = leak(0_u64).cast::<ffi::Srq>();
    let mut device = device();
    if let Some((_, users)) = device.domains.get_mut(&address(domain)) {
        *users += 1;
    }
    let shared = SharedQueue { domain: address(domain), most, ..SharedQueue::default() };
    device.shared.insert(address(queue), shared);
    queue
}

unsafe extern "C" fn destroy_srq(queue: *mut ffi::Srq) -> c_int {
    let mut device = device();
    let gone = device.shared.remove(&address(queue));
    demand!(gone.as_ref().is_some_and(|gone| gone.users == 0), "a shared queue is in use");
    let domain = gone.and_then(|gone| device.domains.get_mut(&gone.domain));
    domain.into_iter().for_each(|(_, users)| *users -= 1);
    free(queue.cast::<u64>());
    0
}

unsafe extern "C" fn post_srq_recv(
    queue: *mut ffi::Srq,
    mut request: *mut ffi::RecvWr,
    _: *mut *mut ffi::RecvWr,
) -> c_int {
    let mut device = device();
    // SAFETY: the caller gives a list.
    while let Some(posted) = unsafe { request.as_ref() } {
        // SAFETY: it has one place.
        let place = place(unsafe { &*posted.sg_list });
        device.check(&place, ffi::ACCESS_LOCAL_WRITE);
        let Some(queue) = device.shared.get_mut(&address(queue)) else { return libc::EINVAL };
        demand!(queue.slots.len() < queue.most, "more slots were posted than there is room for");
        let twice = queue.slots.iter().any(|(_, other)| other.at == place.at);
        demand!(!twice, "a slot was posted twice");
        queue.slots.push_back((posted.wr_id, place));
        request = posted.next;
    }
    0
}

fn place(of: &ffi::Sge) -> Place {
    Place { at: of.addr, len: of.length as usize, key: of.lkey }
}

unsafe extern "C" fn create_qp(domain: *mut ffi::Pd, attr: *mut ffi::QpInitAttr) -> *mut ffi::Qp {
    // SAFETY: the caller says where.
    let attr = unsafe { &mut *attr };
    if attr.cap.max_inline_data > INLINE_MAX {
        fail(libc::EINVAL);
        return null_mut();
    }
    let mut device = device();
    device.next += 1;
    let number = device.next;
    // SAFETY: a pair is pointers and numbers, and zeroes are none.
    let mut raw: ffi::Qp = unsafe { std::mem::zeroed() };
    raw.qp_num = number;
    let raw = leak(raw);
    let pair = Pair {
        number,
        domain: address(domain),
        completions: address(attr.send_cq),
        queue: address(attr.srq),
        requests: attr.cap.max_send_wr as usize,
        outstanding: VecDeque::new(),
        state: 0,
        peer: u32::MAX,
        reads: false,
    };
    device.use_by(&pair, 1);
    device.pairs.insert(raw.expose_provenance(), pair);
    raw
}

unsafe extern "C" fn modify_qp(pair: *mut ffi::Qp, attr: *mut ffi::QpAttr, mask: c_int) -> c_int {
    // SAFETY: the caller says where.
    let attr = unsafe { &*attr };
    let mut device = device();
    let Some(pair) = device.pairs.get_mut(&address(pair)) else { return libc::EINVAL };
    let sound = match attr.qp_state {
        ffi::QPS_INIT => pair.state == 0 && mask & ffi::QP_PORT != 0,
        ffi::QPS_RTR => pair.state == ffi::QPS_INIT && attr.path_mtu > 0,
        ffi::QPS_RTS => pair.state == ffi::QPS_RTR && mask & ffi::QP_SQ_PSN != 0,
        state => state == ffi::QPS_ERR,
    };
    demand!(sound, "a pair was to go from state {} to {}", pair.state, attr.qp_state);
    pair.state = attr.qp_state;
    if mask & ffi::QP_DEST_QPN != 0 {
        pair.peer = attr.dest_qp_num;
    }
    if mask & ffi::QP_ACCESS_FLAGS != 0 {
        pair.reads = attr.qp_access_flags & ffi::ACCESS_REMOTE_READ.cast_unsigned() != 0;
    }
    0
}

unsafe extern "C" fn destroy_qp(pair: *mut ffi::Qp) -> c_int {
    let mut device = device();
    let gone = device.pairs.remove(&address(pair));
    demand!(gone.is_some(), "a pair was given back twice");
    gone.iter().for_each(|gone| device.use_by(gone, -1));
    free(pair);
    0
}

unsafe extern "C" fn post_send(
    pair: *mut ffi::Qp,
    mut request: *mut ffi::SendWr,
    _: *mut *mut ffi::SendWr,
) -> c_int {
    let mut device = device();
    // SAFETY: the caller gives a list.
    while let Some(posted) = unsafe { request.as_ref() } {
        let count = usize::try_from(posted.num_sge).unwrap_or(0);
        let places: Vec<Place> = match count {
            0 => Vec::new(),
            // SAFETY: it has so many places.
            _ => unsafe { std::slice::from_raw_parts(posted.sg_list, count) }
                .iter()
                .map(place)
                .collect(),
        };
        device.request(address(pair), posted, &places);
        request = posted.next;
    }
    0
}

/// A copy of what lies there.
fn gather(places: &[Place]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for place in places {
        let at = std::ptr::with_exposed_provenance::<u8>(usize::try_from(place.at).unwrap_or(0));
        // SAFETY: it is registered, or whoever posted it waits for the copy.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(at, place.len) });
    }
    bytes
}

/// Puts `bytes` there.
fn scatter(place: &Place, bytes: &[u8]) {
    let at = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(place.at).unwrap_or(0));
    // SAFETY: it is registered to be written, long enough, and nobody looks at it meanwhile.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
}

impl Device {
    /// One user more, or less, of what `pair` was made from.
    fn use_by(&mut self, pair: &Pair, more: isize) {
        let (shared, queue) =
            (self.shared.get_mut(&pair.queue), self.queues.get_mut(&pair.completions));
        let users = [
            shared.map(|shared| &mut shared.users),
            queue.map(|queue| &mut queue.users),
            self.domains.get_mut(&pair.domain).map(|(_, users)| users),
        ];
        for users in users.into_iter().flatten() {
            *users = users.wrapping_add_signed(more);
        }
    }

    /// Whether `place` is registered for this.
    fn check(&self, place: &Place, access: c_int) {
        let memory = self.memory.get(&place.key);
        let sound = memory.is_some_and(|memory| memory.allows(place, access));
        demand!(sound, "{place:?} is not registered so: {memory:?}");
    }

    fn complete(&mut self, pair: usize, wc: Wc) {
        let Some(pair) = self.pairs.get_mut(&pair) else { return };
        let wc = Wc { qp_num: pair.number, ..wc };
        if wc.opcode & ffi::WC_RECV == 0 {
            while pair.outstanding.front().is_some_and(|number| *number <= wc.wr_id) {
                pair.outstanding.pop_front();
            }
        }
        let Some(queue) = self.queues.get_mut(&pair.completions) else { return };
        demand!(queue.done.len() < queue.entries, "a completion queue has overrun");
        queue.done.push_back(Done(wc));
        if std::mem::take(&mut queue.armed) {
            let channel = std::ptr::with_exposed_provenance_mut::<ffi::CompChannel>(queue.channel);
            let bell = std::mem::ManuallyDrop::new(bell_of(channel));
            ring(&bell);
        }
    }

    fn request(&mut self, at: usize, request: &ffi::SendWr, places: &[Place]) {
        let Some(pair) = self.pairs.get_mut(&at) else { return };
        demand!(pair.outstanding.len() < pair.requests, "more requests than there is room for");
        pair.outstanding.push_back(request.wr_id);
        let (state, number, peer) = (pair.state, pair.number, pair.peer);
        let wc = Wc { wr_id: request.wr_id, ..Wc::default() };
        if state == ffi::QPS_ERR {
            return self.complete(at, Wc { status: 5, ..wc });
        }
        demand!(state == ffi::QPS_RTS, "a request to a pair in state {state}");
        let inline = request.send_flags & ffi::SEND_INLINE != 0;
        let access = if request.opcode == ffi::WR_RDMA_READ { ffi::ACCESS_LOCAL_WRITE } else { 0 };
        if !inline {
            places.iter().for_each(|place| self.check(place, access));
        }
        // A peer that has ended, or has another peer, does not answer.
        let peer = self.pairs.iter().find(|(_, pair)| {
            pair.number == peer && pair.peer == number && (2..=3).contains(&pair.state)
        });
        let status = match (peer.map(|(at, _)| *at), request.opcode) {
            (None, _) => 12,
            (Some(peer), ffi::WR_SEND_WITH_IMM) => self.deliver(peer, request.imm_data, places),
            (Some(peer), ffi::WR_RDMA_READ) => self.fetch(peer, request, places),
            (Some(_), _) => 2,
        };
        if status != 0 {
            self.pairs.get_mut(&at).into_iter().for_each(|pair| pair.state = ffi::QPS_ERR);
        }
        if status != 0 || request.send_flags & ffi::SEND_SIGNALED != 0 {
            let opcode = if request.opcode == ffi::WR_RDMA_READ { 2 } else { 0 };
            self.complete(at, Wc { status, opcode, ..wc });
        }
    }

    fn deliver(&mut self, peer: usize, imm_data: u32, places: &[Place]) -> c_uint {
        let bytes = gather(places);
        let queue = self.pairs.get(&peer).map_or(0, |pair| pair.queue);
        let slot = self.shared.get_mut(&queue).and_then(|queue| queue.slots.pop_front());
        demand!(slot.is_some(), "N1: a message found no slot");
        let Some((wr_id, slot)) = slot else { return 13 };
        let byte_len = u32::try_from(bytes.len()).unwrap_or(0);
        let wc = Wc { wr_id, opcode: ffi::WC_RECV, byte_len, imm_data, ..Wc::default() };
        if bytes.len() > slot.len {
            self.complete(peer, Wc { status: 1, ..wc });
            return 9;
        }
        scatter(&slot, &bytes);
        self.complete(peer, Wc { wc_flags: ffi::WC_WITH_IMM, ..wc });
        0
    }

    fn fetch(&mut self, peer: usize, request: &ffi::SendWr, places: &[Place]) -> c_uint {
        let Some(into) = places.first() else { return 2 };
        let from = Place { at: request.remote_addr, len: into.len, key: request.rkey };
        let allowed = self.pairs.get(&peer).is_some_and(|pair| pair.reads);
        let memory = self.memory.get(&from.key);
        if !allowed || !memory.is_some_and(|memory| memory.allows(&from, ffi::ACCESS_REMOTE_READ)) {
            return 10;
        }
        scatter(into, &gather(&[from]));
        0
    }
}

impl Memory {
    fn allows(&self, place: &Place, access: c_int) -> bool {
        let end = place.at + place.len as u64;
        let within = place.at >= self.at && end <= self.at + self.len as u64;
        within && self.access & access == access
    }
}
