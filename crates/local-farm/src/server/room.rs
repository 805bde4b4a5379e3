//! Whether the disk on which temporary servers lie takes a database that is to be put there.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::sys::statvfs::statvfs;

use super::temporary;

/// Beside the data a server writes its log and sorts: one part of so many, and no less than the least.
const MARGIN_PART: u64 = 10;
const MARGIN_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// The disk does not take it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} has {free_bytes} bytes free, and {needed_bytes} are needed: {data_bytes} of data, and a tenth more, no less than \
     64 MiB, for what a server writes beside them", .folder.display()
)]
pub struct NoRoom {
    folder: PathBuf,
    free_bytes: u64,
    needed_bytes: u64,
    data_bytes: u64,
}

/// Sees that there is room for so many bytes of data where temporary servers lie; else fails with [`NoRoom`].
pub fn room_aside(data_bytes: u64) -> anyhow::Result<()> {
    room_in(&temporary::place(), data_bytes)
}

fn room_in(folder: &Path, data_bytes: u64) -> anyhow::Result<()> {
    let found = statvfs(folder).with_context(|| format!("looking at the disk of {}", folder.display()))?;
    let free_bytes = found.blocks_available().saturating_mul(found.fragment_size());
    let needed_bytes = needed(data_bytes);
    if needed_bytes <= free_bytes {
        return Ok(());
    }
    Err(NoRoom { folder: folder.to_owned(), free_bytes, needed_bytes, data_bytes }.into())
}

fn needed(data_bytes: u64) -> u64 {
    data_bytes.saturating_add((data_bytes / MARGIN_PART).max(MARGIN_BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_is_needed_and_no_less_than_the_least() {
        for (data, expected) in
            [(0, MARGIN_BYTES_MIN), (1 << 20, (1 << 20) + MARGIN_BYTES_MIN), (1 << 40, (1 << 40) / 10 * 11)]
        {
            assert!(needed(data).abs_diff(expected) <= 10, "{data}");
        }
        assert_eq!(needed(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_fits_on_no_disk_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        room_in(folder.path(), 0).expect("there is room");
        let refused = room_in(folder.path(), u64::MAX / 2).expect_err("refused");
        assert!(refused.is::<NoRoom>());
        assert!(refused.to_string().starts_with(&folder.path().display().to_string()), "{refused}");
    }
}
