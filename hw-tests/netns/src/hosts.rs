//! Hosts that are network namespaces, on a bridge in the namespace of this process.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::Failure;

/// Where this process is reached.
pub(crate) const HERE: &str = "10.86.3.1";

/// Where host `at` is reached.
pub(crate) fn address(at: usize) -> String {
    format!("10.86.3.{}", 10 + at)
}

/// What host `at` is called.
pub(crate) fn name(at: usize) -> String {
    format!("h{at}")
}

/// Its end of the wire to the bridge is `eth0`; this is the other one.
fn port(at: usize) -> String {
    format!("port{at}")
}

/// Makes so many hosts. They go with this process's own namespaces.
pub(crate) fn make(count: usize) -> Result<(), Failure> {
    ip("link set lo up")?;
    ip("link add hub type bridge")?;
    ip(&format!("address add {HERE}/24 dev hub"))?;
    ip("link set hub up")?;
    for at in 0..count {
        let (host, port, address) = (name(at), port(at), address(at));
        ip(&format!("netns add {host}"))?;
        ip(&format!("link add {port} type veth peer name eth0 netns {host}"))?;
        ip(&format!("link set {port} master hub up"))?;
        ip(&format!("-n {host} address add {address}/24 dev eth0"))?;
        ip(&format!("-n {host} link set lo up"))?;
        ip(&format!("-n {host} link set eth0 up"))?;
    }
    Ok(())
}

/// What host `at` says is lost from now on.
pub(crate) fn mute(at: usize) -> Result<(), Failure> {
    filter(at, "drop", "")
}

/// What host `at` says and what is said to it is lost.
pub(crate) fn cut(at: usize) -> Result<(), Failure> {
    filter(at, "drop", "drop")
}

/// Of what host `at` says so many packets of a hundred are lost.
pub(crate) fn wear(at: usize, percent: u32) -> Result<(), Failure> {
    filter(at, &format!("numgen random mod 100 < {percent} drop"), "")
}

/// The wire of host `at` is as at the start.
pub(crate) fn mend(at: usize) -> Result<(), Failure> {
    filter(at, "", "")
}

/// What becomes of packets that host `at` sends, and of those that it gets. By nftables, which more kernels have than netem.
fn filter(at: usize, sent: &str, got: &str) -> Result<(), Failure> {
    let rules = format!(
        "flush ruleset
        table ip wire {{
            chain sent {{ type filter hook output priority 0; {sent}; }}
            chain got {{ type filter hook input priority 0; {got}; }}
        }}"
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &name(at), "nft", "-f", "-"]);
    let mut nft = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(rules.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

fn ip(arguments: &str) -> Result<(), Failure> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments}: {}", said.trim()).into())
}
