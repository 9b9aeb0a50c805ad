//! What can be wrong with an ask before anybody is asked.
//!
//! # Not here
//! What the coordinator answers to a sound one.

use crate::{Ask, ENDS_MAX, RECORD_BYTES_MAX, TTL_MAX, VIEW_BYTES_MAX};

/// Whether `ask` keeps the bounds that every coordinator has.
///
/// # Errors
/// Says which it does not keep.
pub fn check(ask: &Ask) -> Result<(), String> {
    match ask {
        Ask::Read | Ask::Release { .. } => Ok(()),
        Ask::Renew { record, ttl, .. } => {
            at_most("a record", record.len(), "bytes", RECORD_BYTES_MAX)?;
            if ttl.is_zero() || *ttl > TTL_MAX {
                return Err(format!(
                    "a lease lasts for more than nothing and at most {TTL_MAX:?}, not {ttl:?}"
                ));
            }
            Ok(())
        }
        Ask::Change { view, ends, .. } => {
            at_most("a view", view.len(), "bytes", VIEW_BYTES_MAX)?;
            at_most("a change", ends.len(), "leases to end", ENDS_MAX)
        }
    }
}

fn at_most(what: &str, there: usize, of: &str, most: usize) -> Result<(), String> {
    if there <= most {
        return Ok(());
    }
    Err(format!("{what} of {there} {of} is more than the {most} that a coordinator keeps"))
}
