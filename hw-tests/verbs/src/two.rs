//! What two machines show: the game, and accounts that agree whatever happens to a machine or the wire.

use epicserver_lab::plays::{self, disturbed, expect, lost};
use epicserver_lab::{Lab, Machine, Report};

use crate::programs::Programs;
use crate::setup;
use crate::{SECOND, SHORT};

const UNDISTURBED: &str = "tc qdisc del dev eth0 root";
/// What an account says of which every call was answered.
const NOTHING_LOST: &str = " unknown=0 refused=0 ";

pub(crate) fn cases(
    report: &mut Report,
    programs: &Programs,
    lab: &Lab,
    (first, second): (Machine, Machine),
) {
    report.case("barrels across two machines", || {
        plays::barrels_across(&programs.barrels, setup::pair(), (&first, &second))
    });
    report.case("a wire that carries nothing for a fifth of a second loses nothing", || {
        let said = disturbed(&programs.tally, setup::pair(), (&first, &second), || {
            let cut = "tc qdisc add dev eth0 root netem loss 100%";
            second.run(&format!("{cut}; sleep 0.2; {UNDISTURBED}"), SHORT).map(drop)
        })?;
        expect(said.contains(NOTHING_LOST), said)
    });
    report.case("when a link comes back calls go over it again, and none was done twice", || {
        let said = disturbed(&programs.tally, setup::pair(), (&first, &second), || {
            second.run("ip link set eth0 down; sleep 8; ip link set eth0 up", SHORT).map(drop)
        })?;
        expect(!said.contains(NOTHING_LOST), said)
    });
    let during = |netem: &str| {
        let netem = format!("tc qdisc add dev eth0 root netem {netem}");
        disturbed(&programs.tally, setup::pair(), (&first, &second), || {
            first.run(&netem, SHORT)?;
            second.run(&format!("{netem}; sleep 3; {UNDISTURBED}"), SHORT)?;
            first.run(UNDISTURBED, SHORT).map(drop)
        })
    };
    report.case("a wire that loses and delays loses nothing", || {
        let said = during("delay 5ms loss 2%")?;
        expect(said.contains(NOTHING_LOST), said)
    });
    // Reliable connections count on order: one may fail here, over what is asked once more for memory that is withdrawn.
    report.case("a wire that reorders may cost links, and nothing is done twice", || {
        during("delay 5ms 2ms loss 2%")
    });
    report.case("a call under way when its machine dies ends in NodeLost in time", || {
        lost(&programs.tally, setup::pair(), &first, second)
    });
    report.case("a machine that comes back takes part again", || {
        let second = lab.boot_second(&SECOND)?;
        setup::over_the_wire(&second, 2)?;
        let said = disturbed(&programs.tally, setup::pair(), (&first, &second), || Ok(()))?;
        expect(said.contains(NOTHING_LOST), said)
    });
}
