//! Which CPUs are chosen, and what is read of the machine.

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process,
};

use super::{Allowed, Claim, CpuId, RunDir, RunDirError, Tenancy, parse_list, quota};

/// A folder that goes when the test does.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("epic-cpus-{}-{name}", process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A host with `cores` cores of two threads each, numbered as Linux does: 0 and `cores` are
    /// the first core's.
    fn write_cores(&self, cores: usize) {
        for cpu in 0..2 * cores {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            self.write(&path, &format!("{},{}\n", cpu % cores, cpu % cores + cores));
        }
    }

    fn allowed(&self, ids: &[usize]) -> Allowed {
        Allowed::of(ids.iter().copied().map(CpuId), &self.0).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the temporary folder.
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn some(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn held(claims: &[Claim]) -> Vec<(usize, Tenancy)> {
    claims.iter().map(|claim| (claim.cpu().get(), claim.tenancy())).collect()
}

#[test]
fn this_host_allows_some_cpu() {
    let allowed = Allowed::detect().unwrap();
    assert!(allowed.ids().count() >= allowed.shards_default().get());
    assert!(super::online().unwrap() >= allowed.ids().count());
}

#[test]
fn a_list_of_cpus_is_parsed_and_anything_else_refused() {
    let list = |text| {
        let ids = parse_list(Path::new("list"), text).ok()?;
        Some(ids.into_iter().map(CpuId::get).collect::<Vec<_>>())
    };
    assert_eq!(list("0\n"), Some(vec![0]));
    assert_eq!(list("0-2,8,10-11\n"), Some(vec![0, 1, 2, 8, 10, 11]));
    assert_eq!(list("\n"), Some(vec![]));
    for wrong in ["x", "1-", "-1", "3-1", "0-99999999999", "1,,x"] {
        assert_eq!(list(wrong), None, "{wrong:?}");
    }
}

#[test]
fn first_threads_of_cores_come_before_second_ones() {
    let host = Folder::new("threads");
    host.write_cores(4);
    let order = |ids: &[usize]| host.allowed(ids).ids().map(CpuId::get).collect::<Vec<_>>();
    assert_eq!(order(&[0, 1, 2, 3, 4, 5, 6, 7]), [0, 1, 2, 3, 4, 5, 6, 7]);
    // CPUs 1 and 5 are one core's, 2 and 6 another's.
    assert_eq!(order(&[1, 2, 5, 6, 7]), [1, 2, 7, 5, 6]);
}

#[test]
fn the_default_is_one_shard_a_core() {
    let host = Folder::new("shards");
    host.write_cores(4);
    assert_eq!(host.allowed(&[0, 1, 2, 3, 4, 5, 6, 7]).shards_default(), some(4));
    assert_eq!(host.allowed(&[1, 5]).shards_default(), some(1));
    // Without a word from the kernel, each CPU is a core.
    assert_eq!(Folder::new("no-topology").allowed(&[0, 1, 2]).shards_default(), some(3));
}

#[test]
fn the_default_is_no_more_than_the_quota_feeds() {
    let host = Folder::new("quota-shards");
    host.write_cores(4);
    host.write("proc/self/cgroup", "0::/\n");
    host.write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    host.write("sys/fs/cgroup/cpu.max", "250000 100000\n");
    assert_eq!(host.allowed(&[0, 1, 2, 3]).shards_default(), some(2));
    host.write("sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_eq!(host.allowed(&[0, 1, 2, 3]).shards_default(), some(1));
}

#[test]
fn a_quota_of_version_two_is_the_least_on_the_way_up() {
    let host = Folder::new("quota-two");
    assert_eq!(quota::detect(&host.0).unwrap(), None);
    host.write("proc/self/cgroup", "0::/a/b\n");
    host.write("proc/self/mountinfo", "30 23 0:26 / /cg rw shared:4 - cgroup2 cgroup2 rw\n");
    host.write("cg/a/b/cpu.max", "max 100000\n");
    assert_eq!(quota::detect(&host.0).unwrap(), None);
    host.write("cg/a/cpu.max", "300000 100000\n");
    assert_eq!(quota::detect(&host.0).unwrap(), Some(some(3)));
    host.write("cg/a/b/cpu.max", "400000 100000\n");
    assert_eq!(quota::detect(&host.0).unwrap(), Some(some(3)));
    host.write("cg/a/b/cpu.max", "nonsense\n");
    assert!(quota::detect(&host.0).is_err());
}

#[test]
fn a_quota_of_version_one_is_found_in_a_container() {
    let host = Folder::new("quota-one");
    // The group's name is the host's; the container sees it as the top of the mount.
    host.write("proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n");
    host.write(
        "proc/self/mountinfo",
        "31 23 0:28 / /cg rw - tmpfs tmpfs rw\n\
         32 31 0:29 /docker/abc /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
         33 31 0:30 /docker/abc /cg/cpuset rw - cgroup cgroup rw,cpuset\n",
    );
    host.write("cg/cpu/cpu.cfs_quota_us", "-1\n");
    host.write("cg/cpu/cpu.cfs_period_us", "100000\n");
    assert_eq!(quota::detect(&host.0).unwrap(), None);
    host.write("cg/cpu/cpu.cfs_quota_us", "199999\n");
    assert_eq!(quota::detect(&host.0).unwrap(), Some(some(1)));
}

#[test]
fn claims_take_cores_then_threads_then_share_evenly() {
    let host = Folder::new("claims");
    host.write_cores(2);
    let run_dir = RunDir::open_at(&host.0.join("run")).unwrap();
    let allowed = host.allowed(&[0, 1, 2, 3]);
    let claims = run_dir.claim(&allowed, some(6)).unwrap();
    let (core, thread) = (Tenancy::Core, Tenancy::Thread);
    let shared = Tenancy::Shared { others: 1 };
    assert_eq!(
        held(&claims),
        [(0, core), (1, core), (2, thread), (3, thread), (0, shared), (1, shared)]
    );
}

#[test]
fn a_core_of_which_one_thread_is_held_is_not_taken_while_another_is_free() {
    let host = Folder::new("half");
    host.write_cores(2);
    let run_dir = RunDir::open_at(&host.0.join("run")).unwrap();
    let first = run_dir.claim(&host.allowed(&[0]), some(1)).unwrap();
    // This one may not use CPU 0, whose core CPU 2 belongs to.
    let second = run_dir.claim(&host.allowed(&[2, 3]), some(1)).unwrap();
    assert_eq!(held(&first), [(0, Tenancy::Core)]);
    assert_eq!(held(&second), [(3, Tenancy::Core)]);
}

#[test]
fn a_dropped_claim_is_free_again() {
    let host = Folder::new("dropped");
    let run_dir = RunDir::open_at(&host.0.join("run")).unwrap();
    let allowed = host.allowed(&[0, 1]);
    let mut claims = run_dir.claim(&allowed, some(2)).unwrap();
    drop(claims.remove(0));
    assert_eq!(held(&run_dir.claim(&allowed, some(1)).unwrap()), [(0, Tenancy::Core)]);
}

#[test]
fn more_claims_than_seats_are_still_granted() {
    let host = Folder::new("seats");
    let run_dir = RunDir::open_at(&host.0.join("run")).unwrap();
    let claims = run_dir.claim(&host.allowed(&[0]), some(7)).unwrap();
    let tenancies: Vec<_> = claims.iter().map(Claim::tenancy).collect();
    let shared = |others| Tenancy::Shared { others };
    assert_eq!(tenancies[..3], [Tenancy::Core, shared(1), shared(2)]);
    assert_eq!(tenancies[3..], [shared(3), shared(4), shared(4), shared(4)]);
}

#[test]
fn a_claim_pins_the_thread() {
    let host = Folder::new("pins");
    let run_dir = RunDir::open_at(&host.0.join("run")).unwrap();
    let allowed = Allowed::detect().unwrap();
    let claims = run_dir.claim(&allowed, some(1)).unwrap();
    std::thread::spawn(move || {
        claims[0].pin_current_thread().unwrap();
        let pinned: Vec<_> = Allowed::detect().unwrap().ids().collect();
        assert_eq!(pinned, [claims[0].cpu()]);
    })
    .join()
    .unwrap();
}

#[test]
fn a_pin_to_a_cpu_that_is_not_there_is_refused() {
    let host = Folder::new("no-cpu");
    let run_dir = RunDir::open_at(&host.0.join("run")).unwrap();
    let claims = run_dir.claim(&host.allowed(&[1023]), some(1)).unwrap();
    let error = claims[0].pin_current_thread().unwrap_err();
    assert_eq!(error.to_string(), "cannot pin a thread to CPU 1023 (sched_setaffinity)");
}

#[test]
fn a_run_directory_is_made_for_its_owner_alone() {
    let host = Folder::new("made");
    let path = host.0.join("run");
    assert_eq!(RunDir::open_at(&path).unwrap().path(), path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    RunDir::open_at(&path).unwrap();
}

#[test]
fn a_run_directory_that_others_may_write_to_is_refused() {
    let host = Folder::new("exposed");
    fs::set_permissions(&host.0, fs::Permissions::from_mode(0o770)).unwrap();
    let error = RunDir::open_at(&host.0).unwrap_err();
    assert!(matches!(error, RunDirError::Exposed { mode: 0o770, .. }), "{error}");
}

#[test]
fn a_run_directory_of_another_user_is_refused() {
    // Only root can give a folder away; anybody else finds that root's are not theirs.
    let host = Folder::new("not-ours");
    let another = rustix::process::geteuid().as_raw() + 1;
    let given = std::os::unix::fs::chown(&host.0, Some(another), None).is_ok();
    let path = if given { host.0.as_path() } else { Path::new("/") };
    let error = RunDir::open_at(path).unwrap_err();
    assert!(matches!(error, RunDirError::NotOurs { .. }), "{error}");
    assert!(error.to_string().contains("EPIC_RUN_DIR"), "{error}");
}

#[test]
fn a_run_directory_that_is_a_link_or_a_file_is_refused() {
    let host = Folder::new("link");
    host.write("file", "");
    symlink(&host.0, host.0.join("link")).unwrap();
    for name in ["link", "file"] {
        let error = RunDir::open_at(&host.0.join(name)).unwrap_err();
        assert!(matches!(error, RunDirError::Open { .. }), "{name}: {error}");
    }
    let error = RunDir::open_at(&host.0.join("no/such")).unwrap_err();
    assert!(matches!(error, RunDirError::Create { .. }), "{error}");
}
