//! What is done while this process has the file: open it, serve, and hand it over.
//!
//! # Invariants
//! - **HO1** Nothing here waits for the disk, so that a slow one does not look like a process that is silent.
//! - **HO2** The file is closed before the lock is let go of, and the lock before the others see the connections end.
//!
//! # Not here
//! Who may have the file: `place`, `keeping`.

use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use epicserver_redb::{OpenError, Redb};
use rustix::event::PollFlags;
use rustix::fd::AsFd as _;

use crate::Error;
use crate::keeping::{Keeping, RETRY, fitting};
use crate::peers::{More, Peers};
use crate::place::Seat;

/// The longest wait for anything while the file is open.
const LOOK: Duration = Duration::from_secs(1);

impl Keeping {
    /// Has the file until this process is to let go of it.
    pub(crate) fn hold(&mut self, seat: Seat) {
        let mut peers = Peers::new(&self.options.fabric, self.options.patience, &self.bell);
        if let Some(redb) = self.open_file(&seat, &mut peers) {
            self.holds.store(true, Ordering::SeqCst);
            self.settle();
            tracing::info!(waiting = peers.len(), "this process has the store");
            self.serve(&seat.listener, &mut peers, &redb);
            self.hand_over(seat, peers, redb);
            self.holds.store(false, Ordering::SeqCst);
        } else {
            self.place.remove_socket();
        }
    }

    fn open_file(&mut self, seat: &Seat, peers: &mut Peers) -> Option<Redb> {
        let path = self.place.file.clone();
        loop {
            let options = epicserver_redb::Options {
                path: path.clone(),
                fabric: self.options.fabric.clone(),
                cache_bytes: self.options.cache_bytes,
            };
            let open = move || epicserver_redb::open(&options);
            let opening = match self.bell.aside("epic-store-open", open) {
                Ok(opening) => opening,
                Err(error) => {
                    self.fail(Error::Thread(error));
                    return None;
                }
            };
            let opened = loop {
                match opening.try_recv() {
                    Ok(opened) => break opened,
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => {
                        let error = OpenError::Other("it is damaged".to_owned());
                        break Err(epicserver_redb::Error::Open { path: path.clone(), error });
                    }
                }
                self.refuse_late();
                let more = round(Some(&seat.listener), peers, None);
                self.await_any(Some(&seat.listener), peers, more);
            };
            match opened {
                Ok(redb) => return Some(redb),
                // By one that does not share it; or one that has just been ended, and whose lock is about to go.
                Err(error @ epicserver_redb::Error::Open { error: OpenError::Busy, .. }) => {
                    if self.lane.is_closed() {
                        return None;
                    }
                    self.why = error.to_string();
                    self.bell.wait(&[], RETRY);
                }
                Err(error) => {
                    self.fail(Error::File(error));
                    return None;
                }
            }
        }
    }

    fn serve(&mut self, listener: &UnixListener, peers: &mut Peers, redb: &Redb) {
        let door = redb.door();
        while let Some(job) = self.next_job() {
            door.pass_on(job);
        }
        // KE1. A load need not wait for this thread to wake up. The lane is closed before the file is.
        self.lane.lead_on(door, fitting);
        while !self.lane.is_closed() {
            let more = round(Some(listener), peers, Some(redb));
            self.await_any(Some(listener), peers, more);
        }
    }

    /// Answers all that others have asked, and lets go of the file.
    fn hand_over(&self, seat: Seat, mut peers: Peers, redb: Redb) {
        let Seat { listener, lock } = seat;
        self.place.remove_socket();
        drop(listener);
        peers.leave();
        let until = Instant::now() + self.options.patience;
        loop {
            let more = round(None, &mut peers, Some(&redb));
            if peers.have_heard() || Instant::now() >= until {
                break;
            }
            self.await_any(None, &peers, more);
        }
        // Without a thread it is closed here.
        if let Ok(closing) = self.bell.aside("epic-store-close", move || drop(redb)) {
            while closing.try_recv() == Err(TryRecvError::Empty) {
                let more = round(None, &mut peers, None);
                self.await_any(None, &peers, more);
            }
        }
        // HO2.
        drop(lock);
        drop(peers);
    }

    /// Waits until somebody wants something, or is to hear something.
    fn await_any(&self, listener: Option<&UnixListener>, peers: &Peers, more: More) {
        let wait = match more {
            More::Now => Duration::ZERO,
            More::Later => peers.until_beat(Instant::now()).unwrap_or(LOOK).min(LOOK),
        };
        let mut all: Vec<_> = peers.interest().collect();
        all.extend(listener.map(|listener| (listener.as_fd(), PollFlags::IN)));
        self.bell.wait(&all, wait);
    }
}

fn round(listener: Option<&UnixListener>, peers: &mut Peers, redb: Option<&Redb>) -> More {
    if let Some(listener) = listener {
        peers.accept(listener);
    }
    peers.turn(redb)
}
