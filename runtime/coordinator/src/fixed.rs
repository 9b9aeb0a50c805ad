//! The coordinator `static`: its one view is given, and nobody's place is ever given away.
//!
//! For a job whose nodes are known when it starts and that ends as one, as under Slurm. Nothing is shared: each process
//! is given the same options, and so they agree. A node that dies leaves its slots without an owner until the job
//! is started again.
//!
//! # Invariants
//! - **FX1** There is one view, and it has the given number: a change is refused.
//! - **FX2** The lease of a member lasts until its own process releases it. Nobody else learns of that.
//!
//! # Not here
//! Where the members and their numbers come from.

use std::collections::BTreeMap;

use epicserver_wire::NodeId;

use crate::{
    ASKS_MAX, Answer, Ask, AskId, Coordinator, LEASES_MAX, Lease, RECORD_BYTES_MAX, TTL_MAX,
    VIEW_BYTES_MAX, Wake, check,
};

/// What each process of the fabric is given, the same for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The number of the view; not 0. Epochs are numbers of views, and a store refuses what has an older one: so a job that
    /// is started again on the same stores needs a higher number. The second in which the job starts, since
    /// 1970, is one, if whoever starts it hands it to all; a counter that is kept beside the stores is another.
    pub number: u64,
    /// The view.
    pub view: Vec<u8>,
    /// Its members, each with the record that others read until it is a process that has said otherwise, which only
    /// that process itself sees. A node that starts again is another one, and no member of this run.
    pub members: Vec<(NodeId, Vec<u8>)>,
}

/// Why options cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// 0 means that there is no view.
    #[error("the number of a static fabric's view is 0, which stands for no view")]
    Number,
    /// There is nobody, or a crowd.
    #[error("a static fabric has 1 to {LEASES_MAX} members, not {0}")]
    Members(usize),
    /// Two members are one.
    #[error("node {0} is a member of the static fabric twice")]
    Twice(NodeId),
    /// Something is too long.
    #[error(
        "a static fabric's view has at most {VIEW_BYTES_MAX} bytes, and a record at most {RECORD_BYTES_MAX}"
    )]
    Long,
}

/// A handle that knows all from the start (**FX1**).
#[derive(Debug)]
pub struct Static {
    number: u64,
    view: Vec<u8>,
    /// A member's record, as long as it has not released its lease here.
    members: BTreeMap<NodeId, Option<Vec<u8>>>,
    wake: Wake,
    done: Vec<(AskId, Answer)>,
}

impl Static {
    /// A handle on the fabric of `options`.
    ///
    /// # Errors
    /// [`Error`] says what is wrong with them.
    pub fn new(options: Options, wake: Wake) -> Result<Self, Error> {
        let Options { number, view, members: given } = options;
        if number == 0 {
            return Err(Error::Number);
        }
        if given.is_empty() || given.len() > LEASES_MAX {
            return Err(Error::Members(given.len()));
        }
        let long = |(_, record): &(NodeId, Vec<u8>)| record.len() > RECORD_BYTES_MAX;
        if view.len() > VIEW_BYTES_MAX || given.iter().any(long) {
            return Err(Error::Long);
        }
        let mut members = BTreeMap::new();
        for (node, record) in given {
            if members.insert(node, Some(record)).is_some() {
                return Err(Error::Twice(node));
            }
        }
        Ok(Self { number, view, members, wake, done: Vec::new() })
    }

    fn carry_out(&mut self, ask: Ask) -> Answer {
        if let Err(why) = check(&ask) {
            return Answer::Failed { why };
        }
        let number = self.number;
        match ask {
            Ask::Read => {
                let lease = |(node, record): (&NodeId, &Option<Vec<u8>>)| {
                    Some(Lease { node: *node, record: record.clone()?, left: TTL_MAX })
                };
                let leases = self.members.iter().filter_map(lease).collect();
                Answer::State { view: Some((number, self.view.clone())), leases }
            }
            Ask::Renew { node, record, ttl: _ } => match self.members.get_mut(&node) {
                Some(Some(before)) => {
                    *before = record;
                    Answer::Renewed { number }
                }
                Some(None) => Answer::Evicted,
                None => Answer::Failed { why: format!("{node} is no member of the static fabric") },
            },
            Ask::Change { from, .. } if from != number => Answer::Overtaken { number },
            Ask::Change { .. } => {
                let why = "the members of a static fabric are given, and never change".to_owned();
                Answer::Failed { why }
            }
            Ask::Release { node } => {
                if let Some(record) = self.members.get_mut(&node) {
                    *record = None;
                }
                Answer::Released
            }
        }
    }
}

impl Coordinator for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn is_fixed(&self) -> bool {
        true
    }

    fn ask(&mut self, id: AskId, ask: Ask) -> Result<(), Ask> {
        if self.done.len() >= ASKS_MAX {
            return Err(ask);
        }
        let answer = self.carry_out(ask);
        self.done.push((id, answer));
        self.wake.ring();
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<(AskId, Answer)>) {
        done.append(&mut self.done);
    }

    fn take_changed(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let member = |number| (NodeId::new(number), vec![7]);
        Options { number: 9, view: vec![1, 2], members: vec![member(2), member(1)] }
    }

    fn refused(spoil: impl FnOnce(&mut Options)) -> Error {
        let mut options = options();
        spoil(&mut options);
        Static::new(options, Wake::new(|| ())).unwrap_err()
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        assert_eq!(refused(|options| options.number = 0), Error::Number);
        assert_eq!(refused(|options| options.members.clear()), Error::Members(0));
        let twice = refused(|options| options.members[0].0 = NodeId::new(1));
        assert_eq!(twice, Error::Twice(NodeId::new(1)));
        let long = refused(|options| options.members[0].1 = vec![0; RECORD_BYTES_MAX + 1]);
        assert_eq!(long, Error::Long);
        assert_eq!(refused(|options| options.view = vec![0; VIEW_BYTES_MAX + 1]), Error::Long);
    }

    #[test]
    fn fx1_a_change_is_refused_and_the_view_stays() {
        let mut fixed = Static::new(options(), Wake::new(|| ())).unwrap();
        let change = |from| Ask::Change { from, view: vec![3], ends: Vec::new() };
        assert_eq!(fixed.carry_out(change(0)), Answer::Overtaken { number: 9 });
        let answer = fixed.carry_out(change(9));
        assert!(matches!(answer, Answer::Failed { why } if why.contains("never change")));
        let Answer::State { view, leases } = fixed.carry_out(Ask::Read) else { panic!("it reads") };
        assert_eq!(view, Some((9, vec![1, 2])));
        assert_eq!(leases.iter().map(|lease| lease.node.as_u64()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn fx2_a_member_is_renewed_until_it_releases_and_a_stranger_never() {
        let mut fixed = Static::new(options(), Wake::new(|| ())).unwrap();
        let renew = |node| Ask::Renew { node: NodeId::new(node), record: vec![8], ttl: TTL_MAX };
        assert_eq!(fixed.carry_out(renew(1)), Answer::Renewed { number: 9 });
        assert!(matches!(fixed.carry_out(renew(3)), Answer::Failed { .. }));
        for _ in 0..2 {
            let release = Ask::Release { node: NodeId::new(1) };
            assert_eq!(fixed.carry_out(release), Answer::Released);
        }
        assert_eq!(fixed.carry_out(renew(1)), Answer::Evicted);
    }
}
