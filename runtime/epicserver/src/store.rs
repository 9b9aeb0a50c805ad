//! The store that a configuration asks for.
//!
//! # Not here
//! What stores do: each is a crate. When something is saved: shards decide.

use std::sync::Arc;

use epicserver_store::{Keeper, Memory};

use crate::config::{Config, CoordinatorKind, StoreConfig, StoreKind};

/// Why a node has no store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot be opened.
    #[error("{0}")]
    Open(String),
    /// Other nodes would save somewhere else.
    #[error(
        "`store.kind` is \"{kind}\", which {why}: choose \"postgres\", or \"none\" to save nothing"
    )]
    Apart {
        /// The store.
        kind: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The program was built without it.
    #[error("this program was built without the feature `postgres`")]
    NotBuilt,
}

/// Opens the store of a node, which is to be in a fabric with others or not. Blocks.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn open(config: &Config, joins: bool) -> Result<Option<Arc<dyn Keeper>>, StoreError> {
    let given = &config.store;
    let kind = given.kind.name();
    let here = matches!(config.coordinator.kind, CoordinatorKind::Local | CoordinatorKind::Static);
    match given.kind {
        StoreKind::None => Ok(None),
        StoreKind::Memory if joins => {
            let why = "no other node of this fabric could read";
            Err(StoreError::Apart { kind, why })
        }
        StoreKind::Memory => Ok(Some(Arc::new(Memory::new()))),
        StoreKind::Redb if joins && !here => {
            let why = "nodes of other machines could not read";
            Err(StoreError::Apart { kind, why })
        }
        StoreKind::Redb => embedded(config).map(Some),
        StoreKind::Postgres => postgres(config, given).map(Some),
    }
}

fn embedded(config: &Config) -> Result<Arc<dyn Keeper>, StoreError> {
    let options = epicserver_shared::Options {
        path: config.store.path.clone(),
        fabric: config.fabric.name.to_string(),
        cache_bytes: usize::try_from(config.store.cache).unwrap_or(usize::MAX),
        patience: epicserver_shared::limits::PATIENCE,
    };
    let opened = epicserver_shared::open(&options);
    Ok(Arc::new(opened.map_err(|error| StoreError::Open(error.to_string()))?))
}

#[cfg(feature = "postgres")]
fn postgres(config: &Config, given: &StoreConfig) -> Result<Arc<dyn Keeper>, StoreError> {
    let options = epicserver_postgres::store::Options {
        servers: given.servers.iter().map(|server| server.reveal().to_owned()).collect(),
        tls: given.tls.as_ref().map(crate::fabric::files),
        fabric: config.fabric.name.to_string(),
    };
    let opened = epicserver_postgres::store::open(&options);
    Ok(Arc::new(opened.map_err(|error| StoreError::Open(error.to_string()))?))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &Config, _: &StoreConfig) -> Result<Arc<dyn Keeper>, StoreError> {
    Err(StoreError::NotBuilt)
}
