//! The rotations that were undone by hand on this node: whatever a coordinator still asks for them is answered so.

use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::{KeyId, Millis, RotationId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

const FORMAT: &str = "keyturn-agent-recovered 1";
const FILE: &str = "recovered.json";
/// How many are remembered. Nobody asks for a rotation that was followed by a hundred others.
const RECOVERED_MAX: usize = 100;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recovered {
    /// The rotation.
    pub(crate) rotation: RotationId,
    /// The key that this node's instance serves with since.
    pub(crate) key: KeyId,
    /// When, on this node's clock.
    pub(crate) at: Millis,
}

/// The marks, in memory and on disk. Disk first.
#[derive(Debug)]
pub(crate) struct RecoveredFile {
    path: PathBuf,
    /// Oldest first.
    recovered: Vec<Recovered>,
}

impl RecoveredFile {
    /// Reads them; absent means none.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let path = state_dir.join(FILE);
        let recovered = durable::read(&path, FORMAT)?.unwrap_or_default();
        Ok(Self { path, recovered })
    }

    /// The mark of a rotation.
    pub(crate) fn get(&self, rotation: RotationId) -> Option<&Recovered> {
        self.recovered.iter().find(|recovered| recovered.rotation == rotation)
    }

    /// Marks a rotation. Marked already keeps the earlier mark.
    pub(crate) fn mark(&mut self, mark: Recovered) -> Result<(), DurableError> {
        if self.get(mark.rotation).is_some() {
            return Ok(());
        }
        let mut recovered = self.recovered.clone();
        recovered.push(mark);
        if recovered.len() > RECOVERED_MAX {
            recovered.remove(0);
        }
        durable::write(&self.path, FORMAT, &recovered, point!(RECOVERED_MARK))?;
        self.recovered = recovered;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_and_the_first_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = RotationId::new(uuid::Uuid::from_u128(1));
        let mark = |at| Recovered { rotation, key: KeyId::new([1; 16]), at: Millis::new(at) };
        let mut file = RecoveredFile::open(folder.path()).unwrap();
        file.mark(mark(5)).unwrap();
        file.mark(mark(9)).unwrap();
        let file = RecoveredFile::open(folder.path()).unwrap();
        assert_eq!(file.get(rotation), Some(&mark(5)));
        assert_eq!(file.get(RotationId::new(uuid::Uuid::from_u128(2))), None);
    }
}
