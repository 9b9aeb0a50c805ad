//! Cases: one thing that is measured, and the floors that it is measured beside.
//!
//! In:  a `Case` from a suite   Out: its `Verdict`
//!
//! To add a case, put a `Case` into its suite's list. `ours` and each floor are a `Subject`: a
//! closure that is called once a round, on a fresh thread that is pinned to `Round::cpus[0]`, sets
//! itself up, warms up and measures (both by `Round::laps`), and tears itself down (B3).
//!
//! # Not here
//! How time is taken (`laps`), how a verdict is written (`report`).

use std::error::Error;
use std::fmt;
use std::time::Duration;

use core_affinity::CoreId;
use hdrhistogram::Histogram;

use crate::laps::Laps;
use crate::machine::Machine;

/// Why something could not be measured; ends the run.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Why a subject cannot be measured on this machine, although nothing is wrong with it. It is left
/// out aloud, and the others of its case are measured.
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skipped {}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        warm_up: Duration::from_millis(100),
        measured: Duration::from_millis(400),
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        warm_up: Duration::from_millis(30),
        measured: Duration::from_millis(120),
    };
}

/// Which direction of a figure is the good one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Better {
    /// Times and bytes.
    Lower,
    /// `*_rate` and `*_bw`.
    Higher,
}

/// One measurement of one subject.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// In the unit of the case.
    pub(crate) value: f64,
    /// Nanoseconds of single operations, where one was long enough to be timed alone.
    pub(crate) latencies: Option<Histogram<u64>>,
}

impl Sample {
    /// The bandwidth of a rate of messages of `bytes` each, in MiB a second.
    pub(crate) fn mib_a_second(self, bytes: usize) -> Self {
        let value = self.value * bytes as f64 / f64::from(1 << 20);
        Self { value, ..self }
    }
}

impl From<f64> for Sample {
    fn from(value: f64) -> Self {
        Self { value, latencies: None }
    }
}

/// What a subject is told of the round it is measured in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) effort: Effort,
    /// Two CPUs, not hyper-threads of one core where that can be had; the subject's own thread is
    /// pinned to the first. One and the same twice on a machine with a single CPU.
    pub(crate) cpus: [CoreId; 2],
}

impl Round {
    /// A stop-watch for this round's warm-up and measured time.
    pub(crate) fn laps(&self) -> Laps {
        Laps::new(self.effort)
    }
}

/// Measures itself for one round.
pub(crate) type Subject = Box<dyn FnMut(&Round) -> Result<Sample, Failure> + Send>;

/// One thing that is measured.
pub(crate) struct Case {
    pub(crate) suite: &'static str,
    pub(crate) case: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// How many CPUs it takes; on a machine with fewer it is skipped aloud.
    pub(crate) cpus: usize,
    /// `None` while there is nothing of ours to measure: the floors are reported alone.
    pub(crate) ours: Option<Subject>,
    pub(crate) floors: Vec<(&'static str, Subject)>,
}

/// A subject's figures over all rounds.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// One a round, in order of the rounds.
    pub(crate) values: Vec<f64>,
    pub(crate) median: f64,
    /// `(max - min) / median` over the rounds.
    pub(crate) spread: f64,
    pub(crate) latencies: Option<Histogram<u64>>,
}

impl Figure {
    fn of(samples: Vec<Sample>) -> Option<Self> {
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        let median = median(values.clone())?;
        let latencies =
            samples.into_iter().filter_map(|sample| sample.latencies).reduce(|mut sum, one| {
                sum += one;
                sum
            });
        Some(Self { values, median, spread: (max - min) / median, latencies })
    }
}

/// The middle of the values: the mean of the two middle ones if they are even in number.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// What became of a case.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) suite: &'static str,
    pub(crate) case: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) ours: Option<Figure>,
    pub(crate) floors: Vec<(&'static str, Figure)>,
    /// Who was left out, and why.
    pub(crate) skipped: Vec<(&'static str, String)>,
}

impl Case {
    /// Measures ours and the floors alternately, starting with another one each round (B1).
    pub(crate) fn run(self, machine: &Machine, effort: Effort) -> Result<Verdict, Failure> {
        let Self { suite, case, unit, better, ours, floors, .. } = self;
        let round = Round { effort, cpus: machine.cpus() };
        let ours = ours.map(|subject| (OURS, subject));
        let mut entrants: Vec<Entrant> = ours.into_iter().chain(floors).map(Entrant::new).collect();
        for turn in 0..effort.rounds {
            for at in 0..entrants.len() {
                let at = (at + turn) % entrants.len();
                let entrant = &mut entrants[at];
                let name = entrant.name;
                entrant
                    .measure(&round)
                    .map_err(|error| format!("{suite}/{case}: {name}: {error}"))?;
            }
        }
        let (mut ours, mut floors, mut skipped) = (None, Vec::new(), Vec::new());
        for Entrant { name, samples, lacks, .. } in entrants {
            match (lacks, Figure::of(samples)) {
                (Some(why), _) => skipped.push((name, why)),
                (None, figure) if name == OURS => ours = figure,
                (None, figure) => floors.extend(figure.map(|figure| (name, figure))),
            }
        }
        Ok(Verdict { suite, case, unit, better, ours, floors, skipped })
    }
}

/// How reports name our own side.
const OURS: &str = "ours";

/// A subject, and what it has brought so far.
struct Entrant {
    name: &'static str,
    subject: Subject,
    samples: Vec<Sample>,
    /// Why it takes part no more.
    lacks: Option<String>,
}

impl Entrant {
    fn new((name, subject): (&'static str, Subject)) -> Self {
        Self { name, subject, samples: Vec::new(), lacks: None }
    }

    /// Measures one round, unless this machine has been found not to have what it takes.
    fn measure(&mut self, round: &Round) -> Result<(), Failure> {
        if self.lacks.is_some() {
            return Ok(());
        }
        match on_fresh_thread(&mut self.subject, round) {
            Ok(sample) => self.samples.push(sample),
            Err(error) => self.lacks = Some(error.downcast::<Skipped>()?.0),
        }
        Ok(())
    }
}

/// Runs a subject on a thread of its own, so that it may pin itself and its children at will.
fn on_fresh_thread(subject: &mut Subject, round: &Round) -> Result<Sample, Failure> {
    std::thread::scope(|scope| {
        let subject = scope.spawn(|| {
            pin(round.cpus[0])?;
            subject(round)
        });
        subject.join().map_err(|_| "it panicked")?
    })
}

/// Pins the calling thread. Threads that it starts afterwards inherit the pin.
pub(crate) fn pin(cpu: CoreId) -> Result<(), Failure> {
    if core_affinity::set_for_current(cpu) {
        Ok(())
    } else {
        Err(format!("cannot pin a thread to CPU {}", cpu.id).into())
    }
}

/// What lasts, as for all rounds of a case, made when it is first needed.
pub(crate) fn made<T>(
    lasting: &mut Option<T>,
    make: impl FnOnce() -> Result<T, Failure>,
) -> Result<&mut T, Failure> {
    Ok(match lasting {
        Some(made) => made,
        empty @ None => empty.insert(make()?),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn ours_and_floors_are_measured_in_turn_and_each_comes_first_once() {
        let order = Arc::new(Mutex::new(String::new()));
        let subject = |name: char| -> Subject {
            let order = Arc::clone(&order);
            Box::new(move |_| {
                order.lock().unwrap().push(name);
                Ok(Sample::from(f64::from(u32::from(name))))
            })
        };
        let case = Case {
            suite: "suite",
            case: "case",
            unit: "ns",
            better: Better::Lower,
            cpus: 1,
            ours: Some(subject('o')),
            floors: vec![("a", subject('a')), ("b", subject('b'))],
        };
        let verdict = case.run(&Machine::read(), Effort::QUICK).unwrap();
        assert_eq!(*order.lock().unwrap(), "oababoboa");
        assert_eq!(verdict.ours.map(|ours| ours.median), Some(f64::from(b'o')));
        let floors: Vec<_> =
            verdict.floors.iter().map(|(name, floor)| (*name, floor.median)).collect();
        assert_eq!(floors, [("a", f64::from(b'a')), ("b", f64::from(b'b'))]);
    }

    #[test]
    fn a_panic_in_a_subject_ends_the_run_with_its_name() {
        let case = Case {
            suite: "suite",
            case: "case",
            unit: "ns",
            better: Better::Lower,
            cpus: 1,
            ours: None,
            floors: vec![("broken", Box::new(|_| panic!("on purpose")))],
        };
        let failure = case.run(&Machine::read(), Effort::QUICK).unwrap_err();
        assert_eq!(failure.to_string(), "suite/case: broken: it panicked");
    }

    #[test]
    fn who_lacks_something_is_left_out_and_the_others_are_measured() {
        let case = Case {
            suite: "suite",
            case: "case",
            unit: "ns",
            better: Better::Lower,
            cpus: 1,
            ours: Some(Box::new(|_| Err(Skipped("not here".to_owned()).into()))),
            floors: vec![("floor", Box::new(|_| Ok(Sample::from(1.0))))],
        };
        let verdict = case.run(&Machine::read(), Effort::QUICK).unwrap();
        assert_eq!(verdict.skipped, [("ours", "not here".to_owned())]);
        assert!(verdict.ours.is_none());
        assert_eq!(verdict.floors.len(), 1);
    }

    #[test]
    fn spread_is_the_range_over_the_median() {
        let figure = Figure::of([9.0, 10.0, 14.0].map(Sample::from).to_vec()).unwrap();
        assert_eq!((figure.median, figure.spread), (10.0, 0.5));
        assert!(Figure::of(Vec::new()).is_none());
    }
}
