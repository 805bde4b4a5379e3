//! The frame around everything that consensus stores: what it is, in which version, then postcard.
//!
//! postcard does not describe itself, so any change of a stored type is a new version here, with the old one still
//! read. `tests/fixtures` holds frames of every version that was ever written.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::earlier;

/// The version that this release writes. It reads 2 as well, which lacks what came with downtime budgets.
pub(super) const VERSION: u8 = 3;

/// That of development, before any release: its entries could be read, but not applied to the same state, because a plan,
/// whose digest operators sign, has another format since.
const OUTDATED: u8 = 1;

/// What is inside a frame; the first of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A vote.
    Vote = b'v',
    /// A log id: what was purged or committed.
    LogId = b'i',
    /// An entry of the log.
    Entry = b'e',
    /// What a snapshot covers.
    SnapshotMeta = b'm',
    /// The state in a snapshot.
    State = b's',
}

/// A frame that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of kind {:?} cannot be written", *.0 as u8 as char)]
    Write(Kind, #[source] postcard::Error),
    #[error("expected a frame of kind {:?}, found {found:02x?}; the data directory is damaged", *.expected as u8 as char)]
    Kind { expected: Kind, found: Vec<u8> },
    #[error("the frame has version {found}, and this release reads up to {VERSION}; start the release that wrote it")]
    Version { found: u8 },
    #[error(
        "the frame has version {found}, from before the first release, whose log this release cannot replay; let the \
         program that wrote it end its rotation, then start this one's coordinators with empty data directories and enroll \
         every node again"
    )]
    Outdated { found: u8 },
    #[error("a frame of kind {:?} cannot be read; the data directory is damaged", *.0 as u8 as char)]
    Read(Kind, #[source] postcard::Error),
}

/// Puts a value into a frame.
pub(crate) fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, FrameError> {
    postcard::to_extend(value, vec![kind as u8, VERSION]).map_err(|source| FrameError::Write(kind, source))
}

/// Takes a value out of a frame.
pub(crate) fn decode<T: DeserializeOwned>(kind: Kind, frame: &[u8]) -> Result<T, FrameError> {
    match frame {
        [found, version, payload @ ..] if *found == kind as u8 => {
            let read = match *version {
                0..=OUTDATED => return Err(FrameError::Outdated { found: *version }),
                2 => earlier::read_version_2(payload),
                VERSION => postcard::from_bytes(payload),
                _ => return Err(FrameError::Version { found: *version }),
            };
            read.map_err(|source| FrameError::Read(kind, source))
        }
        other => Err(FrameError::Kind { expected: kind, found: other.iter().take(2).copied().collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back() {
        let frame = encode(Kind::LogId, &(7_u64, "text")).expect("writes");
        assert_eq!(&frame[..2], b"i\x03");
        assert_eq!(decode::<(u64, String)>(Kind::LogId, &frame).expect("reads"), (7, "text".to_owned()));
    }

    #[test]
    fn a_foreign_frame_is_refused_by_name() {
        let mut frame = encode(Kind::Vote, &1_u64).expect("writes");
        assert!(matches!(decode::<u64>(Kind::Entry, &frame), Err(FrameError::Kind { .. })));
        assert!(matches!(decode::<u64>(Kind::Entry, b""), Err(FrameError::Kind { .. })));
        frame[1] = 4;
        assert!(matches!(decode::<u64>(Kind::Vote, &frame), Err(FrameError::Version { found: 4 })));
        frame[1] = 1;
        assert!(matches!(decode::<u64>(Kind::Vote, &frame), Err(FrameError::Outdated { found: 1 })));
        assert!(matches!(decode::<u64>(Kind::Vote, b"v\x03"), Err(FrameError::Read(..))));
    }
}
