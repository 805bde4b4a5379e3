//! The current keys kept pending beside themselves, before the previous ones are put back.

use fail_points::point;
use rotation::RotationId;

use super::durable::{self, Lock};
use super::{KeyStore, StoreError};

impl KeyStore {
    /// Keeps the current keys as the pending ones of a rotation too. Done before [`KeyStore::restore`]: rows may still
    /// be under them, and this node may be the one that has to turn those rows back. Done twice, it changes nothing.
    pub fn set_aside(&self, rotation: &RotationId) -> Result<(), StoreError> {
        let _lock = Lock::take(&self.config.directory)?;
        self.current()?;
        // Copied, not linked: an application that writes into its file must not change the one set aside.
        let file = durable::read(&self.path())?.unwrap_or_default();
        let pending = self.pending_path(rotation);
        durable::at(point!(KEY_SET_ASIDE), &pending, || durable::replace_like(&pending, &file, &self.path()))
    }
}
