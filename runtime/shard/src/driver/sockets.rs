//! The table of sockets of a driver, and what each has to send.
//!
//! # Not here
//! System calls.

use std::collections::VecDeque;

use epicserver_link::Parcel;
use epicserver_link::driver::{Handle, PACKET_BYTES_MAX, Receive};
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

/// Parcels that wait for the kernel, in order, behind those that it has but may still read.
#[derive(Default)]
pub(super) struct Sending {
    parcels: VecDeque<Parcel>,
    /// Parcels at the front that the kernel has taken whole.
    taken: usize,
    /// Bytes that it has taken of the one behind them.
    gone: usize,
}

impl Sending {
    /// Whether the kernel has taken everything.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.parcels.len()
    }

    /// Takes in `parcel` unless too many are here.
    pub(super) fn push(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if self.parcels.len() >= PARCELS_MAX {
            return Err(parcel);
        }
        self.parcels.push_back(parcel);
        Ok(())
    }

    /// What is to be sent next, in at most [`PIECES_MAX`] pieces.
    pub(super) fn pieces(&self, receive: Receive) -> impl Iterator<Item = &[u8]> {
        let (parcels, mut room) = match receive {
            Receive::Stream => (PIECES_MAX, usize::MAX),
            Receive::Packets => self.packet(),
        };
        let mut skip = self.gone;
        let parcels = self.parcels.iter().skip(self.taken).take(parcels);
        let pieces = parcels.flat_map(|parcel| {
            [parcel.head.bytes(), parcel.body.as_ref().map_or(&[][..], Frame::bytes)]
        });
        let left = pieces.map(move |piece| {
            let from = skip.min(piece.len());
            skip -= from;
            let to = piece.len().min(from.saturating_add(room));
            room -= to - from;
            piece.get(from..to).unwrap_or_default()
        });
        left.filter(|piece| !piece.is_empty()).take(PIECES_MAX)
    }

    /// How many parcels the next packet is made of, and bytes of them: what is left of the first, and then
    /// those that find room whole.
    fn packet(&self) -> (usize, usize) {
        let lens = self.parcels.iter().skip(self.taken).map(Parcel::len);
        let (mut parcels, mut bytes) = (0, 0);
        // Each parcel may have two pieces.
        for len in lens.take(PIECES_MAX / 2) {
            let len = if parcels == 0 { len - self.gone } else { len };
            if parcels > 0 && bytes + len > PACKET_BYTES_MAX {
                break;
            }
            (parcels, bytes) = (parcels + 1, bytes + len);
        }
        (parcels, bytes.min(PACKET_BYTES_MAX))
    }

    /// The kernel has taken so many bytes more. Says how many parcels that makes whole.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        self.gone += bytes;
        let before = self.taken;
        while let Some(first) = self.parcels.get(self.taken) {
            let len = first.len();
            if self.gone < len {
                break;
            }
            self.gone -= len;
            self.taken += 1;
        }
        self.taken - before
    }

    /// The kernel does not read the first `parcels` of those it has taken any more.
    pub(super) fn free(&mut self, parcels: usize) {
        let parcels = parcels.min(self.taken);
        self.taken -= parcels;
        drop(self.parcels.drain(..parcels));
    }
}

/// The sockets of a driver, by handle.
pub(super) struct Sockets<S> {
    slots: Vec<(u16, Option<S>)>,
    free: Vec<u16>,
}

impl<S> Default for Sockets<S> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<S> Sockets<S> {
    /// Takes in a socket; `None` if there are too many.
    pub(super) fn insert(&mut self, socket: S) -> Option<Handle> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < HANDLES_MAX => {
                self.slots.push((0, None));
                u16::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.1 = Some(socket);
        Some(handle(slot.0, index))
    }

    pub(super) fn get(&mut self, handle: Handle) -> Option<&mut S> {
        let (generation, index) = (handle.0 >> 16, handle.0 & 0xffff);
        let slot = self.slots.get_mut(index as usize)?;
        // K1.
        slot.1.as_mut().filter(|_| u32::from(slot.0) == generation)
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<S> {
        self.get(handle)?;
        let index = handle.0 & 0xffff;
        let slot = self.slots.get_mut(index as usize)?;
        slot.0 = slot.0.wrapping_add(1);
        self.free.extend(u16::try_from(index));
        slot.1.take()
    }

    /// The handles of all of them.
    pub(super) fn handles(&self) -> Vec<Handle> {
        let slots = (0..=u16::MAX).zip(&self.slots);
        let taken = slots.filter(|(_, slot)| slot.1.is_some());
        taken.map(|(index, slot)| handle(slot.0, index)).collect()
    }
}

fn handle(generation: u16, index: u16) -> Handle {
    Handle(u32::from(generation) << 16 | u32::from(index))
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
        assert_eq!(sending.take(20), 0);
        let lens = |sending: &Sending, receive| {
            sending.pieces(receive).map(<[u8]>::len).collect::<Vec<_>>()
        };
        assert_eq!(lens(&sending, Receive::Stream), [12, 16]);
        assert_eq!(lens(&sending, Receive::Packets), [12, 16]);
        assert_eq!(sending.take(12), 1);
        assert_eq!(lens(&sending, Receive::Stream), [16]);
        assert_eq!(sending.take(16), 1);
        assert!(sending.is_empty());
        assert_eq!(sending.parcels.len(), 2);
        sending.free(2);
        assert!(sending.parcels.is_empty());
    }

    #[test]
    fn a_packet_has_the_parcels_that_find_room_whole_and_a_long_one_takes_several() {
        let mut sending = Sending::default();
        for len in [100, 200, PACKET_BYTES_MAX, 2 * PACKET_BYTES_MAX + 48, 16, 32] {
            sending.push(parcel(len)).unwrap();
        }
        let mut packets: Vec<Vec<usize>> = Vec::new();
        while !sending.is_empty() {
            packets.push(sending.pieces(Receive::Packets).map(<[u8]>::len).collect());
            sending.take(packets.last().unwrap().iter().sum());
        }
        let full = vec![PACKET_BYTES_MAX];
        assert_eq!(packets, [vec![100, 200], full.clone(), full.clone(), full, vec![48, 16, 32]]);
    }

    #[test]
    fn a_packet_has_no_more_pieces_than_one_call_sends() {
        let mut sending = Sending::default();
        for _ in 0..PIECES_MAX {
            let body = Some(Frame::copy_of(&[0; 16]));
            sending.push(Parcel { body, ..parcel(16) }).unwrap();
        }
        assert_eq!(sending.pieces(Receive::Packets).count(), PIECES_MAX);
        assert_eq!(sending.take(PIECES_MAX * 16), PIECES_MAX / 2);
        assert_eq!(sending.pieces(Receive::Packets).count(), PIECES_MAX);
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
