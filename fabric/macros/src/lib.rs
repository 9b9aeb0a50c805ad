//! The attribute macros of Epic Server
