//! States that are written as an earlier version, so that the program before still reads them.

#[expect(dead_code, reason = "its other tools are for the tests of saving itself")]
#[path = "saving/desk.rs"]
mod desk;

use desk::{__paths, Bench};
use epicserver_entity::{At, Ref};
use epicserver_macros::{entity, message};
use epicserver_wire::{CallError, ErrorKind};

/// Version 1.
mod old {
    use super::*;

    #[entity(name = "Hero", crate = __paths)]
    #[derive(Default)]
    pub(super) struct Hero {
        score: u32,
    }

    #[entity(crate = __paths)]
    impl Hero {
        pub fn add_and_leave(&mut self, at: At<Self>, n: u32) -> u32 {
            self.score += n;
            at.deactivate();
            self.score
        }
    }
}

/// Version 2, as `$options` say.
macro_rules! second {
    ($name:ident, $($options:tt)*) => {
        mod $name {
            use super::*;

            #[message(crate = __paths)]
            pub(super) struct HeroV1 {
                score: u32,
            }

            #[entity(name = "Hero", upgrades(HeroV1), crate = __paths, $($options)*)]
            #[derive(Default)]
            pub(super) struct Hero {
                points: u64,
                pub(super) title: String,
            }

            impl From<HeroV1> for Hero {
                fn from(old: HeroV1) -> Self {
                    Self { points: u64::from(old.score) * 10, title: "of old".to_owned() }
                }
            }

            impl From<&Hero> for HeroV1 {
                fn from(new: &Hero) -> Self {
                    assert!(new.points < 1_000, "there was no such hero");
                    Self { score: u32::try_from(new.points / 10).unwrap_or(u32::MAX) }
                }
            }

            #[entity(crate = __paths)]
            impl Hero {
                pub fn add_and_leave(&mut self, at: At<Self>, n: u64, title: String) -> u64 {
                    self.points += n;
                    self.title.push_str(&title);
                    at.deactivate();
                    self.points
                }

                pub fn shown(&self) -> (u64, String) {
                    (self.points, self.title.clone())
                }
            }
        }
    };
}

second!(careful, writes = 1);
second!(new,);

fn old(bench: Bench) -> Bench {
    bench.restarted_with(|registry| registry.add::<old::Hero>().expect("it is the only one"))
}

fn careful(bench: Bench) -> Bench {
    bench.restarted_with(|registry| registry.add::<careful::Hero>().expect("it is the only one"))
}

fn new(bench: Bench) -> Bench {
    bench.restarted_with(|registry| registry.add::<new::Hero>().expect("it is the only one"))
}

fn add_as_old(bench: &mut Bench, key: &'static str, n: u32) -> Result<u32, ErrorKind> {
    let done = bench.run(async move |_| Ref::<old::Hero>::of(key).add_and_leave(n).await);
    done.map_err(CallError::kind)
}

fn add_as_careful(bench: &mut Bench, n: u64, title: &'static str) -> u64 {
    let hero = Ref::<careful::Hero>::of("h");
    bench.run(async move |_| hero.add_and_leave(n, title.to_owned()).await).expect("it runs")
}

#[test]
fn what_is_written_as_the_version_before_is_read_by_the_program_before() {
    let mut bench = Bench::new(|registry| registry.add::<old::Hero>().unwrap());
    assert_eq!(add_as_old(&mut bench, "h", 4), Ok(4));
    let mut bench = careful(bench);
    assert_eq!(add_as_careful(&mut bench, 20, "!"), 60);
    // What the version before has not is lost.
    let hero = bench.run(async |_| Ref::<careful::Hero>::of("h").shown().await);
    assert_eq!(hero, Ok((60, "of old".to_owned())));
    let born = Ref::<careful::Hero>::of("born later");
    assert!(bench.run(async move |_| born.add_and_leave(70, String::new()).await).is_ok());
    let mut bench = old(bench);
    assert_eq!(add_as_old(&mut bench, "h", 1), Ok(7));
    assert_eq!(add_as_old(&mut bench, "born later", 1), Ok(8));
}

#[test]
fn n40_what_is_stored_as_the_later_version_is_never_written_as_the_one_before() {
    let mut bench = new(Bench::new(|_| {}));
    let hero = Ref::<new::Hero>::of("h");
    assert!(bench.run(async move |_| hero.add_and_leave(25, "Bob".to_owned()).await).is_ok());
    let mut bench = careful(bench);
    assert_eq!(add_as_careful(&mut bench, 1, "by"), 26);
    let hero = bench.run(async |_| Ref::<careful::Hero>::of("h").shown().await);
    assert_eq!(hero, Ok((26, "Bobby".to_owned())));
    let mut bench = old(bench);
    assert_eq!(add_as_old(&mut bench, "h", 1), Err(ErrorKind::StateUnreadable));
    assert_eq!(bench.saved::<new::Hero>("h").map(|hero| hero.title), Some("Bobby".to_owned()));
}

#[test]
fn a_state_that_is_written_as_it_was_is_not_written_again() {
    let mut bench = Bench::new(|registry| registry.add::<old::Hero>().unwrap());
    assert_eq!(add_as_old(&mut bench, "h", 4), Ok(4));
    let mut bench = careful(bench);
    // It changes what is not written.
    assert_eq!(add_as_careful(&mut bench, 0, "!"), 40);
    bench.settle();
    assert_eq!((bench.counters().saved, bench.counters().unchanged), (0, 1));
    let mut bench = new(bench);
    let hero = Ref::<new::Hero>::of("h");
    assert_eq!(bench.run(async move |_| hero.add_and_leave(0, String::new()).await), Ok(40));
    bench.settle();
    assert_eq!(bench.counters().saved, 1, "as the later version");
}

#[test]
fn a_state_that_cannot_be_made_into_the_version_before_is_not_saved_and_harms_nobody() {
    let mut bench = Bench::new(|registry| registry.add::<old::Hero>().unwrap());
    assert_eq!(add_as_old(&mut bench, "h", 4), Ok(4));
    assert_eq!(add_as_old(&mut bench, "other", 4), Ok(4));
    let mut bench = careful(bench);
    let other = Ref::<careful::Hero>::of("other");
    let both = bench.run(async move |_| {
        let rich = Ref::<careful::Hero>::of("h").add_and_leave(5_000, String::new());
        (rich.await.unwrap(), other.add_and_leave(10, String::new()).await.unwrap())
    });
    assert_eq!(both, (5_040, 50));
    let mut bench = old(bench);
    assert_eq!(add_as_old(&mut bench, "h", 1), Ok(5), "as it was saved last");
    assert_eq!(add_as_old(&mut bench, "other", 1), Ok(6));
}
