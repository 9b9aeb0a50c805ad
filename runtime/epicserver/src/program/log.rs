//! What a node has to say beside its output: warnings on standard error, and more where `EPIC_LOG` asks for it.
//!
//! # Not here
//! Spans. A program that wants its log elsewhere sets a subscriber of its own before: that one counts.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Metadata, Subscriber};

/// The variable that says how much: `error`, `warn`, `info`, `debug`, `trace` or `off`.
const VARIABLE: &str = "EPIC_LOG";

/// Writes a line to standard error for each event that is grave enough.
struct Lines(LevelFilter);

/// Begins to, unless the program has a subscriber already.
pub(super) fn begin() {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let _other = set_global_default(Lines(level(&wanted)));
}

fn level(wanted: &str) -> LevelFilter {
    // Nothing would be read as the name of a level, too.
    let named = Some(wanted).filter(|wanted| !wanted.is_empty());
    named.and_then(|named| named.parse().ok()).unwrap_or(LevelFilter::WARN)
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.0
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line { said: String::new(), fields: String::new() };
        event.record(&mut line);
        let Line { said, fields } = line;
        let (level, target) = (metadata.level(), metadata.target());
        // Where nobody listens, nobody is told.
        let _told = writeln!(std::io::stderr().lock(), "{level:5} {target}: {said}{fields}");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What an event says, and its fields behind that.
struct Line {
    said: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text cannot fail.
        let _written = match field.name() {
            "message" => write!(self.said, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_shown_unless_something_else_is_wanted() {
        assert_eq!(level(""), LevelFilter::WARN);
        assert_eq!(level("debug"), LevelFilter::DEBUG);
        assert_eq!(level("off"), LevelFilter::OFF);
        assert_eq!(level("everything"), LevelFilter::WARN);
    }

    #[test]
    fn an_event_is_one_line_with_its_fields_behind_it() {
        let lines = Lines(LevelFilter::INFO);
        tracing::subscriber::with_default(lines, || {
            assert!(tracing::event_enabled!(tracing::Level::INFO));
            assert!(!tracing::event_enabled!(tracing::Level::DEBUG));
        });
    }
}
