//! Keys of one fabric.
//!
//! # Not here
//! What is in them.

use epicserver_wire::NodeId;

use crate::NAME_BYTES_MAX;

/// The keys of one fabric: all that begin so.
#[derive(Clone, Debug)]
pub(crate) struct Keys(String);

impl Keys {
    /// Those of `fabric` below `prefix`; `None` if the two cannot be told apart.
    pub(crate) fn new(prefix: &str, fabric: &str) -> Option<Self> {
        let sound = prefix.len() <= NAME_BYTES_MAX
            && (1..=NAME_BYTES_MAX).contains(&fabric.len())
            && !fabric.contains(['/', '\0']);
        sound.then(|| Self(format!("{prefix}{fabric}/")))
    }

    pub(crate) fn number(&self) -> String {
        self.of("number")
    }

    pub(crate) fn ended(&self) -> String {
        self.of("ended")
    }

    pub(crate) fn alive(&self, node: NodeId) -> String {
        format!("{}{node}", self.all_alive())
    }

    pub(crate) fn all_alive(&self) -> String {
        self.of("alive/")
    }

    pub(crate) fn record(&self, node: NodeId) -> String {
        format!("{}{node}", self.all_records())
    }

    pub(crate) fn all_records(&self) -> String {
        self.of("record/")
    }

    pub(crate) fn released(&self, node: NodeId) -> String {
        format!("{}released/{node}", self.0)
    }

    pub(crate) fn all_views(&self) -> String {
        self.of("view/")
    }

    /// What comes before all parts of views with that number, and after those with a smaller one.
    pub(crate) fn views(&self, number: u64) -> String {
        format!("{}{number:016x}", self.all_views())
    }

    /// The parts of one view.
    pub(crate) fn view(&self, number: u64, nonce: u64) -> String {
        format!("{}-{nonce:016x}/", self.views(number))
    }

    /// What changes when a view or a lease does: all but the bytes of views, which come last.
    pub(crate) fn news(&self) -> (String, String) {
        (self.0.clone(), self.all_views())
    }

    fn of(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }
}

/// The first key behind all that begin with `prefix`, whose last byte is not the greatest.
pub(crate) fn behind(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// Whose `key` is among those that begin with `prefix`.
pub(crate) fn node_of(prefix: &str, key: &[u8]) -> Option<NodeId> {
    let text = str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let node = NodeId::new(u64::from_str_radix(text, 16).ok()?);
    (node.to_string() == text).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn et3_keys_of_two_fabrics_are_apart() {
        let keys = Keys::new("/epicserver/", "one").unwrap();
        assert_eq!(keys.number(), "/epicserver/one/number");
        let one = NodeId::new(1);
        assert_eq!(keys.alive(one), "/epicserver/one/alive/0000000000000001");
        assert_eq!(node_of(&keys.all_alive(), keys.alive(one).as_bytes()), Some(one));
        assert_eq!(node_of(&keys.all_alive(), keys.record(one).as_bytes()), None);
        for fabric in ["", "a/b", "a\0"] {
            assert!(Keys::new("/epicserver/", fabric).is_none());
        }
        assert!(Keys::new("", &"a".repeat(NAME_BYTES_MAX + 1)).is_none());
    }

    #[test]
    fn parts_of_views_come_last_and_in_the_order_of_numbers() {
        let keys = Keys::new("", "a").unwrap();
        let (first, end) = keys.news();
        for key in
            [keys.number(), keys.ended(), keys.alive(NodeId::new(1)), keys.record(NodeId::new(1))]
        {
            assert!((&first..&end).contains(&&key), "{key}");
        }
        let (before, after) = (keys.view(15, u64::MAX), keys.view(16, 0));
        assert!(end <= before && before < keys.views(16) && keys.views(16) < after);
        assert!(after.as_bytes() < &behind(&keys.all_views())[..]);
    }
}
