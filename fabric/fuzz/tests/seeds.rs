//! The seeds that are kept: as the code makes them now, and nothing is wrong with any.

use std::path::PathBuf;
use std::{env, fs};

use epicserver_fuzz::handshake;
use epicserver_fuzz::seeds::targets;

const ACCEPT: &str = "UPDATE_SEEDS=1 cargo test --manifest-path fabric/fuzz/Cargo.toml";

fn folder(target: &str) -> PathBuf {
    // Asked at run time: checkouts that share a target folder share this program too.
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test");
    PathBuf::from(here).join("seeds").join(target)
}

#[test]
fn the_seeds_that_are_kept_are_those_of_this_code() {
    for (name, _, seeds) in targets() {
        let folder = folder(name);
        for (seed, bytes) in seeds {
            let path = folder.join(seed);
            if env::var_os("UPDATE_SEEDS").is_some() {
                fs::create_dir_all(&folder).expect("a folder can be made");
                fs::write(&path, &bytes).expect("a seed can be written");
            }
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == bytes, "{} differs; to accept it: {ACCEPT}", path.display());
        }
    }
}

/// Inputs that once found something are kept beside the others, so that they are tried for ever.
#[test]
fn nothing_is_wrong_with_any_seed() {
    if env::var_os("UPDATE_SEEDS").is_some() {
        return; // They are being written.
    }
    for (name, target, seeds) in targets() {
        let kept = fs::read_dir(folder(name)).expect("each target has seeds");
        let kept: Vec<PathBuf> = kept.map(|file| file.expect("it can be read").path()).collect();
        assert!(kept.len() >= seeds.len() && !seeds.is_empty());
        for path in kept {
            target(&fs::read(&path).expect("a seed can be read"));
        }
    }
}

/// Otherwise the fuzzer would learn nothing of what comes after.
#[test]
fn the_seeds_of_the_handshake_come_as_far_as_their_names_say() {
    let established = ["established", "silent", "impatient", "closed", "pinged", "custom_hello"];
    for (target, _, seeds) in targets() {
        for (name, bytes) in seeds.iter().filter(|_| target == "handshake") {
            assert_eq!(handshake(bytes), established.contains(&name.as_str()), "{name}");
        }
    }
}
