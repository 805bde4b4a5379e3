//! The held-offline marker: while it is there, the instance of this node must not run for clients, whatever
//! restarts in between.

use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::{Millis, RotationId};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

const FORMAT: &str = "keyturn-agent-held 1";
const FILE: &str = "held.json";

/// Since when and for which rotation the instance is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The rotation.
    pub(crate) rotation: RotationId,
    /// Since when, on this node's clock.
    pub(crate) since: Millis,
}

/// The marker, in memory and on disk. Disk first.
#[derive(Debug)]
pub(crate) struct HeldFile {
    path: PathBuf,
    held: Option<Held>,
}

impl HeldFile {
    /// Reads it; absent means not held.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let path = state_dir.join(FILE);
        let held = durable::read(&path, FORMAT)?;
        Ok(Self { path, held })
    }

    /// The marker.
    pub(crate) fn get(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Holds the instance for a rotation. Held already for it keeps the earlier time.
    pub(crate) fn hold(&mut self, rotation: RotationId, now: Millis) -> Result<(), DurableError> {
        if self.held.as_ref().is_some_and(|held| held.rotation == rotation) {
            return Ok(());
        }
        let held = Held { rotation, since: now };
        durable::write(&self.path, FORMAT, &held, point!(HELD_MARKER))?;
        self.held = Some(held);
        Ok(())
    }

    /// Lets go.
    pub(crate) fn release(&mut self) -> Result<(), DurableError> {
        durable::remove(&self.path, point!(HELD_RELEASED))?;
        self.held = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_survives_and_goes_when_released() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = RotationId::new(uuid::Uuid::from_u128(1));
        let mut file = HeldFile::open(folder.path()).unwrap();
        file.hold(rotation, Millis::new(5)).unwrap();
        file.hold(rotation, Millis::new(9)).unwrap();
        let mut file = HeldFile::open(folder.path()).unwrap();
        assert_eq!(file.get(), Some(&Held { rotation, since: Millis::new(5) }));
        file.release().unwrap();
        file.release().unwrap();
        assert_eq!(HeldFile::open(folder.path()).unwrap().get(), None);
    }
}
