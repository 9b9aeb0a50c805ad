//! Floors: what somebody would write by hand, or what the machine itself charges.
//!
//! Each is written as well as it can be, since a floor that is beaten because it is clumsy proves
//! nothing. Where there are two good ways, both are measured and the faster one is the floor.
//!
//! # Not here
//! Anything of ours.

pub(crate) mod boxed_async_fn;
pub(crate) mod cache_line;
pub(crate) mod perftest;
pub(crate) mod raw_log;
pub(crate) mod raw_pg;
pub(crate) mod raw_redb;
pub(crate) mod raw_ring;
pub(crate) mod raw_tcp;
pub(crate) mod raw_tipc;
pub(crate) mod tokio_ask;
pub(crate) mod tokio_rpc;
pub(crate) mod ucx;
pub(crate) mod wake_up;
