//! The crates of the workspace: who may depend on whom, and what each that is published says of itself.
//!
//! # Invariants
//! - Nothing in `fabric/` depends on anything of ours outside it, nor on a crate that reaches a clock, thread, socket
//!   or file. `wire` knows none of ours; `proto` and `entity` do not know each other.
//! - A transport sees only `link` and `wire`; what keeps state or views (a store, a coordinator, or both) only `store`, `record`,
//!   `coordinator` and `wire`.
//! - `coordinator` sees only `wire` and `proto`, whose data types it passes on.
//! - Only the façade names a concrete transport, store or coordinator that needs a server; but what shares the embedded store
//!   among processes stands on that one.
//! - A published crate has a description, licence, repository, readme and settings for its documentation.
//!
//! # Not here
//! Dependencies of tests: those may cross, since nobody ships them. Licences of others: that is `deny.toml`.

use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use crate::Finding;
use crate::tree::root;

/// Crates from outside that would bring a clock, a thread, a socket or a file into a pure crate.
const IMPURE: &[&str] = &[
    "async-io",
    "async-std",
    "core_affinity",
    "crossbeam-channel",
    "getrandom",
    "io-uring",
    "libc",
    "mio",
    "nix",
    "polling",
    "rand",
    "rayon",
    "rustix",
    "smol",
    "socket2",
    "tokio",
    "web-time",
];

/// The crate that users depend on, and the only one that names concrete transports, stores and coordinators.
const FACADE: &str = "runtime/epicserver";

/// The crate of the trait of coordinators.
const COORDINATOR: &str = "runtime/coordinator";

/// What crates that keep state or views may see of ours.
const SEEN_BY_KEEPERS: &[&str] =
    &["persistence/store", COORDINATOR, "fabric/record", "fabric/wire"];

/// What shares a store, and the store that it shares.
const SHARED: (&str, &str) = ("persistence/shared", "persistence/redb");

/// A dependency of the shipped crate or of its build script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dependency {
    /// One of ours, by its folder.
    Ours(String),
    /// A crate from the registry, by its name.
    Foreign(String),
}

/// A crate of the workspace.
#[derive(Debug, Clone, Default)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its folder, from the root.
    pub dir: String,
    /// What it ships with.
    pub dependencies: Vec<Dependency>,
    /// Whether it goes to the registry.
    pub published: bool,
    /// Which of the wanted entries its manifest lacks.
    pub lacks: Vec<&'static str>,
}

/// Reads the crates of the workspace from `cargo metadata`.
///
/// # Panics
/// When cargo refuses the workspace.
pub fn read() -> Vec<Crate> {
    let root = root();
    let mut command = MetadataCommand::new();
    let metadata = command.manifest_path(root.join("Cargo.toml")).no_deps().exec();
    let metadata: Metadata = metadata.expect("cargo accepts the workspace");
    metadata.workspace_packages().iter().map(|package| convert(&root, package)).collect()
}

fn convert(root: &Path, package: &Package) -> Crate {
    let manifest = package.manifest_path.as_std_path();
    let dir = manifest.parent().expect("a manifest lies in a folder");
    let shipped = package.dependencies.iter().filter(|dep| dep.kind != DependencyKind::Development);
    let dependencies = shipped.map(|dep| match &dep.path {
        Some(path) => Dependency::Ours(below(root, path.as_std_path())),
        None => Dependency::Foreign(dep.name.clone()),
    });
    Crate {
        name: package.name.to_string(),
        dir: below(root, dir),
        dependencies: dependencies.collect(),
        published: package.publish.as_ref().is_none_or(|registries| !registries.is_empty()),
        lacks: lacks(dir, package),
    }
}

fn below(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).expect("our crates lie in the repository");
    below.to_str().expect("paths of the repository are UTF-8").to_owned()
}

fn lacks(dir: &Path, package: &Package) -> Vec<&'static str> {
    let readme = package.readme.as_ref().is_some_and(|readme| dir.join(readme).is_file());
    let wanted = [
        ("description", package.description.is_some()),
        ("license", package.license.is_some()),
        ("repository", package.repository.is_some()),
        ("readme (a file that exists)", readme),
        ("[package.metadata.docs.rs]", package.metadata.pointer("/docs/rs").is_some()),
    ];
    wanted.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect()
}

/// Findings about who depends on whom.
pub fn check_dependencies(crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for of in crates {
        let refused = of.dependencies.iter().filter_map(|dep| Some((dep, refusal(&of.dir, dep)?)));
        for (dep, why) in refused {
            let (Dependency::Ours(name) | Dependency::Foreign(name)) = dep;
            let what = format!("{} may not depend on {name}: {why}", of.name);
            findings.push(Finding::new(&format!("{}/Cargo.toml", of.dir), 0, what));
        }
    }
    findings
}

/// Findings about what a published crate says of itself.
pub fn check_published(crates: &[Crate]) -> Vec<Finding> {
    let lacking = crates.iter().filter(|of| of.published && !of.lacks.is_empty());
    lacking
        .map(|of| {
            let what = format!("{} is published and lacks {}", of.name, of.lacks.join(", "));
            Finding::new(&format!("{}/Cargo.toml", of.dir), 0, what)
        })
        .collect()
}

fn refusal(dir: &str, dependency: &Dependency) -> Option<&'static str> {
    match dependency {
        Dependency::Ours(to) => refused_ours(dir, to),
        Dependency::Foreign(name) => (dir.starts_with("fabric/")
            && IMPURE.contains(&name.as_str()))
        .then_some("fabric/ is pure"),
    }
}

fn refused_ours(dir: &str, to: &str) -> Option<&'static str> {
    if dir.starts_with("fabric/") {
        return refused_in_fabric(dir, to);
    }
    if (dir, to) == SHARED {
        return None;
    }
    if is_concrete(to) && dir != FACADE {
        return Some("only the façade names concrete transports, stores and coordinators");
    }
    if dir.starts_with("transports/") && !["transports/link", "fabric/wire"].contains(&to) {
        return Some("a transport sees only link and wire");
    }
    if dir.starts_with("persistence/") && !SEEN_BY_KEEPERS.contains(&to) {
        return Some("a store or a coordinator sees only the crate of its trait and wire");
    }
    if dir == COORDINATOR && !["fabric/wire", "fabric/proto"].contains(&to) {
        return Some("the trait of coordinators sees only wire and proto");
    }
    None
}

fn refused_in_fabric(dir: &str, to: &str) -> Option<&'static str> {
    if !to.starts_with("fabric/") {
        return Some("nothing in fabric/ depends on anything outside it");
    }
    match (dir, to) {
        ("fabric/wire", _) => Some("wire is what all others stand on"),
        ("fabric/proto", "fabric/entity") | ("fabric/entity", "fabric/proto") => {
            Some("proto and entity do not know each other")
        }
        _ => None,
    }
}

fn is_concrete(dir: &str) -> bool {
    let of_kind = |kind: &str, shared: &str| dir.starts_with(kind) && dir != shared;
    of_kind("transports/", "transports/link") || of_kind("persistence/", "persistence/store")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(from: &str, to: &str) -> bool {
        let dependencies = vec![Dependency::Ours(to.to_owned())];
        check_dependencies(&[Crate { dir: from.to_owned(), dependencies, ..Crate::default() }])
            .is_empty()
    }

    #[test]
    fn the_fabric_depends_on_nothing_outside_it() {
        assert!(allowed("fabric/node", "fabric/proto"));
        assert!(!allowed("fabric/node", "runtime/shard"));
        assert!(!allowed("fabric/sim", "transports/link"));
        assert!(!allowed("fabric/wire", "fabric/proto"));
        assert!(!allowed("fabric/entity", "fabric/proto"));
    }

    #[test]
    fn transports_and_stores_see_their_trait_and_the_wire() {
        assert!(allowed("transports/tcp", "transports/link"));
        assert!(allowed("persistence/redb", "fabric/wire"));
        assert!(!allowed("transports/tcp", "fabric/proto"));
        assert!(!allowed("transports/tcp", "transports/shm"));
        assert!(!allowed("transports/link", "runtime/shard"));
        assert!(!allowed("persistence/redb", "fabric/node"));
    }

    #[test]
    fn coordinators_see_their_trait_and_the_wire_and_the_trait_sees_no_host() {
        assert!(allowed("persistence/etcd", COORDINATOR));
        assert!(allowed("persistence/postgres", COORDINATOR));
        assert!(!allowed("persistence/etcd", "fabric/proto"));
        assert!(!allowed("persistence/etcd", "persistence/postgres"));
        assert!(allowed(COORDINATOR, "fabric/proto"));
        assert!(!allowed(COORDINATOR, "runtime/shard"));
        assert!(!allowed(COORDINATOR, "persistence/etcd"));
        assert!(!allowed("runtime/shard", "persistence/etcd"));
        assert!(allowed(FACADE, "persistence/etcd"));
    }

    #[test]
    fn only_the_facade_names_concrete_ones() {
        assert!(allowed(FACADE, "transports/tcp"));
        assert!(allowed("runtime/shard", "transports/link"));
        assert!(!allowed("runtime/shard", "transports/tcp"));
        assert!(!allowed("bench", "persistence/redb"));
    }

    #[test]
    fn what_shares_the_embedded_store_stands_on_that_one_alone() {
        assert!(allowed("persistence/shared", "persistence/redb"));
        assert!(allowed("persistence/shared", "persistence/store"));
        assert!(allowed(FACADE, "persistence/shared"));
        assert!(!allowed("persistence/shared", "persistence/postgres"));
        assert!(!allowed("persistence/shared", "fabric/proto"));
        assert!(!allowed("persistence/redb", "persistence/shared"));
    }

    #[test]
    fn a_pure_crate_takes_no_host() {
        let foreign = |dir: &str| Crate {
            dir: dir.to_owned(),
            dependencies: vec![Dependency::Foreign("tokio".to_owned())],
            ..Crate::default()
        };
        assert_eq!(check_dependencies(&[foreign("fabric/proto")]).len(), 1);
        assert_eq!(check_dependencies(&[foreign("bench")]).len(), 0);
    }

    #[test]
    fn a_published_crate_without_a_readme_is_found() {
        let mut sample = Crate { lacks: vec!["readme"], ..Crate::default() };
        assert_eq!(check_published(&[sample.clone()]).len(), 0);
        sample.published = true;
        assert_eq!(check_published(&[sample]).len(), 1);
    }

    #[test]
    fn the_workspace_is_read() {
        let crates = read();
        let facade = crates.iter().find(|of| of.dir == FACADE).expect("the façade is a member");
        assert!(facade.published && facade.name == "epicserver");
        assert!(crates.iter().any(|of| of.dir == ".ci/tidy" && !of.published));
    }
}
