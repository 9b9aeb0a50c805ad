//! Devices, their ports, and the domain that everything else is made in.
//!
//! # Not here
//! Which of them is taken.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{DeviceError, check, is_given_back};
use crate::ffi;
use crate::ffi::library::Library;
use crate::status::Incident;

/// An open device.
pub(crate) struct Context {
    raw: NonNull<ffi::Context>,
    pub(crate) ops: ffi::ContextOps,
    pub(crate) library: Arc<Library>,
}

// SAFETY: D3.
unsafe impl Send for Context {}
// SAFETY: D3.
unsafe impl Sync for Context {}

/// The names of all devices, in the library's order.
///
/// # Errors
/// If the kernel has no device of this kind at all, or none may be looked at.
pub(crate) fn devices(library: &Arc<Library>) -> Result<Vec<String>, DeviceError> {
    let list = DeviceList::of(library)?;
    Ok(list.names().map(|(_, name)| name).collect())
}

/// The list of devices, while it is looked through.
struct DeviceList<'a> {
    library: &'a Library,
    list: NonNull<*mut ffi::Device>,
    count: usize,
}

impl<'a> DeviceList<'a> {
    fn of(library: &'a Library) -> Result<Self, DeviceError> {
        let mut count: c_int = 0;
        // SAFETY: D1, it writes the count and gives a list of so many pointers.
        let list = unsafe { (library.call.get_device_list)(&raw mut count) };
        let list = NonNull::new(list).ok_or_else(|| DeviceError::last("ibv_get_device_list"))?;
        Ok(Self { library, list, count: usize::try_from(count).unwrap_or(0) })
    }

    fn names(&self) -> impl Iterator<Item = (NonNull<ffi::Device>, String)> {
        // SAFETY: D1, the list has so many entries until it is given back.
        let devices = unsafe { std::slice::from_raw_parts(self.list.as_ptr(), self.count) };
        devices.iter().filter_map(|device| {
            let device = NonNull::new(*device)?;
            // SAFETY: D1, the device is in the list that is held.
            let name = unsafe { (self.library.call.get_device_name)(device.as_ptr()) };
            if name.is_null() {
                return None;
            }
            // SAFETY: the header says that it is a name, ended by a zero, of the device's own.
            let name = unsafe { CStr::from_ptr(name) };
            Some((device, name.to_string_lossy().into_owned()))
        })
    }
}

impl Drop for DeviceList<'_> {
    fn drop(&mut self) {
        // SAFETY: D1, devices that were opened do not need the list.
        unsafe { (self.library.call.free_device_list)(self.list.as_ptr()) }
    }
}

/// What a device can carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    pub(crate) pairs: usize,
    /// Requests of one queue pair.
    pub(crate) requests: usize,
    pub(crate) completions: usize,
    /// Slots of one shared queue.
    pub(crate) slots: usize,
    /// Reads of one queue pair under way, as the one that asks and as the one that answers.
    pub(crate) reads_out: usize,
    pub(crate) reads_in: usize,
    pub(crate) ports: u8,
}

/// What is known of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    pub(crate) number: u8,
    pub(crate) active: bool,
    pub(crate) state: u32,
    /// As in `enum ibv_mtu`.
    pub(crate) mtu: u32,
    pub(crate) lid: u16,
    pub(crate) gids: u32,
    pub(crate) pkeys: u16,
    pub(crate) ethernet: bool,
}

impl Context {
    /// Opens the device called `name`.
    ///
    /// # Errors
    /// If it is not there, or may not be opened.
    pub(crate) fn open(library: &Arc<Library>, name: &str) -> Result<Arc<Self>, DeviceError> {
        let list = DeviceList::of(library)?;
        let found = list.names().find(|(_, known)| known == name);
        let Some((device, _)) = found else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(DeviceError { call: "ibv_get_device_list", source });
        };
        // SAFETY: D1, the device is in the list that is held.
        let raw = unsafe { (library.call.open_device)(device.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| DeviceError::last("ibv_open_device"))?;
        // SAFETY: FF1 and D1, a context begins so; its functions stay as they are once it is open.
        let ops = unsafe { (*raw.as_ptr()).ops };
        let context = Self { raw, ops, library: Arc::clone(library) };
        context.set_nonblocking(context.incidents())?;
        Ok(Arc::new(context))
    }

    pub(super) fn raw(&self) -> *mut ffi::Context {
        self.raw.as_ptr()
    }

    /// A function that every device has.
    pub(super) fn op<F: Copy>(&self, op: Option<F>, call: &'static str) -> Result<F, DeviceError> {
        let missing = || DeviceError { call, source: io::ErrorKind::Unsupported.into() };
        op.ok_or_else(missing)
    }

    pub(super) fn set_nonblocking(&self, fd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let failed = |error: rustix::io::Errno| DeviceError { call: "fcntl", source: error.into() };
        let flags = fcntl_getfl(fd).map_err(failed)?;
        fcntl_setfl(fd, flags | OFlags::NONBLOCK).map_err(failed)
    }

    fn incidents(&self) -> BorrowedFd<'_> {
        // SAFETY: FF1 and D1, the field is there for as long as the context.
        let fd = unsafe { (*self.raw.as_ptr()).async_fd };
        // SAFETY: it is open until the context is closed, which the borrow forbids.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// What can be read when the device has something to say of its own accord: a descriptor that shares the
    /// context's.
    pub(crate) fn watched(&self) -> io::Result<OwnedFd> {
        self.incidents().try_clone_to_owned()
    }

    /// The next thing that the device has to say, and the number of the queue pair that it is about.
    pub(crate) fn incident(&self) -> Option<(Incident, Option<u32>)> {
        let mut event = MaybeUninit::<ffi::AsyncEvent>::zeroed();
        // SAFETY: D1, it fills the event in; the descriptor does not block.
        let answer = unsafe { (self.library.call.get_async_event)(self.raw(), event.as_mut_ptr()) };
        if answer != 0 {
            return None;
        }
        // SAFETY: zeroes are an event, and so is what was filled in.
        let mut event = unsafe { event.assume_init() };
        let incident = Incident(event.event_type);
        let pair = match incident.scope() {
            crate::status::Scope::Pair => {
                let pair = event.element.cast::<ffi::Qp>();
                // SAFETY: of such an event the header says that the element is a queue pair, and that
                // it stays until the event is acknowledged, even if it is being destroyed.
                (!pair.is_null()).then(|| unsafe { (*pair).qp_num })
            }
            crate::status::Scope::Device | crate::status::Scope::Nothing => None,
        };
        // SAFETY: each event that was got is acknowledged once.
        unsafe { (self.library.call.ack_async_event)(&raw mut event) };
        Some((incident, pair))
    }

    pub(crate) fn limits(&self) -> Result<Limits, DeviceError> {
        let mut attr = MaybeUninit::<ffi::DeviceAttr>::zeroed();
        // SAFETY: FF1, it fills in a struct of this size.
        let answer = unsafe { (self.library.call.query_device)(self.raw(), attr.as_mut_ptr()) };
        check("ibv_query_device", answer)?;
        // SAFETY: it is made of numbers, for which zeroes do as well.
        let attr = unsafe { attr.assume_init() };
        let size = |number: c_int| usize::try_from(number).unwrap_or(0);
        Ok(Limits {
            pairs: size(attr.max_qp),
            requests: size(attr.max_qp_wr),
            completions: size(attr.max_cqe),
            slots: size(attr.max_srq_wr),
            reads_out: size(attr.max_qp_init_rd_atom),
            reads_in: size(attr.max_qp_rd_atom),
            ports: attr.phys_port_cnt,
        })
    }

    pub(crate) fn port(&self, number: u8) -> Result<Port, DeviceError> {
        let mut attr = ffi::PortAttr::default();
        // SAFETY: FF1; of the two forms of this call the one that is exported fills in a beginning of
        // the struct, and the rest are zeroes.
        let answer = unsafe { (self.library.call.query_port)(self.raw(), number, &raw mut attr) };
        check("ibv_query_port", answer)?;
        Ok(Port {
            number,
            active: attr.state == ffi::PORT_ACTIVE,
            state: attr.state,
            mtu: attr.active_mtu,
            lid: attr.lid,
            gids: u32::try_from(attr.gid_tbl_len).unwrap_or(0),
            pkeys: attr.pkey_tbl_len,
            ethernet: attr.link_layer == ffi::LINK_LAYER_ETHERNET,
        })
    }

    pub(crate) fn gid(&self, port: u8, index: u32) -> Result<[u8; 16], DeviceError> {
        let mut gid = ffi::Gid::default();
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: FF1, it fills in a GID.
        let answer =
            unsafe { (self.library.call.query_gid)(self.raw(), port, index, &raw mut gid) };
        check("ibv_query_gid", answer)?;
        Ok(gid.0)
    }

    pub(crate) fn pkey(&self, port: u8, index: u16) -> Result<u16, DeviceError> {
        let mut pkey = 0;
        let index = c_int::from(index);
        // SAFETY: it fills in a number of 16 bits.
        let answer =
            unsafe { (self.library.call.query_pkey)(self.raw(), port, index, &raw mut pkey) };
        check("ibv_query_pkey", answer)?;
        // It is in the order of the network.
        Ok(u16::from_be(pkey))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: D1.
        let answer = unsafe { (self.library.call.close_device)(self.raw()) };
        is_given_back("ibv_close_device", answer);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// A protection domain: what is made in one may be used together.
pub(crate) struct Domain {
    raw: NonNull<ffi::Pd>,
    pub(crate) context: Arc<Context>,
}

// SAFETY: D3.
unsafe impl Send for Domain {}
// SAFETY: D3.
unsafe impl Sync for Domain {}

impl Domain {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Arc<Self>, DeviceError> {
        // SAFETY: D1.
        let raw = unsafe { (context.library.call.alloc_pd)(context.raw()) };
        let raw = NonNull::new(raw).ok_or_else(|| DeviceError::last("ibv_alloc_pd"))?;
        Ok(Arc::new(Self { raw, context: Arc::clone(context) }))
    }

    pub(super) fn raw(&self) -> *mut ffi::Pd {
        self.raw.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: D1.
        let answer = unsafe { (self.context.library.call.dealloc_pd)(self.raw()) };
        is_given_back("ibv_dealloc_pd", answer);
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").finish_non_exhaustive()
    }
}
