//! Our account of libibverbs beside the system's header, which a C compiler reads.
//!
//! It runs where the header is installed: `hw-tests/run verbs` sees to that.

use std::io::Write as _;
use std::process::{Command, Stdio};

#[test]
fn ff1_structs_and_constants_are_as_the_systems_header_has_them() {
    let mut source = String::from("#include <stddef.h>\n#include <infiniband/verbs.h>\n");
    let header = compiles(&source);
    let there = std::env::var_os("EPIC_HW_AREA").is_some_and(|area| area == "verbs");
    if !there && header.is_err() {
        let mut aloud = std::io::stderr().lock();
        // Where nobody listens, nobody is told.
        let _told =
            writeln!(aloud, "skipped: no header of libibverbs; `hw-tests/run verbs` has one");
        return;
    }
    assert_eq!(header, Ok(()), "apt-get install libibverbs-dev gcc");
    for (expression, value) in epicserver_verbs::layout() {
        source += &format!("_Static_assert({expression} == {value}, \"{expression}\");\n");
    }
    assert_eq!(compiles(&source), Ok(()));
    // The compiler does look.
    source += "_Static_assert(sizeof(struct ibv_wc) == 1, \"as it should\");\n";
    assert!(compiles(&source).is_err());
}

/// Whether `source` is C; else what the compiler says.
fn compiles(source: &str) -> Result<(), String> {
    let mut command = Command::new("cc");
    command.args(["-x", "c", "-std=gnu11", "-fsyntax-only", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut compiler = command.spawn().map_err(|error| format!("cc: {error}"))?;
    let mut input = compiler.stdin.take().ok_or("cc has no input")?;
    input.write_all(source.as_bytes()).map_err(|error| error.to_string())?;
    drop(input);
    let ended = compiler.wait_with_output().map_err(|error| error.to_string())?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
    }
}
