//! A configuration in a step of a Slurm job: where to listen, for how many others to wait, and by what to agree.
//!
//! # Not here
//! What Slurm says: that is `discovery::slurm`. Whom to dial: `sources`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::FabricError;
use super::ways::addresses_of;
use crate::config::{Config, CoordinatorKind, LISTEN_MAX, NetworkConfig};
use crate::discovery::slurm::Step;

/// The step of which this process is a task, if `config` wants to know, and the configuration as it is there.
/// May ask the name service for this host, and wait for it.
pub(crate) fn adapted(config: &Config) -> Result<(Config, Option<Step>), FabricError> {
    let mut config = config.clone();
    let Some(base) = config.discovery.slurm_port else { return Ok((config, None)) };
    let step = Step::read(|name| std::env::var_os(name), base)?;
    if let Some(step) = &step {
        adapt(&mut config, step)?;
    }
    Ok((config, step))
}

fn adapt(config: &mut Config, step: &Step) -> Result<(), FabricError> {
    // Whoever asks for more than one knows what for.
    if config.fabric.nodes == 1 {
        config.fabric.nodes = step.tasks();
    }
    agree(config, step);
    let port = step.port()?;
    let addresses = match (config.network.interface.take(), &config.network.listen) {
        (Some(interface), _) => addresses_of(&interface)?,
        (None, listen) if *listen == NetworkConfig::default().listen => of_this_host(step, port)?,
        (None, listen) => listen.clone(),
    };
    if let Some(address) = addresses.iter().find(|of| ![0, port].contains(&of.port())) {
        return Err(FabricError::Listen { address: *address, port });
    }
    config.network.listen =
        addresses.into_iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
    Ok(())
}

/// Hosts share no files to agree by, but all tasks of a step know it.
fn agree(config: &mut Config, step: &Step) {
    let coordinator = &mut config.coordinator;
    if coordinator.kind == CoordinatorKind::Local && step.is_wide() {
        coordinator.kind = CoordinatorKind::Static;
    }
    if coordinator.kind == CoordinatorKind::Static && coordinator.rank.is_none() {
        coordinator.rank = Some(step.rank());
        coordinator.run.get_or_insert_with(|| step.run());
        config.fabric.nodes = step.tasks();
    }
}

/// The addresses by which the others look for this host.
fn of_this_host(step: &Step, port: u16) -> Result<Vec<SocketAddr>, FabricError> {
    let host = step.host();
    let failed = |source| FabricError::Host { host: host.to_owned(), source };
    let found = (host, port).to_socket_addrs().map_err(failed)?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(LISTEN_MAX);
    if step.is_wide() && addresses.iter().map(SocketAddr::ip).all(|ip| IpAddr::is_loopback(&ip)) {
        tracing::warn!(
            host,
            ?addresses,
            "this host's own name stands for its loopback; other hosts will not get here: set `network.interface`"
        );
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn step(host: &str) -> Step {
        let value = |name: &str| {
            let value = match name {
                "SLURM_STEP_NODELIST" => format!("other,{host}"),
                "SLURM_STEP_TASKS_PER_NODE" => "1,2".to_owned(),
                "SLURM_STEP_NUM_TASKS" => "3".to_owned(),
                "SLURMD_NODENAME" => host.to_owned(),
                _ => "1".to_owned(),
            };
            Some(OsString::from(value))
        };
        Step::read(value, 7400).unwrap().unwrap()
    }

    fn adapted_listen(listen: &[&str]) -> Result<Vec<String>, FabricError> {
        let mut config = Config::default();
        config.network.listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        adapt(&mut config, &step("localhost"))?;
        Ok(config.network.listen.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_task_listens_at_its_own_port_where_it_is_told_to() {
        assert_eq!(
            adapted_listen(&["0.0.0.0:0", "[::]:7401"]).unwrap(),
            ["0.0.0.0:7401", "[::]:7401"]
        );
        let error = adapted_listen(&["10.0.0.1:7400"]).unwrap_err().to_string();
        assert!(error.contains("10.0.0.1:7400") && error.contains("7401"), "{error}");
        let mut config = Config::default();
        config.network.interface = Some("lo".to_owned());
        adapt(&mut config, &step("localhost")).unwrap();
        assert_eq!(config.network.interface, None);
        let listen = config.network.listen;
        assert!(listen.iter().all(|of| of.ip().is_loopback() && of.port() == 7401), "{listen:?}");
    }

    #[test]
    fn a_task_that_is_told_nothing_listens_where_the_others_look_for_it() {
        let mut config = Config::default();
        adapt(&mut config, &step("localhost")).unwrap();
        let listen = config.network.listen;
        assert!(listen.iter().all(|of| of.ip().is_loopback() && of.port() == 7401), "{listen:?}");
        assert!(!listen.is_empty());
        let mut config = Config::default();
        let error = adapt(&mut config, &step("no-such-host.invalid")).unwrap_err().to_string();
        assert!(error.contains("no-such-host.invalid"), "{error}");
    }

    #[test]
    fn tasks_of_several_hosts_are_members_by_rank_unless_told_otherwise() {
        let mut config = Config::default();
        adapt(&mut config, &step("localhost")).unwrap();
        let agreed = &config.coordinator;
        assert_eq!((agreed.kind, agreed.rank), (CoordinatorKind::Static, Some(1)));
        assert_eq!(agreed.run, Some(1 << 32 | 1 << 20 | 1));
        let mut config = Config::default();
        config.coordinator.kind = CoordinatorKind::Etcd;
        adapt(&mut config, &step("localhost")).unwrap();
        assert_eq!(
            (config.coordinator.kind, config.coordinator.rank),
            (CoordinatorKind::Etcd, None)
        );
    }

    #[test]
    fn a_task_waits_for_all_others_unless_it_is_told_for_how_many() {
        for (told, wanted) in [(1, 3), (2, 2), (5, 5)] {
            let mut config = Config::default();
            config.coordinator.kind = CoordinatorKind::Postgres;
            config.fabric.nodes = told;
            adapt(&mut config, &step("localhost")).unwrap();
            assert_eq!(config.fabric.nodes, wanted);
        }
    }

    #[test]
    fn without_a_port_nobody_asks_slurm() {
        let config = Config::default();
        assert_eq!(adapted(&config).unwrap(), (config, None));
    }
}
