//! The sources of other nodes that a configuration asks for, beside the run directory.
//!
//! # Not here
//! What they do: that is `discovery`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use epicserver_link::Address;
use epicserver_wire::NodeId;

use super::FabricError;
use super::services::Services;
use super::ways::addresses_of;
use crate::config::{self, Config};
use crate::discovery::multicast::Multicast;
use crate::discovery::names::{Name, Names, Options, Resolver};
use crate::discovery::slurm::Step;
use crate::discovery::{Fixed, Source};

/// Sets the sources up, on behalf of `node`, which may be a task of `step`. Starts their threads.
pub(super) fn sources(
    config: &Config,
    step: Option<&Step>,
    node: NodeId,
) -> Result<Vec<Box<dyn Source>>, FabricError> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    let (numbers, names): (Vec<&Address>, Vec<&Address>) =
        config.network.seeds.iter().partition(|seed| seed.rest().parse::<SocketAddr>().is_ok());
    if !numbers.is_empty() {
        sources.push(Box::new(Fixed::new("seeds", numbers.into_iter().cloned())));
    }
    let names = names.into_iter().filter_map(name_of).collect();
    watch("names of seeds", names, (config, node), &mut sources)?;
    if let Some(service) = super::ways::service(config, node) {
        sources.push(Box::new(Services::watch(service).map_err(FabricError::Tipc)?));
    }
    watch("slurm", step.map(Step::dials).unwrap_or_default(), (config, node), &mut sources)?;
    let interface = match &config.discovery.multicast {
        None => return Ok(sources),
        Some(config::Multicast::All) => None,
        Some(config::Multicast::Interface(name)) => {
            // One that is not there is a mistake that is better told now.
            let _there = addresses_of(name)?;
            Some(name.as_str())
        }
    };
    let fabric = config.fabric.name.as_str();
    sources.push(Box::new(Multicast::new(fabric, interface, Instant::now())));
    Ok(sources)
}

fn name_of(seed: &Address) -> Option<Name> {
    let (host, port) = seed.rest().rsplit_once(':')?;
    let port = port.parse().ok()?;
    Some(Name { host: host.to_owned(), port, after: Duration::ZERO, leads: false })
}

/// Watches what names stand for, if there are any.
fn watch(
    called: &'static str,
    names: Vec<Name>,
    (config, node): (&Config, NodeId),
    sources: &mut Vec<Box<dyn Source>>,
) -> Result<(), FabricError> {
    if names.is_empty() {
        return Ok(());
    }
    let resolver = Resolver::start(names.len()).map_err(FabricError::Thread)?;
    let (every, seed) = (config.discovery.resolve_every, node.as_u64());
    let names = Names::new(Options { called, resolver, every, seed }, names, Instant::now());
    sources.push(Box::new(names));
    Ok(())
}
