//! The machine that figures belong to, as far as Linux tells without privileges.
//!
//! # Not here
//! How fast it is: `calibrate`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use core_affinity::CoreId;

/// What a reader of the figures must know of where they come from.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    model: String,
    kernel: String,
    hypervisor: String,
    governor: String,
    load: String,
    /// CPUs that this process may run on, the first of each physical core before the others.
    cpus: Vec<CoreId>,
    cores: usize,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        let virtual_machine = flags.split(' ').any(|flag| flag == "hypervisor");
        let product = first_line("/sys/class/dmi/id/product_name");
        let hypervisor = match (virtual_machine, product) {
            (false, _) => "none".to_owned(),
            (true, Some(product)) => format!("yes ({product})"),
            (true, None) => "yes".to_owned(),
        };
        let (cpus, cores) = cpus_by_core();
        Self {
            model: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: first_line("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            hypervisor,
            governor: first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .unwrap_or_else(|| "none".to_owned()),
            load: first_line("/proc/loadavg").unwrap_or_else(unknown),
            cpus,
            cores,
        }
    }

    /// The two CPUs that cases are measured on.
    pub(crate) fn cpus(&self) -> [CoreId; 2] {
        // CPU 0 gets most interrupts, so what runs on one CPU alone runs on another one.
        match *self.cpus.as_slice() {
            [] => [CoreId { id: 0 }; 2],
            [only] => [only; 2],
            [first, second, ..] => [second, first],
        }
    }

    /// Whether so many threads can run at the same time.
    pub(crate) fn has_cpus(&self, count: usize) -> bool {
        self.cpus.len() >= count
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// CPUs in order of id but hyper-threads of a core that was named before last; and how many cores.
fn cpus_by_core() -> (Vec<CoreId>, usize) {
    let mut seen = BTreeSet::new();
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    for cpu in core_affinity::get_core_ids().unwrap_or_default() {
        let siblings =
            format!("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu.id);
        let core = first_line(&siblings).unwrap_or_else(|| cpu.id.to_string());
        if seen.insert(core) { &mut firsts } else { &mut others }.push(cpu);
    }
    let cores = firsts.len();
    firsts.append(&mut others);
    (firsts, cores)
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.cpus();
        writeln!(f, "machine")?;
        writeln!(f, "  CPU         {}", self.model)?;
        writeln!(f, "  cores       {} ({} CPUs to run on)", self.cores, self.cpus.len())?;
        writeln!(f, "  kernel      {}", self.kernel)?;
        writeln!(f, "  hypervisor  {}", self.hypervisor)?;
        writeln!(f, "  governor    {}", self.governor)?;
        writeln!(f, "  load        {}", self.load)?;
        writeln!(f, "  measured on CPU {}, and {} beside it", first.id, second.id)
    }
}
