//! Where a node is: a type and an instance, as TIPC finds services by.
//!
//! # Not here
//! Which of them exist: `topology`.

use epicserver_link::Address;
use epicserver_wire::NodeId;

use crate::transport::SCHEME;

/// Types below this are TIPC's own.
const KIND_MIN: u32 = 64;

/// A service address. Written `tipc://TYPE:INSTANCE`, both in decimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Service {
    kind: u32,
    instance: u32,
}

impl Service {
    /// The service of `node` in the fabric called `fabric`.
    ///
    /// Two fabrics may share a type, and two nodes an instance: the handshake tells fabrics apart, and a node takes
    /// the next instance that is free when it listens.
    #[must_use]
    pub fn of(fabric: &str, node: NodeId) -> Self {
        let instance = u32::try_from(node.as_u64() >> 32).unwrap_or(0);
        Self { kind: kind_of(fabric), instance }
    }

    /// The service with that type and instance; `None` if the type is TIPC's own.
    #[must_use]
    pub fn new(kind: u32, instance: u32) -> Option<Self> {
        (kind >= KIND_MIN).then_some(Self { kind, instance })
    }

    /// The type, which all nodes of a fabric share.
    #[must_use]
    pub fn kind(self) -> u32 {
        self.kind
    }

    /// Which of that type.
    #[must_use]
    pub fn instance(self) -> u32 {
        self.instance
    }

    /// The next one of the same type.
    pub(crate) fn next(self) -> Self {
        Self { instance: self.instance.wrapping_add(1), ..self }
    }

    /// The address that peers dial.
    #[must_use]
    pub fn address(self) -> Address {
        Address::new(SCHEME, &format!("{}:{}", self.kind, self.instance))
    }

    /// The service at `address`; `None` if it is no address of TIPC.
    #[must_use]
    pub fn of_address(address: &Address) -> Option<Self> {
        Self::parse(address).ok()
    }

    /// The service at `address`; why it is none, otherwise.
    pub(crate) fn parse(address: &Address) -> Result<Self, &'static str> {
        if address.scheme() != SCHEME {
            return Err("it begins with tipc://");
        }
        let numbers = address.rest().split_once(':');
        let (kind, instance) = numbers.ok_or("it ends in a type, a colon and an instance")?;
        let (Some(kind), Some(instance)) = (number(kind), number(instance)) else {
            return Err("type and instance are numbers below 2^32");
        };
        Self::new(kind, instance).ok_or("types below 64 are TIPC's own")
    }
}

/// One way to write each number.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

/// The type for a fabric: FNV-1a of its name, outside of TIPC's own. Nodes of all versions compute the same.
fn kind_of(fabric: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    fabric.bytes().fold(0x811c_9dc5, step).max(KIND_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_fabric_share_a_type_that_never_changes() {
        let nodes = [0x0123_4567_89ab_cdef, u64::MAX].map(NodeId::new);
        let services = nodes.map(|node| Service::of("default", node));
        assert_eq!(services[0], Service { kind: 0x933b_5bde, instance: 0x0123_4567 });
        assert_eq!(services[1].kind(), services[0].kind());
        assert_ne!(Service::of("other", nodes[0]).kind(), services[0].kind());
    }

    #[test]
    fn an_address_is_read_as_it_was_written() {
        let service = Service::of("default", NodeId::new(1 << 40));
        assert_eq!(Service::parse(&service.address()), Ok(service));
    }

    #[test]
    fn what_is_no_address_says_why() {
        let why = |rest| Service::parse(&Address::new(SCHEME, rest)).unwrap_err();
        assert!(why("70").contains("colon"));
        for rest in ["70:", ":1", "70:x", "70:4294967296", "-1:3", "070:1", "+70:1", "70:1:2"] {
            assert!(why(rest).contains("numbers"), "{rest}");
        }
        assert!(why("63:1").contains("own"));
        let tcp = Address::new("tcp", "70:1");
        assert!(Service::parse(&tcp).unwrap_err().contains("tipc://"));
    }
}
