//! A step of a Slurm job: its tasks are the nodes of a fabric, and each knows where the others are without
//! asking.
//!
//! Task number `i` of a host listens at the port base + `i` there. Slurm tells each task the hosts of the step,
//! how many tasks each has, and which of them it is itself. A task dials those that come before it, first by
//! the order of hosts and then by their numbers, so that the first of all, rank 0, is known to the others by
//! the address at which they dialled it.
//!
//! In: variables that `srun` sets   Out: the place of this task, whom it dials
//!
//! # Invariants
//! - **SL1** Tasks that are given the same step and base agree on every address, and of two of them one dials.
//! - **SL2** What Slurm says is taken as a whole or refused as a whole, and bounded by [`TASKS_MAX`].
//!
//! # Not here
//! Reading the environment. Resolving the names of hosts: that is `names`.

use std::ffi::OsString;
use std::time::Duration;

use super::hostlist::{ListError, hosts, numbers};
use super::names::Name;

/// Tasks that a step may have to be a fabric.
pub const TASKS_MAX: usize = 4096;
/// How long a task of this host may be found by the run directory, and so by shared memory, before it is
/// dialled by TCP.
pub const SAME_HOST: Duration = Duration::from_secs(2);

/// Why what Slurm says is not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlurmError {
    /// Slurm has not said it.
    #[error("under Slurm, {0} is not set; start the program by `srun`")]
    Missing(&'static str),
    /// Slurm has said what is no number.
    #[error("{name} is no number: `{}`", .value.escape_debug())]
    Number {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Slurm has said what is no list.
    #[error("{name} is no list that is understood: {why}")]
    List {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: ListError,
    },
    /// What Slurm has said does not fit together.
    #[error("what Slurm says of this step does not fit together: {0}")]
    Contradiction(String),
    /// The ports do not suffice.
    #[error("task {local} of a host has no port: `discovery.slurm_port` is {base}")]
    Port {
        /// The first port.
        base: u16,
        /// Which task it is.
        local: u32,
    },
}

/// The place of a task in its step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Each host, and how many tasks it has.
    hosts: Vec<(String, u32)>,
    /// The place of this task's host among them.
    host: usize,
    /// Which of the host's tasks this is.
    local: u32,
    rank: u32,
    run: u64,
    /// Whether rank 0 is the first task of the first host.
    ordered: bool,
    base: u16,
}

impl Step {
    /// Understands what `variable` says of the step, whose tasks take the ports from `base` on. `None` where
    /// this is no task of a step, or the only one.
    ///
    /// # Errors
    /// [`SlurmError`].
    pub fn read(
        variable: impl Fn(&str) -> Option<OsString>,
        base: u16,
    ) -> Result<Option<Self>, SlurmError> {
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        // A batch script has a rank, but is in no step.
        if text("SLURM_STEP_ID").is_none() || text("SLURM_PROCID").is_none() {
            return Ok(None);
        }
        let run = run_of(text)?;
        let either = |step: &'static str, job: &'static str| {
            let of_step = text(step).map(|value| (step, value));
            of_step.or_else(|| text(job).map(|value| (job, value))).ok_or(SlurmError::Missing(step))
        };
        let rank = number("SLURM_PROCID", text("SLURM_PROCID"))?;
        let local = number("SLURM_LOCALID", text("SLURM_LOCALID"))?;
        let (name, tasks) = either("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")?;
        let tasks = number(name, Some(tasks))?;
        if tasks < 2 {
            return Ok(None);
        }
        let (name, list) = either("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")?;
        let names = hosts(&list, TASKS_MAX).map_err(|why| SlurmError::List { name, why })?;
        let (name, list) = either("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")?;
        let counts = numbers(&list, TASKS_MAX).map_err(|why| SlurmError::List { name, why })?;
        let here = text("SLURMD_NODENAME").ok_or(SlurmError::Missing("SLURMD_NODENAME"))?;
        let host = names.iter().position(|name| *name == here);
        let sum: u64 = counts.iter().copied().map(u64::from).sum();
        let wrong = |what: String| Err(SlurmError::Contradiction(what));
        if counts.len() != names.len() {
            return wrong(format!("{} hosts, tasks of {}", names.len(), counts.len()));
        }
        if sum != u64::from(tasks) || tasks as usize > TASKS_MAX {
            return wrong(format!("{tasks} tasks, of at most {TASKS_MAX}, are {sum} on all hosts"));
        }
        let Some(host) = host.filter(|host| local < counts[*host]) else {
            return wrong(format!(
                "task {local} of host `{}` is none of them",
                here.escape_debug()
            ));
        };
        let ordered = text("SLURM_DISTRIBUTION").is_none_or(|how| !how.contains("arbitrary"));
        let hosts = names.into_iter().zip(counts).collect();
        let step = Self { hosts, host, local, rank, run, ordered, base };
        // Later code need not ask again.
        for (_, count) in &step.hosts {
            step.port_of(count.saturating_sub(1))?;
        }
        Ok(Some(step))
    }

    /// How many tasks the step has, this one among them.
    #[must_use]
    pub fn tasks(&self) -> u32 {
        self.hosts.iter().map(|(_, count)| count).sum()
    }

    /// Which of the tasks this is, counted from 0.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// A number that all tasks of the step have, and that is higher than that of any step before it.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Whether this is the task on whose account the others are there.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// The name by which other hosts know this one.
    #[must_use]
    pub fn host(&self) -> &str {
        self.hosts.get(self.host).map_or("", |(host, _)| host)
    }

    /// The port at which this task listens.
    ///
    /// # Errors
    /// [`SlurmError::Port`]; not for a step that was read.
    pub fn port(&self) -> Result<u16, SlurmError> {
        self.port_of(self.local)
    }

    /// Whether tasks of other hosts are in the step.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.hosts.len() > 1
    }

    /// The tasks that this one dials (**SL1**).
    #[must_use]
    pub fn dials(&self) -> Vec<Name> {
        let before = self.hosts.iter().enumerate().take(self.host + 1);
        let tasks = before.flat_map(|(at, (host, count))| {
            let last = if at == self.host { self.local } else { *count };
            (0..last).map(move |local| (at, host, local))
        });
        let name = |(at, host, local): (usize, &String, u32)| {
            let after = if at == self.host { SAME_HOST } else { Duration::ZERO };
            let leads = self.ordered && (at, local) == (0, 0);
            Some(Name { host: host.clone(), port: self.port_of(local).ok()?, after, leads })
        };
        tasks.filter_map(name).collect()
    }

    fn port_of(&self, local: u32) -> Result<u16, SlurmError> {
        let port = u16::try_from(local).ok().and_then(|local| self.base.checked_add(local));
        port.ok_or(SlurmError::Port { base: self.base, local })
    }
}

/// Jobs are counted, the starts of a job are, and the steps since its last start.
fn run_of(text: impl Fn(&str) -> Option<String>) -> Result<u64, SlurmError> {
    let bounded = |name: &'static str, value: Option<String>, bits: u32| {
        let value = number(name, value)?;
        let wrong = || SlurmError::Contradiction(format!("{name} is {value}, over {bits} bits"));
        if u64::from(value) >> bits == 0 { Ok(u64::from(value)) } else { Err(wrong()) }
    };
    let job = bounded("SLURM_JOB_ID", text("SLURM_JOB_ID"), 30)?;
    let starts = text("SLURM_RESTART_COUNT").or_else(|| Some("0".to_owned()));
    let starts = bounded("SLURM_RESTART_COUNT", starts, 12)?;
    let step = bounded("SLURM_STEP_ID", text("SLURM_STEP_ID"), 20)?;
    Ok(job << 32 | starts << 20 | step)
}

fn number(name: &'static str, value: Option<String>) -> Result<u32, SlurmError> {
    let value = value.ok_or(SlurmError::Missing(name))?;
    value.parse().map_err(|_| SlurmError::Number { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u16 = 7400;

    /// What `srun -N3 -n5` says to task `local` of `host`, with `changes`.
    fn says(
        host: &str,
        local: u32,
        rank: u32,
        changes: &[(&str, Option<&str>)],
    ) -> Vec<(String, String)> {
        let mut said = vec![
            ("SLURM_JOB_ID".to_owned(), "7".to_owned()),
            ("SLURM_JOB_NODELIST".to_owned(), "n[1-9]".to_owned()),
            ("SLURM_TASKS_PER_NODE".to_owned(), "8(x9)".to_owned()),
            ("SLURM_STEP_ID".to_owned(), "0".to_owned()),
            ("SLURM_STEP_NODELIST".to_owned(), "n[1-2,4]".to_owned()),
            ("SLURM_STEP_TASKS_PER_NODE".to_owned(), "2(x2),1".to_owned()),
            ("SLURM_STEP_NUM_TASKS".to_owned(), "5".to_owned()),
            ("SLURM_NTASKS".to_owned(), "72".to_owned()),
            ("SLURM_PROCID".to_owned(), rank.to_string()),
            ("SLURM_LOCALID".to_owned(), local.to_string()),
            ("SLURMD_NODENAME".to_owned(), host.to_owned()),
            ("SLURM_DISTRIBUTION".to_owned(), "cyclic,pack".to_owned()),
        ];
        for (name, value) in changes {
            said.retain(|(known, _)| known != name);
            said.extend(value.map(|value| ((*name).to_owned(), value.to_owned())));
        }
        said
    }

    fn read(said: &[(String, String)]) -> Result<Option<Step>, SlurmError> {
        let value =
            |name: &str| said.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        Step::read(|name| value(name).map(OsString::from), BASE)
    }

    fn step(host: &str, local: u32, rank: u32) -> Step {
        read(&says(host, local, rank, &[])).unwrap().unwrap()
    }

    fn refused(changes: &[(&str, Option<&str>)]) -> String {
        read(&says("n2", 1, 4, changes)).unwrap_err().to_string()
    }

    const ALL: [(&str, u32); 5] = [("n1", 0), ("n1", 1), ("n2", 0), ("n2", 1), ("n4", 0)];

    #[test]
    fn sl1_of_two_tasks_one_dials_the_other_where_it_listens() {
        let steps = ALL.map(|(host, local)| step(host, local, 9));
        for (at, one) in steps.iter().enumerate() {
            assert_eq!(one.tasks(), 5);
            let dials: Vec<(String, u16)> =
                one.dials().into_iter().map(|name| (name.host, name.port)).collect();
            let wanted: Vec<(String, u16)> = steps[..at]
                .iter()
                .map(|other| (other.host().to_owned(), other.port().unwrap()))
                .collect();
            assert_eq!(dials, wanted);
        }
        assert_eq!(steps.map(|step| step.port().unwrap()), [7400, 7401, 7400, 7401, 7400]);
    }

    #[test]
    fn the_first_task_leads_and_those_of_the_same_host_are_dialled_later() {
        let names = step("n2", 1, 4).dials();
        let leads: Vec<bool> = names.iter().map(|name| name.leads).collect();
        let after: Vec<Duration> = names.iter().map(|name| name.after).collect();
        assert_eq!(leads, [true, false, false]);
        assert_eq!(after, [Duration::ZERO, Duration::ZERO, SAME_HOST]);
        assert!(step("n1", 0, 0).leads() && !step("n2", 1, 4).leads());
        let chosen = [("SLURM_DISTRIBUTION", Some("arbitrary"))];
        let step = read(&says("n4", 0, 2, &chosen)).unwrap().unwrap();
        assert!(step.dials().iter().all(|name| !name.leads), "which has rank 0 nobody knows");
    }

    #[test]
    fn what_is_said_of_the_step_counts_and_else_what_is_said_of_the_job() {
        let no_step = [
            ("SLURM_STEP_NODELIST", None),
            ("SLURM_STEP_TASKS_PER_NODE", None),
            ("SLURM_STEP_NUM_TASKS", None),
        ];
        let step = read(&says("n9", 7, 71, &no_step)).unwrap().unwrap();
        assert_eq!((step.tasks(), step.port().unwrap()), (72, 7407));
        assert_eq!(step.dials().len(), 71);
        assert!(step.is_wide());
    }

    #[test]
    fn later_jobs_starts_and_steps_have_higher_runs() {
        let run = |job: &str, starts: Option<&str>, step: &str| {
            let changes = [
                ("SLURM_JOB_ID", Some(job)),
                ("SLURM_RESTART_COUNT", starts),
                ("SLURM_STEP_ID", Some(step)),
            ];
            read(&says("n2", 1, 4, &changes)).unwrap().unwrap().run()
        };
        let runs = [
            run("7", None, "0"),
            run("7", None, "9"),
            run("7", Some("1"), "0"),
            run("8", None, "0"),
        ];
        assert!(runs.is_sorted_by(|earlier, later| earlier < later), "{runs:?}");
        assert!(refused(&[("SLURM_STEP_ID", Some("4294967291"))]).contains("SLURM_STEP_ID"));
    }

    #[test]
    fn outside_of_a_step_of_several_tasks_there_is_no_place() {
        for change in
            [("SLURM_STEP_ID", None), ("SLURM_PROCID", None), ("SLURM_STEP_NUM_TASKS", Some("1"))]
        {
            assert_eq!(read(&says("n1", 0, 0, &[change])), Ok(None));
        }
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn sl2_what_does_not_fit_together_is_refused_by_name() {
        assert!(refused(&[("SLURM_LOCALID", None)]).contains("SLURM_LOCALID is not set"));
        assert!(refused(&[("SLURMD_NODENAME", None)]).contains("SLURMD_NODENAME is not set"));
        assert_eq!(refused(&[("SLURM_PROCID", Some("-1"))]), "SLURM_PROCID is no number: `-1`");
        let list = refused(&[("SLURM_STEP_NODELIST", Some("n[1-2"))]);
        assert_eq!(
            list,
            "SLURM_STEP_NODELIST is no list that is understood: `n[1-2` has a bracket left open"
        );
        assert!(refused(&[("SLURM_STEP_TASKS_PER_NODE", Some("2(3)"))]).contains("TASKS_PER_NODE"));
        assert!(refused(&[("SLURM_STEP_NODELIST", Some("n[1-9999]"))]).contains("more than 4096"));
        for change in [
            ("SLURM_STEP_NODELIST", Some("n[1-2]")),
            ("SLURM_STEP_NUM_TASKS", Some("6")),
            ("SLURM_LOCALID", Some("2")),
            ("SLURMD_NODENAME", Some("n3")),
        ] {
            assert!(refused(&[change]).contains("does not fit together"), "{change:?}");
        }
    }

    #[test]
    fn sl2_more_tasks_than_a_fabric_has_or_than_there_are_ports_are_refused() {
        let many = |count: &str| {
            let list = format!("{count},2,1");
            let sum = (count.parse::<u64>().unwrap() + 3).to_string();
            let changes = [
                ("SLURM_STEP_TASKS_PER_NODE", Some(list.as_str())),
                ("SLURM_STEP_NUM_TASKS", Some(sum.as_str())),
            ];
            let said = says("n1", 0, 0, &changes);
            let value = |name: &str| said.iter().find(|(known, _)| known == name);
            let value = |name: &str| value(name).map(|(_, value)| OsString::from(value));
            Step::read(value, 65_000)
                .map(|step| step.unwrap().tasks())
                .map_err(|error| error.to_string())
        };
        assert_eq!(many("536"), Ok(539));
        assert!(many("537").unwrap_err().contains("task 536 of a host has no port"));
        assert!(many("4094").unwrap_err().contains("at most 4096"));
        assert!(many("4294967000").unwrap_err().contains("does not fit together"));
    }
}
