//! The TLS session of one link: bytes of the peer in, messages out; parcels in, records out.
//!
//! # Invariants
//! - **TS1** Records leave in the order in which they were made, since each is bound to its number.
//! - **TS2** Of what a peer has sent, at most one record that is not whole is kept, or in the
//!   handshake one message of it.
//! - **TS3** A parcel is taken only when the one before is sealed, so that at most one waits for slots.
//!
//! # Not here
//! Sockets and time.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use epicserver_link::Parcel;
use epicserver_link::pool::HeapPool;
use epicserver_wire::frame::{Frame, FrameMut, Slots};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, ServerConfig};

use super::{Heard, Work};

/// Bytes of messages in one record.
const RECORD: usize = 16 << 10;
/// What a record has beside them: a head, the kind and a tag.
const RECORD_EXTRA: usize = 5 + 1 + 16;
/// Bytes of a slot for records: those of a whole slot of messages, and twice a change of keys.
const SEALED_BYTES: usize = (4 * (RECORD + RECORD_EXTRA) + 2 * 64).next_multiple_of(16);
/// Slots for records of one link: no parcel is refused that would not be in the clear.
const SEALED_MAX: usize = crate::SLOTS_MAX;
/// Bytes that are kept of a record or a message of the handshake whose end has not come.
const BEGUN_MAX: usize = (64 << 10) + RECORD;
/// Room for what ends a session.
const GOODBYE_BYTES: usize = 256;

/// Why a session cannot go on.
#[derive(Debug)]
pub(crate) struct Trouble(String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS: {}", self.0)
    }
}

impl From<rustls::Error> for Trouble {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

/// The session of one link.
pub(crate) struct Session {
    side: Side,
    flow: Flow,
    /// The beginning of a record whose end has not come (**TS2**).
    begun: Vec<u8>,
    sealing: Option<Sealing>,
    stage: Stage,
}

/// How far a session has come to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// What was given is still sealed.
    Closing,
    /// It is not asked for anything any more.
    Over,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A parcel of which `at` bytes are sealed.
struct Sealing {
    parcel: Parcel,
    at: usize,
}

/// What to do once the session can send.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Nothing,
    Seal(&'a [u8]),
    Goodbye,
}

/// What one look at the session's state came to.
enum Step {
    /// Look again.
    Again,
    /// Nothing goes on before more bytes come.
    Blocked,
    /// What was wished is done.
    Done,
    /// The open slot has too little room for it.
    Short,
}

impl Session {
    /// A session with a peer that was dialled. [`hear`](Self::hear) of nothing begins it.
    pub(super) fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Trouble> {
        Ok(Self::of(Side::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    /// A session with a peer that has dialled.
    pub(super) fn accept(config: Arc<ServerConfig>) -> Result<Self, Trouble> {
        Ok(Self::of(Side::Server(UnbufferedServerConnection::new(config)?)))
    }

    fn of(side: Side) -> Self {
        let flow = Flow {
            up: false,
            received: 0,
            slots: HeapPool::new(SEALED_MAX, SEALED_BYTES),
            open: None,
            sealed: VecDeque::new(),
        };
        Self { side, flow, begun: Vec::new(), sealing: None, stage: Stage::Open }
    }

    /// Slots that are lent now.
    pub(crate) fn lent(&self) -> usize {
        self.flow.slots.lent()
    }

    /// Bytes of the peer have come: `work` gets what they mean.
    ///
    /// # Errors
    /// [`Trouble`] if the session is over. What the peer is to know of it is sealed.
    pub(crate) fn hear(&mut self, bytes: &[u8], work: &mut Work) -> Result<(), Trouble> {
        if self.stage == Stage::Over {
            return Ok(());
        }
        let mut records = std::mem::take(&mut work.records);
        records.clear();
        records.append(&mut self.begun);
        records.extend_from_slice(bytes);
        let read = self.read(&mut records, work);
        if read.is_err() {
            self.stage = Stage::Over;
        }
        work.finish();
        work.records = records;
        read
    }

    fn read(&mut self, records: &mut [u8], work: &mut Work) -> Result<(), Trouble> {
        let mut at = 0;
        loop {
            let rest = records.get_mut(at..).unwrap_or_default();
            let (used, step) = self.look(rest, Wish::Nothing, work);
            at += used;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Blocked | Step::Done | Step::Short) => break,
                Err(trouble) => {
                    // The next thing that it has to say is an alert, if there is one for this trouble.
                    let rest = records.get_mut(at..).unwrap_or_default();
                    drop(self.look(rest, Wish::Nothing, work));
                    return Err(trouble);
                }
            }
        }
        let rest = records.get(at..).unwrap_or(&[]);
        if rest.len() > BEGUN_MAX {
            return Err(Trouble(format!("a message of the handshake exceeds {BEGUN_MAX} bytes")));
        }
        self.begun.extend_from_slice(rest);
        Ok(())
    }

    /// Takes `parcel` to be sealed.
    ///
    /// # Errors
    /// Gives it back before the session is up, after it is closed, and while another waits (**TS3**).
    pub(crate) fn give(&mut self, parcel: Parcel) -> Result<(), Parcel> {
        if !self.takes() {
            return Err(parcel);
        }
        self.sealing = Some(Sealing { parcel, at: 0 });
        Ok(())
    }

    /// Whether a parcel would be taken.
    pub(crate) fn takes(&self) -> bool {
        self.flow.up && self.stage == Stage::Open && self.sealing.is_none()
    }

    /// Seals what was given, as far as there are slots.
    ///
    /// # Errors
    /// [`Trouble`] if the session is over.
    pub(crate) fn seal(&mut self, work: &mut Work) -> Result<(), Trouble> {
        while let Some(mut sealing) = self.sealing.take().filter(|_| self.stage != Stage::Over) {
            let len = sealing.next().len();
            if len == 0 {
                break;
            }
            if self.flow.has_open() {
                match self.write(Wish::Seal(sealing.next()), work)? {
                    Step::Done => sealing.at += len,
                    Step::Short => self.flow.shut(),
                    Step::Again | Step::Blocked => {
                        self.stage = Stage::Over;
                        return Err(Trouble::unable());
                    }
                }
                self.sealing = Some(sealing);
            } else {
                self.sealing = Some(sealing);
                break;
            }
        }
        Ok(())
    }

    /// Nothing more is to be said. Once all is sealed, `true` says that the goodbye is as well.
    pub(crate) fn close(&mut self, work: &mut Work) -> bool {
        if self.stage == Stage::Over {
            return true;
        }
        self.stage = Stage::Closing;
        if self.sealing.is_some() {
            return false;
        }
        for _ in 0..2 {
            self.flow.open.get_or_insert_with(|| FrameMut::detached(GOODBYE_BYTES));
            match self.write(Wish::Goodbye, work) {
                Ok(Step::Short) => self.flow.shut(),
                // Who cannot say it goes without.
                Ok(Step::Again | Step::Blocked | Step::Done) | Err(_) => break,
            }
        }
        self.flow.shut();
        self.stage = Stage::Over;
        true
    }

    /// The next slot of records to be sent.
    pub(crate) fn next_sealed(&mut self) -> Option<FrameMut> {
        if self.flow.sealed.is_empty() {
            self.flow.shut();
        }
        self.flow.sealed.pop_front()
    }

    /// The one that was taken last could not be sent.
    pub(crate) fn put_back(&mut self, sealed: FrameMut) {
        self.flow.sealed.push_front(sealed);
    }

    fn write(&mut self, wish: Wish<'_>, work: &mut Work) -> Result<Step, Trouble> {
        let mut begun = std::mem::take(&mut self.begun);
        let step = loop {
            let (used, step) = self.look(&mut begun, wish, work);
            drop(begun.drain(..used.min(begun.len())));
            if !matches!(step, Ok(Step::Again)) {
                break step;
            }
        };
        self.begun = begun;
        if step.is_err() {
            self.stage = Stage::Over;
        }
        work.finish();
        step
    }

    /// Looks at the session's state once, and says how much of `records` is done with.
    fn look(
        &mut self,
        records: &mut [u8],
        wish: Wish<'_>,
        work: &mut Work,
    ) -> (usize, Result<Step, Trouble>) {
        match &mut self.side {
            Side::Client(side) => self.flow.step(side.process_tls_records(records), wish, work),
            Side::Server(side) => self.flow.step(side.process_tls_records(records), wish, work),
        }
    }
}

impl Sealing {
    /// The messages of the next record.
    fn next(&self) -> &[u8] {
        let head = self.parcel.head.bytes();
        let body = self.parcel.body.as_ref().map_or(&[][..], Frame::bytes);
        let rest = match head.get(self.at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => body.get(self.at - head.len()..).unwrap_or(&[]),
        };
        rest.get(..RECORD).unwrap_or(rest)
    }
}

impl Trouble {
    fn unable() -> Self {
        Self("the session cannot send any more".to_owned())
    }

    fn of(error: &rustls::Error, up: bool) -> Self {
        let no_tls = !up && matches!(error, rustls::Error::InvalidMessage(_));
        let hint = if no_tls { "; does the peer speak TLS at all?" } else { "" };
        Self(format!("{error}{hint}"))
    }
}

/// What a session has of either side.
struct Flow {
    up: bool,
    /// Bytes of messages that have come.
    received: u64,
    slots: Arc<HeapPool>,
    /// Records are added to this slot, after those in `sealed` (**TS1**).
    open: Option<FrameMut>,
    sealed: VecDeque<FrameMut>,
}

impl Flow {
    fn step<D>(
        &mut self,
        status: UnbufferedStatus<'_, '_, D>,
        wish: Wish<'_>,
        work: &mut Work,
    ) -> (usize, Result<Step, Trouble>) {
        let UnbufferedStatus { mut discard, state } = status;
        let step = match state {
            Err(error) => Err(Trouble::of(&error, self.up)),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                self.rise(work);
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    work.add(record.payload, self.received);
                    self.received += record.payload.len() as u64;
                }
                Ok(Step::Again)
            }
            Ok(ConnectionState::EncodeTlsData(data)) => self.put(data),
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                self.rise(work);
                self.grant(traffic, wish)
            }
            Ok(ConnectionState::PeerClosed) => {
                work.finish();
                work.heard.push(Heard::Goodbye);
                Ok(Step::Again)
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Ok(Step::Blocked),
            // Early data was not allowed.
            Ok(ConnectionState::ReadEarlyData(_) | _) => Err(Trouble::unable()),
        };
        (discard, step)
    }

    fn rise(&mut self, work: &mut Work) {
        if !std::mem::replace(&mut self.up, true) {
            work.heard.push(Heard::Up);
        }
    }

    /// A record of the handshake, a change of keys or an alert: they are few, and have memory of their own.
    fn put<D>(&mut self, mut data: EncodeTlsData<'_, D>) -> Result<Step, Trouble> {
        let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
            return Ok(Step::Again);
        };
        let mut frame = FrameMut::detached(size.required_size);
        let written = data.encode(frame.slot_mut()).map_err(|_| Trouble::unable())?;
        frame.set_len(written);
        self.shut();
        self.sealed.push_back(frame);
        Ok(Step::Again)
    }

    fn grant<D>(
        &mut self,
        mut traffic: WriteTraffic<'_, D>,
        wish: Wish<'_>,
    ) -> Result<Step, Trouble> {
        let Some(open) = &mut self.open else {
            return Ok(if matches!(wish, Wish::Nothing) { Step::Done } else { Step::Short });
        };
        let len = open.len();
        let room = open.slot_mut().get_mut(len..).unwrap_or_default();
        let written = match wish {
            Wish::Nothing => return Ok(Step::Done),
            Wish::Seal(bytes) => traffic.encrypt(bytes, room),
            Wish::Goodbye => traffic.queue_close_notify(room),
        };
        match written {
            Ok(written) => {
                open.set_len(len + written);
                Ok(Step::Done)
            }
            Err(EncryptError::InsufficientSize(_)) if len > 0 => Ok(Step::Short),
            Err(EncryptError::InsufficientSize(_) | EncryptError::EncryptExhausted) => {
                Err(Trouble::unable())
            }
        }
    }

    /// Whether there is a slot to add records to.
    fn has_open(&mut self) -> bool {
        if self.open.is_none() {
            let slots = Arc::clone(&self.slots) as Arc<dyn Slots>;
            self.open = slots.reserve();
        }
        self.open.is_some()
    }

    /// Nothing is added to the open slot any more.
    fn shut(&mut self) {
        self.sealed.extend(self.open.take().filter(|open| !open.is_empty()));
    }
}
