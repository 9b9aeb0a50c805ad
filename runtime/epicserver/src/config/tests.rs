//! What is read, what is refused, and what the refusal says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::keys;
use super::units::{parse_duration, parse_size};
use super::*;

const REFERENCE: &str = include_str!("../../../../docs/epicserver.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("a.toml"), &[])
}

fn with(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::parse(text, Path::new("a.toml"), &variables)
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The refusal of one key with one value, without its place.
fn refused_value(section: &str, line: &str) -> String {
    let refusal = refused(&format!("[{section}]\n{line}\n"));
    let (place, what) = refusal.split_once(": ").unwrap();
    assert!(place.starts_with("a.toml:2:"), "{refusal}");
    what.to_owned()
}

fn sockets(texts: [&str; 2]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A file that goes when the test does.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(name: &str, text: &str, mode: u32) -> Self {
        let path = std::env::temp_dir().join(format!("epic-key-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Self(path)
    }

    fn config(&self) -> Result<Config, ConfigError> {
        parse(&format!("[fabric]\nkey_file = \"{}\"\n", self.0.display()))
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        // What is left behind is in the temporary folder.
        let _gone = fs::remove_file(&self.0);
    }
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("[fabric]\n[node]\n[network]\n[runtime]\n").unwrap(), Config::default());
}

#[test]
fn the_reference_is_the_default_and_names_every_key() {
    assert_eq!(parse(REFERENCE).unwrap(), Config::default());
    let keys = keys();
    assert!(keys.contains(&"network.tls.ca".to_owned()), "{keys:?}");
    for key in keys {
        let (section, key) = key.rsplit_once('.').unwrap();
        let mut at = "";
        let named = REFERENCE.lines().map(|line| line.trim_start_matches("# ")).any(|line| {
            at = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(at);
            at == section && line.split_once(" = ").is_some_and(|(name, _)| name == key)
        });
        assert!(named, "{section}.{key} is not in the reference");
    }
}

#[test]
fn what_the_reference_has_commented_out_is_accepted_too() {
    let setting = |line: &&str| {
        let line = line.trim_start_matches("# ");
        let name = line.split_once(" = ").map_or(line, |(name, _)| name);
        line.starts_with('[') || name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let text: String = REFERENCE
        .lines()
        .filter(|line| line.contains(" = ") || line.contains('['))
        .filter(setting)
        .map(|line| format!("{}\n", line.trim_start_matches("# ")))
        // Of each pair that excludes each other one stays; the key's file is not there.
        .filter(|line| !line.starts_with("key = \"...") && !line.starts_with("listen"))
        .filter(|line| !line.starts_with("key_file"))
        .collect();
    let config = parse(&text).unwrap();
    assert_eq!(config.node.shards.map(NonZeroUsize::get), Some(4));
    assert_eq!(config.network.interface.as_deref(), Some("eth0"));
    assert_eq!(config.network.driver, Some(DriverKind::Epoll));
    assert_eq!(config.network.tls.unwrap().ca, Path::new("/etc/epicserver/ca.pem"));
    assert_eq!(config.runtime.memory, Some(2 << 30));
}

#[test]
fn one_line_changes_the_transport() {
    for (name, transport) in [
        ("tcp", Transport::Tcp),
        ("shm", Transport::Shm),
        ("tipc", Transport::Tipc),
        ("verbs", Transport::Verbs),
        ("auto", Transport::Auto),
    ] {
        let mut wanted = Config::default();
        wanted.network.transport = transport;
        let variable = ("EPICSERVER_NETWORK__TRANSPORT", name);
        assert_eq!(parse(&format!("network.transport = \"{name}\"")).unwrap(), wanted);
        assert_eq!(with("[network]\ntransport = \"tcp\"\n", &[variable]).unwrap(), wanted);
        assert_eq!(with("", &[variable]).unwrap(), wanted);
    }
}

#[test]
fn everything_can_be_set() {
    let text = r#"
        [fabric]
        name = "game-1.eu"
        key = "0123456789abcdef"
        nodes = 3
        [node]
        shards = 2
        name = "left"
        [network]
        listen = ["0.0.0.0:7400", "[::]:7400"]
        seeds = ["tcp://a.example:7400", "tcp://[fe80::1]:7401"]
        io = "dedicated"
        driver = "io_uring"
        tls = { ca = "ca.pem", cert = "cert.pem", key = "key.pem" }
        bulk_bytes = 8192
        window_bytes = "1 MiB"
        window_messages = 64
        [network.verbs]
        device = "mlx5_0"
        port = 2
        gid_index = 3
        mtu = 1024
        pkey = 0x8001
        traffic_class = 106
        service_level = 3
        slot_bytes = "16KiB"
        slots = 128
        [discovery]
        multicast = "eth1"
        resolve_every = "5s"
        slurm_port = 7400
        [runtime]
        idle = "latency"
        memory = "3GiB"
        idle_after = "250ms"
        run_dir = "/x"
    "#;
    let config = parse(text).unwrap();
    assert_eq!(config.fabric.name.as_str(), "game-1.eu");
    assert_eq!(config.fabric.key.unwrap().as_bytes(), b"0123456789abcdef");
    assert_eq!(config.fabric.nodes, 3);
    assert_eq!(config.node.name, Name::new("left"));
    let network = config.network;
    assert_eq!(network.listen, sockets(["0.0.0.0:7400", "[::]:7400"]));
    assert_eq!(network.seeds[1], Address::new("tcp", "[fe80::1]:7401"));
    assert_eq!(network.io, Some(IoThreads::Dedicated));
    assert_eq!(network.driver, Some(DriverKind::IoUring));
    assert_eq!((network.bulk_bytes, network.window_bytes), (8192, 1 << 20));
    assert_eq!(network.window_messages, 64);
    let verbs = network.verbs;
    assert_eq!(
        (verbs.device.as_deref(), verbs.port, verbs.gid_index),
        (Some("mlx5_0"), Some(2), Some(3))
    );
    assert_eq!((verbs.mtu.map(|mtu| mtu.bytes()), verbs.pkey), (Some(1024), Some(0x8001)));
    assert_eq!((verbs.traffic_class, verbs.service_level), (106, 3));
    assert_eq!((verbs.slot_bytes, verbs.slots), (16 << 10, 128));
    let one = Multicast::Interface("eth1".to_owned());
    assert_eq!(config.discovery.multicast, Some(one));
    assert_eq!(config.discovery.resolve_every, Duration::from_secs(5));
    assert_eq!(config.discovery.slurm_port, Some(7400));
    let runtime = config.runtime;
    assert_eq!(runtime.idle, IdleMode::Latency);
    assert_eq!(runtime.memory, Some(3 << 30));
    assert_eq!(runtime.idle_after, Some(Duration::from_millis(250)));
    assert_eq!(runtime.run_dir.as_deref(), Some(Path::new("/x")));
}

#[test]
fn cf2_an_unknown_key_is_refused_with_its_place_and_the_nearest_name() {
    assert_eq!(
        refused("[network]\nlisten = []\n\n  transprt = \"tcp\"\n").lines().last(),
        Some("a.toml:4:3: unknown key `transprt` in [network]; did you mean `transport`?")
    );
    assert_eq!(
        refused("[netwrk]\n"),
        "a.toml:1:2: unknown section or key `netwrk`; did you mean `network`?"
    );
    assert_eq!(
        refused("transport = \"tcp\"\n"),
        "a.toml:1:1: unknown section or key `transport`; it belongs to [network]"
    );
    assert_eq!(
        refused("[node]\nzzzzzzzz = 1\n"),
        "a.toml:2:1: unknown key `zzzzzzzz` in [node]; known are shards, name, weight, classes"
    );
    assert_eq!(
        refused("[network.tls]\nca = \"a\"\ncerts = \"b\"\nkey = \"c\"\n"),
        "a.toml:3:1: unknown key `certs` in [network.tls]; did you mean `cert`?"
    );
}

#[test]
fn one_reading_shows_all_that_is_wrong_in_the_order_of_the_file() {
    let text = "[runtime]\nidle = 3\nmemory = \"2GB\"\n[fabric]\nnodes = 0\nnam = \"x\"\n\
                [network]\nseeds = [\"tcp://a:1\", \"a:1\"]\n";
    let shown = refused(text);
    let places: Vec<&str> = shown.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(places, ["a.toml:2:8", "a.toml:3:10", "a.toml:5:9", "a.toml:6:1", "a.toml:8:9"]);
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_place() {
    assert!(refused("[network]\ntransport = tcp\n").starts_with("a.toml:2:13: "));
    assert!(refused("[network\n").starts_with("a.toml:1:"));
    let twice = refused("[node]\nname = \"a\"\nname = \"b\"\n");
    assert!(twice.starts_with("a.toml:3:1: "), "{twice}");
    let section = refused("network = \"tcp\"\n");
    assert_eq!(
        section,
        "a.toml:1:11: `network` is a section: write [network] on a line of its own"
    );
}

#[test]
fn a_wrong_type_is_refused_and_says_what_is_wanted() {
    let wrong = refused_value("network", "transport = 5");
    assert!(wrong.starts_with("`network.transport`: "), "{wrong}");
    let wrong = refused_value("network", "transport = \"tpc\"");
    assert!(wrong.contains("`tpc`") && wrong.contains("`tcp`"), "{wrong}");
    let wrong = refused_value("network", "bulk_bytes = true");
    assert!(wrong.contains("a size such as \"64KiB\""), "{wrong}");
    for (section, line) in [
        ("fabric", "nodes = \"3\""),
        ("fabric", "nodes = 1.5"),
        ("node", "shards = \"all\""),
        ("node", "name = 7"),
        ("network", "listen = 7400"),
        ("network", "listen = [7400]"),
        ("network", "io = true"),
        ("network", "driver = \"iouring\""),
        ("network", "tls = true"),
        ("discovery", "multicast = true"),
        ("discovery", "resolve_every = 5"),
        ("runtime", "idle_after = 5"),
        ("runtime", "run_dir = 5"),
    ] {
        refused_value(section, line);
    }
}

#[test]
fn cf1_a_value_out_of_its_range_is_refused_and_the_range_named() {
    assert_eq!(refused_value("fabric", "nodes = 0"), "`fabric.nodes`: must be 1 to 1024, not 0");
    assert_eq!(
        refused_value("network", "bulk_bytes = \"2MiB\""),
        "`network.bulk_bytes`: must be 4KiB to 64KiB, not 2MiB"
    );
    for (section, line) in [
        ("fabric", "nodes = 1025"),
        ("fabric", "nodes = -1"),
        ("fabric", "name = \"\""),
        ("fabric", "name = \"../x\""),
        ("fabric", "name = \".x\""),
        ("node", "shards = 0"),
        ("node", "shards = 1025"),
        ("network", "listen = []"),
        ("network", "listen = [\"localhost:1\"]"),
        ("network", "interface = \"a-name-that-is-too-long\""),
        ("network", "seeds = [\"udp://a:1\"]"),
        ("network", "seeds = [\"tcp://a\"]"),
        ("network", "seeds = [\"tcp://a:0\"]"),
        ("network", "seeds = [\"tcp://:1\"]"),
        ("network", "seeds = [\"tcp://fe80::1:1\"]"),
        ("network", "bulk_bytes = 4095"),
        ("network", "window_bytes = \"16MiB\""),
        ("network", "window_messages = 15"),
        ("network", "window_messages = 65536"),
        ("network.verbs", "device = \"a/b\""),
        ("network.verbs", "port = 0"),
        ("network.verbs", "gid_index = 256"),
        ("network.verbs", "mtu = 1500"),
        ("network.verbs", "pkey = 0"),
        ("network.verbs", "service_level = 16"),
        ("network.verbs", "slot_bytes = 9000"),
        ("network.verbs", "slots = 1025"),
        ("discovery", "multicast = \"a-name-that-is-too-long\""),
        ("discovery", "resolve_every = \"999ms\""),
        ("discovery", "resolve_every = \"2h\""),
        ("discovery", "slurm_port = 0"),
        ("discovery", "slurm_port = 65536"),
        ("runtime", "memory = 0"),
        ("runtime", "memory = \"2000TiB\""),
        ("runtime", "idle_after = \"0s\""),
        ("runtime", "idle_after = \"9000h\""),
    ] {
        refused_value(section, line);
    }
    let seeds = vec!["\"tcp://a:1\""; SEEDS_MAX + 1].join(", ");
    assert!(refused_value("network", &format!("seeds = [{seeds}]")).contains("more than 64"));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let both = refused("[network]\nlisten = [\"0.0.0.0:1\"]\ninterface = \"eth0\"\n");
    assert!(both.contains("`network.listen` and `network.interface`"), "{both}");
    let both = refused("[fabric]\nkey = \"0123456789abcdef\"\nkey_file = \"/absent\"\n");
    assert!(both.contains("`fabric.key` and `fabric.key_file`"), "{both}");
    let half = refused("[network.tls]\nca = \"a\"\n");
    assert!(half.contains("needs all of"), "{half}");
}

#[test]
fn a_variable_counts_more_than_the_file_and_reads_like_it() {
    let text = "[fabric]\nnodes = 2\n[network]\nlisten = [\"127.0.0.1:1\"]\n";
    let config = with(
        text,
        &[
            ("EPICSERVER_FABRIC__NODES", "5"),
            ("EPICSERVER_NODE__NAME", "17"),
            ("EPICSERVER_NETWORK__LISTEN", "127.0.0.1:2, 127.0.0.1:3"),
            ("EPICSERVER_NETWORK__SEEDS", "[\"tcp://a:1\"]"),
            ("EPICSERVER_NETWORK__WINDOW_BYTES", "1MiB"),
            ("EPICSERVER_NETWORK__TLS__CA", "ca.pem"),
            ("EPICSERVER_NETWORK__TLS__CERT", "cert.pem"),
            ("EPICSERVER_NETWORK__TLS__KEY", "key.pem"),
            ("EPICSERVER_DISCOVERY__MULTICAST", "all"),
            ("EPICSERVER_RUNTIME__MEMORY", "1048576"),
            ("EPICSERVER_CONFIG", "a.toml"),
            ("EPICSERVER_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
        ],
    )
    .unwrap();
    assert_eq!(config.fabric.nodes, 5);
    assert_eq!(config.node.name, Name::new("17"));
    assert_eq!(config.network.listen, sockets(["127.0.0.1:2", "127.0.0.1:3"]));
    assert_eq!(config.network.seeds, [Address::new("tcp", "a:1")]);
    assert_eq!(config.network.window_bytes, 1 << 20);
    assert_eq!(config.network.tls.unwrap().key, Path::new("key.pem"));
    assert_eq!(config.discovery.multicast, Some(Multicast::All));
    assert_eq!(config.runtime.memory, Some(1 << 20));
}

#[test]
fn cf2_a_variable_that_is_wrong_is_refused_by_its_name() {
    let refused = |name, value| with("", &[(name, value)]).unwrap_err().to_string();
    assert_eq!(
        refused("EPICSERVER_NETWORK__TRANSPRT", "tcp"),
        "EPICSERVER_NETWORK__TRANSPRT: unknown setting; did you mean EPICSERVER_NETWORK__TRANSPORT?"
    );
    assert_eq!(
        refused("EPICSERVER_NETWORK_TRANSPORT", "tcp"),
        "EPICSERVER_NETWORK_TRANSPORT: unknown setting; did you mean EPICSERVER_NETWORK__TRANSPORT?"
    );
    assert_eq!(refused("EPICSERVER_A__B__C", ""), "EPICSERVER_A__B__C: unknown setting");
    assert!(refused("EPICSERVER_network__transport", "tcp").contains("did you mean"));
    assert_eq!(
        refused("EPICSERVER_FABRIC__NODES", "0"),
        "EPICSERVER_FABRIC__NODES: `fabric.nodes`: must be 1 to 1024, not 0"
    );
    assert!(refused("EPICSERVER_FABRIC__NODES", "many").starts_with("EPICSERVER_FABRIC__NODES: "));
    assert!(refused("EPICSERVER_NETWORK__TRANSPORT", "tpc").contains("`tpc`"));
}

#[test]
fn cf3_the_key_is_in_no_message() {
    let secret = "squeamish-ossifrage";
    let config = parse(&format!("[fabric]\nkey = \"{secret}\"\n")).unwrap();
    assert!(!format!("{config:?}").contains(secret));
    let short = refused("[fabric]\nkey = \"ossifrage\"\n");
    assert_eq!(short, "a.toml:2:7: `fabric.key`: a key is a text of 16 to 1024 bytes");
    for refusal in [
        refused("[fabric]\nkey = [\"squeamish-ossifrage\"]\n"),
        refused("[fabric]\nkey = 1234567890123456\n"),
        refused("[fabric]\nkey = squeamish-ossifrage\n"),
        refused("[fabric]\nkey = \"squeamish-ossifrage\n"),
        refused("fabric = \"squeamish-ossifrage\"\n"),
        with("", &[("EPICSERVER_FABRIC__KEY", "ossifrage")]).unwrap_err().to_string(),
        KeyFile::new("short", "ossifrage", 0o600).config().unwrap_err().to_string(),
    ] {
        assert!(!refusal.contains("ossifrage") && !refusal.contains("1234567890"), "{refusal}");
    }
}

#[test]
fn the_key_is_read_from_its_file_without_the_end_of_its_line() {
    let file = KeyFile::new("sound", "0123456789abcdef\n", 0o640);
    let key = file.config().unwrap().fabric.key.unwrap();
    assert_eq!(key.as_bytes(), b"0123456789abcdef");
    let long = KeyFile::new("long", &"x".repeat(KEY_BYTES_MAX + 1), 0o600);
    assert!(long.config().unwrap_err().to_string().contains("holds no key"));
}

#[test]
fn a_key_file_that_everybody_may_read_is_refused() {
    let file = KeyFile::new("exposed", "0123456789abcdef", 0o644);
    let refusal = file.config().unwrap_err().to_string();
    assert!(refusal.contains("everybody may read") && refusal.contains("mode 644"), "{refusal}");
    let refusal = refused("[fabric]\nkey_file = \"/absent/key\"\n");
    assert!(refusal.contains("cannot read /absent/key"), "{refusal}");
    assert!(refused("[fabric]\nkey_file = \"/\"\n").contains("no regular file"));
}

#[test]
fn sizes_and_durations_are_read_as_written_or_refused() {
    let sizes = [("0", 0), ("512", 512), ("7B", 7), ("64KiB", 65_536), ("2 GiB", 2 << 30)];
    for (text, bytes) in sizes {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "KiB", "-1", "1.5MiB", "64KB", "64kib", "1e3", "16777216TiB", "9PiB", "1 1"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
    let durations = [("250ms", 250_000), ("3 s", 3_000_000), ("2min", 120_000_000), ("9us", 9)];
    for (text, micros) in durations {
        assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
    }
    for text in ["", "5", "s", "5m", "1.5s", "-1s", "99999999999999999h", "5 s s"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn hostile_files_end_in_a_refusal() {
    let deep = format!("[node]\nname = {}", "[".repeat(100_000));
    let wide: String = (0..10_000).map(|key| format!("k{key} = 1\n")).collect();
    for text in [deep.as_str(), wide.as_str(), "\u{feff}[", "a.b.c.d = 1", "[[node]]", "\0"] {
        let refusal = refused(text);
        assert!(refusal.lines().count() <= 32, "{}", refusal.lines().count());
    }
}
