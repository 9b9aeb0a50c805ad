//! The job on whose account a node is there: it is over once, and for good.
//!
//! # Not here
//! When it is over: the search for nodes says that.

use std::sync::{Condvar, Mutex, PoisonError};

/// Whether a job is over.
#[derive(Debug, Default)]
pub(crate) struct Job {
    over: Mutex<bool>,
    ended: Condvar,
}

impl Job {
    /// It is over.
    pub(super) fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.notify_all();
    }

    /// Blocks until it is.
    pub(crate) fn wait(&self) {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let over = self.ended.wait_while(over, |over| !*over);
        drop(over.unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn whoever_waits_for_a_job_goes_on_when_it_is_over_and_later() {
        let job = Arc::new(Job::default());
        let waiting = Arc::clone(&job);
        let waits = std::thread::spawn(move || waiting.wait());
        job.end();
        waits.join().unwrap();
        job.wait();
    }
}
