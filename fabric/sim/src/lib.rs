//! The deterministic simulator of Epic Server: a whole fabric from one seed
