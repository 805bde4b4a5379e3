//! What a stored value is, as far as its first bytes tell: they are enough to count values without reading them.

use std::fmt;

use base64::alphabet;
use base64::engine::{Engine, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;

use super::parse::{HEADER_BYTES, SIGNATURE, SUBTYPE_ASYMMETRIC, SUBTYPE_LEGACY, SUBTYPE_SYMMETRIC, TYPE_CIPHERTEXT};

/// Types, subtypes and versions above this have never been given out. What begins with the signature by chance, or is a
/// text in which a user typed it, has other bytes there.
const NUMBER_MAX: u16 = 63;

/// How many symbols of base64 are enough: ten hold all but four bits, which are zero in every version below 4096.
pub const BASE64_HEADER_CHARS: usize = 10;

/// Those symbols as they are in every header, for a database to look for: one of two patterns, of letters and classes alone,
/// which GLOB and every kind of regular expression read alike.
pub const BASE64_HEADER_PATTERNS: [&str; 2] = [
    "DQw[B-Za-z0-9+/_-]A[A-D][AEIMQUYcgkosw048]A[B-P][AQgw]",
    // Version 0 has never been given out.
    "DQw[B-Za-z0-9+/_-]A[A-D][AEIMQUYcgkosw048]AA[Qgw]",
];

/// The eleventh symbol of every header: the rest of the version, and two bits of what follows.
const LAST_SYMBOL: char = 'A';

const PREFIX: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
);

/// What a value of devolutions-crypto is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueKind {
    /// Encrypted with a key, as the farm's; also what releases before subtypes wrote.
    SymmetricCiphertext,
    /// Encrypted with a key, chunk by chunk.
    OnlineCiphertext,
    /// Encrypted to a public key.
    AsymmetricCiphertext,
    /// Encrypted to a public key, chunk by chunk.
    AsymmetricOnlineCiphertext,
    /// Encrypted with a password.
    PasswordCiphertext,
    /// A key itself.
    Key,
    /// A key that signs.
    SigningKey,
    /// The hash of a password.
    PasswordHash,
    /// A share of a secret.
    Share,
    /// A signature.
    Signature,
    /// Parameters of a key derivation.
    KeyDerivation,
    /// A type or subtype that this release does not know.
    Unknown,
}

impl ValueKind {
    /// Whether a key of the farm may open it, so that turning the farm's key concerns it.
    pub const fn concerns_farm_key(self) -> bool {
        match self {
            Self::SymmetricCiphertext | Self::OnlineCiphertext | Self::Unknown => true,
            Self::AsymmetricCiphertext
            | Self::AsymmetricOnlineCiphertext
            | Self::PasswordCiphertext
            | Self::Key
            | Self::SigningKey
            | Self::PasswordHash
            | Self::Share
            | Self::Signature
            | Self::KeyDerivation => false,
        }
    }

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SymmetricCiphertext => "symmetric ciphertext",
            Self::OnlineCiphertext => "online ciphertext",
            Self::AsymmetricCiphertext => "asymmetric ciphertext",
            Self::AsymmetricOnlineCiphertext => "asymmetric online ciphertext",
            Self::PasswordCiphertext => "ciphertext under a password",
            Self::Key => "key",
            Self::SigningKey => "signing key",
            Self::PasswordHash => "password hash",
            Self::Share => "share of a secret",
            Self::Signature => "signature",
            Self::KeyDerivation => "key derivation parameters",
            Self::Unknown => "unknown structure",
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the header of a value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueHeader {
    /// What it is.
    pub kind: ValueKind,
    /// Its version, 1 or 2 today; 0 in a value that ends before it.
    pub version: u16,
}

impl ValueHeader {
    /// Reads the first bytes of a value; all eight of its header, or all that it has. `None` when it is nothing of
    /// devolutions-crypto.
    pub fn of_raw(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        if number(0)? != SIGNATURE {
            return None;
        }
        let (data_type, subtype, version) = (number(2)?, number(4).unwrap_or(0), number(6).unwrap_or(0));
        let complete = bytes.len() >= HEADER_BYTES;
        if data_type == 0 || [data_type, subtype, version].iter().any(|number| *number > NUMBER_MAX) {
            return None;
        }
        if complete && version == 0 {
            return None;
        }
        Some(Self { kind: kind(data_type, subtype), version })
    }

    /// Reads the first [`BASE64_HEADER_CHARS`] symbols of a value in base64, or all that it has. Both alphabets write a
    /// header alike.
    pub fn of_base64(text: &str) -> Option<Self> {
        if text.len() > BASE64_HEADER_CHARS || !text.is_ascii() {
            return None;
        }
        let mut text = text.trim_end_matches('=').to_owned();
        if text.len() == BASE64_HEADER_CHARS {
            text.push(LAST_SYMBOL);
        }
        Self::of_raw(&PREFIX.decode(text).ok()?)
    }

    /// Reads a header in hexadecimal digits.
    pub fn of_hex(text: &str) -> Option<Self> {
        Self::of_raw(&hex::decode(text).ok()?)
    }
}

const fn kind(data_type: u16, subtype: u16) -> ValueKind {
    match (data_type, subtype) {
        (TYPE_CIPHERTEXT, SUBTYPE_LEGACY | SUBTYPE_SYMMETRIC) => ValueKind::SymmetricCiphertext,
        (TYPE_CIPHERTEXT, SUBTYPE_ASYMMETRIC) => ValueKind::AsymmetricCiphertext,
        (7, SUBTYPE_LEGACY | SUBTYPE_SYMMETRIC) => ValueKind::OnlineCiphertext,
        (7, SUBTYPE_ASYMMETRIC) => ValueKind::AsymmetricOnlineCiphertext,
        (1, _) => ValueKind::Key,
        (3, _) => ValueKind::PasswordHash,
        (4, _) => ValueKind::Share,
        (5, _) => ValueKind::SigningKey,
        (6, _) => ValueKind::Signature,
        (8, _) => ValueKind::KeyDerivation,
        (9, _) => ValueKind::PasswordCiphertext,
        _ => ValueKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cipher, CipherVersion, Encoding};
    use super::*;
    use crate::SecretKey;

    #[test]
    fn a_ciphertext_is_known_by_its_first_bytes_in_every_form() {
        let cipher = Cipher::new(&SecretKey::generate());
        for (version, number) in [(CipherVersion::V1, 1), (CipherVersion::V2, 2)] {
            let expected = Some(ValueHeader { kind: ValueKind::SymmetricCiphertext, version: number });
            let raw = cipher.encrypt(b"x", Encoding::Raw, &[], version).unwrap();
            assert_eq!(ValueHeader::of_raw(&raw[..8]), expected);
            assert_eq!(ValueHeader::of_hex(&hex::encode(&raw[..8])), expected);
            let text = String::from_utf8(cipher.encrypt(b"x", Encoding::Base64, &[], version).unwrap()).unwrap();
            assert!(text.starts_with("DQwC"));
            assert_eq!(ValueHeader::of_base64(&text[..BASE64_HEADER_CHARS]), expected);
        }
    }

    #[test]
    fn what_only_begins_like_one_is_none() {
        let none = |bytes: &[u8]| assert_eq!(ValueHeader::of_raw(bytes), None, "{bytes:?}");
        none(b"");
        none(b"\x0d");
        none(b"\x0d\x0c");
        none(b"\x0d\x0cAB\x01\0\x02\0");
        none(b"\x0d\x0c\x02\0\x01\0\xff\xff");
        none(b"\x0d\x0c\0\0\0\0\x01\0");
        none(b"\x0d\x0c\x02\0\x01\0\0\0");
        assert_eq!(ValueHeader::of_base64("DQwCzzzzzz"), None);
        assert_eq!(ValueHeader::of_base64("DQw not it"), None);
    }

    /// Whether the text is as the pattern, of letters and classes, says.
    fn matches(mut pattern: &str, text: &str) -> bool {
        text.chars().all(|letter| {
            let (class, rest) = match pattern.strip_prefix('[') {
                Some(rest) => rest.split_once(']').unwrap(),
                None => pattern.split_at(1),
            };
            pattern = rest;
            let members: Vec<char> = class.chars().collect();
            let between = |three: &[char]| three[1] == '-' && three[0] <= letter && letter <= three[2];
            (letter != '-' && members.contains(&letter)) || members.windows(3).any(between)
        }) && pattern.is_empty()
    }

    #[test]
    fn the_patterns_know_every_header_and_nothing_else() {
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let known = |bytes: &[u8]| {
            let text = base64(bytes)[..BASE64_HEADER_CHARS].to_owned();
            let known = BASE64_HEADER_PATTERNS.iter().any(|pattern| matches(pattern, &text));
            assert_eq!(known, ValueHeader::of_base64(&text).is_some(), "{bytes:?} {text}");
        };
        for number in 0..=80 {
            for other in 0..=80 {
                known(&[0x0d, 0x0c, number, 0, other, 0, 2, 0, 7]);
                known(&[0x0d, 0x0c, 2, 0, number, 0, other, 0, 7]);
            }
            known(&[0x0d, 0x0c, 2, number, 1, 0, 2, 0, 7]);
            known(&[0x0d, 0x0c, 2, 0, 1, number, 2, 0, 7]);
        }
    }

    #[test]
    fn a_value_that_was_cut_short_is_still_one() {
        let cut = ValueHeader { kind: ValueKind::SymmetricCiphertext, version: 0 };
        assert_eq!(ValueHeader::of_raw(b"\x0d\x0c\x02\0\x01"), Some(cut));
        assert_eq!(ValueHeader::of_base64("DQwCAA=="), Some(cut));
    }

    #[test]
    fn types_are_told_apart() {
        let kind = |data_type: u8, subtype: u8| {
            ValueHeader::of_raw(&[0x0d, 0x0c, data_type, 0, subtype, 0, 1, 0]).map(|header| header.kind)
        };
        assert_eq!(kind(2, 0), Some(ValueKind::SymmetricCiphertext));
        assert_eq!(kind(2, 2), Some(ValueKind::AsymmetricCiphertext));
        assert_eq!(kind(7, 1), Some(ValueKind::OnlineCiphertext));
        assert_eq!(kind(1, 4), Some(ValueKind::Key));
        assert_eq!(kind(9, 0), Some(ValueKind::PasswordCiphertext));
        assert_eq!(kind(2, 3), Some(ValueKind::Unknown));
        assert_eq!(kind(40, 0), Some(ValueKind::Unknown));
        assert_eq!(kind(200, 0), None);
        assert!(!kind(3, 0).unwrap().concerns_farm_key() && kind(7, 0).unwrap().concerns_farm_key());
    }
}
