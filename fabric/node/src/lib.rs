//! One shard of Epic Server as a pure value: events in, effects out
