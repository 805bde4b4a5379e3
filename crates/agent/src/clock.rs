//! The node's wall clock, for times that people read. Safety never depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

use rotation::Millis;

/// Now; the epoch itself on a clock that is set before it.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
