//! A man in the middle of connections: passes bytes on, and cuts or holds them when it is told to.
//!
//! # Not here
//! What the bytes mean.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Listens on a port of its own and passes on what comes, as long as the process lives.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    orders: Mutex<Orders>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    /// Whoever sends this is parted from the server when that answers.
    cut: Option<Vec<u8>>,
    stalled: bool,
}

impl Plan {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while_stalled(&self) {
        let mut orders = self.orders();
        while orders.stalled {
            orders = self.released.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Proxy {
    /// A proxy to `server`, on the loopback.
    ///
    /// # Panics
    /// If there is no port for it.
    #[must_use]
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let plan = Arc::new(Plan::default());
        let of_thread = Arc::clone(&plan);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Nobody there: then the client sees its connection end.
                let Ok(there) = TcpStream::connect(server) else { continue };
                connect(client, there, &of_thread);
            }
        });
        Self { address, plan }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Parts the next client that sends `marker` from the server, when that begins to answer.
    pub fn cut_after(&self, marker: &[u8]) {
        self.plan.orders().cut = Some(marker.to_owned());
    }

    /// Passes nothing on, or goes on with it.
    pub fn stall(&self, stalled: bool) {
        self.plan.orders().stalled = stalled;
        self.plan.released.notify_all();
    }
}

fn connect(client: TcpStream, server: TcpStream, plan: &Arc<Plan>) {
    // What they say in pieces is passed on in pieces, at once.
    let delay = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let cut = Arc::new(AtomicBool::new(false));
    let copies = delay.and_then(|()| Ok((client.try_clone()?, server.try_clone()?)));
    let Ok((client_too, server_too)) = copies else { return };
    let (plan_up, cut_up) = (Arc::clone(plan), Arc::clone(&cut));
    thread::spawn(move || {
        let mut seen = Vec::new();
        pass(&client, &server, |bytes| {
            plan_up.wait_while_stalled();
            seen.extend_from_slice(bytes);
            let mut orders = plan_up.orders();
            let marked = |marker: &Vec<u8>| seen.windows(marker.len()).any(|part| part == marker);
            if orders.cut.as_ref().is_some_and(marked) {
                orders.cut = None;
                cut_up.store(true, Ordering::SeqCst);
            }
            // A marker may come in two pieces.
            let keep = orders.cut.as_ref().map_or(0, |marker| marker.len().saturating_sub(1));
            seen.drain(..seen.len().saturating_sub(keep));
            true
        });
    });
    let plan = Arc::clone(plan);
    thread::spawn(move || {
        pass(&server_too, &client_too, |_| {
            plan.wait_while_stalled();
            !cut.load(Ordering::SeqCst)
        });
    });
}

/// Passes on what `from` says as long as `goes` lets it, and ends both ways after that.
fn pass(mut from: &TcpStream, mut to: &TcpStream, mut goes: impl FnMut(&[u8]) -> bool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if !goes(&bytes[..read]) || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // One that has ended already is as good.
    let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
