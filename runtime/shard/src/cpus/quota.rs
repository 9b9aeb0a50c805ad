//! CPU quota: how much CPU time the control groups above this process grant it.
//!
//! Both versions of control groups are understood, wherever they are mounted. The grant is the
//! smallest of those on the way from our group up to the mount.
//!
//! # Not here
//! Shares and weights: they matter only while others want the CPU. CPU sets: the kernel has
//! already taken them into account in `sched_getaffinity`.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use super::{CpusError, read};

/// The grant in whole CPUs, rounded down and at least one; none if there is no limit. Files are
/// looked up below `root`.
pub(super) fn detect(root: &Path) -> Result<Option<NonZeroUsize>, CpusError> {
    let Some(groups) = read(&root.join("proc/self/cgroup"))? else { return Ok(None) };
    let Some(mounts) = read(&root.join("proc/self/mountinfo"))? else { return Ok(None) };
    let mut least = None;
    for mount in mounts.lines().filter_map(Mount::parse) {
        let Some(group) = groups.lines().find_map(|line| mount.group_in(line)) else { continue };
        for folder in mount.folders(root, group) {
            if let Some(grant) = mount.version.grant(&folder)? {
                least = Some(least.map_or(grant, |least: NonZeroUsize| least.min(grant)));
            }
        }
    }
    Ok(least)
}

/// A mounted hierarchy that may limit CPU time.
struct Mount<'a> {
    version: Version,
    /// Which group of the hierarchy is seen at `point`.
    top: &'a str,
    point: &'a str,
}

impl<'a> Mount<'a> {
    /// `36 35 98:0 /top /point rw - cgroup cgroup rw,cpu`, with any number of fields before `-`.
    fn parse(line: &'a str) -> Option<Self> {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (top, point) = (head.next()?, head.next()?);
        let mut tail = tail.split(' ');
        let version = match tail.next()? {
            "cgroup2" => Version::Two,
            "cgroup" if tail.nth(1)?.split(',').any(|option| option == "cpu") => Version::One,
            _ => return None,
        };
        Some(Self { version, top, point })
    }

    /// Our group in this hierarchy, if this line of `/proc/self/cgroup` names it:
    /// `0::/group` or `4:cpu,cpuacct:/group`.
    fn group_in<'l>(&self, line: &'l str) -> Option<&'l str> {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match self.version {
            Version::One => controllers.split(',').any(|controller| controller == "cpu"),
            Version::Two => number == "0" && controllers.is_empty(),
        };
        ours.then_some(group)
    }

    /// The folders of `group` and of all groups above it that are to be seen here.
    fn folders(&self, root: &Path, group: &str) -> Vec<PathBuf> {
        let point = root.join(self.point.trim_start_matches('/'));
        // In a container the mount may begin at our own group, of which only the top is then seen.
        let below = Path::new(group).strip_prefix(self.top).unwrap_or_else(|_| Path::new(""));
        below.ancestors().map(|below| point.join(below)).collect()
    }
}

#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

impl Version {
    fn grant(self, folder: &Path) -> Result<Option<NonZeroUsize>, CpusError> {
        let (path, quota, period) = match self {
            Self::One => {
                let path = folder.join("cpu.cfs_quota_us");
                let period = read(&folder.join("cpu.cfs_period_us"))?;
                let (Some(quota), Some(period)) = (read(&path)?, period) else { return Ok(None) };
                (path, quota, period)
            }
            Self::Two => {
                let path = folder.join("cpu.max");
                let Some(text) = read(&path)? else { return Ok(None) };
                let (quota, period) = text.trim().split_once(' ').unwrap_or((&text, "100000"));
                (path, quota.to_owned(), period.to_owned())
            }
        };
        let (quota, period) = (quota.trim(), period.trim());
        if quota == "max" || quota == "-1" {
            return Ok(None);
        }
        let wrong = || CpusError::Parse { path: path.clone(), text: format!("{quota} {period}") };
        let quota: usize = quota.parse().map_err(|_| wrong())?;
        let cpus = quota.checked_div(period.parse().map_err(|_| wrong())?).ok_or_else(wrong)?;
        Ok(Some(NonZeroUsize::new(cpus).unwrap_or(NonZeroUsize::MIN)))
    }
}
