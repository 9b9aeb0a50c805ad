//! TCP passes the suite of all transports, over IPv4 and IPv6, on every form of the driver that there is, in
//! the clear and with TLS.
//!
//! # Not here
//! What is TCP's own: which messages are copied, see the unit tests.

mod member;

use std::any::Any;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use epicserver_link::conformance::{Lacks, Raw, Seat, Subject};
use epicserver_link::driver::{Form, Owner};
use epicserver_link::{Address, Transport};
use epicserver_shard::driver::{DriverError, open};
use epicserver_tcp::{Config, SCHEME, Tcp, Tls};
use member::Member;
use socket2::{Domain, Socket, Type};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

struct Over {
    form: Form,
    ip: IpAddr,
    tls: Option<(Tls, Member)>,
}

/// TCP at `ip` with drivers of `form`, or why there is none here.
fn over(form: Form, ip: IpAddr) -> Result<Over, Lacks> {
    match open(Some(form)) {
        Ok(_) => {}
        // What the kernel says has a number.
        Err(DriverError::Unavailable { source, .. }) if source.raw_os_error().is_none() => {
            return Err(Lacks::Code(format!("there is no driver for {form}")));
        }
        Err(error) => return Err(Lacks::Machine(because(&error))),
    }
    let loopback = TcpListener::bind((ip, 0));
    loopback.map_err(|error| Lacks::Machine(format!("no loopback at {ip}: {error}")))?;
    Ok(Over { form, ip, tls: None })
}

/// The same with TLS.
fn secure(form: Form, ip: IpAddr) -> Result<Over, Lacks> {
    let over = over(form, ip)?;
    let member = Member::new().unwrap_or_else(|error| panic!("no certificates: {error}"));
    let tls = member.tls().unwrap_or_else(|error| panic!("{error}"));
    Ok(Over { tls: Some((tls, member)), ..over })
}

fn because(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl Over {
    fn address(&self, port: u16) -> Address {
        Address::new(SCHEME, &SocketAddr::new(self.ip, port).to_string())
    }
}

impl Subject for Over {
    fn seat(&self) -> Seat {
        let driver = open(Some(self.form)).map_err(|error: DriverError| because(&error));
        let driver = driver.unwrap_or_else(|error| panic!("{error}"));
        let at = SocketAddr::new(self.ip, 0);
        let tls = self.tls.as_ref().map(|(tls, _)| tls.clone());
        let config = Config { addresses: vec![at], tls };
        let seat = Seat::open(driver, |io| {
            Tcp::listen(Owner(0), config, io).map(|tcp| Box::new(tcp) as Box<dyn Transport>)
        });
        seat.unwrap_or_else(|refused| panic!("{}", because(&refused)))
    }

    fn malformed(&self) -> Vec<Address> {
        ["localhost", "localhost:80", "127.0.0.1", "127.0.0.1:99999", "[::1]", "::1", ":80"]
            .map(|rest| Address::new(SCHEME, rest))
            .into_iter()
            .chain([Address::new("pipe", "127.0.0.1:80")])
            .collect()
    }

    fn nobody(&self) -> Address {
        self.address(1)
    }

    /// A listener whose queue is full, so that the kernel answers no more.
    fn silent(&self) -> Option<(Address, Box<dyn Any>)> {
        let at = SocketAddr::new(self.ip, 0);
        let listener = Socket::new(Domain::for_address(at), Type::STREAM, None).ok()?;
        listener.bind(&at.into()).ok()?;
        listener.listen(0).ok()?;
        let at = listener.local_addr().ok()?.as_socket()?;
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).ok()?;
            socket.set_nonblocking(true).ok()?;
            // It is under way, or the queue is full: both are what is wanted.
            let _connecting = socket.connect(&at.into());
            waiting.push(socket);
        }
        Some((self.address(at.port()), Box::new((listener, waiting))))
    }

    fn raw(&self, to: &Address) -> Option<Box<dyn Raw>> {
        let stream = TcpStream::connect(to.rest()).ok()?;
        stream.set_nodelay(true).ok()?;
        match &self.tls {
            None => Some(Box::new(RawTcp { stream })),
            Some((_, member)) => Some(Box::new(member.raw(stream)?)),
        }
    }
}

struct RawTcp {
    stream: TcpStream,
}

impl Raw for RawTcp {
    fn write(&mut self, bytes: &[u8]) {
        // The other end may have cut it off already.
        let _written = self.stream.write_all(bytes);
    }

    fn has_ended(&mut self) -> bool {
        if self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let ended = match self.stream.read(&mut [0; 1]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        ended | self.stream.set_nonblocking(false).is_err()
    }
}

epicserver_link::conformance!(mod epoll_v4, over(Form::Epoll, V4));
epicserver_link::conformance!(mod epoll_v6, over(Form::Epoll, V6));
epicserver_link::conformance!(mod uring_v4, over(Form::Uring, V4));
epicserver_link::conformance!(mod uring_v6, over(Form::Uring, V6));
epicserver_link::conformance!(mod epoll_tls, secure(Form::Epoll, V4));
epicserver_link::conformance!(mod uring_tls, secure(Form::Uring, V4));
