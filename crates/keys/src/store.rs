//! The key store of one node: the application's `encryption.config`, the pending file that is to replace it, and the
//! dated files that it once was.
//!
//! Every file is bound to this host. What the store holds is judged by key id, never by a file's name or time, and
//! every change is durable when its function returns: repeated after a crash at any point, it finds out how far it
//! came and does the rest.

mod durable;
mod envelope;
mod error;
mod host;
mod names;
mod put_back;
mod recipient;
mod set_aside;

use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::{KeyId, RotationId};

use crate::{KeySet, payload};
use durable::Lock;
use envelope::Kind;
use host::Host;

pub use error::{StoreError, Unreadable};
pub use put_back::{FileRole, StoreFile};

/// Two activations in one second happen in tests at most; this many never.
const DATED_NAMES_MAX: u32 = 100;

/// Where a node's key store is.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The application's folder, which holds `encryption.config`.
    pub directory: PathBuf,
    /// The host's secret: 32 random bytes, readable by its owner alone.
    pub hostkey: PathBuf,
    /// The machine's id, usually `/etc/machine-id`.
    pub machine_id: PathBuf,
}

/// The key store of one node, bound to the host by the protector `hostkey`.
#[derive(Debug, Clone)]
pub struct KeyStore {
    config: StoreConfig,
}

impl KeyStore {
    /// How the store is bound to its machine, and what that is worth; for plan and report.
    pub const PROTECTOR: &'static str = "hostkey (a root-only file mixed with the machine id: a copied store opens \
                                         nothing elsewhere; root on this host, or a clone of it, opens everything)";

    /// The store at these places. Touches nothing yet.
    pub const fn new(config: StoreConfig) -> Self {
        Self { config }
    }

    /// Where the current keys stand: `encryption.config` in the application's folder.
    pub fn path(&self) -> PathBuf {
        self.config.directory.join(names::CURRENT)
    }

    /// Makes the host's secret if there is none. Returns whether it was made now.
    pub fn ensure_hostkey(&self) -> Result<bool, StoreError> {
        host::ensure_hostkey(&self.config.hostkey)
    }

    /// Writes a node's first `encryption.config`, and the host's secret if there is none. Never overwrites: the same
    /// keys again are accepted, others are refused.
    pub fn create(&self, set: &KeySet) -> Result<(), StoreError> {
        let _lock = Lock::take(&self.config.directory)?;
        // Looked at first: a new host's secret in place of one that was lost would only hide the loss.
        let held = match self.read(&self.path())? {
            Some(held) => held,
            None => {
                self.ensure_hostkey()?;
                if durable::create(&self.path(), &self.wrap(set)?)? {
                    return Ok(());
                }
                self.current()?
            }
        };
        if held == *set {
            durable::sync_directory(&self.config.directory)
        } else {
            Err(StoreError::AlreadyExists { path: self.path(), key: held.active().secret.id() })
        }
    }

    /// The keys that the application runs with: those in `encryption.config`.
    pub fn current(&self) -> Result<KeySet, StoreError> {
        self.read(&self.path())?.ok_or_else(|| StoreError::Missing { path: self.path() })
    }

    /// The keys that wait to be activated, if any.
    pub fn pending(&self) -> Result<Option<KeySet>, StoreError> {
        let files = names::list(&self.config.directory)?;
        files.pending.first().map_or(Ok(None), |rotation| self.read(&self.pending_path(rotation)))
    }

    /// Stores keys pending for a rotation; what waited for another rotation is dropped. Nothing is live yet.
    /// Keys that are current already are not stored a second time.
    pub fn put_pending(&self, rotation: &RotationId, set: &KeySet) -> Result<(), StoreError> {
        let _lock = Lock::take(&self.config.directory)?;
        let active = set.active().secret.id();
        if self.current()?.active().secret.id() == active {
            return durable::sync_directory(&self.config.directory);
        }
        for other in names::list(&self.config.directory)?.pending {
            if other != *rotation {
                durable::remove(&self.pending_path(&other))?;
            }
        }
        let (pending, file) = (self.pending_path(rotation), self.wrap(set)?);
        durable::at(point!(PENDING_KEY), &pending, || durable::replace_like(&pending, &file, &self.path()))
    }

    /// Makes the pending keys of a rotation the current ones, and keeps the old file under a name with the date and
    /// time `at_ms` (UTC). Already done, it changes nothing. Returns the key that is active now, which is `new`.
    pub fn activate(&self, rotation: &RotationId, new: KeyId, at_ms: u64) -> Result<KeyId, StoreError> {
        let _lock = Lock::take(&self.config.directory)?;
        let old = self.current()?.active().secret.id();
        let pending_path = self.pending_path(rotation);
        if old == new {
            durable::remove(&pending_path)?;
            return Ok(new);
        }
        let pending = self.read(&pending_path)?.ok_or(StoreError::NothingPending { new })?;
        let found = pending.active().secret.id();
        if found != new {
            return Err(StoreError::PendingDiffers { path: pending_path, expected: new, found });
        }
        self.keep_dated(old, at_ms)?;
        durable::at(point!(KEY_ACTIVATED), &self.path(), || durable::rename(&pending_path, &self.path()))?;
        Ok(new)
    }

    /// Puts the file with the active key `old` back as `encryption.config`. Which file that is, is judged by its
    /// content. Already done, it changes nothing. Returns the key that is active now, which is `old`.
    ///
    /// The key that was current is then on this node no longer, unless it was set aside before.
    pub fn restore(&self, old: KeyId) -> Result<KeyId, StoreError> {
        let _lock = Lock::take(&self.config.directory)?;
        match self.current() {
            Ok(set) if set.active().secret.id() == old => {
                durable::sync_directory(&self.config.directory)?;
                return Ok(old);
            }
            // A file that is gone or damaged is what putting the old one back repairs.
            Ok(_) | Err(StoreError::Missing { .. } | StoreError::Unreadable { .. }) => {}
            Err(error) => return Err(error),
        }
        let dated = names::list(&self.config.directory)?.dated;
        for name in dated.iter().rev() {
            let path = self.config.directory.join(name);
            let holds = self.read(&path).is_ok_and(|set| set.is_some_and(|set| set.active().secret.id() == old));
            if holds {
                // Copied, not linked: an application that writes into its file must not change the dated one.
                let file = durable::read(&path)?.unwrap_or_default();
                let put = || durable::replace_like(&self.path(), &file, &path);
                durable::at(point!(KEY_RESTORED), &self.path(), put)?;
                return Ok(old);
            }
        }
        Err(StoreError::NoFileWithKey { directory: self.config.directory.clone(), key: old, files: dated.len() })
    }

    /// Deletes pending keys, and what a crash left half-written.
    pub fn discard_pending(&self) -> Result<(), StoreError> {
        let _lock = Lock::take(&self.config.directory)?;
        let files = names::list(&self.config.directory)?;
        for rotation in files.pending {
            let path = self.pending_path(&rotation);
            durable::at(point!(PENDING_DISCARDED), &path, || durable::remove(&path))?;
        }
        for name in files.half_written {
            durable::remove(&self.config.directory.join(name))?;
        }
        Ok(())
    }

    /// Links the current file to its dated name. A name that is taken by other keys is passed over.
    fn keep_dated(&self, old: KeyId, at_ms: u64) -> Result<(), StoreError> {
        for attempt in 1..=DATED_NAMES_MAX {
            let path = self.config.directory.join(names::dated(at_ms, attempt));
            if durable::at(point!(DATED_NAME), &path, || durable::link(&self.path(), &path))? {
                return Ok(());
            }
            if self.read(&path).is_ok_and(|set| set.is_some_and(|set| set.active().secret.id() == old)) {
                return durable::sync_directory(&self.config.directory);
            }
        }
        Err(StoreError::NoDatedName { directory: self.config.directory.clone() })
    }

    fn pending_path(&self, rotation: &RotationId) -> PathBuf {
        self.config.directory.join(names::pending(rotation))
    }

    fn host(&self) -> Result<Host, StoreError> {
        Host::read(&self.config.hostkey, &self.config.machine_id)
    }

    fn wrap(&self, set: &KeySet) -> Result<Vec<u8>, StoreError> {
        envelope::wrap(&self.host()?, Kind::EncryptionConfig, &payload::to_json(set))
    }

    /// The keys in a file; `None` if there is no file.
    fn read(&self, path: &Path) -> Result<Option<KeySet>, StoreError> {
        let Some(file) = durable::read(path)? else { return Ok(None) };
        let json = envelope::unwrap(&self.host()?, Kind::EncryptionConfig, path, &file)?;
        match payload::from_json(&json) {
            Ok(set) => Ok(Some(set)),
            Err(error) => Err(StoreError::Unreadable { path: path.to_owned(), source: error.into() }),
        }
    }
}

#[cfg(test)]
mod tests;
