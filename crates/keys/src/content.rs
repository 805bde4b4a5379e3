//! The content digest: a sum of keyed hashes over values, equal before and after exactly when every plaintext
//! survived in its place. It is keyed, so that it discloses nothing of the plaintexts it is published beside.

use blake3::Hasher;
use rotation::{ContentDigest, RotationId};
use zeroize::{Zeroize, Zeroizing};

use crate::{SecretKey, transcript};

/// What stands in one column of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentValue<'a> {
    /// SQL's NULL.
    Null,
    /// A stored value of zero length; no ciphertext at all.
    Empty,
    /// The plaintext of a ciphertext.
    Plain(&'a [u8]),
    /// The raw stored bytes of a value that the operator accepted as undecryptable; they must not change.
    Undecryptable(&'a [u8]),
}

/// Hashes values for one rotation. Both directions use the same order of keys, so that what was counted forward can
/// be compared with what was brought back.
pub struct ContentDigester {
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for ContentDigester {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentDigester(redacted)")
    }
}

impl ContentDigester {
    /// The digester of the rotation from `old` to `new`.
    pub fn new(old: &SecretKey, new: &SecretKey, rotation: &RotationId) -> Self {
        let fields = [old.expose(), new.expose(), rotation.as_bytes()];
        Self { key: transcript::derive("keyturn content digest v1", &fields) }
    }

    /// The digest of one value; the digest of a set is the sum of its values' digests.
    /// `key` is the row's primary key in the engine's notation.
    pub fn value(&self, table: &str, column: &str, key: &str, value: ContentValue<'_>) -> ContentDigest {
        let (tag, bytes): (u8, &[u8]) = match value {
            ContentValue::Null => (0, &[]),
            ContentValue::Empty => (1, &[]),
            ContentValue::Plain(plaintext) => (2, plaintext),
            ContentValue::Undecryptable(raw) => (3, raw),
        };
        let mut hasher = Hasher::new_keyed(&self.key);
        for field in [table.as_bytes(), column.as_bytes(), key.as_bytes(), &[tag], bytes] {
            hasher.update(&transcript::length(field));
            hasher.update(field);
        }
        let mut sum = [0; 16];
        sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        hasher.zeroize();
        ContentDigest::new(u128::from_le_bytes(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digester() -> ContentDigester {
        let key = |byte| SecretKey::from_bytes(vec![byte; 32]).unwrap();
        ContentDigester::new(&key(1), &key(2), &"01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap())
    }

    #[test]
    fn the_kinds_of_nothing_differ() {
        let digester = digester();
        let digest = |value| digester.value("t", "c", "[1]", value);
        let all = [
            digest(ContentValue::Null),
            digest(ContentValue::Empty),
            digest(ContentValue::Plain(b"")),
            digest(ContentValue::Undecryptable(b"")),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    fn the_place_counts() {
        let digester = digester();
        let plain = ContentValue::Plain(b"secret");
        let base = digester.value("ab", "c", "[1]", plain);
        assert_eq!(base, digester.value("ab", "c", "[1]", plain));
        assert_ne!(base, digester.value("a", "bc", "[1]", plain));
        assert_ne!(base, digester.value("ab", "c", "[2]", plain));
        assert_ne!(base, digester.value("ab", "c", "[1]", ContentValue::Plain(b"secreT")));
    }

    #[test]
    fn two_values_that_change_places_are_seen_and_the_order_of_reading_is_not() {
        let digester = digester();
        let of = |key, text: &'static [u8]| digester.value("t", "c", key, ContentValue::Plain(text));
        assert_ne!(of("[1]", b"x").plus(of("[2]", b"y")), of("[1]", b"y").plus(of("[2]", b"x")));
        assert_eq!(of("[1]", b"x").plus(of("[2]", b"y")), of("[2]", b"y").plus(of("[1]", b"x")));
    }

    #[test]
    fn the_documented_construction() {
        let key = blake3::derive_key(
            "keyturn content digest v1",
            &transcript::bytes(&[
                &[1; 32],
                &[2; 32],
                "01890a5d-ac96-774b-bcce-b302099a8057".parse::<RotationId>().unwrap().as_bytes(),
            ]),
        );
        let message = transcript::bytes(&[b"t", b"c", b"[1]", &[2], b"plain"]);
        let hash = blake3::keyed_hash(&key, &message);
        let expected = u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap());
        assert_eq!(digester().value("t", "c", "[1]", ContentValue::Plain(b"plain")), ContentDigest::new(expected));
    }

    #[test]
    fn it_prints_nothing_of_its_key() {
        assert_eq!(format!("{:?}", digester()), "ContentDigester(redacted)");
    }
}
