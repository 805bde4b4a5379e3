//! The names of the store's files, made and recognised. A file whose name is not exactly one of these is not ours
//! and is never touched.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rotation::RotationId;

use super::{StoreError, durable::HALF_WRITTEN};

/// The file that the application reads.
pub(super) const CURRENT: &str = "encryption.config";
const PREFIX: &str = "encryption.";
const DATED_SUFFIX: &str = ".config";
const PENDING_SUFFIX: &str = ".pending";

/// The store's files in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// What `encryption.config` once was, by name and so by time, oldest first.
    pub(super) dated: Vec<String>,
    /// The rotations for which keys are pending. One at most, unless somebody put files there.
    pub(super) pending: Vec<RotationId>,
    /// What a crash left behind.
    pub(super) half_written: Vec<String>,
}

/// The name of the pending file of a rotation.
pub(super) fn pending(rotation: &RotationId) -> String {
    format!("{PREFIX}{rotation}{PENDING_SUFFIX}")
}

/// The name with date and time (UTC); from the second attempt on, with a number behind them.
pub(super) fn dated(at_ms: u64, attempt: u32) -> String {
    let at = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let at = at.unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    match attempt {
        0 | 1 => format!("{PREFIX}{at}{DATED_SUFFIX}"),
        more => format!("{PREFIX}{at}-{more:03}{DATED_SUFFIX}"),
    }
}

/// The store's files in a directory.
pub(super) fn list(directory: &Path) -> Result<Files, StoreError> {
    let failed = |source| StoreError::File { what: "list", path: directory.to_owned(), source };
    let mut files = Files::default();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        match name.strip_suffix(HALF_WRITTEN) {
            Some(whole) if whole == CURRENT || is_dated(whole) || pending_rotation(whole).is_some() => {
                files.half_written.push(name.to_owned());
            }
            _ if is_dated(name) => files.dated.push(name.to_owned()),
            _ => files.pending.extend(pending_rotation(name)),
        }
    }
    // The directory's own order is no order.
    files.dated.sort_by(|one, other| date(one).cmp(date(other)));
    files.pending.sort();
    files.half_written.sort();
    Ok(files)
}

fn pending_rotation(name: &str) -> Option<RotationId> {
    let rotation = name.strip_prefix(PREFIX)?.strip_suffix(PENDING_SUFFIX)?.parse().ok()?;
    // A UUID is read in several spellings, and only one is ours.
    (pending(&rotation) == name).then_some(rotation)
}

/// The part that is the date, for sorting: a number sorts behind none.
fn date(name: &str) -> &str {
    name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(DATED_SUFFIX)).unwrap_or_default()
}

fn is_dated(name: &str) -> bool {
    let pattern = |text: &[u8], pattern: &[u8]| {
        text.len() == pattern.len()
            && text.iter().zip(pattern).all(|(byte, expected)| match expected {
                b'9' => byte.is_ascii_digit(),
                other => byte == other,
            })
    };
    let date = date(name).as_bytes();
    pattern(date, b"99999999-999999") || pattern(date, b"99999999-999999-999")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dated_name_is_in_utc_and_says_the_second() {
        assert_eq!(dated(1_700_000_000_999, 1), "encryption.20231114-221320.config");
        assert_eq!(dated(1_700_000_000_999, 2), "encryption.20231114-221320-002.config");
        assert_eq!(dated(0, 1), "encryption.19700101-000000.config");
        assert!(is_dated(&dated(u64::MAX, 1)), "a time that no calendar has still makes a name");
    }

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(is_dated("encryption.20231114-221320.config"));
        assert!(is_dated("encryption.20231114-221320-002.config"));
        for other in [
            "encryption.config",
            "encryption.old.config",
            "encryption.20231114.config",
            "encryption.20231114-221320.config.bak",
        ] {
            assert!(!is_dated(other), "{other}");
        }
        assert!(pending_rotation("encryption.01890a5d-ac96-774b-bcce-b302099a8057.pending").is_some());
        assert!(pending_rotation("encryption.01890A5D-AC96-774B-BCCE-B302099A8057.pending").is_none());
        assert!(pending_rotation("encryption.pending").is_none());
    }
}
