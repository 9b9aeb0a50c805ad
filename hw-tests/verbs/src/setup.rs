//! Setting SoftRoCE up, and what a node says where something is missing.

use epicserver_lab::plays::expect;
use epicserver_lab::{Machine, Report, Result, nodes};

use crate::SHORT;
use crate::programs::Programs;

/// Where nodes listen.
const PORT: u16 = 7400;

/// What a node is told to use verbs by, and the fabric of all cases here. Whoever spins on the one CPU of a machine keeps
/// the others of it from running.
pub(crate) const SETTINGS: &str = "export EPICSERVER_NETWORK__TRANSPORT=verbs EPICSERVER_FABRIC__NAME=hw \
     EPICSERVER_FABRIC__KEY=sixteen-bytes-or-more EPICSERVER_FABRIC__NODES=2 EPICSERVER_RUNTIME__IDLE=power";

/// A node that nobody joins: it is ended while it waits, which a first signal does not do.
const IN_VAIN: &str = "EPICSERVER_FABRIC__NAME=alone; exec timeout -k 1 8";

/// The address of machine `number` on the wire.
pub(crate) fn address(number: u8) -> String {
    format!("10.0.0.{number}")
}

/// The settings of two nodes on two machines, which agree on who they are beforehand: the one on the second machine, which
/// only serves, and the one on the first, which looks for it.
pub(crate) fn pair() -> [String; 2] {
    let at = |machine, rank| {
        let listen = format!("EPICSERVER_NETWORK__LISTEN='[\"{}:{PORT}\"]'", address(machine));
        format!("{SETTINGS} {rank} {listen}")
    };
    let [second, first] = nodes::ranks();
    let seeds = format!("EPICSERVER_NETWORK__SEEDS='[\"verbs://{}:{PORT}\"]'", address(2));
    [at(2, second), format!("{} {seeds}", at(1, first))]
}

/// On a machine without a device.
pub(crate) fn without_a_device(report: &mut Report, programs: &Programs, machine: &Machine) {
    report.case(
        "a machine without a device says so, and its nodes reach each other by TCP",
        || {
            let tally = programs.tally.display();
            let server = machine.start(&format!("{SETTINGS}; exec {tally} serve"))?;
            let called = machine.ask(&format!("{SETTINGS}; TALLY=time exec {tally} run"), SHORT)?;
            server.kill();
            let told = called.stderr.contains("verbs unavailable: ");
            expect(told && called.stdout.contains(" ns, median"), called.text())?;
            Ok(said(&called.stderr, "verbs unavailable: "))
        },
    );
}

/// On a machine that has one.
pub(crate) fn doctor(report: &mut Report, programs: &Programs, machine: &Machine) {
    report.case("the doctor finds all that verbs need", || {
        let doctor = format!("{SETTINGS}; exec {} doctor", programs.epic.display());
        let text = machine.run(&doctor, SHORT)?;
        let lines = text.lines().filter(|line| line.starts_with("verbs"));
        let lacking: Vec<&str> = lines.filter(|line| line.contains("lacks")).collect();
        expect(lacking.is_empty() && text.contains("ready for"), lacking.join("; "))?;
        Ok(text.lines().last().unwrap_or_default().to_owned())
    });
}

/// What a node says that is configured wrongly or may pin too little.
pub(crate) fn refusals(report: &mut Report, programs: &Programs, machine: &Machine) {
    let tally = programs.tally.display();
    report.case("a GID that is not there is named, with those that are", || {
        let index = "EPICSERVER_NETWORK__VERBS__GID_INDEX=200";
        let ended = machine.ask(&format!("{SETTINGS} {index} {IN_VAIN} {tally} serve"), SHORT)?;
        let line = said(&ended.stderr, "verbs unavailable: ");
        expect(line.contains("no GID at index 200") && line.contains("RoCE v2"), ended.text())
    });
    report.case("a device that is not there is named, with those that are", || {
        let device = "EPICSERVER_NETWORK__VERBS__DEVICE=mlx5_9";
        let ended = machine.ask(&format!("{SETTINGS} {device} {IN_VAIN} {tally} serve"), SHORT)?;
        let line = said(&ended.stderr, "verbs unavailable: ");
        expect(line.contains("mlx5_9") && line.contains("rxe0"), ended.text())
    });
    report.case("a process that may pin too little is told how to let it", || {
        // Nobody who may do what root may is bound by the limit.
        let bounded = "ulimit -l 64; exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \
                       --bounding-set=-all";
        let script = format!(
            "{SETTINGS} HOME=/tmp EPICSERVER_FABRIC__NAME=alone EPICSERVER_RUNTIME__RUN_DIR=/tmp/bounded
             chmod a+rw /dev/infiniband/uverbs*
             install -d -o 65534 -m 700 /tmp/bounded
             {bounded} timeout -k 1 8 {tally} serve"
        );
        let ended = machine.ask(&script, SHORT)?;
        let line = said(&ended.stderr, "verbs unavailable: ");
        expect(line.contains("ibv_reg_mr") && line.contains("memlock"), ended.text())
    });
}

/// The line of `text` in which `what` stands.
fn said(text: &str, what: &str) -> String {
    text.lines().find(|line| line.contains(what)).unwrap_or_default().trim().to_owned()
}

/// Sets SoftRoCE up over the wire between machines, on machine `number`.
pub(crate) fn over_the_wire(machine: &Machine, number: u8) -> Result<()> {
    bring_up(machine, "eth0", number)
}

/// The same over a device that leads nowhere: what the machine sends to itself does not reach it.
pub(crate) fn over_a_dummy(machine: &Machine) -> Result<()> {
    machine.run("modprobe dummy numdummies=0 && ip link add dummy0 type dummy", SHORT)?;
    bring_up(machine, "dummy0", 1)
}

/// Packets of the wire may have 4,200 bytes, so those of RoCE 4,096.
fn bring_up(machine: &Machine, device: &str, number: u8) -> Result<()> {
    let address = address(number);
    let script = format!(
        "modprobe -a crc32_generic ib_uverbs rdma_rxe
         ip addr add {address}/24 dev {device}
         ip link set {device} mtu 4200 up
         rdma link add rxe0 type rxe netdev {device}
         for try in {{1..100}}; do
             ibv_devinfo | grep -q PORT_ACTIVE && exit 0
             sleep 0.1
         done
         ibv_devinfo; exit 1"
    );
    machine.run(&script, SHORT).map(drop)
}
