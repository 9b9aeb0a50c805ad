//! Memory for devices: what may be locked, and in which pages it lies.

use rustix::process::{Resource, getrlimit};

use super::{Area, Check, Finding};
use crate::config::Config;

pub(super) const AREA: Area = Area {
    name: "memory",
    needed_by: &[],
    checks: &[
        Check { name: "memlock", dispensable: true, look: memlock },
        Check { name: "huge pages", dispensable: true, look: huge_pages },
    ],
};

/// What RDMA wants to be able to lock: its arena and a long transfer.
const LOCKED_BYTES_MIN: u64 = 256 << 20;

fn memlock(_: &Config) -> Finding {
    match getrlimit(Resource::Memlock).current {
        None => Finding::Ok("no limit".to_owned()),
        Some(bytes) if bytes >= LOCKED_BYTES_MIN => Finding::Ok(format!("{} MiB", bytes >> 20)),
        Some(bytes) => {
            let what = format!(
                "{} KiB may be locked; RDMA wants {} MiB",
                bytes >> 10,
                LOCKED_BYTES_MIN >> 20
            );
            let mend = "`ulimit -l unlimited`; `* - memlock unlimited` in /etc/security/limits.d/rdma.conf; \
                        LimitMEMLOCK=infinity in a systemd unit";
            Finding::lacks(what, mend)
        }
    }
}

fn huge_pages(_: &Config) -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match free_huge_pages(&text) {
        Some(pages) if pages > 0 => Finding::Ok(format!("{pages} free")),
        Some(_) => Finding::lacks("none; small ones are used", "sysctl -w vm.nr_hugepages=64"),
        None => Finding::lacks("the kernel has none", "a kernel with CONFIG_HUGETLBFS"),
    }
}

fn free_huge_pages(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_huge_pages_are_read_from_what_the_kernel_shows() {
        assert_eq!(free_huge_pages("MemTotal: 5 kB\nHugePages_Free:       12\n"), Some(12));
        assert_eq!(free_huge_pages("MemTotal: 5 kB\n"), None);
    }
}
