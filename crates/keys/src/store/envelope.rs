//! The outer form of every file of the store: JSON that says what it is and which host it is bound to, around a
//! ciphertext that only that host opens.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use devolutions_crypto::CiphertextVersion;
use devolutions_crypto::ciphertext::{Ciphertext, encrypt_with_aad};
use rotation::RotationId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::host::Host;
use super::{StoreError, Unreadable};
use crate::transcript;

/// The version that this release writes, and the only one that it reads.
const VERSION: u32 = 1;
const PROTECTOR: &str = "hostkey";

/// What a file is. Bound into its ciphertext, so that no file passes for one of another kind.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A key set: `encryption.config`, its dated predecessors and the pending file.
    EncryptionConfig,
    /// The recipient key of one rotation.
    RecipientKey(RotationId),
}

impl Kind {
    const fn format(self) -> &'static str {
        match self {
            Self::EncryptionConfig => "keyturn-encryption-config",
            Self::RecipientKey(_) => "keyturn-recipient-key",
        }
    }

    fn associated_data(self) -> Vec<u8> {
        match self {
            Self::EncryptionConfig => transcript::bytes(&[b"keyturn-encryption-config v1", b"hostkey"]),
            Self::RecipientKey(rotation) => {
                transcript::bytes(&[b"keyturn-recipient-key v1", b"hostkey", rotation.as_bytes()])
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    format: String,
    version: u32,
    protector: String,
    host_hint: String,
    ciphertext: String,
}

/// The format and version alone, read first so that another version is told from a broken file.
#[derive(Deserialize)]
struct Versioned {
    format: String,
    version: u32,
}

pub(super) fn wrap(host: &Host, kind: Kind, plaintext: &[u8]) -> Result<Vec<u8>, StoreError> {
    let ciphertext = encrypt_with_aad(plaintext, &*host.wrapping_key, &kind.associated_data(), CiphertextVersion::V2)
        .map_err(StoreError::Cipher)?;
    let envelope = Envelope {
        format: kind.format().to_owned(),
        version: VERSION,
        protector: PROTECTOR.to_owned(),
        host_hint: host.hint.clone(),
        ciphertext: STANDARD.encode(Vec::from(ciphertext)),
    };
    let mut json = serde_json::to_vec(&envelope).expect("an envelope is strings and a number");
    json.push(b'\n');
    Ok(json)
}

pub(super) fn unwrap(host: &Host, kind: Kind, path: &Path, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let path = || path.to_owned();
    let unreadable = |source| StoreError::Unreadable { path: path(), source };
    let malformed =
        |error: serde_json::Error| unreadable(Unreadable::Malformed { line: error.line(), column: error.column() });
    let versioned: Versioned = serde_json::from_slice(file).map_err(malformed)?;
    if versioned.format != kind.format() {
        return Err(unreadable(Unreadable::Format(kind.format())));
    }
    if versioned.version != VERSION {
        return Err(StoreError::Version { path: path(), version: versioned.version });
    }
    let envelope: Envelope = serde_json::from_slice(file).map_err(malformed)?;
    if envelope.protector != PROTECTOR {
        return Err(StoreError::Protector { path: path() });
    }
    if envelope.host_hint != host.hint {
        return Err(StoreError::OtherHost { path: path(), found: envelope.host_hint, this: host.hint.clone() });
    }
    let ciphertext = STANDARD.decode(&envelope.ciphertext).map_err(|_| unreadable(Unreadable::Ciphertext))?;
    let ciphertext = Ciphertext::try_from(ciphertext.as_slice()).map_err(|_| unreadable(Unreadable::Ciphertext))?;
    ciphertext
        .decrypt_with_aad(&*host.wrapping_key, &kind.associated_data())
        .map(Zeroizing::new)
        .map_err(|_| unreadable(Unreadable::Altered))
}
