//! The protector `hostkey`: what binds a file to this host. A random secret that only its owner reads, mixed with
//! the machine's id, makes the key that the store's files are encrypted with.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::{StoreError, durable};
use crate::secret::random_bytes;
use crate::transcript;

const HOSTKEY_BYTES: usize = 32;
/// The hint tells hosts apart in a message, no more.
const HINT_BYTES: usize = 8;
/// What systemd writes before the first boot has made an id.
const NOT_YET_AN_ID: &[u8] = b"uninitialized";

/// What this host encrypts with, and how it is told from others.
pub(super) struct Host {
    pub(super) wrapping_key: Zeroizing<[u8; 32]>,
    /// Eight bytes, hex. Derived like the key and disclosing nothing of it.
    pub(super) hint: String,
}

impl Host {
    pub(super) fn read(hostkey: &Path, machine_id: &Path) -> Result<Self, StoreError> {
        let secret = read_hostkey(hostkey)?;
        let id = durable::read(machine_id)?.unwrap_or_default();
        let id = id.trim_ascii();
        if id.is_empty() || id == NOT_YET_AN_ID {
            return Err(StoreError::MachineId { path: machine_id.to_owned() });
        }
        let fields = [secret.as_slice(), id];
        let hint = transcript::derive("keyturn host hint v1", &fields);
        Ok(Self {
            wrapping_key: transcript::derive("keyturn hostkey v1", &fields),
            hint: hex::encode(&hint[..HINT_BYTES]),
        })
    }
}

/// Makes the host's secret if there is none. Returns whether it was made now.
pub(super) fn ensure_hostkey(path: &Path) -> Result<bool, StoreError> {
    if path.exists() {
        return Ok(false);
    }
    let directory = durable::parent(path);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| StoreError::File {
        what: "make the directory",
        path: directory.to_owned(),
        source,
    })?;
    durable::create(path, &random_bytes(HOSTKEY_BYTES))
}

fn read_hostkey(path: &Path) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o7777,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StoreError::HostkeyMissing { path: path.to_owned() });
        }
        Err(source) => return Err(StoreError::File { what: "look at", path: path.to_owned(), source }),
    };
    if mode & 0o077 != 0 {
        return Err(StoreError::HostkeyExposed { path: path.to_owned(), mode });
    }
    let secret = Zeroizing::new(durable::read(path)?.unwrap_or_default());
    if secret.len() != HOSTKEY_BYTES {
        return Err(StoreError::HostkeyLength { path: path.to_owned(), length: secret.len() });
    }
    Ok(secret)
}
