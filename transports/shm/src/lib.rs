//! Links between two processes of one host, through memory that both have mapped.
//!
//! # Not here
//! Who the peer is.
