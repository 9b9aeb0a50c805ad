//! What TCP needs.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use epicserver_link::driver::Form;
use epicserver_shard::driver::open;

use super::{Area, Check, Finding};
use crate::config::{Config, Transport};

pub(super) const AREA: Area = Area {
    name: "tcp",
    needed_by: &[Transport::Auto, Transport::Tcp],
    checks: &[
        Check { name: "io_uring", dispensable: true, look: io_uring },
        Check { name: "listen", dispensable: false, look: listen },
    ],
};

/// The driver that all transports use, TIPC too.
fn io_uring(_: &Config) -> Finding {
    match open(Some(Form::Uring)) {
        Ok(_) => Finding::Ok("the kernel lets this process have it".to_owned()),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let what =
                format!("{error}{}; epoll is used, which is slower", cause.unwrap_or_default());
            let mend = "Linux 6.1 or later, `sysctl -w kernel.io_uring_disabled=0`, and in a container \
                        `--security-opt seccomp=unconfined` or a profile with io_uring_*";
            Finding::lacks(what, mend)
        }
    }
}

fn listen(config: &Config) -> Finding {
    let network = &config.network;
    if let Some(interface) = &network.interface {
        return Finding::Ok(format!("at all addresses of {interface}"));
    }
    for address in &network.listen {
        match TcpListener::bind(address) {
            Ok(_) => {}
            // By a node that runs, for one.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => {
                let what = format!("cannot listen at {address}: {error}");
                return Finding::lacks(what, "set `network.listen` to addresses of `ip addr show`");
            }
        }
    }
    let shown: Vec<String> = network.listen.iter().map(SocketAddr::to_string).collect();
    let reached = network.listen.iter().all(|address| address.ip().is_loopback());
    let from = if reached { ", so from this host alone" } else { "" };
    Finding::Ok(format!("at {}{from}", shown.join(", ")))
}
