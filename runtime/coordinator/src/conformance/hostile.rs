//! Things in the place of data that no coordinator has put there.
//!
//! # Not here
//! What those are: the subject knows its place.

use epicserver_wire::NodeId;

use super::Subject;
use super::asking::says;
use super::client::{Client, LONG, changed, renewed};
use crate::{Answer, Ask};

pub(super) fn what_is_foreign_fails_and_says_so(subject: &dyn Subject) {
    for way in 0.. {
        let fresh = subject.another();
        let mut client = Client::open(&*fresh);
        assert_eq!(client.change(0, b"view", &[]), changed(1));
        assert_eq!(client.renew(NodeId::new(1), b"record", LONG), renewed(1));
        let Some(what) = fresh.spoil(way) else { return };
        says(&client.ask(Ask::Read), what);
        match Client::try_open(&*fresh) {
            Ok(mut late) => says(&late.ask(Ask::Read), what),
            Err(why) => assert!(why.contains(what), "{why:?} does not say {what:?}"),
        }
        // Whoever asks for something else is told so, or what is foreign does not concern it; nothing is made up.
        for ask in [
            Ask::Change { from: 0, view: Vec::new(), ends: Vec::new() },
            Ask::Change { from: 1, view: Vec::new(), ends: vec![NodeId::new(1)] },
            Ask::Renew { node: NodeId::new(1), record: Vec::new(), ttl: LONG },
        ] {
            let answer = client.ask(ask.clone());
            let sound = match answer {
                Answer::Failed { .. } | Answer::Alive { .. } => true,
                Answer::Overtaken { number } | Answer::Renewed { number } => number == 1,
                Answer::State { .. }
                | Answer::Evicted
                | Answer::Changed { .. }
                | Answer::Released => false,
            };
            assert!(sound, "way {way}: {ask:?} gives {answer:?}");
        }
    }
}
