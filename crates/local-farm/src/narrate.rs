//! What the demo tells while it runs: on standard error, since standard output is for the result.

use std::io::Write as _;

/// Says what is done now.
pub(crate) fn say(what: &str) {
    // A closed terminal is no reason to stop.
    let _ = writeln!(std::io::stderr(), "demo: {what}");
}
