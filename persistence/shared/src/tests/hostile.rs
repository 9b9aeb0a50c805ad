//! Peers that say what they must not, or nothing.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use epicserver_store::conformance::{Client, Writing, barrel, owner};
use epicserver_store::{Found, Keeper as _, Op, Slot};

use super::{Files, LONG};
use crate::frame::{Frame, Hello, Refusal, VERSION};
use crate::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use crate::{Error, Options, open};

fn hello() -> Frame {
    Frame::Hello(Hello { version: VERSION, beat_ms: 60_000, fabric: "fabric".to_owned() })
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.push(&mut bytes));
    bytes
}

fn read(stream: &mut UnixStream) -> Frame {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    stream.read_exact(&mut body).unwrap();
    Frame::parse(&body).unwrap()
}

fn connect(files: &Files) -> UnixStream {
    let stream = UnixStream::connect(files.beside(".sock")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// What is said before the connection is ended.
fn until_the_end(mut stream: UnixStream) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return said,
            Ok(_) => said.extend(byte),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn sh4_a_peer_that_says_what_it_must_not_loses_its_own_connection() {
    let files = Files::new();
    let (near, far) = (files.open(), files.open());
    let mut sound = Client::with_patience(&far, LONG);
    assert_eq!(sound.claim(owner(1, 1), &[Slot::of(&barrel(0))]), []);
    let load = Frame::Ask(1, Op::Load { entity: barrel(1), claim: None });
    let mut spoiled = bytes_of(&[hello()]);
    spoiled.extend([9, 0, 0, 0, 4, 1, 2]);
    spoiled.extend([255; 40]);
    let long = |len: usize| u32::try_from(len + 1).unwrap().to_le_bytes().to_vec();
    let too_long = [bytes_of(&[hello()]), long(FRAME_BYTES_MAX)].concat();
    let all: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        long(HELLO_BYTES_MAX),
        vec![0; 64],
        bytes_of(std::slice::from_ref(&load)),
        bytes_of(&[hello(), hello()]),
        bytes_of(&[hello(), Frame::Welcome]),
        bytes_of(&[hello(), Frame::Bye]),
        bytes_of(&[hello(), Frame::Done(0, Ok(epicserver_store::Answer::Loaded(Found::Nothing)))]),
        spoiled,
        too_long,
    ];
    for (version, bytes) in (0..).zip(&all) {
        let mut stream = connect(&files);
        stream.write_all(bytes).unwrap();
        until_the_end(stream);
        sound.must_save(vec![Writing::of(barrel(1), version).state(b"x")]);
    }
    // One that is silent, or goes amid a frame, harms nobody either.
    let silent = connect(&files);
    let mut cut = connect(&files);
    cut.write_all(&bytes_of(&[hello(), load])[..30]).unwrap();
    drop(cut);
    sound.must_save(vec![Writing::of(barrel(1), all.len() as u64).state(b"x")]);
    assert!(near.holds());
    drop((near, silent));
    assert_eq!(sound.payload(&barrel(1)), Some(b"x".to_vec()), "the far end has taken over");
}

#[test]
fn a_peer_of_another_version_or_fabric_is_told_so() {
    let files = Files::new();
    let near = files.open();
    let mut stream = connect(&files);
    let mut strange = bytes_of(&[hello()]);
    strange[4 + 9] += 1;
    stream.write_all(&strange).unwrap();
    assert_eq!(read(&mut stream), Frame::Refuse(Refusal::Version(VERSION)));
    assert!(until_the_end(stream).is_empty());
    let error = open(&Options { fabric: "other".to_owned(), ..files.options() }).unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("the fabric \"fabric\""), "{error}");
    drop(near);
    let error = open(&Options { fabric: "other".to_owned(), ..files.options() }).unwrap_err();
    assert!(matches!(&error, Error::File(_)), "{error}");
    let fabric = "x".repeat(5000);
    let error = open(&Options { fabric, ..files.options() }).unwrap_err();
    assert!(matches!(&error, Error::Fabric(5000)), "{error}");
}

#[test]
fn a_peer_is_answered_and_hears_beats() {
    let files = Files::new();
    let near = files.open();
    let mut stream = connect(&files);
    let hello = Hello { version: VERSION, beat_ms: 10, fabric: "fabric".to_owned() };
    stream.write_all(&bytes_of(&[Frame::Hello(hello)])).unwrap();
    let mut said = Vec::new();
    while !said.contains(&Frame::Beat) || !said.contains(&Frame::Welcome) {
        said.push(read(&mut stream));
    }
    let load = Op::Load { entity: barrel(1), claim: None };
    stream.write_all(&bytes_of(&[Frame::Ask(8, load)])).unwrap();
    let done = Frame::Done(8, Ok(epicserver_store::Answer::Loaded(Found::Nothing)));
    while read(&mut stream) != done {}
    drop(near);
    while read(&mut stream) != Frame::Bye {}
}

#[test]
fn what_is_no_folder_or_no_store_is_told() {
    let files = Files::new();
    let path = files.path().join("below").join("store");
    let error = open(&Options { path, ..files.options() }).unwrap_err();
    assert!(matches!(&error, Error::Beside { .. }), "{error}");
    std::fs::write(files.path(), vec![7; 100_000]).unwrap();
    let error = open(&files.options()).unwrap_err();
    assert!(matches!(&error, Error::File(_)), "{error}");
    assert_eq!(std::fs::read(files.path()).unwrap(), vec![7; 100_000], "it is left as it is");
    assert_eq!(error.to_string().matches("cannot open the store").count(), 1);
    std::fs::remove_file(files.path()).unwrap();
    assert_eq!(files.open().name(), "redb, shared");
}
