//! Keeps the keys in this process's memory out of core dumps and away from debuggers of the same user.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// The kernel did not let the process protect its memory.
#[derive(Debug, thiserror::Error)]
#[error("protecting the agent's memory ({what})")]
pub struct HardenError {
    what: &'static str,
    #[source]
    source: nix::Error,
}

/// No core dumps, and not dumpable: `ptrace` and `/proc/PID/mem` are for root alone.
pub(crate) fn harden() -> Result<(), HardenError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .map_err(|source| HardenError { what: "setting the core file limit to 0", source })?;
    prctl::set_dumpable(false).map_err(|source| HardenError { what: "making the process not dumpable", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_core_is_dumped() {
        harden().unwrap();
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(nix::sys::resource::getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
    }
}
