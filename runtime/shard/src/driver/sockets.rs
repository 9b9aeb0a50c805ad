//! The table of sockets of a driver, and what each has to send.
//!
//! # Not here
//! System calls.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;

use epicserver_link::Parcel;
use epicserver_link::driver::{Handle, Owner, Receive};
use epicserver_wire::frame::Frame;

/// Handles of one driver.
const HANDLES_MAX: usize = 1 << 16;
/// Parcels of one socket that may wait for the kernel.
pub(super) const PARCELS_MAX: usize = 1024;
/// Pieces of memory that one system call sends.
pub(super) const PIECES_MAX: usize = 64;

/// What a driver does with a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Accepts connections.
    Listener,
    /// Is being connected.
    Connecting(Receive),
    /// Sends and receives.
    Connected(Receive),
    /// Is looked at.
    Watched,
}

/// One descriptor.
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) owner: Owner,
    pub(super) role: Role,
    pub(super) sending: Sending,
    /// Bytes received so far.
    pub(super) received: u64,
    /// The kernel may have something to read.
    pub(super) readable: bool,
    /// The kernel may take something.
    pub(super) writable: bool,
    /// The peer has ended: what is left is read, and the end.
    pub(super) ended: bool,
    /// It is closed once all is sent.
    pub(super) closing: bool,
}

/// Parcels that wait for the kernel, in order.
#[derive(Default)]
pub(super) struct Sending {
    parcels: VecDeque<Parcel>,
    /// Bytes of the first one that the kernel has.
    gone: usize,
}

impl Sending {
    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// Takes `parcel` unless too many wait.
    pub(super) fn push(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if self.parcels.len() >= PARCELS_MAX {
            return Err(parcel);
        }
        self.parcels.push_back(parcel);
        Ok(())
    }

    /// What is to be sent next, in pieces.
    pub(super) fn pieces<'a>(&'a self, pieces: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.gone;
        for parcel in &self.parcels {
            let body = parcel.body.as_ref().map_or(&[][..], Frame::bytes);
            for piece in [parcel.head.bytes(), body] {
                let from = skip.min(piece.len());
                skip -= from;
                if from < piece.len() {
                    pieces.push(IoSlice::new(&piece[from..]));
                }
            }
            if pieces.len() + 2 > PIECES_MAX {
                return;
            }
        }
    }

    /// The kernel has taken so many bytes more. Says how many parcels it has whole.
    pub(super) fn advance(&mut self, bytes: usize) -> usize {
        self.gone += bytes;
        let mut whole = 0;
        while let Some(first) = self.parcels.front() {
            let len = first.len();
            if self.gone < len {
                break;
            }
            self.gone -= len;
            whole += 1;
            self.parcels.pop_front();
        }
        whole
    }
}

/// The sockets of a driver, by handle.
#[derive(Default)]
pub(super) struct Sockets {
    slots: Vec<(u16, Option<Socket>)>,
    free: Vec<u16>,
}

impl Sockets {
    /// Takes in a socket; `None` if there are too many.
    pub(super) fn insert(&mut self, socket: Socket) -> Option<Handle> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < HANDLES_MAX => {
                self.slots.push((0, None));
                u16::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let slot = &mut self.slots[usize::from(index)];
        slot.1 = Some(socket);
        Some(Handle(u32::from(slot.0) << 16 | u32::from(index)))
    }

    pub(super) fn get(&mut self, handle: Handle) -> Option<&mut Socket> {
        let (generation, index) = (handle.0 >> 16, handle.0 & 0xffff);
        let slot = self.slots.get_mut(index as usize)?;
        // K1.
        slot.1.as_mut().filter(|_| u32::from(slot.0) == generation)
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<Socket> {
        self.get(handle)?;
        let index = handle.0 & 0xffff;
        let slot = self.slots.get_mut(index as usize)?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.extend(u16::try_from(index));
        slot.1.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epicserver_wire::frame::FrameMut;

    fn parcel(len: usize) -> Parcel {
        let mut head = FrameMut::detached(len);
        head.set_len(len);
        Parcel::of(head)
    }

    #[test]
    fn a_parcel_that_was_sent_in_part_goes_on_where_it_stopped() {
        let mut sending = Sending::default();
        for len in [32, 16] {
            sending.push(parcel(len)).unwrap();
        }
        assert_eq!(sending.advance(20), 0);
        let mut pieces = Vec::new();
        sending.pieces(&mut pieces);
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [12, 16]);
        assert_eq!(sending.advance(12), 1);
        assert_eq!(sending.advance(16), 1);
        assert!(sending.is_empty());
    }

    #[test]
    fn what_is_over_the_bound_is_given_back() {
        let mut sending = Sending::default();
        for _ in 0..PARCELS_MAX {
            sending.push(parcel(16)).unwrap();
        }
        assert!(sending.push(parcel(16)).is_err());
    }
}
