//! A real server of PostgreSQL, started by the test that uses it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use epicserver_coordinator::conformance::Lacks;
use epicserver_coordinator::conformance::proxy::Proxy;
use epicserver_coordinator::conformance::server::{Server, folder, free_address};
use tokio_postgres::error::SqlState;

/// A database of a server, which others may share.
#[derive(Clone)]
pub(crate) struct Database {
    of: Arc<Postgres>,
    name: String,
}

struct Postgres {
    server: Mutex<Server>,
    proxy: Proxy,
    databases: AtomicU32,
}

impl Database {
    /// The first database of a server of its own, which has also `settings`.
    pub(crate) fn start(settings: &[&str]) -> Result<Self, Lacks> {
        Self::start_with(settings, |_data| ())
    }

    /// The same, once `prepare` has seen to the files in the server's folder.
    pub(crate) fn start_with(
        settings: &[&str],
        prepare: impl FnOnce(&Path),
    ) -> Result<Self, Lacks> {
        let template = template()?;
        let folder = folder("postgres");
        let data = folder.join("data");
        run(Command::new("cp").arg("-a").arg(template).arg(&data));
        prepare(&data);
        give(&data);
        let address = free_address();
        let mut command = as_server(&binary("postgres")?);
        command.extend(["-D".to_owned(), data.display().to_string()]);
        let port = format!("port={}", address.port());
        // What a kill of the server loses without syncing is nothing: the machine does not crash.
        let all = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=16MB",
            &port,
        ];
        for setting in all.iter().chain(settings) {
            command.extend(["-c".to_owned(), (*setting).to_owned()]);
        }
        let server = Server::start(folder, address, &command);
        let postgres = Postgres {
            server: Mutex::new(server),
            proxy: Proxy::start(address),
            databases: AtomicU32::new(0),
        };
        Ok(Self { of: Arc::new(postgres), name: "postgres".to_owned() })
    }

    /// Another database of the same server.
    pub(crate) fn another(&self) -> Self {
        let name = format!("d{}", self.of.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name}"));
        Self { of: Arc::clone(&self.of), name }
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.of.proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.with_server(|server| server.address().port())
    }

    pub(crate) fn with_server<T>(&self, with: impl FnOnce(&mut Server) -> T) -> T {
        with(&mut self.of.server.lock().expect("nobody panics with it"))
    }

    /// How it is reached through the proxy.
    pub(crate) fn through_proxy(&self) -> String {
        let port = self.of.proxy.address().port();
        format!("host=127.0.0.1 port={port} user=postgres dbname={}", self.name)
    }

    /// How it is reached past the proxy.
    pub(crate) fn directly(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={}", self.port(), self.name)
    }

    /// Has `statements` carried out, past the proxy.
    pub(crate) fn execute(&self, statements: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.expect("there is a runtime").block_on(async {
            let client = self.connect().await;
            client.batch_execute(statements).await
        });
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// A connection past the proxy, once the server has started.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let to = self.directly();
        loop {
            match tokio_postgres::connect(&to, tokio_postgres::NoTls).await {
                Ok((client, connection)) => {
                    // It lasts as long as the client.
                    drop(tokio::spawn(connection));
                    return client;
                }
                Err(error) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {}
                Err(error) => panic!("{to}: {error:?}"),
            }
        }
    }
}

/// Keeps a transaction open, until it is dropped.
pub(crate) struct Holder {
    done: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Database {
    /// Has `statement` carried out in a transaction that stays open, and ends by `end_by`.
    pub(crate) fn hold(&self, statement: &'static str, end_by: &'static str) -> Holder {
        let of = self.clone();
        let (held, wait) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("there is a runtime").block_on(async {
                let client = of.connect().await;
                client.batch_execute("BEGIN").await.expect("it begins");
                client.query(statement, &[]).await.expect("it can be done");
                held.send(()).expect("somebody waits");
                // The end of the channel is what ends the transaction.
                let _end = end.recv();
                client.batch_execute(end_by).await.expect("it ends");
            });
        });
        wait.recv().expect("it holds");
        Holder { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // What it panicked of was shown.
            let _ended = thread.join();
        }
    }
}

/// A folder of data that nobody has used yet, made once for all tests of this process.
fn template() -> Result<PathBuf, Lacks> {
    // Its folder goes when the process ends, since the keeper's input ends then.
    static KEEPER: OnceLock<Result<Mutex<Server>, Lacks>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let initdb = binary("initdb")?;
        let keeper = Server::prepare(folder("initdb"), free_address(), &["true"]);
        give(keeper.folder());
        let mut command = as_server(&initdb);
        command.extend(
            ["-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--wal-segsize=1"]
                .map(str::to_owned),
        );
        command.push(keeper.folder().join("data").display().to_string());
        run(Command::new(&command[0]).args(&command[1..]));
        Ok(Mutex::new(keeper))
    });
    match keeper {
        Ok(keeper) => {
            let keeper = keeper.lock().expect("nobody panics with it");
            Ok(keeper.folder().join("data"))
        }
        Err(lacks) => Err(lacks.clone()),
    }
}

/// Gives `folder` to the user as whom the server runs.
fn give(folder: &Path) {
    let script = "if [ $(id -u) = 0 ]; then chown -R postgres \"$0\"; fi";
    run(Command::new("sh").args(["-c", script]).arg(folder));
}

/// The newest program called `name` that the machine has.
fn binary(name: &str) -> Result<String, Lacks> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let paths = versions.map_while(Result::ok).map(|version| version.path().join("bin").join(name));
    let mut found: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    found.sort();
    let found =
        found.pop().ok_or_else(|| Lacks("no PostgreSQL: apt-get install postgresql".to_owned()));
    Ok(found?.display().to_string())
}

/// How `program` is started: the server refuses to run as root.
fn as_server(program: &str) -> Vec<String> {
    let root = run(Command::new("id").arg("-u")).stdout == b"0\n";
    let user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
    let user = user.iter().filter(|_| root).map(|word| (*word).to_owned());
    user.chain([program.to_owned()]).collect()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}
