//! Virtual actors for machines that must talk fast: entities, calls and a thread-per-core runtime
