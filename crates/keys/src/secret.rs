//! The secret types: a key and a password. Both are wiped when dropped, print nothing of themselves, and cannot be
//! serialized by accident.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use rotation::KeyId;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A new key has this many bytes; a key with fewer is weak.
pub const KEY_BYTES: usize = 32;

/// A key without a single byte, which the ciphers would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key is empty; check that the file really holds the key's bytes")]
pub struct EmptyKey;

/// A password without a single byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the password is empty; choose one that protects the key")]
pub struct EmptyPassword;

/// A key of the farm. Redacted, wiped on drop, compared in constant time.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<Vec<u8>>);

impl SecretKey {
    /// Draws a new key of 32 bytes from the operating system.
    pub fn generate() -> Self {
        Self(random_bytes(KEY_BYTES))
    }

    /// Takes existing key bytes over. Any length but zero is accepted, since a weak key could otherwise not be
    /// rotated away; see [`SecretKey::is_weak`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, EmptyKey> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() { Err(EmptyKey) } else { Ok(Self(bytes)) }
    }

    /// Which key this is: `blake3::derive_key("keyturn key id v1", key)`, its first 16 bytes.
    pub fn id(&self) -> KeyId {
        let derived = Zeroizing::new(blake3::derive_key("keyturn key id v1", &self.0));
        let mut id = [0; 16];
        id.copy_from_slice(&derived[..16]);
        KeyId::new(id)
    }

    /// Whether it has fewer than 32 bytes, and so deserves a warning.
    pub fn is_weak(&self) -> bool {
        self.0.len() < KEY_BYTES
    }

    /// How many bytes it has. No secret: its ciphertexts do not depend on it, and a warning may name it.
    pub fn length_bytes(&self) -> usize {
        self.0.len()
    }

    /// The key's bytes, for the ciphers of this crate alone.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted key")
    }
}

/// The password of a bundle. Redacted and wiped on drop.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes the password's bytes exactly as they are.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, EmptyPassword> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() { Err(EmptyPassword) } else { Ok(Self(bytes)) }
    }

    /// Takes the content of a password file: one line end (`\n` or `\r\n`) at its end is not part of the password,
    /// since editors and `echo` add one.
    pub fn from_file_bytes(mut bytes: Vec<u8>) -> Result<Self, EmptyPassword> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self::from_bytes(bytes)
    }

    /// The password's bytes, for key derivation alone.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(redacted)")
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted password")
    }
}

/// Random bytes straight from the operating system, without a generator in between whose state could be read.
pub(crate) fn random_bytes(length: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    OsRng.try_fill_bytes(&mut bytes).expect("the operating system's random source answers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_nothing_of_themselves() {
        let key = SecretKey::from_bytes(b"hunter2-hunter2-hunter2-hunter2-".to_vec()).unwrap();
        let password = Password::from_bytes(b"hunter2".to_vec()).unwrap();
        for text in
            [format!("{key:?}"), format!("{key}"), format!("{key:#?}"), format!("{password:?}"), format!("{password}")]
        {
            assert!(text.contains("redacted"), "{text}");
            assert!(!text.contains("hunter"), "{text}");
            assert!(!text.contains(&hex::encode("hunter")), "{text}");
        }
    }

    #[test]
    fn the_id_is_the_documented_derivation_and_not_a_plain_hash() {
        let key = SecretKey::from_bytes(vec![7; 32]).unwrap();
        assert_eq!(key.id().as_bytes()[..], blake3::derive_key("keyturn key id v1", &[7; 32])[..16]);
        assert_ne!(key.id().as_bytes()[..], blake3::hash(&[7; 32]).as_bytes()[..16]);
    }

    #[test]
    fn generated_keys_are_strong_and_differ() {
        let (one, other) = (SecretKey::generate(), SecretKey::generate());
        assert!(!one.is_weak());
        assert_ne!(one, other);
        assert_ne!(one.id(), other.id());
    }

    #[test]
    fn an_old_key_of_another_length_is_accepted_and_called_weak() {
        assert!(SecretKey::from_bytes(vec![1; 16]).unwrap().is_weak());
        assert!(!SecretKey::from_bytes(vec![1; 64]).unwrap().is_weak());
        assert_eq!(SecretKey::from_bytes(vec![1; 64]).unwrap().length_bytes(), 64);
        assert_eq!(SecretKey::from_bytes(Vec::new()), Err(EmptyKey));
    }

    #[test]
    fn a_password_file_may_end_with_one_line_end() {
        let exposed = |bytes: &[u8]| Password::from_file_bytes(bytes.to_vec()).unwrap().expose().to_vec();
        assert_eq!(exposed(b"secret\n"), b"secret");
        assert_eq!(exposed(b"secret\r\n"), b"secret");
        assert_eq!(exposed(b"secret\n\n"), b"secret\n");
        assert_eq!(exposed(b"secret"), b"secret");
        assert_eq!(exposed(b"secret\r"), b"secret\r");
        assert!(Password::from_file_bytes(b"\n".to_vec()).is_err());
        assert!(Password::from_file_bytes(Vec::new()).is_err());
    }
}
