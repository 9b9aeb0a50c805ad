//! The atlas: directories that were found already, by the shares that they follow from, and views.
//!
//! A view needs its own directory and those of its history, which differ little; and hosts that run many nodes in one
//! process need each of them once.
//!
//! # Invariants
//! - **AT1** What is given is the directory of the shares that were asked for, whatever was asked before.
//! - **AT2** What is given for bytes is the view that they say, and for a delta the one to which it leads.
//!
//! # Not here
//! Which view counts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::directory::Directory;
use crate::fields::Unread;
use crate::view::{Delta, HISTORY_MAX, Share, View};

/// Directories that are kept.
const KEPT_MAX: usize = 2 * HISTORY_MAX;
/// Changes of views that are kept: the latest are those of which many nodes hear.
const CHANGES_MAX: usize = 4;

/// Directories that were found already. Copies of it are the same one.
#[derive(Clone, Default)]
pub struct Atlas(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    directories: VecDeque<Arc<Directory>>,
    views: VecDeque<Arc<View>>,
    read: VecDeque<(Box<[u8]>, Arc<View>)>,
    applied: VecDeque<(Arc<View>, Delta, Arc<View>)>,
}

impl std::fmt::Debug for Atlas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Atlas").finish_non_exhaustive()
    }
}

impl Atlas {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of members with these `shares`, which are by id, each once (**AT1**).
    #[must_use]
    pub fn of(&self, shares: &[Share]) -> Arc<Directory> {
        let kept = &mut self.kept().directories;
        let found = kept.iter().position(|directory| directory.members_shares() == shares);
        let directory = match found.and_then(|at| kept.remove(at)) {
            Some(directory) => directory,
            // The last one is most often of the view before.
            None => Arc::new(match kept.front() {
                Some(last) => last.after(shares.iter().cloned()),
                None => Directory::of(shares.iter().cloned()),
            }),
        };
        kept.push_front(Arc::clone(&directory));
        kept.truncate(KEPT_MAX);
        directory
    }

    /// The same view, once for all who have it.
    #[must_use]
    pub fn view(&self, view: View) -> Arc<View> {
        let kept = &mut self.kept().views;
        if let Some(known) = kept.iter().find(|known| ***known == view) {
            return Arc::clone(known);
        }
        let view = Arc::new(view);
        kept.push_front(Arc::clone(&view));
        kept.truncate(HISTORY_MAX);
        view
    }

    /// The view that `bytes` say (**AT2**). That they are known is found without reading them.
    ///
    /// # Errors
    /// [`Unread`] if they say none.
    pub fn read(&self, bytes: &[u8]) -> Result<Arc<View>, Unread> {
        let kept = self.kept();
        if let Some((_, view)) = kept.read.iter().find(|(known, _)| **known == *bytes) {
            return Ok(Arc::clone(view));
        }
        drop(kept);
        let view = self.view(View::read(bytes)?);
        let read = &mut self.kept().read;
        read.push_front((bytes.into(), Arc::clone(&view)));
        read.truncate(CHANGES_MAX);
        Ok(view)
    }

    /// The view to which `delta` leads from `before`, if it leads anywhere from there (**AT2**).
    #[must_use]
    pub fn after(&self, before: &Arc<View>, delta: &Delta) -> Option<Arc<View>> {
        let kept = self.kept();
        let known = |(from, by, _): &&(Arc<View>, Delta, Arc<View>)| {
            Arc::ptr_eq(from, before) && by == delta
        };
        if let Some((_, _, view)) = kept.applied.iter().find(known) {
            return Some(Arc::clone(view));
        }
        drop(kept);
        let view = self.view(delta.apply(before)?);
        let applied = &mut self.kept().applied;
        applied.push_front((Arc::clone(before), delta.clone(), Arc::clone(&view)));
        applied.truncate(CHANGES_MAX);
        Some(view)
    }
}

#[cfg(test)]
mod tests {
    use epicserver_wire::NodeId;

    use super::*;
    use crate::view::Member;

    #[test]
    fn at1_what_is_given_follows_from_what_is_asked_alone() {
        let atlas = Atlas::default();
        let shares: Vec<Share> = (0..5).map(|node| Share::of(NodeId::new(node))).collect();
        for range in [0..5, 0..4, 1..5, 0..5] {
            assert_eq!(*atlas.of(&shares[range.clone()]), Directory::of(shares[range].to_vec()));
        }
        let other = atlas.clone();
        assert!(Arc::ptr_eq(&other.of(&shares), &atlas.of(&shares)));
    }

    #[test]
    fn at2_views_are_what_bytes_say_and_deltas_lead_to_whether_known_or_not() {
        let atlas = Atlas::default();
        let view = |number, count: u64| View {
            number,
            members: (1..=count).map(|node| Member::of(NodeId::new(node), 1)).collect(),
            history: Vec::new(),
        };
        let (first, second) = (view(1, 2), view(2, 3));
        let delta = Delta::between(&first, &second).expect("there is no history");
        let read = atlas.read(&first.write()).expect("it is whole");
        assert_eq!(*read, first);
        assert!(Arc::ptr_eq(&atlas.read(&first.write()).expect("it is whole"), &read));
        assert_eq!(*atlas.read(&second.write()).expect("it is whole"), second);
        let after = atlas.after(&read, &delta).expect("it leads there");
        assert_eq!(*after, second);
        assert!(Arc::ptr_eq(&atlas.after(&read, &delta).expect("it leads there"), &after));
        assert!(atlas.after(&after, &delta).is_none());
        assert!(atlas.read(&first.write()[1..]).is_err());
    }
}
