//! Who stands between two ends: listens, and changes what passes. And a client that shows nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Stream};

const PASS: u8 = 0;
const FLIP: u8 = 1;
const CUT: u8 = 2;
const DRIP: u8 = 3;

/// Passes on one connection.
pub(super) struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    /// What happens to the next piece of who dialled.
    next: Arc<AtomicU8>,
    thread: JoinHandle<()>,
}

impl Proxy {
    pub(super) fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, next) = (Arc::default(), Arc::new(AtomicU8::new(PASS)));
        let pumps = [(Arc::clone(&seen), Arc::clone(&next)), (Arc::clone(&seen), Arc::default())];
        let thread = std::thread::spawn(move || {
            let (here, _) = listener.accept().unwrap();
            let there = TcpStream::connect(to).unwrap();
            let ways = [(here.try_clone(), there.try_clone()), (Ok(there), Ok(here))];
            let threads = ways.into_iter().zip(pumps).map(|((from, to), (seen, next))| {
                let (from, to) = (from.unwrap(), to.unwrap());
                to.set_nodelay(true).unwrap();
                std::thread::spawn(move || pump((from, to), &seen, &next))
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        });
        Self { address, seen, next, thread }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next piece gets a wrong bit.
    pub(super) fn flip(&self) {
        self.next.store(FLIP, Ordering::SeqCst);
    }

    /// Both connections end before the next piece.
    pub(super) fn cut(&self) {
        self.next.store(CUT, Ordering::SeqCst);
    }

    /// The next piece passes byte by byte.
    pub(super) fn drip(&self) {
        self.next.store(DRIP, Ordering::SeqCst);
    }

    /// All that has passed. Waits until both ends have closed.
    pub(super) fn seen(self) -> Vec<u8> {
        self.thread.join().unwrap();
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn pump((mut from, mut to): (TcpStream, TcpStream), seen: &Mutex<Vec<u8>>, next: &AtomicU8) {
    let mut piece = vec![0; 64 << 10];
    // An end that resets its connection has ended it too.
    while let Ok(len @ 1..) = from.read(&mut piece) {
        let piece = &mut piece[..len];
        seen.lock().unwrap().extend_from_slice(piece);
        match next.swap(PASS, Ordering::SeqCst) {
            CUT => {
                drop(from.shutdown(Shutdown::Both));
                break;
            }
            FLIP => piece[len - 1] ^= 1,
            DRIP => {
                piece.iter().for_each(|byte| to.write_all(&[*byte]).unwrap());
                continue;
            }
            _ => {}
        }
        if to.write_all(piece).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

/// Speaks TLS to `to`, shows no certificate, and returns how that ends.
pub(super) fn client_without_certificate(ca: &Path, to: SocketAddr) -> JoinHandle<String> {
    let roots = super::super::files::authorities(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    std::thread::spawn(move || {
        let name = ServerName::try_from("node.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = TcpStream::connect(to).unwrap();
        let mut stream = Stream::new(&mut client, &mut socket);
        stream.read(&mut [0; 64]).unwrap_err().to_string()
    })
}
