//! The bundle: a farm's keys in a file under a password, the form in which they are escrowed. Any implementation of
//! devolutions-crypto opens it (`KdfEncryptedData`: Argon2id, then XChaCha20-Poly1305).

mod header;

use devolutions_crypto::derive_encrypt::{KdfEncryptedData, encrypt_with_password};
use devolutions_crypto::key_derivation::Argon2;
use devolutions_crypto::{Argon2Parameters, CiphertextVersion};
use zeroize::Zeroizing;

use crate::{KeySet, Password, PayloadError, payload};

pub use header::{Argon2Cost, BundleHeader, HeaderError, ITERATIONS_MAX, LANES_MAX, MEMORY_KIB_MAX, inspect_header};

/// What a new bundle costs to open: 64 MiB and three passes, the second recommendation of RFC 9106. One lane,
/// because the library computes lanes one after the other.
const COST: Argon2Cost = Argon2Cost { memory_kib: 64 * 1024, iterations: 3, lanes: 1 };

/// A bundle of a thousand keys is a fifth of this; a larger file is none.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;

/// Why a bundle cannot be written or opened.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Larger than any bundle.
    #[error("the file has {0} bytes, and no bundle has more than {BUNDLE_BYTES_MAX}")]
    TooLarge(usize),
    /// Refused by its first bytes, before the password was touched.
    #[error("the file cannot be opened as a bundle")]
    Header(#[from] HeaderError),
    /// The password is another one, or bytes of the file were changed.
    #[error("the password does not open this bundle, or the file was altered")]
    WrongPassword,
    /// It opened, and holds no key set.
    #[error("the bundle opened, but holds no usable keys")]
    Payload(#[from] PayloadError),
    /// The cipher failed, which has no known cause but a lack of memory or of random bytes.
    #[error("the bundle could not be computed")]
    Cipher(#[source] devolutions_crypto::Error),
}

impl BundleError {
    /// What to do now.
    pub const fn next_step(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "check the path: it names another file",
            Self::Header(error) => error.next_step(),
            Self::WrongPassword => "try the password again; if it is surely right, take another copy of the bundle",
            Self::Payload(PayloadError::Version(_)) => "open it with the release of keyturn that wrote it",
            Self::Payload(_) => "take another copy of the bundle, or export it again with `keyturn key export`",
            Self::Cipher(_) => "check that the machine has 64 MiB of memory to spare, and try again",
        }
    }
}

/// Encrypts the keys under the password.
pub fn seal(set: &KeySet, password: &Password) -> Result<Vec<u8>, BundleError> {
    let parameters =
        Argon2Parameters::builder().memory(COST.memory_kib).iterations(COST.iterations).lanes(COST.lanes).build();
    let parameters = Argon2::with_params(parameters).parameters();
    let json = payload::to_json(set);
    encrypt_with_password(&json, password.expose(), parameters, CiphertextVersion::V2)
        .map(Vec::from)
        .map_err(BundleError::Cipher)
}

/// Opens a bundle. Parameters that would cost too much are refused before anything is derived.
pub fn open(bundle: &[u8], password: &Password) -> Result<KeySet, BundleError> {
    if bundle.len() > BUNDLE_BYTES_MAX {
        return Err(BundleError::TooLarge(bundle.len()));
    }
    inspect_header(bundle)?;
    let parsed = KdfEncryptedData::try_from(bundle).map_err(|_| HeaderError::Malformed)?;
    let json = parsed.decrypt_with_password(password.expose()).map_err(|error| match error {
        devolutions_crypto::Error::InvalidMac => BundleError::WrongPassword,
        other => BundleError::Cipher(other),
    })?;
    Ok(payload::from_json(&Zeroizing::new(json))?)
}

#[cfg(test)]
mod tests;
