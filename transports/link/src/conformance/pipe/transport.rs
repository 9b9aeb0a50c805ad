//! A pipe as a transport.
//!
//! # Not here
//! What a poll finds: see `pipe`.

use std::io;
use std::sync::Arc;

use epicserver_wire::frame::{Frame, FrameMut};
use epicserver_wire::{LinkId, Time};

use super::{DIAL, FRAMES_MAX, Flaw, LINGER, Link, Pipe, SCHEME};
use crate::driver::Completion;
use crate::{Address, Io, Parcel, Refused, Transport};

impl Transport for Pipe {
    fn name(&self) -> &'static str {
        SCHEME
    }

    fn addresses(&self) -> Vec<Address> {
        vec![Address::new(SCHEME, &self.number.to_string())]
    }

    fn dial(&mut self, io: &mut Io<'_>, link: LinkId, to: &Address) -> Result<(), Refused> {
        let malformed = |why| Refused::Address { address: to.clone(), transport: SCHEME, why };
        if to.scheme() != SCHEME {
            return Err(malformed("it begins with pipe://"));
        }
        let peer = to.rest().parse().map_err(|_| malformed("it ends in a number"))?;
        let bell = Arc::clone(&self.bell);
        let wire = self.hub.borrow_mut().connect((self.number, peer), bell);
        let nobody = || Refused::Io {
            address: to.clone(),
            call: "dial",
            source: io::Error::from(io::ErrorKind::ConnectionRefused),
        };
        let wire = wire.ok_or_else(nobody)?;
        wire.borrow_mut().halves[0].begun = true;
        let entry = Link::new((wire, 0), peer, self.until(io.now, DIAL));
        self.ring(&entry);
        self.links.insert(link, entry);
        Ok(())
    }

    fn submit(&mut self, _: &mut Io<'_>, link: LinkId, parcel: Parcel) -> Result<(), Parcel> {
        let (takes_all, leaks) = (self.has(Flaw::TakesAll), self.has(Flaw::LeaksSlot));
        let (for_nobody, silent) = (self.has(Flaw::TakesForNobody), self.has(Flaw::WakesNobody));
        let Some(link) = self.links.get_mut(&link).filter(|link| link.up && !link.closing) else {
            return if for_nobody { Ok(()) } else { Err(parcel) };
        };
        let mut wire = link.wire.borrow_mut();
        let out = &mut wire.halves[link.side];
        // Y3.
        if out.frames.len() >= FRAMES_MAX && !takes_all {
            link.refused = true;
            return Err(parcel);
        }
        out.sent += 1;
        if takes_all || (leaks && out.sent == 20) {
            out.frames.push_back(Frame::copy_of(parcel.head.bytes()));
            self.leaked.extend(leaks.then_some(parcel.head));
        } else {
            out.frames.push_back(whole(parcel));
        }
        if !silent {
            wire.bells[1 - link.side].wake();
        }
        Ok(())
    }

    fn flush(&mut self, _: &mut Io<'_>) {
        // What was submitted lies where the other end looks for it.
    }

    fn complete(&mut self, _: &mut Io<'_>, _: Completion) {
        // Its driver does nothing.
    }

    fn poll(&mut self, io: &mut Io<'_>) -> bool {
        let mut busy = self.accept(io);
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            busy |= self.serve(io, link);
            if busy && self.has(Flaw::Starves) {
                break;
            }
        }
        busy
    }

    fn arm(&mut self, _: &mut Io<'_>) -> bool {
        // Whoever leaves something rings the bell, and the driver does not wait after that.
        true
    }

    fn deadline(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.until).min()
    }

    fn close(&mut self, io: &mut Io<'_>, link: LinkId) {
        let until = self.until(io.now, LINGER);
        let drops = self.has(Flaw::CloseDrops);
        let Some(link) = self.links.get_mut(&link).filter(|link| !link.closing) else { return };
        link.closing = true;
        link.until = until;
        let mut wire = link.wire.borrow_mut();
        let out = &mut wire.halves[link.side];
        out.closed = true;
        if drops {
            out.frames.clear();
        }
        wire.bells[1 - link.side].wake();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let door = self.hub.borrow_mut().doors.remove(&self.number);
        for (_, wire) in door.into_iter().flat_map(|door| door.waiting) {
            let mut wire = wire.borrow_mut();
            wire.halves[1].closed = true;
            wire.bells[0].wake();
        }
        for link in self.links.values() {
            link.leave();
            self.ring(link);
        }
    }
}

/// A parcel in one frame. What has no body goes as it lies, and its slot is home once it was read.
fn whole(parcel: Parcel) -> Frame {
    let Some(body) = &parcel.body else { return parcel.head.freeze() };
    let mut whole = FrameMut::detached(parcel.len());
    let fits = whole.extend(parcel.head.bytes()) && whole.extend(body.bytes());
    debug_assert!(fits, "the memory was made for these bytes");
    whole.freeze()
}
