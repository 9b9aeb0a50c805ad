//! Scenarios as a whole. Most of what they show takes more seeds than a test has time for: the gate runs those.

use super::*;

/// Three nodes and a few faults: what a test has time for.
const SHORT: &str = r#"
name = "short"
nodes = 3
begin_s = 0.5
faulty_s = 12.0
calm_s = 12.0
[net]
lost = 0.02
[work]
turns_s = 20.0
[faults]
crash = 2
pause = 2
leave = 1
"#;

#[test]
fn every_scenario_that_is_kept_can_be_read() {
    for name in Scenario::names() {
        assert_eq!(Scenario::named(name).map(|scenario| scenario.name), Some(name.to_owned()));
    }
}

#[test]
fn a_scenario_with_an_unknown_word_is_refused_with_its_place() {
    let error = Scenario::read("name = \"x\"\nnodes = 3\ncalm_s = 1.0\nnoddes = 3").unwrap_err();
    assert!(error.to_string().contains("noddes"), "{error}");
    let shares = "name = \"x\"\nnodes = 3\ncalm_s = 1.0\n[net]\nlost = 2.0";
    assert_eq!(Scenario::read(shares).unwrap_err().to_string(), "a share is between 0 and 1");
}

#[test]
fn sf1_a_seed_goes_the_same_way_again_and_another_seed_another() {
    let scenario = Scenario::read(SHORT).unwrap();
    let first = check_fabric(&scenario, 3, None);
    assert_eq!(first.violation, None);
    assert!(first.tally.phases.iter().all(|phase| phase.took <= phase.within));
    assert_ne!(first.trace, run_fabric(&scenario, 4, None).trace);
}

#[test]
fn a_fault_of_the_world_is_seen_by_its_checker() {
    let scenario = Scenario::read(SHORT).unwrap();
    let caught = run_fabric(&scenario, 1, Some(Mutant::DrainedTooEarly)).violation;
    let checker = caught.map(|violation| violation.checker);
    assert!(checker.is_some_and(|checker| Mutant::DrainedTooEarly.caught_by().contains(&checker)));
}
