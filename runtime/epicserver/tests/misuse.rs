//! What the macros refuse, with which words, and what they take.

#[test]
fn misuse_is_refused_and_use_is_not() {
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
        let text = std::fs::read_to_string(&path).unwrap();
        let errors = text.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "{}", path.display());
    }
}
