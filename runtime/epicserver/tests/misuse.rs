//! What the macros take, what they refuse, and with which words.
//!
//! `TRYBUILD=overwrite cargo test -p epicserver --test misuse` writes the words anew.

/// What the macros cannot see, so that the compiler says it in several places: a type that is
/// neither a message nor can be saved.
const SAID_MORE_THAN_ONCE: [&str; 3] =
    ["field_cannot_be_saved", "field_is_no_message", "impl_of_no_entity"];

#[test]
fn use_compiles_and_misuse_is_refused() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/*.rs");
}

#[test]
fn each_misuse_is_one_error() {
    let ui = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ui");
    for entry in std::fs::read_dir(ui).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "stderr") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let errors = text.lines().filter(|line| line.starts_with("error")).count();
        let often = SAID_MORE_THAN_ONCE.contains(&name);
        assert!(errors == 1 || often, "{name}: {errors} errors");
    }
}
