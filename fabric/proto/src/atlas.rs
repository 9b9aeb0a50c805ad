//! The atlas: directories that were found already, by the shares that they follow from, and views.
//!
//! A view needs its own directory and those of its history, which differ little; and hosts that run many nodes in one
//! process need each of them once.
//!
//! # Invariants
//! - **AT1** What is given is the directory of the shares that were asked for, whatever was asked before.
//!
//! # Not here
//! Which view counts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::directory::Directory;
use crate::view::{HISTORY_MAX, Share, View};

/// Directories that are kept.
const KEPT_MAX: usize = 2 * HISTORY_MAX;

/// Directories that were found already. Copies of it are the same one.
#[derive(Clone, Default)]
pub struct Atlas(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    directories: VecDeque<Arc<Directory>>,
    views: VecDeque<Arc<View>>,
}

impl std::fmt::Debug for Atlas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Atlas").finish_non_exhaustive()
    }
}

impl Atlas {
    /// The directory of members with these `shares`, which are by id, each once (**AT1**).
    #[must_use]
    pub fn of(&self, shares: &[Share]) -> Arc<Directory> {
        let kept = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).directories;
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
        let kept = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).views;
        if let Some(known) = kept.iter().find(|known| ***known == view) {
            return Arc::clone(known);
        }
        let view = Arc::new(view);
        kept.push_front(Arc::clone(&view));
        kept.truncate(HISTORY_MAX);
        view
    }
}

#[cfg(test)]
mod tests {
    use epicserver_wire::NodeId;

    use super::*;

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
}
