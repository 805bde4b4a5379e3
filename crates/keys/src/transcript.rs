//! Fields one after the other in a form that can be read in one way only: each is preceded by its length, so that
//! no two different lists of fields have the same bytes. Everything that is signed, authenticated or hashed here
//! is built like this.

use blake3::Hasher;
use zeroize::{Zeroize, Zeroizing};

/// The bytes of one field's length: little-endian, as the ciphertext formats are.
pub(crate) fn length(field: &[u8]) -> [u8; 8] {
    (field.len() as u64).to_le_bytes()
}

/// The fields as bytes. For fields that are no secret.
pub(crate) fn bytes(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.iter().map(|field| 8 + field.len()).sum());
    for field in fields {
        bytes.extend_from_slice(&length(field));
        bytes.extend_from_slice(field);
    }
    bytes
}

/// `blake3::derive_key(context, fields)`, without a copy of the fields in memory.
pub(crate) fn derive(context: &str, fields: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = Hasher::new_derive_key(context);
    for field in fields {
        hasher.update(&length(field));
        hasher.update(field);
    }
    let derived = Zeroizing::new(*hasher.finalize().as_bytes());
    hasher.zeroize();
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_join_alike_stay_apart() {
        assert_ne!(bytes(&[b"ab", b"c"]), bytes(&[b"a", b"bc"]));
        assert_ne!(bytes(&[b"ab"]), bytes(&[b"ab", b""]));
        assert_ne!(derive("test", &[b"ab", b"c"]), derive("test", &[b"a", b"bc"]));
    }

    #[test]
    fn deriving_equals_deriving_from_the_bytes() {
        let fields: [&[u8]; 3] = [b"one", b"", b"three"];
        assert_eq!(*derive("test", &fields), blake3::derive_key("test", &bytes(&fields)));
        assert_eq!(bytes(&[b"ab"]), b"\x02\0\0\0\0\0\0\0ab");
    }
}
