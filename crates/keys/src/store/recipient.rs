//! The recipient key of a rotation, kept bound to this host in the agent's own directory between the inspection and
//! the bundle's arrival. At most one is kept.

use std::fs;
use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::RotationId;

use super::durable::{self, Lock};
use super::envelope::{self, Kind};
use super::{KeyStore, StoreError, Unreadable};
use crate::sealed::RecipientKey;

const PREFIX: &str = "recipient-";
const SUFFIX: &str = ".key";

impl KeyStore {
    /// Keeps the recipient key of a rotation in the agent's `state_dir`; those of other rotations are deleted.
    pub fn put_recipient(&self, state_dir: &Path, rotation: &RotationId, key: &RecipientKey) -> Result<(), StoreError> {
        let _lock = Lock::take(state_dir)?;
        for other in list(state_dir)? {
            if other != *rotation {
                durable::remove(&path(state_dir, &other))?;
            }
        }
        let file = envelope::wrap(&self.host()?, Kind::RecipientKey(*rotation), key.expose())?;
        let path = path(state_dir, rotation);
        durable::at(point!(RECIPIENT_KEY), &path, || durable::replace(&path, &file))
    }

    /// The recipient key of a rotation, if it is kept.
    pub fn recipient(&self, state_dir: &Path, rotation: &RotationId) -> Result<Option<RecipientKey>, StoreError> {
        let path = path(state_dir, rotation);
        let Some(file) = durable::read(&path)? else { return Ok(None) };
        let private = envelope::unwrap(&self.host()?, Kind::RecipientKey(*rotation), &path, &file)?;
        match RecipientKey::from_exposed(private) {
            Some(key) => Ok(Some(key)),
            None => Err(StoreError::Unreadable { path, source: Unreadable::Ciphertext }),
        }
    }

    /// Deletes the recipient key of a rotation, if it is kept.
    pub fn delete_recipient(&self, state_dir: &Path, rotation: &RotationId) -> Result<(), StoreError> {
        let _lock = Lock::take(state_dir)?;
        let path = path(state_dir, rotation);
        durable::remove(&durable::half_written(&path))?;
        durable::at(point!(RECIPIENT_DELETED), &path, || durable::remove(&path))
    }
}

fn path(state_dir: &Path, rotation: &RotationId) -> PathBuf {
    state_dir.join(format!("{PREFIX}{rotation}{SUFFIX}"))
}

/// The rotations whose recipient keys are kept.
fn list(state_dir: &Path) -> Result<Vec<RotationId>, StoreError> {
    let failed = |source| StoreError::File { what: "list", path: state_dir.to_owned(), source };
    let mut rotations = Vec::new();
    for entry in fs::read_dir(state_dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let rotation = |name: &str| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse::<RotationId>().ok();
        rotations.extend(name.to_str().and_then(rotation));
    }
    Ok(rotations)
}
