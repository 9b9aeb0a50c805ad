//! A lab: the folder of one area, and the machines that are booted for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::report::say;
use crate::vm::{Accel, Plug, Vm, Wire};
use crate::{Error, Result, Tried};

/// A boot takes 6-10 s here under emulation, twice that beside another.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// A guest that KVM can run is up within two.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// The file of a recording.
const RECORDING: &str = "wire.pcap";

/// The one way in which all machines of a lab are alike and yet differ.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Its host name, and the name of its folder.
    pub name: &'static str,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
}

/// Where machines of one area are booted. At most one lab of an area runs at a time.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    kernel: Kernel,
    accel: Accel,
    records: bool,
    _lock: File,
}

impl Lab {
    /// The lab of `area`; fetches the kernel on first use. Its folder is emptied.
    ///
    /// # Errors
    /// When the host lacks something, with the command that brings it; when another run of the area is under way.
    pub fn open(area: &str) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::Lacks(
                "machines are booted on x86-64 alone: use --native".to_owned(),
            ));
        }
        let cache = base()?;
        fs::create_dir_all(&cache).tried("make", &cache)?;
        let lock = lock(&cache.join(format!("{area}.lock")))?;
        let kernel = {
            let _guard = wait_for_lock(&cache.join("kernel.lock"))?;
            Kernel::get(&cache)?
        };
        let folder = cache.join(area);
        if folder.exists() {
            fs::remove_dir_all(&folder).tried("empty", &folder)?;
        }
        fs::create_dir_all(&folder).tried("make", &folder)?;
        let accel = accel(&cache, &folder, &kernel)?;
        Ok(Self { folder, kernel, accel, records: false, _lock: lock })
    }

    /// A machine without a wire.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(&self, shape: &Shape) -> Result<Machine> {
        let vm = self.start(shape, Plug::None)?;
        ready(vm)
    }

    /// Two machines on one wire, each with it as `eth0` (MTU up to 4,200) and no address.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn boot_pair(&self, first: &Shape, second: &Shape) -> Result<(Machine, Machine)> {
        // QEMU's first end has to listen before the second one connects.
        let wire = self.folder.join("wire");
        if wire.exists() {
            fs::remove_file(&wire).tried("remove", &wire)?;
        }
        let first = self.start(first, Plug::Listens(wire.clone()))?;
        await_path(&wire)?;
        let second = self.start(second, Plug::Connects(wire))?;
        Ok((ready(first)?, ready(second)?))
    }

    /// Has all that goes over wires of later pairs written down, for [`recording`](Self::recording).
    pub fn record(&mut self) {
        self.records = true;
    }

    /// What has gone over the wire of the last pair so far, if it is [written down](Self::record): frames in the form of
    /// libpcap.
    ///
    /// # Errors
    /// When there is no recording.
    pub fn recording(&self) -> Result<Vec<u8>> {
        let path = self.folder.join(RECORDING);
        fs::read(&path).tried("read", &path)
    }

    /// A machine in the place of the second one of a pair, after that one was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot_second(&self, shape: &Shape) -> Result<Machine> {
        ready(self.start(shape, Plug::Connects(self.folder.join("wire")))?)
    }

    fn start(&self, shape: &Shape, plug: Plug) -> Result<Vm> {
        let recording = self.records.then(|| self.folder.join(RECORDING));
        let wire = Wire { plug, recording };
        Vm::start(shape, &self.folder.join(shape.name), &self.kernel, self.accel, &wire)
    }
}

/// The folder for all that `hw-tests` keep, which `hw-tests/run` names.
pub(crate) fn base() -> Result<PathBuf> {
    let named = std::env::var_os("EPIC_LAB_DIR").map(PathBuf::from);
    let named = named.filter(|path| path.is_absolute() && !path.to_string_lossy().contains(' '));
    let lacks = || {
        let what = "EPIC_LAB_DIR names no absolute path without spaces: start this by hw-tests/run";
        Error::Lacks(what.to_owned())
    };
    named.ok_or_else(lacks)
}

fn ready(vm: Vm) -> Result<Machine> {
    vm.await_ready(BOOT_LIMIT)?;
    say(&format!("machine {} is up after {:.1} s", vm.name(), vm.age().as_secs_f32()));
    Ok(Machine::of_vm(vm))
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).tried("make", path)?;
    let busy = |_| Error::Lacks(format!("another run holds {}", path.display()));
    file.try_lock().map_err(busy)?;
    Ok(file)
}

fn wait_for_lock(path: &Path) -> Result<File> {
    let file = File::create(path).tried("make", path)?;
    file.lock().tried("lock", path)?;
    Ok(file)
}

fn await_path(path: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        if Instant::now() > until {
            return Err(Error::Wrong(format!("QEMU did not make {}", path.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// KVM where a guest was seen to come up with it since this host booted, else emulation. `EPIC_LAB_ACCEL` settles it.
fn accel(cache: &Path, folder: &Path, kernel: &Kernel) -> Result<Accel> {
    match std::env::var("EPIC_LAB_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => {
            return Err(Error::Lacks(format!("EPIC_LAB_ACCEL is kvm or tcg, not {other}")));
        }
        Err(_) => {}
    }
    let device = File::options().read(true).write(true).open("/dev/kvm");
    if device.is_err() {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let note = cache.join("accel");
    let known = fs::read_to_string(&note).unwrap_or_default();
    if let Some(word) = known.strip_prefix(&boot) {
        return Ok(if word == "kvm" { Accel::Kvm } else { Accel::Tcg });
    }
    let shape = Shape { name: "probe", cpus: 1, memory_mib: 512 };
    let vm = Vm::start(&shape, &folder.join(shape.name), kernel, Accel::Kvm, &Wire::default())?;
    let works = vm.await_ready(PROBE_LIMIT).is_ok();
    say(if works { "KVM works here" } else { "KVM does not boot a guest here: emulation" });
    fs::write(&note, format!("{boot}{}", if works { "kvm" } else { "tcg" }))
        .tried("write", &note)?;
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}
