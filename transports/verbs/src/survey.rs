//! What this machine has for verbs, step by step, for whoever sets it up.
//!
//! Nothing here lasts: what is opened or registered is given back at once.
//!
//! # Not here
//! The command that mends what is missing: the façade knows whom it talks to.

use std::io;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;

use crate::choose::{self, Choice};
use crate::device::Context;
use crate::engine::Engine;
use crate::ffi::library::Library;
use crate::link::told;
use crate::{Config, SYS};

/// Where the kernel puts what programs open devices by.
const NODES: &str = "/dev/infiniband";

/// Whether the kernel has the module by which programs reach devices.
#[must_use]
pub fn has_module() -> bool {
    Path::new(SYS).join("class/infiniband_verbs").is_dir()
}

/// The names of all devices that the kernel knows, whether they can be used or not.
///
/// # Errors
/// If the kernel's list cannot be read.
pub fn devices() -> io::Result<Vec<String>> {
    match std::fs::read_dir(Path::new(SYS).join("class/infiniband")) {
        Ok(entries) => {
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<io::Result<Vec<String>>>()?;
            names.sort_unstable();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What this process may not open of what it would have to; nothing if all is well.
#[must_use]
pub fn forbidden() -> Vec<String> {
    let entries = std::fs::read_dir(NODES).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("uverbs"));
    let closed = ours.filter(|entry| {
        let opened = std::fs::File::options().read(true).write(true).open(entry.path());
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    });
    closed.map(|entry| entry.path().display().to_string()).collect()
}

/// Loads libibverbs.
///
/// # Errors
/// What the loader says.
pub fn library() -> Result<(), String> {
    load().map(drop)
}

fn load() -> Result<Arc<Library>, String> {
    Library::load().map_err(|error| error.to_string())
}

/// A port that was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Chosen {
    /// The device.
    pub device: String,
    /// Its port.
    pub port: u8,
    /// The index of its GID.
    pub gid_index: u8,
    /// That GID, as an address.
    pub gid: String,
    /// The bytes of one packet.
    pub mtu: u32,
    /// The NUMA node that the device is at, if it is at one.
    pub numa: Option<u32>,
}

/// Which port `config` chooses.
///
/// # Errors
/// What is wrong, with what there is.
pub fn chosen(config: &Config) -> Result<Chosen, String> {
    let Choice { device, local, numa } = choice(&load()?, config)?;
    let gid = Ipv6Addr::from(local.gid).to_canonical().to_string();
    let mtu = 128 << local.mtu;
    Ok(Chosen { device, port: local.port, gid_index: local.gid_index, gid, mtu, numa })
}

fn choice(library: &Arc<Library>, config: &Config) -> Result<Choice, String> {
    let sys = Path::new(SYS);
    let candidates = choose::look(library, sys).map_err(|error| told(&error))?;
    let mut choice = choose::choose(&candidates, config)?;
    choice.numa = choose::numa_of(sys, &choice.device);
    Ok(choice)
}

/// How many links the chosen device carries, all that one needs having been made of it once: queues, a queue pair, and
/// memory that it may fill.
///
/// # Errors
/// Which call the device refused.
pub fn usable(config: &Config) -> Result<usize, String> {
    let library = load()?;
    let choice = choice(&library, config)?;
    let context = Context::open(&library, &choice.device).map_err(|error| told(&error))?;
    let shape = (config.slot_bytes, config.window);
    let mut engine = Engine::start(&context, &choice, shape).map_err(|error| told(&error))?;
    let pair = engine.pair().map_err(|error| told(&error))?;
    engine.forget(pair);
    Ok(engine.links_max)
}
