//! One stored value: opened, encrypted, and re-encrypted from one key to another in the form it was found in.

mod base64;
mod error;
mod header;
mod parse;
mod speed;

use devolutions_crypto::CiphertextVersion;
use devolutions_crypto::ciphertext::{Ciphertext, encrypt_with_aad};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::SecretKey;
use parse::Parsed;

pub use error::{Base64Problem, ValueError};
pub use header::{BASE64_HEADER_CHARS, ValueHeader, ValueKind};
pub use speed::{RewrapSpeed, measure as measure_speed};

/// The largest stored value that is read, bytes. A value, its ciphertext and its copy in the other form are in
/// memory at once, several times over with several shards, and no vault keeps larger attachments in a row.
pub const VALUE_BYTES_MAX: usize = 100 * 1024 * 1024;

/// How often a value is encrypted anew to find base64 text that reads the same in both alphabets. The longer the
/// text the rarer it is, but the rarer it is also met, so that a value costs one more encryption on average. At this
/// limit at most one value in two million (of about 440 symbols) gives up, and gets the standard alphabet.
const NEUTRAL_TRIES_MAX: u32 = 1 << 20;

/// How a ciphertext stands in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Its bytes.
    Raw,
    /// Base64 text. Padding and alphabet of each value are kept as they are found.
    Base64,
}

/// Which cipher a value is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CipherVersion {
    /// AES-256-CBC with HMAC-SHA256; legacy.
    V1,
    /// XChaCha20-Poly1305.
    V2,
}

impl From<CipherVersion> for CiphertextVersion {
    fn from(version: CipherVersion) -> Self {
        match version {
            CipherVersion::V1 => Self::V1,
            CipherVersion::V2 => Self::V2,
        }
    }
}

/// A value that was opened.
pub struct Opened {
    /// What it says.
    pub plaintext: Zeroizing<Vec<u8>>,
    /// The cipher it was under.
    pub version: CipherVersion,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?}, redacted)", self.version)
    }
}

/// A value under its new key.
pub struct Rewrapped {
    /// What is to be stored instead.
    pub stored: Vec<u8>,
    /// What it says, before and after.
    pub plaintext: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Rewrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rewrapped({} bytes, redacted)", self.stored.len())
    }
}

/// Opens and encrypts values with one key.
#[derive(Debug, Clone)]
pub struct Cipher {
    key: SecretKey,
}

impl Cipher {
    /// The cipher with this key.
    pub fn new(key: &SecretKey) -> Self {
        Self { key: key.clone() }
    }

    /// Opens a stored value. NULL is the caller's, and a value of zero length is [`ValueError::Empty`].
    pub fn open(&self, stored: &[u8], encoding: Encoding, aad: &[u8]) -> Result<Opened, ValueError> {
        let parsed = parse::parse(stored, encoding)?;
        let plaintext = self.decrypt(&parsed.ciphertext, aad).ok_or(ValueError::NoKnownKey)?;
        Ok(Opened { plaintext, version: parsed.version })
    }

    /// Encrypts a new value, in base64 with the standard alphabet and padding.
    pub fn encrypt(
        &self,
        plaintext: &[u8],
        encoding: Encoding,
        aad: &[u8],
        version: CipherVersion,
    ) -> Result<Vec<u8>, ValueError> {
        let raw = self.encrypt_raw(plaintext, aad, version)?;
        let stored = match encoding {
            Encoding::Raw => raw,
            Encoding::Base64 => base64::Form::STANDARD.encode(&raw),
        };
        within_limit(stored)
    }

    /// `None` when it is not under this key. The library's reason is dropped: a V1 value that passes its HMAC and
    /// then fails its padding is no more readable than one that fails its HMAC.
    fn decrypt(&self, ciphertext: &Ciphertext, aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        ciphertext.decrypt_with_aad(self.key.expose(), aad).ok().map(Zeroizing::new)
    }

    fn encrypt_raw(&self, plaintext: &[u8], aad: &[u8], version: CipherVersion) -> Result<Vec<u8>, ValueError> {
        encrypt_with_aad(plaintext, self.key.expose(), aad, version.into())
            .map(Vec::from)
            .map_err(|_| ValueError::Cipher)
    }
}

/// Re-encrypts values from one key to another. The same code goes back with the keys swapped.
#[derive(Debug, Clone)]
pub struct Rewrapper {
    from: Cipher,
    to: Cipher,
    upgrade: bool,
}

impl Rewrapper {
    /// From one key to another.
    pub fn new(from: &SecretKey, to: &SecretKey) -> Self {
        Self { from: Cipher::new(from), to: Cipher::new(to), upgrade: false }
    }

    /// The same, but legacy V1 values become V2. Without it every value keeps its version.
    #[must_use]
    pub fn upgrading(self) -> Self {
        Self { upgrade: true, ..self }
    }

    /// Opens a stored value with the one key and encrypts it with the other, in the form it was found in.
    pub fn rewrap(&self, stored: &[u8], encoding: Encoding, aad: &[u8]) -> Result<Rewrapped, ValueError> {
        let Parsed { ciphertext, version, form } = parse::parse(stored, encoding)?;
        let Some(plaintext) = self.from.decrypt(&ciphertext, aad) else {
            return Err(match self.to.decrypt(&ciphertext, aad) {
                Some(_) => ValueError::UnderOtherKey,
                None => ValueError::NoKnownKey,
            });
        };
        // Of a large value every copy counts.
        drop(ciphertext);
        let version = if self.upgrade { CipherVersion::V2 } else { version };
        let encrypt = || self.to.encrypt_raw(&plaintext, aad, version);
        let stored = match form {
            None => encrypt()?,
            Some(form) => encode_alike(&form, encrypt)?,
        };
        Ok(Rewrapped { stored: within_limit(stored)?, plaintext })
    }

    /// Opens a stored value with the key that values are turned to.
    pub fn open_turned(&self, stored: &[u8], encoding: Encoding, aad: &[u8]) -> Result<Opened, ValueError> {
        self.to.open(stored, encoding, aad)
    }
}

/// Text that reads the same in both alphabets does not say which one its reader expects. The new text must then
/// read the same in both as well, which takes another nonce as often as one of the four symbols turns up.
fn encode_alike(form: &base64::Form, encrypt: impl Fn() -> Result<Vec<u8>, ValueError>) -> Result<Vec<u8>, ValueError> {
    let mut stored = form.encode(&encrypt()?);
    for _ in 1..NEUTRAL_TRIES_MAX {
        if !form.is_neutral() || base64::is_neutral(&stored) {
            break;
        }
        stored = form.encode(&encrypt()?);
    }
    Ok(stored)
}

fn within_limit(stored: Vec<u8>) -> Result<Vec<u8>, ValueError> {
    if stored.len() > VALUE_BYTES_MAX { Err(ValueError::TooLarge(stored.len())) } else { Ok(stored) }
}

#[cfg(test)]
mod tests;
