//! The entity types that a node serves.
//!
//! # Invariants
//! - **E6** No two types of a registry share an id, and no two methods.
//!
//! # Not here
//! Which node serves what: that is the fabric's.

use std::collections::BTreeMap;

use epicserver_wire::{MethodId, TypeId};

use crate::entity::{Entity, MethodInfo, TypeInfo};

/// Why a registry was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RegistryError {
    /// Two types have one id: mostly since they have one name.
    TypesCollide(&'static str, &'static str),
    /// Two methods have one id.
    MethodsCollide(&'static str, &'static str),
}

impl std::fmt::Display for RegistryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, a, b) = match self {
            Self::TypesCollide(a, b) => ("entity types", a, b),
            Self::MethodsCollide(a, b) => ("methods", a, b),
        };
        write!(
            f,
            "the {what} `{a}` and `{b}` have one id: write `#[entity(name = \"…\")]` on one of them"
        )
    }
}

impl std::error::Error for RegistryError {}

/// The entity types that a node serves, and their methods.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    types: BTreeMap<TypeId, TypeInfo>,
    methods: BTreeMap<MethodId, &'static MethodInfo>,
}

impl Registry {
    /// Adds `T`. Adding a type twice changes nothing.
    ///
    /// # Errors
    /// If another type or method has the same id (**E6**).
    pub fn add<T: Entity>(&mut self) -> Result<(), RegistryError> {
        let info = TypeInfo::of::<T>();
        if let Some(other) = self.types.get(&info.id) {
            if std::ptr::eq(other.methods, info.methods) && other.name == info.name {
                return Ok(());
            }
            return Err(RegistryError::TypesCollide(other.name, info.name));
        }
        for method in info.methods {
            if let Some(other) = self.methods.insert(method.id, method) {
                return Err(RegistryError::MethodsCollide(other.name, method.name));
            }
        }
        self.types.insert(info.id, info);
        Ok(())
    }

    /// What is known of the type.
    #[must_use]
    pub fn entity(&self, id: TypeId) -> Option<&TypeInfo> {
        self.types.get(&id)
    }

    /// What is known of the method.
    #[must_use]
    pub fn method(&self, id: MethodId) -> Option<&'static MethodInfo> {
        self.methods.get(&id).copied()
    }

    /// Every method, by id.
    pub fn methods(&self) -> impl Iterator<Item = &'static MethodInfo> {
        self.methods.values().copied()
    }

    /// Every type, by id.
    pub fn entities(&self) -> impl Iterator<Item = &TypeInfo> {
        self.types.values()
    }
}
