//! A hand-written RPC on tokio: one current-thread runtime a side, one TCP connection between them.
//!
//! Frames have a length and a number. Callers put theirs straight into one buffer; a task sends all
//! that has gathered by one write. Another task takes all the answers that one read brought and
//! hands them to those who wait. The server answers in the reading task, with one write a read, so no
//! call costs it a task. `TCP_NODELAY` is set. What a careful programmer would have without us.
//!
//! # Not here
//! Deadlines, back-pressure, reconnecting, more than one method: whoever needs those pays for them.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::case::{Failure, Round, Sample};
use crate::peer::{self, Peer};

pub(crate) const PEER: &str = "tokio_rpc";
const PAYLOAD: usize = 64;
/// What follows the length of a frame: the number of the call and its payload. All is little-endian.
const BODY: u32 = 8 + 64;
const _: () = assert!(BODY as usize == 8 + PAYLOAD);
const BUFFER: usize = 256 << 10;
/// Calls between two looks at the clock.
const LAP_CALLS: u32 = 32_768;

type Payload = [u8; PAYLOAD];

/// Calls that wait for their answers, by number.
#[derive(Default)]
struct Pending {
    slots: Vec<Option<oneshot::Sender<Payload>>>,
    free: Vec<usize>,
}

impl Pending {
    fn insert(&mut self, caller: oneshot::Sender<Payload>) -> usize {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[number] = Some(caller);
        number
    }

    fn take(&mut self, number: usize) -> Option<oneshot::Sender<Payload>> {
        let caller = self.slots.get_mut(number)?.take()?;
        self.free.push(number);
        Some(caller)
    }
}

#[derive(Default)]
struct Outgoing {
    pending: Pending,
    bytes: Vec<u8>,
}

/// What callers and the connection's two tasks share. All are on one thread, so the lock is always free.
#[derive(Default)]
struct Client {
    outgoing: Mutex<Outgoing>,
    gathered: Notify,
}

impl Client {
    fn with<R>(&self, f: impl FnOnce(&mut Outgoing) -> R) -> R {
        f(&mut self.outgoing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `None` if the connection is gone.
    async fn call(&self, payload: &Payload) -> Option<Payload> {
        let (reply, answer) = oneshot::channel();
        let first = self.with(|outgoing| {
            let number = outgoing.pending.insert(reply);
            let first = outgoing.bytes.is_empty();
            put_frame(&mut outgoing.bytes, number, payload);
            first
        });
        if first {
            self.gathered.notify_one();
        }
        answer.await.ok()
    }

    async fn write(self: Arc<Self>, mut socket: OwnedWriteHalf) -> Result<(), Failure> {
        let mut bytes = Vec::with_capacity(BUFFER);
        loop {
            self.with(|outgoing| std::mem::swap(&mut bytes, &mut outgoing.bytes));
            if bytes.is_empty() {
                self.gathered.notified().await;
                continue;
            }
            socket.write_all(&bytes).await?;
            bytes.clear();
        }
    }

    async fn read(self: Arc<Self>, mut socket: OwnedReadHalf) -> Result<(), Failure> {
        let mut bytes = Vec::with_capacity(BUFFER);
        while socket.read_buf(&mut bytes).await? > 0 {
            for_each_frame(&mut bytes, |number, payload| {
                let caller = self.with(|outgoing| outgoing.pending.take(number));
                // A caller that went away needs no answer.
                caller.map(|caller| caller.send(*payload).ok());
            })?;
        }
        // Whoever still waits learns it by this.
        self.with(|outgoing| outgoing.pending.slots.clear());
        Ok(())
    }
}

fn put_frame(bytes: &mut Vec<u8>, number: usize, payload: &Payload) {
    bytes.extend_from_slice(&BODY.to_le_bytes());
    bytes.extend_from_slice(&(number as u64).to_le_bytes());
    bytes.extend_from_slice(payload);
}

/// Takes the whole frames out of `bytes`, and leaves the beginning of another.
fn for_each_frame(bytes: &mut Vec<u8>, mut on: impl FnMut(usize, &Payload)) -> Result<(), Failure> {
    let mut rest = bytes.as_slice();
    while let Some((length, body)) = rest.split_first_chunk() {
        if u32::from_le_bytes(*length) != BODY {
            return Err("a frame of a wrong length".into());
        }
        let Some((frame, after)) = body.split_at_checked(BODY as usize) else { break };
        let (number, payload) = frame.split_first_chunk().ok_or("a frame without a number")?;
        on(u64::from_le_bytes(*number).try_into()?, payload.try_into()?);
        rest = after;
    }
    let whole = bytes.len() - rest.len();
    bytes.drain(..whole);
    Ok(())
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_io().build()?)
}

/// Calls a second with `in_flight` tasks that each call one after the other.
pub(crate) fn rate(round: &Round, in_flight: u32) -> Result<Sample, Failure> {
    let peer = Peer::start(PEER, round.cpus[1], &[])?;
    let port: u16 = peer.address.parse()?;
    let mut laps = round.laps();
    let calls = LAP_CALLS / in_flight;
    runtime()?.block_on(async {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        socket.set_nodelay(true)?;
        let (read, write) = socket.into_split();
        let client = Arc::new(Client::default());
        tokio::spawn(Arc::clone(&client).write(write));
        tokio::spawn(Arc::clone(&client).read(read));
        while laps.begin() {
            let mut callers = JoinSet::new();
            for _ in 0..in_flight {
                callers.spawn(call_in_turn(Arc::clone(&client), calls));
            }
            while let Some(caller) = callers.join_next().await {
                caller?.ok_or("the connection is gone")?;
            }
            laps.end(in_flight * calls);
        }
        laps.rate()
    })
}

async fn call_in_turn(client: Arc<Client>, calls: u32) -> Option<()> {
    for _ in 0..calls {
        black_box(client.call(black_box(&[1; PAYLOAD])).await?);
    }
    Some(())
}

/// Is the server: answers each call with its payload.
pub(crate) fn serve(_: &[String]) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        peer::announce(&listener.local_addr()?.port().to_string())?;
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (mut bytes, mut answers) = (Vec::with_capacity(BUFFER), Vec::with_capacity(BUFFER));
        while socket.read_buf(&mut bytes).await? > 0 {
            for_each_frame(&mut bytes, |number, payload| put_frame(&mut answers, number, payload))?;
            socket.write_all(&answers).await?;
            answers.clear();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_frame_waits_for_its_end() {
        let mut stream = Vec::new();
        put_frame(&mut stream, 1, &[1; PAYLOAD]);
        put_frame(&mut stream, 2, &[2; PAYLOAD]);
        let end = stream.split_off(4 + BODY as usize + 5);
        let mut seen = Vec::new();
        for_each_frame(&mut stream, |number, payload| seen.push((number, *payload))).unwrap();
        assert_eq!(seen, [(1, [1; PAYLOAD])]);
        stream.extend_from_slice(&end);
        for_each_frame(&mut stream, |number, payload| seen.push((number, *payload))).unwrap();
        assert_eq!(seen.last(), Some(&(2, [2; PAYLOAD])));
        assert!(stream.is_empty());
    }

    #[test]
    fn a_number_is_used_again_only_after_its_answer() {
        let mut pending = Pending::default();
        let (caller, _answer) = oneshot::channel();
        let first = pending.insert(caller);
        let (caller, _other) = oneshot::channel();
        assert_ne!(pending.insert(caller), first);
        assert!(pending.take(first).is_some());
        assert!(pending.take(first).is_none());
        let (caller, _third) = oneshot::channel();
        assert_eq!(pending.insert(caller), first);
    }
}
