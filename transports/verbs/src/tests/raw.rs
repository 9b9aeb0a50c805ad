//! A peer that is let in and then sends what it likes: it greets as a sound one does, and keeps to nothing after.
//!
//! It has a thread of its own, since its greeting has to be answered by an end that the test drives.
//!
//! # Not here
//! Greetings that fail: those have tests of their own.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use epicserver_link::conformance::Raw;
use epicserver_wire::frame::FrameMut;

use crate::choose::Choice;
use crate::device::{Context, Region, Registered};
use crate::engine::Engine;
use crate::ffi::library::Library;
use crate::greeting::{Card, Greeting, Key, Step};
use crate::word::{Kind, Word};

/// What it sends at once, at most.
const MESSAGE_BYTES: usize = 4096;

/// What it is told to send: the bits beside a message, and the message.
type Order = (u32, Vec<u8>);

pub(crate) struct RawPeer {
    control: TcpStream,
    orders: Sender<Order>,
}

impl RawPeer {
    /// Connects to `to` with the device that `choice` names.
    pub(crate) fn new(
        library: &Arc<Library>,
        choice: Choice,
        (key, to): (Key, SocketAddr),
    ) -> Self {
        let control = TcpStream::connect(to).unwrap();
        control.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (orders, ordered) = channel();
        let (library, own) = (Arc::clone(library), control.try_clone().unwrap());
        std::thread::spawn(move || act(&library, &choice, key, own, &ordered));
        Self { control, orders }
    }

    /// Sends `bytes` with these bits beside them.
    pub(crate) fn send(&self, bits: u32, bytes: &[u8]) {
        // It may have been cut off already.
        drop(self.orders.send((bits, bytes.to_vec())));
    }
}

impl Raw for RawPeer {
    fn write(&mut self, bytes: &[u8]) {
        let word = Word { kind: Kind::Messages, slots: 0, pieces: 0 };
        self.send(word.to_bits(), bytes);
    }

    fn has_ended(&mut self) -> bool {
        self.control.set_nonblocking(true).unwrap();
        let ended = match self.control.peek(&mut [0; 16]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        self.control.set_nonblocking(false).unwrap();
        ended
    }
}

fn act(
    library: &Arc<Library>,
    choice: &Choice,
    key: Key,
    mut control: TcpStream,
    ordered: &Receiver<Order>,
) {
    let context = Context::open(library, &choice.device).unwrap();
    let mut engine = Engine::start(&context, choice, (8192, 64)).unwrap();
    let mut pair = engine.pair().unwrap();
    let mut card = Card::of(&choice.local, (pair.number(), 7), [9; 40]);
    (card.slot_bytes, card.window, card.reads) = (8192, 64, 4);
    let (mut greeting, hello) = Greeting::dial(key, card);
    if control.write_all(&hello).is_err() {
        return engine.forget(pair);
    }
    while let Some(steps) = hear(&mut greeting, &mut control) {
        for step in steps {
            let (said, is_ready) = match step {
                Step::Send(said) => (said, false),
                Step::Connect(theirs, ready) => {
                    pair.connect(&choice.local, &theirs.remote(), (7, 4)).unwrap();
                    (ready, true)
                }
                Step::Make(_) | Step::Ready => panic!("it was dialled from here: {step:?}"),
            };
            if control.write_all(&said).is_err() {
                return engine.forget(pair);
            }
            if is_ready {
                return obey(engine, pair, ordered);
            }
        }
    }
    engine.forget(pair);
}

/// The steps that the next bytes make; `None` if none will come.
fn hear(greeting: &mut Greeting, control: &mut TcpStream) -> Option<Vec<Step>> {
    let mut bytes = [0; 256];
    loop {
        match control.read(&mut bytes) {
            Ok(0) => return None,
            Ok(len) => return greeting.take(bytes.get(..len)?).ok(),
            // The other half of the test looks whether it has ended, and must not wait for that.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => return None,
        }
    }
}

fn obey(engine: Engine, mut pair: crate::device::Pair, ordered: &Receiver<Order>) {
    let region = Registered::writable(engine.domain(), Region::new(1 << 20).unwrap()).unwrap();
    let (pieces, span) = region.cut(MESSAGE_BYTES);
    let slots = pieces.into_iter().map(|piece| Box::new(piece) as Box<_>).collect();
    let pool = epicserver_link::pool::HeapPool::holding(slots, MESSAGE_BYTES);
    while let Ok((bits, bytes)) = ordered.recv() {
        let slot: Option<FrameMut> =
            (Arc::clone(&pool) as Arc<dyn epicserver_wire::frame::Slots>).reserve();
        let mut slot = slot.unwrap();
        assert!(slot.extend(&bytes), "a hostile peer writes a few hundred bytes");
        let parts = [Some(span.outgoing(slot)), None];
        if pair.send(bits, parts, true).and_then(|_| pair.ring()).is_err() {
            return;
        }
    }
    // Dropping it ends it without a word; its control connection ends with its other half.
    drop(pair);
    drop(engine);
}
