//! One QEMU process: a kernel, its agent behind the second serial port, and the end that it comes to with us.
//!
//! # Invariants
//! - QEMU dies when the thread that started it does, and when its `Vm` is dropped.
//! - Each job is told its status at most once; when QEMU ends, who waits learns that nothing will come.
//!
//! # Not here
//! What the agent does with a line: `agent.sh`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::job::{Ender, Job, gone};
use crate::kernel::Kernel;
use crate::lab::Shape;
use crate::{Error, Result, Tried};

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    Kvm,
    Tcg,
}

/// Which end of the wire a machine has.
#[derive(Debug, Clone, Default)]
pub(crate) enum Plug {
    #[default]
    None,
    Listens(PathBuf),
    Connects(PathBuf),
}

/// A machine's network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    pub(crate) plug: Plug,
    /// Where the end that listens writes down what goes over it.
    pub(crate) recording: Option<PathBuf>,
}

/// What of a machine its jobs need too.
#[derive(Debug)]
struct Port {
    to_agent: Mutex<ChildStdin>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    gone: bool,
    jobs: BTreeMap<u64, Sender<i32>>,
}

#[derive(Debug)]
pub(crate) struct Vm {
    name: &'static str,
    folder: PathBuf,
    began: Instant,
    qemu: Child,
    port: Arc<Port>,
    ready: Receiver<()>,
    next: Mutex<u64>,
}

impl Vm {
    pub(crate) fn start(
        shape: &Shape,
        folder: &Path,
        kernel: &Kernel,
        accel: Accel,
        wire: &Wire,
    ) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).tried("empty", folder)?;
        }
        let jobs = folder.join("jobs");
        fs::create_dir_all(&jobs).tried("make", &jobs)?;
        let agent = folder.join("agent.sh");
        fs::write(&agent, include_str!("agent.sh")).tried("write", &agent)?;
        let log = folder.join("qemu.log");
        let log = File::create(&log).tried("make", &log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        command.args(arguments(shape, folder, kernel, accel));
        command.args(network(wire));
        // A group of its own, so that an interrupt from the terminal reaches us first.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut qemu = command.spawn().tried("run", Path::new("setpriv qemu-system-x86_64"))?;
        let (Some(stdin), Some(stdout)) = (qemu.stdin.take(), qemu.stdout.take()) else {
            return Err(Error::Wrong("QEMU has no pipes".to_owned()));
        };
        let waiting = Mutex::default();
        let port = Arc::new(Port { to_agent: Mutex::new(stdin), waiting });
        let (up, ready) = channel();
        let reader = port.clone();
        std::thread::spawn(move || read_agent(stdout, &reader, &up));
        let began = Instant::now();
        let folder = folder.to_owned();
        Ok(Self { name: shape.name, folder, began, qemu, port, ready, next: Mutex::new(0) })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until its agent listens.
    pub(crate) fn await_ready(&self, limit: Duration) -> Result<()> {
        self.ready.recv_timeout(limit).map_err(|why| match why {
            RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected => self.gone(),
        })
    }

    pub(crate) fn start_job(&self, script: &str) -> Result<Job> {
        let number = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        let stem = self.folder.join("jobs").join(number.to_string());
        let file = stem.with_extension("sh");
        fs::write(&file, script).tried("write", &file)?;
        let (told, ended) = channel();
        if !self.port.expect(number, told) || !self.port.tell(&format!("run {number}\n")) {
            return Err(self.gone());
        }
        let port = self.port.clone();
        // An answer that finds nobody home is as good: the machine and its jobs are gone then.
        let ender = Ender(Box::new(move || {
            port.tell(&format!("kill {number}\n"));
        }));
        let (machine, script) = (self.name.to_owned(), script.to_owned());
        Ok(Job { machine, script, stem, ended, console: self.console(), ender })
    }

    fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    fn gone(&self) -> Error {
        gone(self.name, &self.console())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended already; what counts is that it is waited for.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

impl Port {
    fn tell(&self, line: &str) -> bool {
        let mut pipe = self.to_agent.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()).is_ok()
    }

    fn expect(&self, job: u64, told: Sender<i32>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.gone {
            waiting.jobs.insert(job, told);
        }
        !waiting.gone
    }

    fn on_done(&self, job: u64, status: i32) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = waiting.jobs.remove(&job) {
            // Who dropped the job does not want to know.
            let _ = told.send(status);
        }
    }

    fn on_gone(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.gone = true;
        waiting.jobs.clear();
    }
}

/// Reads what the agent says until QEMU ends.
fn read_agent(stdout: ChildStdout, port: &Port, up: &Sender<()>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let mut words = line.split_whitespace();
        match words.next() {
            Some("ready") => {
                let _ = up.send(());
            }
            Some("done") => {
                let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
                if let (Some(job), Some(status)) = (number(), number()) {
                    port.on_done(job, i32::try_from(status).unwrap_or(i32::MAX));
                }
            }
            _ => {}
        }
    }
    port.on_gone();
}

fn arguments(shape: &Shape, folder: &Path, kernel: &Kernel, accel: Accel) -> Vec<String> {
    let accelerated = match accel {
        Accel::Kvm => "kvm".to_owned(),
        Accel::Tcg if shape.cpus == 1 => "tcg,thread=single".to_owned(),
        Accel::Tcg => "tcg,thread=multi".to_owned(),
    };
    // Emulation moves strings byte by byte, so whoever copies or clears memory is told that this is slow.
    let cpu = match accel {
        Accel::Kvm => "max",
        Accel::Tcg => "max,-erms,-fsrm",
    };
    let (work, modules) = (folder.display(), kernel.modules.display());
    // Under emulation all CPUs of a machine count the same time, but the kernel does not trust that, and would ask a device.
    let kernel_line = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable lab.work={work} lab.modules={modules}"
    );
    let share = |id: &str, path: &str, more: &str| {
        format!("local,id={id},path={path},security_model=none,multidevs=remap{more}")
    };
    let fixed = "-nodefaults -no-user-config -display none -monitor none -no-reboot";
    let mut all: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    let mut give = |name: &str, value: String| all.extend([name.to_owned(), value]);
    give("-name", shape.name.to_owned());
    give("-accel", accelerated);
    give("-cpu", cpu.to_owned());
    give("-smp", shape.cpus.to_string());
    give("-m", shape.memory_mib.to_string());
    give("-kernel", kernel.image.display().to_string());
    give("-initrd", kernel.initramfs.display().to_string());
    give("-append", kernel_line);
    give("-serial", format!("file:{work}/console.log"));
    give("-chardev", "stdio,id=agent,signal=off".to_owned());
    give("-serial", "chardev:agent".to_owned());
    give("-fsdev", share("host", "/", ",readonly=on"));
    give("-device", "virtio-9p-pci,fsdev=host,mount_tag=host".to_owned());
    give("-fsdev", share("work", &work.to_string(), ""));
    give("-device", "virtio-9p-pci,fsdev=work,mount_tag=work".to_owned());
    give("-object", "rng-random,id=random,filename=/dev/urandom".to_owned());
    give("-device", "virtio-rng-pci,rng=random".to_owned());
    all
}

fn network(wire: &Wire) -> Vec<String> {
    let (path, server, last) = match &wire.plug {
        Plug::None => return Vec::new(),
        Plug::Listens(path) => (path, "on", 1),
        Plug::Connects(path) => (path, "off", 2),
    };
    let backend =
        format!("stream,id=wire,server={server},addr.type=unix,addr.path={}", path.display());
    let card =
        format!("virtio-net-pci,netdev=wire,host_mtu=4200,romfile=,mac=52:54:00:00:00:0{last}");
    let mut all = ["-netdev", &backend, "-device", &card].map(str::to_owned).to_vec();
    if let (Plug::Listens(_), Some(recording)) = (&wire.plug, &wire.recording) {
        let dump = format!("filter-dump,id=recording,netdev=wire,file={}", recording.display());
        all.extend(["-object".to_owned(), dump]);
    }
    all
}
