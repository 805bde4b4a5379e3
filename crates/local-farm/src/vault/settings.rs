//! What an instance of the vault is told by its `instance.toml`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use keys::{KeyStore, StoreConfig};
use serde::{Deserialize, Serialize};

/// The settings of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where it listens. Loopback only, since its `/admin` and `/canary` are for this machine alone.
    pub(crate) listen: SocketAddr,
    /// The shared database, with the application's own role.
    pub(crate) database_url: String,
    /// The folder of its `encryption.config`.
    pub(crate) store: PathBuf,
    /// The secret that binds `encryption.config` to the machine.
    pub(crate) hostkey: PathBuf,
}

impl Settings {
    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let settings: Self = toml::from_str(&text).with_context(|| format!("{} is not usable", path.display()))?;
        ensure!(settings.listen.ip().is_loopback(), "{}: listen must be a loopback address", path.display());
        Ok(settings)
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, toml::to_string(self)?).with_context(|| format!("writing {}", path.display()))
    }

    /// The store of its keys.
    pub(crate) fn key_store(&self) -> KeyStore {
        KeyStore::new(StoreConfig {
            directory: self.store.clone(),
            hostkey: self.hostkey.clone(),
            machine_id: PathBuf::from("/etc/machine-id"),
        })
    }
}
