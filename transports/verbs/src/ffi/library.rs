//! The table of functions of libibverbs, filled in at run time.
//!
//! # Invariants
//! - **FF2** A [`Library`] that exists has every function of the table, and its code stays loaded for as long
//!   as anybody has a share of it.
//!
//! # Not here
//! The functions that each device's own library provides: those are in its context.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::Arc;

use super::{
    AsyncEvent, CompChannel, Context, Cq, Device, DeviceAttr, Gid, Mr, Pd, PortAttr, Qp, QpAttr,
    QpInitAttr, Srq, SrqInitAttr,
};

/// The name under which the library is found on every distribution.
const NAME: &str = "libibverbs.so.1";

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?, $symbol:literal;)*) => {
        /// The functions, each as the header declares it.
        #[derive(Clone, Copy)]
        pub(crate) struct Functions {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            fn find(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $($name: {
                        // SAFETY: FF1, the header declares the symbol with this type.
                        let symbol = unsafe { library.get($symbol.as_bytes()) };
                        *symbol?
                    },)*
                })
            }
        }
    };
}

functions! {
    get_device_list: fn(*mut c_int) -> *mut *mut Device, "ibv_get_device_list";
    free_device_list: fn(*mut *mut Device), "ibv_free_device_list";
    get_device_name: fn(*mut Device) -> *const c_char, "ibv_get_device_name";
    open_device: fn(*mut Device) -> *mut Context, "ibv_open_device";
    close_device: fn(*mut Context) -> c_int, "ibv_close_device";
    query_device: fn(*mut Context, *mut DeviceAttr) -> c_int, "ibv_query_device";
    query_port: fn(*mut Context, u8, *mut PortAttr) -> c_int, "ibv_query_port";
    query_gid: fn(*mut Context, u8, c_int, *mut Gid) -> c_int, "ibv_query_gid";
    query_pkey: fn(*mut Context, u8, c_int, *mut u16) -> c_int, "ibv_query_pkey";
    get_async_event: fn(*mut Context, *mut AsyncEvent) -> c_int, "ibv_get_async_event";
    ack_async_event: fn(*mut AsyncEvent), "ibv_ack_async_event";
    alloc_pd: fn(*mut Context) -> *mut Pd, "ibv_alloc_pd";
    dealloc_pd: fn(*mut Pd) -> c_int, "ibv_dealloc_pd";
    reg_mr: fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr, "ibv_reg_mr";
    dereg_mr: fn(*mut Mr) -> c_int, "ibv_dereg_mr";
    create_comp_channel: fn(*mut Context) -> *mut CompChannel, "ibv_create_comp_channel";
    destroy_comp_channel: fn(*mut CompChannel) -> c_int, "ibv_destroy_comp_channel";
    create_cq: fn(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq, "ibv_create_cq";
    destroy_cq: fn(*mut Cq) -> c_int, "ibv_destroy_cq";
    get_cq_event: fn(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int, "ibv_get_cq_event";
    ack_cq_events: fn(*mut Cq, c_uint), "ibv_ack_cq_events";
    create_srq: fn(*mut Pd, *mut SrqInitAttr) -> *mut Srq, "ibv_create_srq";
    destroy_srq: fn(*mut Srq) -> c_int, "ibv_destroy_srq";
    create_qp: fn(*mut Pd, *mut QpInitAttr) -> *mut Qp, "ibv_create_qp";
    modify_qp: fn(*mut Qp, *mut QpAttr, c_int) -> c_int, "ibv_modify_qp";
    destroy_qp: fn(*mut Qp) -> c_int, "ibv_destroy_qp";
}

/// The library.
pub(crate) struct Library {
    pub(crate) call: Functions,
    /// FF2: whatever holds the code; the tests' own has none.
    _code: Option<libloading::Library>,
}

impl Library {
    /// Loads it.
    ///
    /// # Errors
    /// What the loader says: it is not there, or too old to have all functions.
    pub(crate) fn load() -> Result<Arc<Self>, libloading::Error> {
        // SAFETY: FF2, loading it runs the initialisers of libibverbs and of the libraries that it
        // needs, which are written to be loaded so.
        let code = unsafe { libloading::Library::new(NAME) }?;
        Ok(Arc::new(Self { call: Functions::find(&code)?, _code: Some(code) }))
    }

    /// One whose functions are these, for tests.
    #[cfg(test)]
    pub(crate) fn of(call: Functions) -> Arc<Self> {
        Arc::new(Self { call, _code: None })
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}
