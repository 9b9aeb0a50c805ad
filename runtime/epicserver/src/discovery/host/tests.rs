//! Nodes that find each other, and what they make of everything else in their folder.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::entry::{file_name, node_of};
use super::*;

/// The run directory of a child; the test that finds it set is a child.
const CHILD_RUN_DIR: &str = "EPIC_TEST_CHILD_DISCOVERY";
const CHILD: NodeId = NodeId::new(0xc0ffee);
const OURS: NodeId = NodeId::new(1);

#[test]
fn a_child_publishes_and_waits() {
    let Some(path) = std::env::var_os(CHILD_RUN_DIR) else { return };
    let mut discovery = Discovery::open(Some(Path::new(&path)), &Name::default()).unwrap();
    discovery.publish(CHILD, &[Address::new("shm", "child")], 7).unwrap();
    println!("\npublished");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A run directory that goes when the test does.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("epic-found-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn open(&self) -> Discovery {
        Discovery::open(Some(&self.0), &Name::default()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join("fabric-default").join(name)
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.path("")).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A process that has published.
    fn child(&self) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["discovery::host::tests::a_child_publishes_and_waits", "--exact", "--nocapture"])
            .env(CHILD_RUN_DIR, &self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap() == "published"), "it ended before it published");
        // Kept, so that the child does not fail when it says that it has passed.
        drop(said);
        child
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the temporary folder.
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn tcp(port: u16) -> Vec<Address> {
    vec![Address::new("tcp", &format!("127.0.0.1:{port}"))]
}

fn ids(found: &[Found]) -> Vec<u64> {
    found.iter().map(|found| found.node.as_u64()).collect()
}

/// The text of a sound entry of `node`.
fn entry(node: NodeId) -> String {
    Entry::write(&Found { node, pid: 1, addresses: tcp(1), started_unix_ms: 2 }).unwrap()
}

/// Makes the file `name` and holds the lock on it, as a living node does.
fn held(folder: &Folder, name: &str, text: &str) -> fs::File {
    let mut file = fs::File::create_new(folder.path(name)).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.try_lock().unwrap();
    file
}

#[test]
fn nodes_of_one_fabric_find_each_other_and_not_themselves() {
    let folder = Folder::new("both");
    let (mut one, mut two) = (folder.open(), folder.open());
    let addresses = [tcp(1), vec![Address::new("shm", "/a")]].concat();
    one.publish(OURS, &addresses, 5).unwrap();
    assert_eq!(one.peers().unwrap(), []);
    let found = two.peers().unwrap();
    let pid = std::process::id();
    assert_eq!(found, [Found { node: OURS, pid, addresses, started_unix_ms: 5 }]);
    two.publish(NodeId::new(u64::MAX), &tcp(2), 6).unwrap();
    assert_eq!(ids(&one.peers().unwrap()), [u64::MAX]);
    let other = Name::new("other").unwrap();
    assert_eq!(Discovery::open(Some(&folder.0), &other).unwrap().peers().unwrap(), []);
}

#[test]
fn a_node_that_publishes_again_is_found_by_its_new_addresses_alone() {
    let folder = Folder::new("again");
    let (mut one, mut two) = (folder.open(), folder.open());
    one.publish(OURS, &tcp(1), 0).unwrap();
    one.publish(OURS, &tcp(2), 0).unwrap();
    let found = two.peers().unwrap();
    assert_eq!(found.iter().map(|found| &found.addresses).collect::<Vec<_>>(), [&tcp(2)]);
    one.publish(NodeId::new(3), &tcp(3), 0).unwrap();
    assert_eq!(ids(&two.peers().unwrap()), [3]);
    drop(one);
    assert_eq!(two.peers().unwrap(), []);
    assert_eq!(folder.names(), Vec::<String>::new());
    assert_eq!(two.counts(), Counts::default());
}

#[test]
fn di3_a_killed_process_is_no_longer_found_and_its_entry_removed() {
    let folder = Folder::new("killed");
    let mut discovery = folder.open();
    let mut child = folder.child();
    let found = discovery.peers().unwrap();
    assert_eq!((ids(&found), found[0].pid), (vec![CHILD.as_u64()], child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(discovery.peers().unwrap(), []);
    assert_eq!((folder.names(), discovery.counts().removed), (vec![], 1));
}

#[test]
fn di2_readers_do_not_take_each_other_for_a_living_node() {
    let folder = Folder::new("readers");
    let (mut one, mut two) = (folder.open(), folder.open());
    let name = file_name(CHILD);
    let dead = held(&folder, &name, &entry(CHILD));
    assert_eq!(ids(&one.peers().unwrap()), [CHILD.as_u64()]);
    dead.unlock().unwrap();
    // Another reader is at it.
    let reader = fs::File::open(folder.path(&name)).unwrap();
    reader.try_lock_shared().unwrap();
    assert_eq!(two.peers().unwrap(), []);
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn di1_what_a_node_left_half_written_is_ignored_and_removed() {
    let folder = Folder::new("half");
    let mut discovery = folder.open();
    let name = format!("{CHILD}.1.0.unfinished");
    let writer = held(&folder, &name, "format = ");
    assert_eq!(discovery.peers().unwrap(), []);
    assert_eq!(folder.names(), [name.as_str()], "its writer is at it");
    drop(writer);
    assert_eq!(discovery.peers().unwrap(), []);
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn remains_of_an_earlier_process_do_not_stop_a_node_from_publishing() {
    let folder = Folder::new("remains");
    let mut discovery = folder.open();
    let pid = std::process::id();
    let _held = held(&folder, &format!("{OURS}.{pid}.0.unfinished"), "");
    discovery.publish(OURS, &tcp(1), 0).unwrap();
    assert_eq!(ids(&folder.open().peers().unwrap()), [OURS.as_u64()]);
}

#[test]
fn di4_what_is_no_entry_is_ignored_and_counted() {
    let folder = Folder::new("hostile");
    let mut discovery = folder.open();
    let sound = entry(CHILD);
    let texts = [
        String::new(),
        "format = 1".to_owned(),
        sound.replace("format = 1", "format = 2"),
        sound.replace("127.0.0.1", &"x".repeat(ADDRESS_BYTES_MAX)),
        sound.replace("tcp://127.0.0.1:1", "nowhere"),
        sound.replace("[\"tcp", &format!("[{}\"tcp", "\"a://b\", ".repeat(ADDRESSES_MAX))),
        format!("{sound}x = \"{}\"\n", "x".repeat(ENTRY_BYTES_MAX)),
        // Of another node than its name says.
        entry(OURS),
    ];
    let mut files = Vec::new();
    for (number, text) in (100_u64..).zip(&texts) {
        let node = NodeId::new(number);
        let text = text.replace(&CHILD.to_string(), &node.to_string());
        files.push(held(&folder, &file_name(node), &text));
    }
    files.push(held(&folder, "README", &sound));
    files.push(held(&folder, "C0FFEE.toml", &sound));
    files.push(held(&folder, &file_name(CHILD), &sound));
    files[10].set_permissions(fs::Permissions::from_mode(0o620)).unwrap();
    symlink("/dev/zero", folder.path(&file_name(NodeId::new(200)))).unwrap();
    fs::create_dir(folder.path(&file_name(NodeId::new(201)))).unwrap();
    // A pipe would make a reader wait for who writes to it.
    let pipe = folder.path(&file_name(NodeId::new(202)));
    let made = Command::new("mkfifo").arg("--mode=600").arg(&pipe).status().unwrap();
    assert!(made.success());

    assert_eq!(discovery.peers().unwrap(), []);
    let ignored = u64::try_from(texts.len()).unwrap() + 6;
    assert_eq!(discovery.counts(), Counts { ignored, ..Counts::default() });
    files[10].set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(ids(&discovery.peers().unwrap()), [CHILD.as_u64()]);
}

#[test]
fn di4_an_entry_of_another_user_is_ignored() {
    let folder = Folder::new("foreign");
    let mut discovery = folder.open();
    let _file = held(&folder, &file_name(CHILD), &entry(CHILD));
    let another = rustix::process::geteuid().as_raw() + 1;
    // Only root can give a file away. For others nobody can have put one there either.
    let given = chown(folder.path(&file_name(CHILD)), Some(another), None).is_ok();
    assert_eq!(discovery.peers().unwrap().len(), usize::from(!given));
    assert_eq!(discovery.counts().ignored, u64::from(given));
}

#[test]
fn di4_more_nodes_than_are_wanted_are_counted_and_left_out() {
    let folder = Folder::new("many");
    let mut discovery = folder.open();
    // All are one file, which one process holds: more names than there may be open files.
    let _file = held(&folder, "file", &entry(OURS));
    for number in 0..=FILES_MAX {
        let name = file_name(NodeId::new(u64::try_from(number).unwrap() + 10));
        fs::hard_link(folder.path("file"), folder.path(&name)).unwrap();
    }
    assert_eq!(discovery.peers().unwrap(), []);
    assert_eq!(discovery.counts().beyond, 1);
}

#[test]
fn a_run_directory_that_others_may_write_to_is_refused_in_clear_words() {
    let folder = Folder::new("exposed");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = |folder: &Folder| {
        Discovery::open(Some(&folder.0), &Name::default()).unwrap_err().to_string()
    };
    let text = refused(&folder);
    assert!(text.contains("may be written by others (mode 777); make it 700"), "{text}");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).unwrap();
    drop(folder.open());
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o730)).unwrap();
    let text = refused(&folder);
    assert!(text.contains("fabric-default") && text.contains("mode 730"), "{text}");
    let fabric = folder.0.join("fabric-default");
    fs::remove_dir(&fabric).unwrap();
    symlink("/tmp", &fabric).unwrap();
    assert!(refused(&folder).contains("cannot open the run directory"));
}

#[test]
fn the_folder_of_a_fabric_is_for_its_user_alone() {
    let folder = Folder::new("mode");
    let mut discovery = folder.open();
    discovery.publish(OURS, &tcp(1), 0).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(folder.path("")), 0o700);
    assert_eq!(mode(folder.path(&file_name(OURS))), 0o600);
}

#[test]
fn what_no_reader_would_take_is_not_published() {
    let folder = Folder::new("refused");
    let mut discovery = folder.open();
    let long = vec![Address::new("tcp", &"x".repeat(ADDRESS_BYTES_MAX))];
    for addresses in [vec![], vec![Address::new("tcp", "a:1"); ADDRESSES_MAX + 1], long] {
        let refused = discovery.publish(OURS, &addresses, 0);
        assert!(matches!(refused, Err(DiscoveryError::Addresses)));
    }
    assert_eq!(folder.names(), Vec::<String>::new());
}

#[test]
fn a_change_ends_the_wait_and_is_told_once() {
    let folder = Folder::new("changes");
    let (mut one, mut two) = (folder.open(), folder.open());
    one.publish(OURS, &tcp(1), 0).unwrap();
    assert!(two.changed(Duration::from_secs(60)));
    let told = |discovery: &Discovery| {
        let fd = discovery.watched().unwrap();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
    };
    assert!(!told(&two));
    drop(one);
    assert!(told(&two));
    assert!(two.changed(Duration::ZERO));
    assert!(!told(&two));
}

#[test]
fn without_a_watch_a_look_is_due_after_a_while() {
    let folder = Folder::new("unwatched");
    let mut watch = Watch::new(&folder.0.join("absent"));
    assert!(watch.fd().is_none());
    assert!(watch.changed(Duration::from_secs(60)), "it waited for longer than `LOOK_AGAIN`");
}

#[test]
fn a_file_name_says_one_node_and_nothing_else_does() {
    let node = NodeId::new(0xab);
    assert_eq!(file_name(node), "00000000000000ab.toml");
    assert_eq!(node_of(&file_name(node)), Some(node));
    for name in ["ab.toml", "00000000000000AB.toml", "+0000000000000ab.toml", "00000000000000ab"] {
        assert_eq!(node_of(name), None, "{name}");
    }
}
