//! The kernel that machines boot: Debian's own package, unpacked beside the build and never installed, and the initramfs
//! that gives it the host's files.
//!
//! # Invariants
//! - What is in the cache is whole: each part is made beside its place and moved there at the end.
//!
//! # Not here
//! Modules that a test needs: in the machine, `modprobe` finds all of the package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::report::say;
use crate::{Error, Result, Tried};

/// The package whose one dependency is the kernel.
const PACKAGE: &str = "linux-image-amd64";

/// What a machine starts with; one that has changed is built anew.
const INIT: &str = include_str!("init.sh");

/// What the initramfs needs to reach the host's files.
const MODULES: &[&str] = &["virtio_pci", "9p", "9pnet_virtio", "overlay"];

/// Folders of the initramfs.
const FOLDERS: &[&str] =
    &["bin", "sbin", "usr/bin", "usr/sbin", "proc", "lower", "upper", "host", "modules"];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// The folder that a machine sees as `/lib/modules`.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The kernel in `cache`; fetched on first use, which takes 70 MB from Debian and some 15 s.
    pub(crate) fn get(cache: &Path) -> Result<Self> {
        let place = cache.join("kernel");
        if !place.join("boot").is_dir() {
            let fresh = cache.join("kernel.part");
            if fresh.exists() {
                fs::remove_dir_all(&fresh).tried("remove", &fresh)?;
            }
            fs::create_dir_all(&fresh).tried("make", &fresh)?;
            fetch(&fresh)?;
            if place.exists() {
                fs::remove_dir_all(&place).tried("remove", &place)?;
            }
            fs::rename(&fresh, &place).tried("move", &fresh)?;
        }
        let init = fs::read_to_string(place.join("files/init")).unwrap_or_default();
        if init != INIT || !place.join("initramfs").is_file() {
            build_initramfs(&place)?;
        }
        let image = only_entry(&place.join("boot"), "vmlinuz-")?;
        Ok(Self { image, initramfs: place.join("initramfs"), modules: modules(&place)? })
    }
}

fn fetch(place: &Path) -> Result<()> {
    let depends = output(place, "apt-cache", &["depends", PACKAGE])?;
    let package =
        depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = package.ok_or_else(|| {
        let what = format!(
            "apt-cache knows no {PACKAGE}: this needs Debian for amd64, and apt-get update"
        );
        Error::Lacks(what)
    })?;
    let package = format!("linux-image-{package}");
    say(&format!("fetching {package}"));
    output(place, "apt-get", &["download", "-qq", &package])?;
    let archive = only_entry(place, "linux-image-")?;
    let archive_name = archive.to_string_lossy();
    output(place, "dpkg", &["-x", &archive_name, "."])?;
    fs::remove_file(&archive).tried("remove", &archive)?;
    let base = modules(place)?;
    let version = version(&base)?;
    // `depmod` looks for lib/modules below what it is given.
    let above = base.ancestors().nth(2).unwrap_or(place).to_string_lossy().into_owned();
    output(place, "depmod", &["-b", &above, &version]).map(drop)
}

/// Newer packages keep modules below `usr`.
fn modules(place: &Path) -> Result<PathBuf> {
    let places = ["lib/modules", "usr/lib/modules"].map(|folder| place.join(folder));
    let found = places.into_iter().find(|folder| folder.is_dir());
    found.ok_or_else(|| Error::Wrong(format!("no modules below {}", place.display())))
}

fn version(modules: &Path) -> Result<String> {
    let folder = only_entry(modules, "")?;
    Ok(folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn build_initramfs(place: &Path) -> Result<()> {
    let files = place.join("files");
    for folder in FOLDERS {
        let folder = files.join(folder);
        fs::create_dir_all(&folder).tried("make", &folder)?;
    }
    let busybox = files.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).tried("copy /bin/busybox to", &busybox)?;
    let init = files.join("init");
    fs::write(&init, INIT).tried("write", &init)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).tried("mark", &init)?;
    let mut order = String::new();
    for path in load_order(place)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = copy_module(&path, &files.join("modules"), &name)?;
        if !order.lines().any(|line| line == name) {
            order.push_str(&name);
            order.push('\n');
        }
    }
    let list = files.join("modules/order");
    fs::write(&list, order).tried("write", &list)?;
    let pack = "cd files && find . | cpio --quiet -o -H newc >../initramfs.part && mv ../initramfs.part ../initramfs";
    output(place, "sh", &["-ec", pack]).map(drop)
}

fn load_order(place: &Path) -> Result<Vec<PathBuf>> {
    let base = modules(place)?;
    let version = version(&base)?;
    let above = base.ancestors().nth(2).unwrap_or(place).to_string_lossy().into_owned();
    let mut order = Vec::new();
    for module in MODULES {
        let shown = ["-d", &above, "-S", &version, "--show-depends", module];
        let lines = output(place, "modprobe", &shown)?;
        let paths = lines.lines().filter_map(|line| line.strip_prefix("insmod "));
        order.extend(paths.map(|path| PathBuf::from(path.trim())));
    }
    Ok(order)
}

/// Some packages compress modules, which `insmod` of busybox does not take.
fn copy_module(path: &Path, to: &Path, name: &str) -> Result<String> {
    let Some(plain) = name.strip_suffix(".xz") else {
        fs::copy(path, to.join(name)).tried("copy", path)?;
        return Ok(name.to_owned());
    };
    let script = format!("xz -dc '{}' >'{}'", path.display(), to.join(plain).display());
    output(to, "sh", &["-ec", &script])?;
    Ok(plain.to_owned())
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).tried("read", folder)?;
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(named);
    let lacks = || Error::Wrong(format!("{} holds no {prefix}*", folder.display()));
    found.next().ok_or_else(lacks)
}

/// The standard output of a program of the host.
fn output(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("PATH", path);
    let ran = command.output().tried("run", Path::new(program))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        return Err(Error::Wrong(format!("{program} {}: {said}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}
