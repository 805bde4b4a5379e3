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
    content: Zeroizing<[u8; 32]>,
    rest: Zeroizing<[u8; 32]>,
    raw: Zeroizing<[u8; 32]>,
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
        Self {
            content: transcript::derive("keyturn content digest v1", &fields),
            rest: transcript::derive("keyturn rest digest v1", &fields),
            raw: transcript::derive("keyturn raw digest v1", &fields),
        }
    }

    /// Hashes many values one after the other.
    pub fn hasher(&self) -> ContentHasher {
        ContentHasher {
            content: Hasher::new_keyed(&self.content),
            rest: Hasher::new_keyed(&self.rest),
            raw: Hasher::new_keyed(&self.raw),
            prefix: Vec::new(),
        }
    }

    /// The digest of one value, as [`ContentHasher::value`] has it.
    pub fn value(&self, table: &str, column: &str, key: &str, value: ContentValue<'_>) -> ContentDigest {
        self.hasher().value(table, column, key, value)
    }
}

/// Hashes values with buffers that are used again; wiped when dropped.
pub struct ContentHasher {
    content: Hasher,
    rest: Hasher,
    raw: Hasher,
    /// What stands before a value: no secret.
    prefix: Vec<u8>,
}

impl std::fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentHasher(redacted)")
    }
}

impl ContentHasher {
    /// The digest of one value; the digest of a set is the sum of its values' digests.
    /// `key` is the row's primary key in the engine's notation.
    pub fn value(&mut self, table: &str, column: &str, key: &str, value: ContentValue<'_>) -> ContentDigest {
        let (tag, bytes): (u8, &[u8]) = match value {
            ContentValue::Null => (0, &[]),
            ContentValue::Empty => (1, &[]),
            ContentValue::Plain(plaintext) => (2, plaintext),
            ContentValue::Undecryptable(raw) => (3, raw),
        };
        self.prefix.clear();
        for field in [table.as_bytes(), column.as_bytes(), key.as_bytes(), &[tag]] {
            push(&mut self.prefix, field);
        }
        self.prefix.extend_from_slice(&transcript::length(bytes));
        sum(&mut self.content, &[&self.prefix, bytes])
    }

    /// The digest of a row's key and unregistered columns, in the database's own exact form.
    pub fn rest(&mut self, table: &str, rest: &[u8]) -> ContentDigest {
        self.prefix.clear();
        push(&mut self.prefix, table.as_bytes());
        self.prefix.extend_from_slice(&transcript::length(rest));
        sum(&mut self.rest, &[&self.prefix, rest])
    }

    /// The digest of a whole row as it is stored: its rest, and the bytes of each registered column (none for NULL).
    /// Equal before and after exactly if nothing of the row has changed, not even a nonce.
    pub fn raw<'v>(
        &mut self,
        table: &str,
        rest: &[u8],
        values: impl Iterator<Item = Option<&'v [u8]>>,
    ) -> ContentDigest {
        self.prefix.clear();
        push(&mut self.prefix, table.as_bytes());
        self.prefix.extend_from_slice(&transcript::length(rest));
        self.raw.reset();
        self.raw.update(&self.prefix);
        self.raw.update(rest);
        for value in values {
            // A length with a tag before it, so that NULL and nothing stay apart.
            let mut head = [0; 9];
            head[0] = u8::from(value.is_some());
            head[1..].copy_from_slice(&transcript::length(value.unwrap_or_default()));
            self.raw.update(&head);
            self.raw.update(value.unwrap_or_default());
        }
        first_half(&self.raw)
    }
}

impl Drop for ContentHasher {
    fn drop(&mut self) {
        self.content.zeroize();
        self.rest.zeroize();
        self.raw.zeroize();
    }
}

fn push(message: &mut Vec<u8>, field: &[u8]) {
    message.extend_from_slice(&transcript::length(field));
    message.extend_from_slice(field);
}

fn sum(hasher: &mut Hasher, parts: &[&[u8]]) -> ContentDigest {
    hasher.reset();
    for part in parts {
        hasher.update(part);
    }
    first_half(hasher)
}

fn first_half(hasher: &Hasher) -> ContentDigest {
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    ContentDigest::new(u128::from_le_bytes(sum))
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
    fn a_hasher_that_is_used_again_remembers_nothing() {
        let mut hasher = digester().hasher();
        let mut once = |text: &'static [u8]| hasher.value("t", "c", "[1]", ContentValue::Plain(text));
        let long = vec![7; 5000].leak();
        assert_eq!(once(b"a"), once(b"a"));
        once(long);
        assert_eq!(once(b"a"), digester().value("t", "c", "[1]", ContentValue::Plain(b"a")));
    }

    #[test]
    fn rest_raw_and_content_are_of_different_kinds_and_every_part_counts() {
        let mut hasher = digester().hasher();
        let mut raw = |rest: &[u8], values: &[Option<&[u8]>]| hasher.raw("t", rest, values.iter().copied());
        let all = [
            raw(b"rest", &[Some(b"a"), Some(b"b")]),
            raw(b"rest", &[Some(b"ab"), Some(b"")]),
            raw(b"rest", &[Some(b"ab"), None]),
            raw(b"rest", &[None, Some(b"ab")]),
            raw(b"rest2", &[Some(b"a"), Some(b"b")]),
            raw(b"rest", &[]),
            digester().hasher().rest("t", b"rest"),
            digester().hasher().rest("u", b"rest"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
        }
    }

    #[test]
    fn the_documented_constructions_of_rest_and_raw() {
        let key = |context| {
            let rotation = "01890a5d-ac96-774b-bcce-b302099a8057".parse::<RotationId>().unwrap();
            blake3::derive_key(context, &transcript::bytes(&[&[1; 32], &[2; 32], rotation.as_bytes()]))
        };
        let half = |hash: blake3::Hash| u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap());
        let mut message = transcript::bytes(&[b"t", b"rest"]);
        let rest = half(blake3::keyed_hash(&key("keyturn rest digest v1"), &message));
        assert_eq!(digester().hasher().rest("t", b"rest"), ContentDigest::new(rest));
        message.extend([1, 2, 0, 0, 0, 0, 0, 0, 0, b'x', b'y', 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let raw = half(blake3::keyed_hash(&key("keyturn raw digest v1"), &message));
        let values = [Some(&b"xy"[..]), None];
        assert_eq!(digester().hasher().raw("t", b"rest", values.into_iter()), ContentDigest::new(raw));
    }

    #[test]
    fn it_prints_nothing_of_its_key() {
        assert_eq!(format!("{:?}", digester()), "ContentDigester(redacted)");
        assert_eq!(format!("{:?}", digester().hasher()), "ContentHasher(redacted)");
    }
}
