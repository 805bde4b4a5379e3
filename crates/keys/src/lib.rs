//! All cryptography of Keyturn: the secret types, the files that hold keys, the proofs that nodes give of them, and
//! the re-encryption of one stored value. No other crate touches `devolutions-crypto`.
//!
//! A warning for whoever changes this crate: a V2 ciphertext is encrypted under the SHA-256 of the secret. That plain
//! hash *is* a key, so it must never be computed for any other purpose. Everything derived here goes through
//! `blake3::derive_key` with a context of its own. The formats are described in docs/formats.md.

pub mod attestation;
pub mod bundle;
pub mod canary;
pub mod content;
mod key_set;
mod payload;
pub mod possession;
pub mod sealed;
mod secret;
pub mod store;
mod transcript;
pub mod value;

pub use key_set::{KeyEntry, KeySet, KeySetError, KeyState};
pub use payload::PayloadError;
pub use secret::{EmptyKey, EmptyPassword, KEY_BYTES, Password, SecretKey};
pub use store::{FileRole, KeyStore, StoreConfig, StoreError, StoreFile};
