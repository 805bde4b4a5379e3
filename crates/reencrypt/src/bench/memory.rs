//! How much memory this process has had, as the kernel counts it.

use std::fs;

/// Begins the count of the peak anew. Where the kernel does not let us, the peak includes what came before.
pub(super) fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The highest resident memory since the count began, bytes; `None` where it is not told.
pub(super) fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_some_memory() {
        forget_peak();
        assert!(peak_bytes().unwrap() > 1024 * 1024);
    }
}
