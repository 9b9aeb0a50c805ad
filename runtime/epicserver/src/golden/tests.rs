//! Golden files that are missing, added, broken, and of types that have changed.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{entity, message};

mod old {
    use super::*;

    #[entity(key = u64, name = "Hero", crate = crate::__private)]
    #[derive(Default, PartialEq, Debug)]
    pub(super) struct Hero {
        pub(super) score: u32,
        #[unsaved]
        pub(super) seen: u32,
    }

    #[entity(crate = crate::__private)]
    impl Hero {}
}

/// Version 2, as it should be. `$options` say whether version 1 is written still, and then a score is divided by `$by`.
macro_rules! second {
    ($name:ident, $by:literal, $($options:tt)*) => {
        mod $name {
            use super::*;

            #[message(crate = crate::__private)]
            pub(super) struct HeroV1 {
                score: u32,
            }

            #[entity(key = u64, name = "Hero", upgrades(HeroV1), crate = crate::__private, $($options)*)]
            #[derive(Default, PartialEq, Debug)]
            pub(super) struct Hero {
                pub(super) points: u64,
            }

            impl From<HeroV1> for Hero {
                fn from(old: HeroV1) -> Self {
                    Self { points: u64::from(old.score) * 10 }
                }
            }

            impl From<&Hero> for HeroV1 {
                fn from(new: &Hero) -> Self {
                    Self { score: u32::try_from(new.points / $by).unwrap_or(u32::MAX) }
                }
            }

            #[entity(crate = crate::__private)]
            impl Hero {}
        }
    };
}

second!(new, 10,);
second!(both, 10, writes = 1);
second!(unequal, 1, writes = 1);

/// Version 2 of someone who has forgotten what version 1 was.
mod forgetful {
    use super::*;

    #[entity(key = u64, name = "Hero", version = 2, crate = crate::__private)]
    #[derive(Default)]
    pub(super) struct Hero {
        pub(super) points: u64,
    }

    #[entity(crate = crate::__private)]
    impl Hero {}
}

/// Version 2 of someone who remembers wrongly what version 1 was.
mod mistaken {
    use super::*;

    #[message(crate = crate::__private)]
    pub(super) struct HeroV1 {
        score: u16,
    }

    #[entity(key = u64, name = "Hero", upgrades(HeroV1), crate = crate::__private)]
    #[derive(Default)]
    pub(super) struct Hero {
        pub(super) points: u64,
    }

    impl From<HeroV1> for Hero {
        fn from(old: HeroV1) -> Self {
            Self { points: u64::from(old.score) }
        }
    }

    #[entity(crate = crate::__private)]
    impl Hero {}
}

/// Changed, and still of version 1.
mod careless {
    use super::*;

    #[entity(key = u64, name = "Hero", crate = crate::__private)]
    #[derive(Default)]
    pub(super) struct Hero {
        pub(super) score: u64,
    }

    #[entity(crate = crate::__private)]
    impl Hero {}
}

/// The same fields, placed elsewhere.
mod placed {
    use super::*;

    #[entity(key = u64, name = "Hero", class = "heroes", crate = crate::__private)]
    #[derive(Default)]
    pub(super) struct Hero {
        pub(super) score: u32,
    }

    #[entity(crate = crate::__private)]
    impl Hero {}
}

/// A folder of one test's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("epic-golden-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// With the file of version 1, of a score of 7.
    fn with_the_first() -> Self {
        let folder = Self::new();
        folder.hold(true, &SEVEN).unwrap();
        folder
    }

    fn hold<T: Entity<Key = u64>>(
        &self,
        adds: bool,
        state: &T,
    ) -> Result<BTreeMap<u32, T>, String> {
        let id = Ref::<T>::id(&Ref::of(1)).clone();
        Files { folder: &self.0, adds }.hold(&id, state).map_err(|broken| broken.to_string())
    }

    fn refused<T: Entity<Key = u64>>(&self, state: &T) -> String {
        let before = self.texts();
        // Whether files may be added changes nothing where they are there.
        let why = [false, true].map(|adds| self.hold(adds, state).err().expect("it is refused"));
        assert_eq!(why[0], why[1]);
        assert_eq!(before, self.texts(), "GO1");
        why[0].clone()
    }

    fn file(&self, version: u32) -> PathBuf {
        self.0.join(format!("Hero.{version}.golden"))
    }

    fn texts(&self) -> Vec<String> {
        (1..9).map_while(|version| fs::read_to_string(self.file(version)).ok()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

const SEVEN: old::Hero = old::Hero { score: 7, seen: 1 };

#[test]
fn a_file_is_added_only_where_one_says_so_and_then_holds() {
    let folder = Folder::new();
    let why = folder.hold(false, &SEVEN).unwrap_err();
    assert!(why.contains("Hero.1.golden is missing") && why.contains("UPDATE_GOLDEN=1"), "{why}");
    assert_eq!(folder.hold(true, &SEVEN), Ok(BTreeMap::new()));
    assert_eq!(folder.hold(false, &SEVEN), Ok(BTreeMap::new()));
    // What is not saved is not held.
    assert_eq!(folder.hold(false, &old::Hero { score: 7, seen: 2 }), Ok(BTreeMap::new()));
}

#[test]
fn fields_that_have_changed_need_another_version() {
    let why = Folder::with_the_first().refused(&careless::Hero { score: 7 });
    assert!(why.starts_with("the bytes of version 1 of `Hero` have changed: "), "{why}");
    assert!(why.contains("{score:u32,}, and has {score:u64,}"), "{why}");
    assert!(why.contains("Give it version 2 and name the old one in `upgrades(..)`"), "{why}");
}

#[test]
fn go1_a_new_version_gets_a_file_of_its_own_and_says_what_the_older_one_becomes() {
    let folder = Folder::with_the_first();
    let first = folder.texts();
    let state = new::Hero { points: 9 };
    assert!(folder.hold(false, &state).unwrap_err().contains("Hero.2.golden is missing"));
    let older = BTreeMap::from([(1, new::Hero { points: 70 })]);
    assert_eq!(folder.hold(true, &state).as_ref(), Ok(&older));
    assert_eq!(folder.hold(false, &state), Ok(older));
    assert_eq!(folder.texts().len(), 2);
    assert_eq!(folder.texts()[..1], first);
}

#[test]
fn an_older_version_that_is_not_read_is_found() {
    for version in [1, 2] {
        let folder = Folder::with_the_first();
        let why = match version {
            1 => folder.hold(true, &forgetful::Hero { points: 9 }).err(),
            _ => folder.hold(true, &mistaken::Hero { points: 9 }).err(),
        };
        let why = why.expect("it is refused");
        assert!(why.starts_with("version 1 of `Hero` is not read any more: "), "{why}");
        assert_eq!(folder.texts().len(), 1, "none is added");
        let advice = ["Name the type that it was in `upgrades(..)`", "the fields {score:u32,}"];
        assert!(why.contains(advice[version - 1]), "{why}");
    }
}

#[test]
fn a_version_that_is_written_still_is_written_as_it_was() {
    let folder = Folder::with_the_first();
    let why = folder.hold(true, &unequal::Hero { points: 9 }).unwrap_err();
    assert!(why.starts_with("what version 1 of `Hero` becomes is not written as it was"), "{why}");
    assert_eq!(folder.hold(true, &both::Hero { points: 9 }).map(|older| older.len()), Ok(1));
    assert_eq!(folder.hold(false, &new::Hero { points: 9 }).map(|older| older.len()), Ok(1));
}

#[test]
fn another_state_is_told_from_other_bytes() {
    let why = Folder::with_the_first().refused(&old::Hero { score: 8, seen: 1 });
    assert!(why.contains("leave it as it was"), "{why}");
}

#[test]
fn bytes_that_are_read_but_would_be_written_otherwise_are_found() {
    let folder = Folder::with_the_first();
    let text = fs::read_to_string(folder.file(1)).unwrap();
    let (fields, row, record) = parsed(&text, "Hero", 1).unwrap();
    // As by another release of the codec, which begins with a gap.
    let payload = [&[0; 16], record.payload()].concat();
    let other = Record::seal(&row, &record.envelope(), &payload).unwrap();
    fs::write(folder.file(1), super::text("Hero", 1, &fields, other.as_bytes())).unwrap();
    let why = folder.refused(&SEVEN);
    assert!(why.contains("of `Hero` have changed, though its fields have not"), "{why}");
}

#[test]
fn what_lies_elsewhere_would_not_be_found() {
    let why = Folder::with_the_first().refused(&placed::Hero { score: 7 });
    assert!(why.contains("what was stored of `Hero` would not be found"), "{why}");
}

#[test]
fn a_type_that_has_gone_back_is_found() {
    let folder = Folder::with_the_first();
    folder.hold(true, &new::Hero { points: 9 }).unwrap();
    let why = folder.refused(&SEVEN);
    assert!(why.contains("is of a later version than `Hero` has, which is 1"), "{why}");
}

#[test]
fn a_file_that_was_edited_is_found_wherever_it_was() {
    let folder = Folder::with_the_first();
    let text = fs::read_to_string(folder.file(1)).unwrap();
    let edits = [
        ("fields {score:u32,}", "fields {score:u64,}"),
        ("type Hero", "type Villain"),
        ("version 1\n", "version 2\n"),
        ("record\n", "recording\n"),
        ("00000000", "00000001"),
        ("00000000", "0000000"),
    ];
    for (from, to) in edits {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(folder.file(1), text.replacen(from, to, 1)).unwrap();
        let why = folder.refused(&SEVEN);
        assert!(why.contains("is not what was written there"), "{to}: {why}");
    }
}

#[test]
fn names_of_files_have_no_parts_of_paths() {
    assert_eq!(stem("game/Héros v"), "game_Héros_v.");
    assert_eq!(unhex(&hex(&[1, 2, 3, 4, 0xfe])), Some(vec![1, 2, 3, 4, 0xfe]));
    assert_eq!(hex(&[1, 2, 3, 4, 0xfe]), "01020304 fe");
}
