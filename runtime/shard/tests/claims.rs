//! Claims between real processes: each child is this program again, told by the environment to
//! claim a CPU, to say which, and to hold it until its input ends or it is killed.
#![cfg(not(loom))]

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
};

use epicserver_shard::cpus::{Allowed, RunDir, Tenancy};

/// The run directory of a child; the test that finds it set is a child.
const CHILD_RUN_DIR: &str = "EPIC_TEST_CHILD_RUN_DIR";

#[test]
fn a_child_claims_a_cpu_and_holds_it() {
    let Some(path) = env::var_os(CHILD_RUN_DIR) else { return };
    let run_dir = RunDir::open_at(Path::new(&path)).unwrap();
    let claims = run_dir.claim(&Allowed::detect().unwrap(), NonZeroUsize::MIN).unwrap();
    claims[0].pin_current_thread().unwrap();
    let shared = matches!(claims[0].tenancy(), Tenancy::Shared { .. });
    writeln!(io::stdout(), "\nclaimed {} {shared}", claims[0].cpu()).unwrap();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn processes_claim_different_cpus_and_a_killed_one_frees_its_own() {
    let folder = Folder::new();
    let cpus = Allowed::detect().unwrap().ids().count();

    let mut holders: Vec<Holder> = (0..cpus).map(|_| Holder::start(&folder.0)).collect();
    let mut claimed: Vec<usize> = holders.iter().map(|holder| holder.cpu).collect();
    claimed.sort_unstable();
    claimed.dedup();
    assert_eq!(claimed.len(), cpus, "U2: two processes hold one CPU while another is free");
    assert!(holders.iter().all(|holder| !holder.shared));

    let late = Holder::start(&folder.0);
    assert!(late.shared, "no CPU is free, and the claim does not say so");
    late.kill();

    let freed = holders.remove(0);
    let cpu = freed.cpu;
    freed.kill();
    let next = Holder::start(&folder.0);
    assert_eq!((next.cpu, next.shared), (cpu, false), "U3: the claim outlived its process");

    next.kill();
    holders.into_iter().for_each(Holder::kill);
}

/// A child that holds a claim.
struct Holder {
    child: Child,
    cpu: usize,
    shared: bool,
}

impl Holder {
    fn start(run_dir: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program has a path"))
            .args(["a_child_claims_a_cpu_and_holds_it", "--exact", "--nocapture"])
            .env(CHILD_RUN_DIR, run_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let said = BufReader::new(child.stdout.take().expect("its output is piped"))
            .lines()
            .map(|line| line.expect("its output is text"))
            .find_map(|line| Some(line.strip_prefix("claimed ")?.to_owned()))
            .expect("it says what it claimed");
        let (cpu, shared) = said.split_once(' ').expect("the number and whether it is shared");
        let cpu = cpu.parse().expect("a number");
        Self { child, cpu, shared: shared == "true" }
    }

    /// Kills it, as the kernel would, with no chance to tidy up.
    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("claims-{}", process::id()));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the build's temporary folder.
        let _gone = fs::remove_dir_all(&self.0);
    }
}
