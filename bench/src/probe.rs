//! Probes: figures that only a fresh process can give, such as the memory that things take.
//!
//! The program starts itself again with `FLAG NAME COUNT`; that process runs the probe of that name
//! and prints one number. Resident memory is used, not a counting allocator: it is what an operator
//! pays, it includes what the allocator itself adds, and it costs what is timed nothing (B2).
//!
//! # Not here
//! Counting allocations: `tests/heap.rs`, which is a binary of its own.

use std::fs;
use std::process::Command;

use crate::case::Failure;
use crate::suites;

/// The option that makes this program answer a probe.
pub(crate) const FLAG: &str = "--probe";

/// A probe makes `count` of something and gives the figure that was asked for.
pub(crate) type Probe = fn(count: u64) -> Result<f64, Failure>;

/// Runs a probe in a process of its own, on the CPUs of the calling thread.
pub(crate) fn in_fresh_process(name: &str, count: u64) -> Result<f64, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args([FLAG, name, &count.to_string()]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(std::str::from_utf8(&output.stdout)?.trim().parse()?)
}

/// Is the process that `in_fresh_process` started.
pub(crate) fn answer(name: &str, count: u64) -> Result<(), Failure> {
    let mut probes = suites::PROBES.iter();
    let (_, probe) = probes.find(|(known, _)| *known == name).ok_or("no such probe")?;
    println!("{}", probe(count)?);
    Ok(())
}

/// Bytes of memory that this process has to itself and that no file backs.
pub(crate) fn resident_bytes() -> Result<f64, Failure> {
    // Exact, unlike the counters in `status`, which lag by some pages a thread.
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
    let kib: u32 = line.ok_or("no such field")?.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kib) * 1024.0)
}
