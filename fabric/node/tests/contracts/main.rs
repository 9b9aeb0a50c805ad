//! The contract with other processes and with stored bytes, rendered from the code that keeps it into
//! `fabric/contracts.txt`.
//!
//! Whatever changes that file changes what two nodes of different versions say to each other, or what
//! saved bytes mean. Almost all of it is found by writing real values and looking at the bytes, and by
//! reading changed bytes and looking at what comes of them, so that the page cannot say what the code
//! does not do.
//!
//! # Not here
//! Whether a change is allowed: `docs/semver.md` says which are.

mod handshake;
mod header;
mod ids;
mod page;
mod values;
mod views;

use std::path::PathBuf;
use std::{env, fs};

use page::Page;

const ACCEPT: &str = "UPDATE_CONTRACTS=1 cargo test -p epicserver-node --test contracts";

fn rendered() -> String {
    let mut page = Page::default();
    page.text("The contract with other processes and with stored bytes, rendered from code.");
    page.text("A change of this file is a change of the wire or of stores: see docs/semver.md.");
    page.text(&format!("To accept one: {ACCEPT}"));
    page.text("All numbers are little-endian; bytes are in hex.");
    header::render(&mut page);
    ids::render(&mut page);
    values::render(&mut page);
    handshake::render(&mut page);
    views::render(&mut page);
    page.into_text()
}

#[test]
fn what_is_written_is_what_other_versions_rely_on() {
    // Asked at run time: checkouts that share a target folder share this program too.
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test"));
    let path = here.join("../contracts.txt");
    let (code, file) = (rendered(), fs::read_to_string(&path).unwrap_or_default());
    if env::var_os("UPDATE_CONTRACTS").is_some() {
        return fs::write(&path, code).expect("the contract can be written");
    }
    let differs = page::difference(&file, &code);
    assert!(differs.is_empty(), "fabric/contracts.txt differs:\n{differs}to accept it: {ACCEPT}");
}
