//! What the policy says, and what it reads of the machine.

use super::{Crowd, Host, Mode, Policy, SAMPLE_NS, Step, names_hypervisor, parse_runnable};

const METAL: Host = Host { hypervisor: false };
const VIRTUAL: Host = Host { hypervisor: true };
const MODES: [Mode; 3] = [Mode::Latency, Mode::Balanced, Mode::Power];

#[test]
fn balanced_spins_then_yields_then_parks() {
    let policy = Policy::new(Mode::Balanced, METAL);
    assert_eq!(policy.step(0, false), Step::Spin);
    assert_eq!(policy.step(49_999, false), Step::Spin);
    assert_eq!(policy.step(50_000, false), Step::Yield);
    assert_eq!(policy.step(199_999, false), Step::Yield);
    assert_eq!(policy.step(200_000, false), Step::Park);
}

#[test]
fn balanced_parks_later_under_a_hypervisor() {
    let policy = Policy::new(Mode::Balanced, VIRTUAL);
    assert_eq!(policy.step(50_000, false), Step::Yield);
    assert_eq!(policy.step(1_999_999, false), Step::Yield);
    assert_eq!(policy.step(2_000_000, false), Step::Park);
}

#[test]
fn nothing_spins_on_a_crowded_host() {
    for mode in MODES {
        for host in [METAL, VIRTUAL] {
            assert_eq!(Policy::new(mode, host).step(0, true), Step::Yield, "I2: {mode:?}");
        }
    }
}

#[test]
fn every_mode_parks_in_the_end() {
    for mode in MODES {
        for host in [METAL, VIRTUAL] {
            for crowded in [false, true] {
                let step = Policy::new(mode, host).step(u64::MAX, crowded);
                assert_eq!(step, Step::Park, "I1: {mode:?}");
            }
        }
    }
}

#[test]
fn a_longer_silence_never_leads_back() {
    let rank = |step| match step {
        Step::Spin => 0,
        Step::Yield => 1,
        Step::Park => 2,
    };
    for mode in MODES {
        let policy = Policy::new(mode, VIRTUAL);
        let ranks: Vec<_> = (0..31).map(|bit| rank(policy.step(1 << bit, false))).collect();
        assert!(ranks.is_sorted(), "{mode:?}: {ranks:?}");
    }
}

#[test]
fn latency_still_spins_where_balanced_has_parked() {
    assert_eq!(Policy::new(Mode::Balanced, VIRTUAL).step(5_000_000, false), Step::Park);
    assert_eq!(Policy::new(Mode::Latency, VIRTUAL).step(5_000_000, false), Step::Spin);
}

#[test]
fn power_never_spins() {
    assert_eq!(Policy::new(Mode::Power, METAL).step(0, false), Step::Yield);
}

#[test]
fn a_host_is_crowded_when_more_threads_want_to_run_than_it_has_cpus() {
    let mut crowd = Crowd::open().unwrap();
    crowd.handle_sample(0, Some(crowd.cpus));
    assert!(!crowd.crowded);
    crowd.handle_sample(0, Some(crowd.cpus + 1));
    assert!(crowd.crowded);
    crowd.handle_sample(0, Some(1));
    assert!(!crowd.crowded);
    crowd.handle_sample(0, None);
    assert!(crowd.crowded);
}

#[test]
fn an_answer_is_kept_until_it_is_too_old() {
    let mut crowd = Crowd::open().unwrap();
    for crowded in [false, true] {
        let runnable = if crowded { usize::MAX } else { 0 };
        crowd.handle_sample(7, Some(runnable));
        assert_eq!(crowd.is_crowded(7 + SAMPLE_NS - 1), crowded);
        assert_eq!(crowd.due_ns, 7 + SAMPLE_NS);
    }
    let _now = crowd.is_crowded(7 + SAMPLE_NS);
    assert_eq!(crowd.due_ns, 7 + 2 * SAMPLE_NS);
}

#[test]
fn this_host_says_how_many_threads_want_to_run() {
    let crowd = Crowd::open().unwrap();
    // The thread that asks is one of them.
    assert!(crowd.look_up().unwrap() >= 1);
    Host::detect().unwrap();
}

#[test]
fn the_load_average_is_parsed_and_anything_else_refused() {
    assert_eq!(parse_runnable("0.20 0.18 0.12 3/91 11206\n"), Some(3));
    assert_eq!(parse_runnable("0.20 0.18 0.12 31/910 11206\n"), Some(31));
    for wrong in ["", "0.20 0.18 0.12", "0.20 0.18 0.12 3 11206", "0.20 0.18 0.12 x/91 1"] {
        assert_eq!(parse_runnable(wrong), None, "{wrong:?}");
    }
}

#[test]
fn a_hypervisor_is_a_flag_of_the_cpu() {
    assert!(names_hypervisor("model name\t: X\nflags\t\t: fpu hypervisor lahf_lm\n"));
    assert!(!names_hypervisor("model name\t: hypervisor\nflags\t\t: fpu lahf_lm\n"));
    assert!(!names_hypervisor("Features\t: fp asimd\n"));
}
