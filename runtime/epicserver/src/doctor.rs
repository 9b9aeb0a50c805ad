//! What this machine lacks for each transport, and the command that mends it.
//!
//! Each check stands alone: it looks at one thing, changes nothing that lasts, and waits for nothing. To add one, put it
//! into the list of its area; a new area is a file with such a list, named in [`AREAS`].
//!
//! # Not here
//! How a transport uses what is looked at.

mod memory;
mod shm;
mod tcp;
mod tipc;
mod verbs;

use std::fmt::Write as _;

use crate::config::{Config, Transport};

/// All areas, in the order in which they are shown.
const AREAS: &[Area] = &[tcp::AREA, shm::AREA, tipc::AREA, verbs::AREA, memory::AREA];

/// Checks that belong together.
pub(crate) struct Area {
    /// Its name, as shown.
    name: &'static str,
    /// The transports that need all that these checks look at.
    needed_by: &'static [Transport],
    checks: &'static [Check],
}

/// One thing that is looked at.
pub(crate) struct Check {
    /// What, in a word or two.
    name: &'static str,
    /// Whether its transports go without it, only slower or with less.
    dispensable: bool,
    look: fn(&Config) -> Finding,
}

/// What was found.
pub(crate) enum Finding {
    /// All is well; what there is, to be shown.
    Ok(String),
    /// Something is missing.
    Lacks {
        /// What, and what follows from that.
        what: String,
        /// The command that mends it.
        mend: String,
    },
}

impl Finding {
    fn lacks(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Lacks { what: what.into(), mend: mend.into() }
    }
}

/// Looks at everything. Gives the report, and whether the transport that `config` wants has all that it cannot go without.
pub(crate) fn examine(config: &Config) -> (String, bool) {
    report(AREAS, config)
}

fn report(areas: &[Area], config: &Config) -> (String, bool) {
    let mut text = String::new();
    let mut sound = true;
    for area in areas {
        let needed = area.needed_by.contains(&config.network.transport);
        for check in area.checks {
            let (line, ok) = match (check.look)(config) {
                Finding::Ok(found) => (format!("ok     {found}"), true),
                Finding::Lacks { what, mend } => (format!("lacks  {what}\n{:27}{mend}", ""), false),
            };
            // Writing to a text cannot fail.
            let _written = writeln!(text, "{:8}{:12}{line}", area.name, check.name);
            sound &= ok || !needed || check.dispensable;
        }
    }
    let verdict = if sound { "ready for" } else { "not ready for" };
    let _written = writeln!(text, "{verdict} transport = \"{}\"", config.network.transport.name());
    (text, sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Check =
        Check { name: "good", dispensable: false, look: |_| Finding::Ok("there".to_owned()) };
    const BAD: Check = Check {
        name: "bad",
        dispensable: false,
        look: |_| Finding::lacks("no device", "insert one"),
    };
    const SLOW: Check = Check { name: "slow", dispensable: true, ..BAD };

    fn examined(checks: &'static [Check], needed_by: &'static [Transport]) -> (String, bool) {
        let area = Area { name: "area", needed_by, checks };
        report(&[area], &Config::default())
    }

    #[test]
    fn each_check_is_shown_with_what_mends_it() {
        let (text, _) = examined(&[GOOD, BAD], &[]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let shown = [
            "area    good        ok     there",
            "area    bad         lacks  no device",
            "insert one",
        ];
        assert_eq!(lines[..3], shown);
    }

    #[test]
    fn only_what_the_transport_cannot_go_without_makes_it_unsound() {
        assert!(examined(&[GOOD, SLOW], &[Transport::Auto]).1);
        assert!(examined(&[GOOD, BAD], &[Transport::Tcp]).1);
        let (text, sound) = examined(&[GOOD, BAD], &[Transport::Auto]);
        assert!(!sound && text.ends_with("not ready for transport = \"auto\"\n"));
    }

    #[test]
    fn this_machine_is_ready_for_what_the_tests_use() {
        let (text, sound) = examine(&Config::default());
        assert!(sound, "{text}");
        for area in AREAS {
            assert!(text.contains(area.name) && !area.checks.is_empty(), "{text}");
        }
    }
}
