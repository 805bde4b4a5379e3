//! What a demo or a soak tells while it runs: on standard error, since standard output is for the result.

use std::io::Write as _;
use std::sync::OnceLock;

/// Who tells. A process is one of the two and stays it.
static TELLER: OnceLock<&str> = OnceLock::new();

/// From here on it is told under this name.
pub(crate) fn tell_as(name: &'static str) {
    // The first name stays.
    let _ = TELLER.set(name);
}

/// Says what is done now.
pub(crate) fn say(what: &str) {
    let teller = TELLER.get().unwrap_or(&"demo");
    // A closed terminal is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{teller}: {what}");
}
