//! One stored value: opened, encrypted, and re-encrypted from one key to another in the form it was found in.

mod base64;
mod error;
mod header;
mod parse;
mod speed;
mod v2;

use devolutions_crypto::CiphertextVersion;
use devolutions_crypto::ciphertext::{Ciphertext, encrypt_with_aad};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::SecretKey;
use parse::Parsed;

pub use error::{Base64Problem, ValueError};
pub use header::{BASE64_HEADER_CHARS, BASE64_HEADER_PATTERNS, ValueHeader, ValueKind};
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
    v2: v2::Key,
}

impl Cipher {
    /// The cipher with this key.
    pub fn new(key: &SecretKey) -> Self {
        Self { key: key.clone(), v2: v2::Key::new(key) }
    }

    /// Opens a stored value. NULL is the caller's, and a value of zero length is [`ValueError::Empty`].
    pub fn open(&self, stored: &[u8], encoding: Encoding, aad: &[u8]) -> Result<Opened, ValueError> {
        let parsed = parse::parse(stored, encoding)?;
        let plaintext = self.decrypt(&parsed, aad).ok_or(ValueError::NoKnownKey)?;
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
    fn decrypt(&self, parsed: &Parsed<'_>, aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match parsed.version {
            CipherVersion::V1 => {
                let ciphertext = Ciphertext::try_from(&*parsed.raw).ok()?;
                ciphertext.decrypt_with_aad(self.key.expose(), aad).ok().map(Zeroizing::new)
            }
            CipherVersion::V2 => {
                let mut plaintext = Zeroizing::new(vec![0; v2::text_bytes(&parsed.raw)?]);
                self.v2.open(&parsed.raw, aad, &mut plaintext)?;
                Some(plaintext)
            }
        }
    }

    fn encrypt_raw(&self, plaintext: &[u8], aad: &[u8], version: CipherVersion) -> Result<Vec<u8>, ValueError> {
        match version {
            CipherVersion::V1 => encrypt_with_aad(plaintext, self.key.expose(), aad, CiphertextVersion::V1)
                .map(Vec::from)
                .map_err(|_| ValueError::Cipher),
            CipherVersion::V2 => self.v2.seal(plaintext, aad),
        }
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

    /// Opens a stored value with the one key and encrypts it with the other, in the form it was found in. `seen` gets the
    /// plaintext, once and only of a value that opens.
    pub fn turn(
        &self,
        stored: &[u8],
        encoding: Encoding,
        aad: &[u8],
        seen: impl FnOnce(&[u8]),
    ) -> Result<Vec<u8>, ValueError> {
        let parsed = parse::parse(stored, encoding)?;
        let mut turned = self.turn_raw(&parsed, aad, seen)?;
        if let Some(form) = &parsed.form {
            turned = form.encode(&turned);
            // Text that reads the same in both alphabets does not say which one its reader expects. The new text must
            // then read the same in both as well, which takes another nonce as often as one of the four symbols turns up.
            for _ in 1..NEUTRAL_TRIES_MAX {
                if !form.is_neutral() || base64::is_neutral(&turned) {
                    break;
                }
                turned = form.encode(&self.turn_raw(&parsed, aad, |_| {})?);
            }
        }
        within_limit(turned)
    }

    /// As [`turn`](Self::turn), for who wants the plaintext to keep.
    pub fn rewrap(&self, stored: &[u8], encoding: Encoding, aad: &[u8]) -> Result<Rewrapped, ValueError> {
        let mut plaintext = Zeroizing::new(Vec::new());
        let stored = self.turn(stored, encoding, aad, |seen| *plaintext = seen.to_vec())?;
        Ok(Rewrapped { stored, plaintext })
    }

    /// Opens a stored value with the key that values are turned to.
    pub fn open_turned(&self, stored: &[u8], encoding: Encoding, aad: &[u8]) -> Result<Opened, ValueError> {
        self.to.open(stored, encoding, aad)
    }

    fn turn_raw(&self, parsed: &Parsed<'_>, aad: &[u8], seen: impl FnOnce(&[u8])) -> Result<Vec<u8>, ValueError> {
        let turned = match parsed.version {
            CipherVersion::V1 => self.from.decrypt(parsed, aad).map(|plaintext| {
                seen(&plaintext);
                let version = if self.upgrade { CipherVersion::V2 } else { CipherVersion::V1 };
                self.to.encrypt_raw(&plaintext, aad, version)
            }),
            CipherVersion::V2 => self.to.v2.turn(&self.from.v2, &parsed.raw, aad, seen),
        };
        turned.unwrap_or_else(|| {
            Err(match self.to.decrypt(parsed, aad) {
                Some(_) => ValueError::UnderOtherKey,
                None => ValueError::NoKnownKey,
            })
        })
    }
}

fn within_limit(stored: Vec<u8>) -> Result<Vec<u8>, ValueError> {
    if stored.len() > VALUE_BYTES_MAX { Err(ValueError::TooLarge(stored.len())) } else { Ok(stored) }
}

#[cfg(test)]
mod tests;
