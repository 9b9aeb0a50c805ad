//! A server that a test starts, kills and starts again, with its data in a folder that goes with the test.
//!
//! # Not here
//! Which server.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is tried whether it does.
const AGAIN: Duration = Duration::from_millis(10);

/// Obeys words on its input: the server lives no longer than whoever writes them, however that ends. What interrupts a test
/// is sent to all that it has started, and the keeper has still to tidy up then. Processes that a killed server leaves behind
/// end soon, and may write until then.
const KEEPER: &str = r#"
trap '' INT TERM HUP
folder=$1; shift
while read -r word; do
    case $word in
        start) "$@" >>"$folder/log" 2>&1 </dev/null & server=$! ;;
        kill) kill -KILL $server; wait $server ;;
        freeze) kill -STOP $server ;;
        thaw) kill -CONT $server ;;
    esac 2>/dev/null
    echo done
done
kill -KILL $server 2>/dev/null
wait
for _ in 1 2 3 4 5; do
    rm -rf "$folder" && break
    sleep 1
done 2>/dev/null
"#;

/// A folder in the place for temporary ones that nobody else has. The keeper of a server removes it.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("epic-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => return path,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

/// A port of the loopback at which nobody listens right now.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound")
}

/// A server and its folder, until this is dropped.
#[derive(Debug)]
pub struct Server {
    keeper: Child,
    words: Option<ChildStdin>,
    done: Lines<BufReader<ChildStdout>>,
    folder: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Starts `command`, which is to listen at `address` and to keep its data in `folder`, and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub fn start<S: AsRef<OsStr>>(folder: PathBuf, address: SocketAddr, command: &[S]) -> Self {
        let mut server = Self::prepare(folder, address, command);
        server.listen();
        server
    }

    /// The same, but it is not started yet; its folder lasts as long as this does.
    ///
    /// # Panics
    /// If there is no shell.
    pub fn prepare<S: AsRef<OsStr>>(folder: PathBuf, address: SocketAddr, command: &[S]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", KEEPER, "keeper"]).arg(&folder).args(command);
        let mut keeper =
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("there is a shell");
        let words = keeper.stdin.take();
        let done = BufReader::new(keeper.stdout.take().expect("its output is piped")).lines();
        Self { keeper, words, done, folder, address }
    }

    /// Kills it, as the kernel would, with no chance to tidy up, and starts it again.
    ///
    /// # Panics
    /// If it does not come back.
    pub fn restart(&mut self) {
        self.kill();
        self.listen();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.say("kill");
    }

    /// Stops it from running, or lets it run again.
    pub fn freeze(&mut self, frozen: bool) {
        self.say(if frozen { "freeze" } else { "thaw" });
    }

    /// Where its data is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it until somebody listens. What a killed one has left behind may make the next one give up at once.
    fn listen(&mut self) {
        let began = Instant::now();
        let mut started: Option<Instant> = None;
        while TcpStream::connect(self.address).is_err() {
            if started.is_none_or(|started| started.elapsed() > Duration::from_secs(5)) {
                self.say("start");
                started = Some(Instant::now());
            }
            if began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("nobody listens at {}: {log}", self.address);
            }
            thread::park_timeout(AGAIN);
        }
    }

    fn say(&mut self, word: &str) {
        let words = self.words.as_mut().expect("they are open until this is dropped");
        writeln!(words, "{word}").expect("the keeper listens");
        let done = self.done.next().expect("the keeper answers");
        assert_eq!(done.expect("the keeper answers"), "done");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is what the keeper waits for.
        drop(self.words.take());
        let _ended = self.keeper.wait();
    }
}
