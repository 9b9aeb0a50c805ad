//! What a device says went wrong, in words.
//!
//! # Not here
//! What follows from it for a link.

use std::ffi::c_uint;
use std::fmt;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Status(pub(crate) c_uint);

/// Each status by the name that the header and the device's manual know it by.
const STATUSES: &[(&str, &str)] = &[
    ("IBV_WC_SUCCESS", "it was done"),
    ("IBV_WC_LOC_LEN_ERR", "a message was longer than the slot that it came into"),
    ("IBV_WC_LOC_QP_OP_ERR", "this device refused a request that its queue pair cannot carry out"),
    ("IBV_WC_LOC_EEC_OP_ERR", "this device refused a request of its end-to-end context"),
    ("IBV_WC_LOC_PROT_ERR", "this device was given memory that is not registered for it"),
    ("IBV_WC_WR_FLUSH_ERR", "the queue pair had failed before"),
    ("IBV_WC_MW_BIND_ERR", "a memory window could not be bound"),
    ("IBV_WC_BAD_RESP_ERR", "the peer's device answered something that was not asked"),
    ("IBV_WC_LOC_ACCESS_ERR", "the peer's device asked for what this end's memory does not allow"),
    ("IBV_WC_REM_INV_REQ_ERR", "the peer's device takes a request for invalid"),
    (
        "IBV_WC_REM_ACCESS_ERR",
        "the peer's memory does not allow what was asked: it was withdrawn, or its key is wrong",
    ),
    ("IBV_WC_REM_OP_ERR", "the peer's device could not carry out what was asked"),
    (
        "IBV_WC_RETRY_EXC_ERR",
        "the peer's device does not answer: it is gone, or cannot be reached with this GID, MTU and P_Key",
    ),
    ("IBV_WC_RNR_RETRY_EXC_ERR", "the peer had no slot for a message that it had allowed"),
    ("IBV_WC_LOC_RDD_VIOL_ERR", "the reliable datagram domains do not fit"),
    ("IBV_WC_REM_INV_RD_REQ_ERR", "the peer's device takes a reliable datagram for invalid"),
    ("IBV_WC_REM_ABORT_ERR", "the peer's device gave a request up"),
    ("IBV_WC_INV_EECN_ERR", "there is no such end-to-end context"),
    ("IBV_WC_INV_EEC_STATE_ERR", "the end-to-end context is in no state for it"),
    ("IBV_WC_FATAL_ERR", "the device has failed"),
    ("IBV_WC_RESP_TIMEOUT_ERR", "the peer's device did not answer in time"),
    ("IBV_WC_GENERAL_ERR", "the device names no reason"),
    ("IBV_WC_TM_ERR", "tags could not be matched"),
    ("IBV_WC_TM_RNDV_INCOMPLETE", "a tagged message lacks its end"),
];

impl Status {
    /// It was done.
    pub(crate) const SUCCESS: Self = Self(0);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match STATUSES.get(self.0 as usize) {
            Some((name, what)) => write!(f, "{what} ({name})"),
            None => write!(f, "the device reports a status that is not known ({})", self.0),
        }
    }
}

/// Something that a device says of its own accord.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Incident(pub(crate) c_uint);

/// What an incident ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// One queue pair.
    Pair,
    /// Everything of this device.
    Device,
    /// Nothing: it is to be known.
    Nothing,
}

/// Each incident by its name, with what it ends.
const INCIDENTS: &[(&str, Scope, &str)] = &[
    ("IBV_EVENT_CQ_ERR", Scope::Device, "the completion queue has overrun"),
    ("IBV_EVENT_QP_FATAL", Scope::Pair, "the queue pair has failed"),
    ("IBV_EVENT_QP_REQ_ERR", Scope::Pair, "the peer's device sent an invalid request"),
    ("IBV_EVENT_QP_ACCESS_ERR", Scope::Pair, "the peer's device asked for what is not allowed"),
    ("IBV_EVENT_COMM_EST", Scope::Nothing, "a first message has come"),
    ("IBV_EVENT_SQ_DRAINED", Scope::Nothing, "the send queue has drained"),
    ("IBV_EVENT_PATH_MIG", Scope::Nothing, "the queue pair has moved to its other path"),
    ("IBV_EVENT_PATH_MIG_ERR", Scope::Pair, "the queue pair could not move to its other path"),
    ("IBV_EVENT_DEVICE_FATAL", Scope::Device, "the device has failed"),
    ("IBV_EVENT_PORT_ACTIVE", Scope::Nothing, "the port is active"),
    (
        "IBV_EVENT_PORT_ERR",
        Scope::Nothing,
        "the port is down; links that it comes back too late for end",
    ),
    (
        "IBV_EVENT_LID_CHANGE",
        Scope::Nothing,
        "the port has another LID; links that it breaks are dialled again",
    ),
    ("IBV_EVENT_PKEY_CHANGE", Scope::Nothing, "the port's P_Keys have changed"),
    ("IBV_EVENT_SM_CHANGE", Scope::Nothing, "the subnet manager has changed"),
    ("IBV_EVENT_SRQ_ERR", Scope::Device, "the shared receive queue has failed"),
    ("IBV_EVENT_SRQ_LIMIT_REACHED", Scope::Nothing, "few receive slots are left"),
    (
        "IBV_EVENT_QP_LAST_WQE_REACHED",
        Scope::Nothing,
        "a queue pair that has ended takes no more slots",
    ),
    (
        "IBV_EVENT_CLIENT_REREGISTER",
        Scope::Nothing,
        "the subnet manager wants clients to register again",
    ),
    (
        "IBV_EVENT_GID_CHANGE",
        Scope::Nothing,
        "the port's GIDs have changed; links that it breaks are dialled again",
    ),
    ("IBV_EVENT_WQ_FATAL", Scope::Pair, "a work queue has failed"),
];

impl Incident {
    /// What it ends. One that is not known ends nothing: newer libraries may have more to tell.
    pub(crate) fn scope(self) -> Scope {
        INCIDENTS.get(self.0 as usize).map_or(Scope::Nothing, |(_, scope, _)| *scope)
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match INCIDENTS.get(self.0 as usize) {
            Some((name, _, what)) => write!(f, "{what} ({name})"),
            None => write!(f, "the device reports an event that is not known ({})", self.0),
        }
    }
}

/// The names of all, with their numbers.
pub(crate) fn names() -> impl Iterator<Item = (&'static str, usize)> {
    let statuses = STATUSES.iter().map(|(name, _)| *name).enumerate();
    let incidents = INCIDENTS.iter().map(|(name, _, _)| *name).enumerate();
    statuses.chain(incidents).map(|(number, name)| (name, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_words_and_by_its_name() {
        let said = Status(12).to_string();
        assert!(
            said.contains("does not answer") && said.contains("IBV_WC_RETRY_EXC_ERR"),
            "{said}"
        );
        assert!(Status(99).to_string().contains("99"));
        assert!(Status(5).to_string().contains("FLUSH"));
    }

    #[test]
    fn what_a_device_says_ends_what_it_says() {
        assert_eq!(Incident(8).scope(), Scope::Device);
        assert_eq!(Incident(1).scope(), Scope::Pair);
        assert_eq!(Incident(10).scope(), Scope::Nothing);
        assert_eq!(Incident(77).scope(), Scope::Nothing);
        assert!(Incident(10).to_string().contains("the port is down"));
    }
}
