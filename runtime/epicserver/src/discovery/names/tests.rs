//! Names, and a resolver that answers when the test wants it to.

use super::*;

const EVERY: Duration = Duration::from_secs(30);

/// Takes questions up to a bound, and gives the answers that were put into it.
#[derive(Debug, Default)]
struct Scripted {
    room: usize,
    asked: Vec<usize>,
    answers: Vec<Answer>,
}

impl Resolve for Scripted {
    fn ask(&mut self, question: Question) -> bool {
        let taken = self.asked.len() < self.room;
        if taken {
            self.asked.push(question.at);
        }
        taken
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.pop()
    }
}

struct Watching {
    names: Names<Scripted>,
    now: Instant,
}

impl Watching {
    fn new(names: &[(&str, Duration, bool)]) -> Self {
        let name = |(host, after, leads): &(&str, Duration, bool)| Name {
            host: (*host).to_owned(),
            port: 7400,
            after: *after,
            leads: *leads,
        };
        let resolver = Scripted { room: 8, ..Scripted::default() };
        let options = Options { called: "names", resolver, every: EVERY, seed: 1 };
        let now = Instant::now();
        Self { names: Names::new(options, names.iter().map(name).collect(), now), now }
    }

    /// What is asked by now, and no longer waits.
    fn asked(&mut self) -> Vec<usize> {
        assert_eq!(self.names.poll(self.now), None);
        std::mem::take(&mut self.names.resolver.asked)
    }

    /// What is offered once the name has this answer.
    fn answered(
        &mut self,
        at: usize,
        addresses: Result<&[&str], &str>,
    ) -> Option<Vec<Vec<String>>> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let addresses = addresses.map(parse).map_err(str::to_owned);
        self.names.resolver.answers.push(Answer { at, addresses });
        let offered = self.names.poll(self.now)?;
        let rests = |of: Candidate| of.addresses.iter().map(|at| at.rest().to_owned()).collect();
        Some(offered.into_iter().map(rests).collect())
    }
}

fn one() -> Watching {
    let mut watching = Watching::new(&[("a.example", Duration::ZERO, false)]);
    assert_eq!(watching.asked(), [0]);
    watching
}

#[test]
fn every_address_of_a_name_is_offered() {
    let mut names = one();
    let offered = names.answered(0, Ok(&["10.0.0.2:7400", "10.0.0.1:7400", "10.0.0.2:7400"]));
    assert_eq!(offered.unwrap(), [["10.0.0.1:7400"], ["10.0.0.2:7400"]]);
    let offered = names.answered(0, Ok(&["[fd00::1]:7400", "10.0.0.1:7400"]));
    assert_eq!(offered.unwrap(), [["[fd00::1]:7400", "10.0.0.1:7400"]], "one host of two families");
    let offered =
        names.answered(0, Ok(&["[fd00::2]:1", "10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"]));
    assert_eq!(offered.unwrap(), [["[fd00::1]:1"], ["[fd00::2]:1"]], "many hosts, by one family");
    let offered = names.answered(0, Ok(&["[fd00::1]:1", "10.0.0.1:1", "10.0.0.2:1"]));
    assert_eq!(offered.unwrap(), [["[fd00::1]:1"]]);
}

#[test]
fn an_answer_in_another_order_is_none() {
    let mut names = one();
    assert!(names.answered(0, Ok(&["10.0.0.1:1", "10.0.0.2:1"])).is_some());
    assert_eq!(names.answered(0, Ok(&["10.0.0.2:1", "10.0.0.1:1"])), None);
    assert!(names.answered(0, Ok(&["10.0.0.2:1"])).is_some());
}

#[test]
fn dn1_a_name_is_asked_for_again_whatever_was_answered() {
    let mut names = one();
    for answer in [Ok(&["10.0.0.1:1"][..]), Err("no such name"), Ok(&[]), Ok(&["10.0.0.1:1"])] {
        names.now += EVERY;
        assert_eq!(names.asked(), Vec::<usize>::new(), "while it is asked for, it is not again");
        let _offered = names.answered(0, answer);
        assert!(names.names.resolver.asked.is_empty());
        names.now += EVERY;
        assert_eq!(names.asked(), [0]);
    }
}

#[test]
fn dn1_a_name_that_is_not_known_is_asked_for_soon_and_then_more_seldom() {
    let mut names = one();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(names.answered(0, Err("no such name")), None);
        let before = names.now;
        while names.asked().is_empty() {
            names.now += Duration::from_millis(10);
        }
        pauses.push(names.now - before);
    }
    assert!(pauses[0] <= PAUSE + Duration::from_millis(10), "{pauses:?}");
    assert!(pauses[7] >= EVERY / 2 && pauses[7] <= EVERY + Duration::from_millis(10), "{pauses:?}");
}

#[test]
fn dn2_a_name_service_that_is_away_takes_nobody_away() {
    let mut names = one();
    assert!(names.answered(0, Ok(&["10.0.0.1:1"])).is_some());
    assert_eq!(names.answered(0, Err("timed out")), None);
    assert_eq!(names.answered(0, Ok(&[])), None);
    assert_eq!(names.names.counts(), [("asked", 1), ("failed", 2)]);
    assert_eq!(names.answered(0, Ok(&["10.0.0.1:1"])), None);
}

#[test]
fn dn3_a_name_with_too_many_addresses_is_cut() {
    let mut names = one();
    let many: Vec<String> = (0..200).map(|at| format!("10.0.0.{at}:1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(names.answered(0, Ok(&many)).unwrap().len(), ANSWERS_MAX);
}

#[test]
fn dn4_what_finds_no_room_is_asked_later() {
    let mut names = Watching::new(&[("a", Duration::ZERO, false), ("b", Duration::ZERO, false)]);
    names.names.resolver.room = 1;
    assert_eq!(names.asked(), [0]);
    assert_eq!(names.asked(), [1]);
}

#[test]
fn who_is_at_a_name_may_have_to_be_waited_for_and_may_lead() {
    let soon = Duration::from_secs(2);
    let mut names = Watching::new(&[("a", Duration::ZERO, false), ("b", soon, true)]);
    assert_eq!(names.asked(), [0, 1]);
    for at in [0, 1] {
        let address = format!("10.0.0.{at}:1").parse().unwrap();
        names.names.resolver.answers.push(Answer { at, addresses: Ok(vec![address]) });
    }
    let offered = names.names.poll(names.now).unwrap();
    assert_eq!(offered.iter().map(|of| of.leads).collect::<Vec<_>>(), [false, true]);
    let from: Vec<Option<Instant>> = offered.iter().map(|of| of.not_before).collect();
    assert_eq!(from, [None, Some(names.now + soon)]);
}

#[test]
fn an_answer_that_nobody_asked_for_is_passed_over() {
    assert_eq!(one().answered(7, Ok(&["10.0.0.1:1"])), None);
}
