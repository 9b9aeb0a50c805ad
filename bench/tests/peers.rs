//! Peers: that none outlives whoever started it, with real processes.
//!
//! # Not here
//! What they measure.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

fn peer(args: &[&str]) -> io::Result<Child> {
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let cpu = cpus.first().map_or(0, |cpu| cpu.id).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_epicserver-bench"));
    command.args(["--peer", args[0], &cpu]).args(&args[1..]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

#[test]
fn a_peer_that_waits_for_a_connection_ends_with_its_input() {
    for args in [&["raw_tcp", "echo", "64", "block"][..], &["tokio_rpc"]] {
        let mut peer = peer(args).unwrap();
        let mut address = String::new();
        BufReader::new(peer.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
        address.trim().parse::<u16>().unwrap();
        drop(peer.stdin.take());
        assert!(peer.wait().unwrap().success(), "{args:?}");
    }
}

#[test]
fn a_node_that_finds_no_other_ends_with_its_input() {
    let folder = std::env::temp_dir().join(format!("epic-peers-test-{}", std::process::id()));
    let mut peer = peer(&["node", folder.to_str().unwrap(), "tcp", "power"]).unwrap();
    let mut word = String::new();
    BufReader::new(peer.stdout.as_mut().unwrap()).read_line(&mut word).unwrap();
    assert_eq!(word, "starts\n");
    drop(peer.stdin.take());
    assert!(peer.wait().unwrap().success());
    // It may have ended before it made the folder.
    std::fs::remove_dir_all(folder).ok();
}

#[test]
fn a_peer_that_cannot_serve_says_why_and_fails() {
    for args in [&["raw_ring", "/nowhere", "echo", "64"][..], &["nobody"], &["ucx", "1"]] {
        let mut peer = peer(args).unwrap();
        let mut why = String::new();
        peer.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        assert!(!peer.wait().unwrap().success(), "{args:?}");
        assert!(why.starts_with("epicserver-bench: "), "{why}");
    }
}
