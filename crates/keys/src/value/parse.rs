//! Reads a stored value as far as it can be read without a key, and names what it is when it is no ciphertext.

use std::borrow::Cow;

use super::{CipherVersion, Encoding, VALUE_BYTES_MAX, ValueError, base64, v2};

/// Signature, type, subtype and version, two bytes each, little-endian.
pub(super) const HEADER_BYTES: usize = 8;
pub(super) const SIGNATURE: u16 = 0x0C0D;
pub(super) const TYPE_CIPHERTEXT: u16 = 2;
/// What releases before subtypes wrote.
pub(super) const SUBTYPE_LEGACY: u16 = 0;
pub(super) const SUBTYPE_SYMMETRIC: u16 = 1;
pub(super) const SUBTYPE_ASYMMETRIC: u16 = 2;
/// Header, initialisation vector, one block and HMAC.
const V1_BYTES_MIN: usize = HEADER_BYTES + 16 + 16 + 32;
const V2_BYTES_MIN: usize = v2::OVERHEAD_BYTES;

/// A value that has the form of a ciphertext.
pub(super) struct Parsed<'a> {
    /// Its bytes, out of base64.
    pub(super) raw: Cow<'a, [u8]>,
    pub(super) version: CipherVersion,
    /// How it stood in base64; `None` when raw.
    pub(super) form: Option<base64::Form>,
}

pub(super) fn parse(stored: &[u8], encoding: Encoding) -> Result<Parsed<'_>, ValueError> {
    if stored.is_empty() {
        return Err(ValueError::Empty);
    }
    if stored.len() > VALUE_BYTES_MAX {
        return Err(ValueError::TooLarge(stored.len()));
    }
    match encoding {
        Encoding::Raw => Ok(Parsed { raw: stored.into(), version: version(stored)?, form: None }),
        Encoding::Base64 => {
            let (raw, form) = base64::decode(stored).map_err(ValueError::Base64)?;
            Ok(Parsed { version: version(&raw)?, raw: raw.into(), form: Some(form) })
        }
    }
}

/// The cipher of a value that is a symmetric ciphertext, and long enough to be one.
fn version(raw: &[u8]) -> Result<CipherVersion, ValueError> {
    let number = |at: usize| raw.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    if number(0) != Some(SIGNATURE) {
        return Err(ValueError::NotCiphertext);
    }
    let truncated = |min| ValueError::Truncated { length: raw.len(), min };
    let (Some(data_type), Some(subtype), Some(version)) = (number(2), number(4), number(6)) else {
        return Err(truncated(HEADER_BYTES));
    };
    if data_type != TYPE_CIPHERTEXT {
        return Err(ValueError::OtherType { data_type, what: type_name(data_type) });
    }
    let (version, min) = match version {
        1 => (CipherVersion::V1, V1_BYTES_MIN),
        2 => (CipherVersion::V2, V2_BYTES_MIN),
        unknown => return Err(ValueError::Version(unknown)),
    };
    match subtype {
        SUBTYPE_LEGACY | SUBTYPE_SYMMETRIC => {}
        SUBTYPE_ASYMMETRIC => return Err(ValueError::Asymmetric),
        unknown => return Err(ValueError::Subtype(unknown)),
    }
    if raw.len() < min {
        return Err(truncated(min));
    }
    Ok(version)
}

const fn type_name(data_type: u16) -> &'static str {
    match data_type {
        1 => "a key",
        3 => "a password hash",
        4 => "a share of a secret",
        5 => "a signing key",
        6 => "a signature",
        7 => "an online ciphertext",
        8 => "parameters of a key derivation",
        9 => "a ciphertext under a password",
        _ => "an unknown structure",
    }
}
