//! Base64 as applications really store it: with or without padding, in the standard or the URL-safe alphabet, with
//! white space behind. A value goes back into its column in the form it was found in, because its reader may be
//! stricter than we are.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine, alphabet};

use super::Base64Problem;

/// As lenient as devolutions-crypto's own decoder: padding or none, and stray bits in the last symbol.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const STANDARD_UNPADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT.with_encode_padding(false));
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const URL_SAFE_UNPADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT.with_encode_padding(false));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    Standard,
    UrlSafe,
    /// None of the four symbols in which the alphabets differ.
    Neutral,
}

/// How a value stands in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    alphabet: Alphabet,
    padded: bool,
    /// White space behind the text, as a column of fixed width adds.
    trailing: Vec<u8>,
}

impl Form {
    /// How new values are written.
    pub(super) const STANDARD: Self = Self { alphabet: Alphabet::Standard, padded: true, trailing: Vec::new() };

    pub(super) fn encode(&self, raw: &[u8]) -> Vec<u8> {
        let engine = match (self.alphabet, self.padded) {
            (Alphabet::Standard | Alphabet::Neutral, true) => STANDARD,
            (Alphabet::Standard | Alphabet::Neutral, false) => STANDARD_UNPADDED,
            (Alphabet::UrlSafe, true) => URL_SAFE,
            (Alphabet::UrlSafe, false) => URL_SAFE_UNPADDED,
        };
        let mut text = engine.encode(raw).into_bytes();
        text.extend_from_slice(&self.trailing);
        text
    }

    /// Whether the text did not say which alphabet it was in.
    pub(super) fn is_neutral(&self) -> bool {
        self.alphabet == Alphabet::Neutral
    }
}

/// Whether a text reads the same in both alphabets.
pub(super) fn is_neutral(text: &[u8]) -> bool {
    !text.iter().any(|symbol| matches!(symbol, b'+' | b'/' | b'-' | b'_'))
}

pub(super) fn decode(stored: &[u8]) -> Result<(Vec<u8>, Form), Base64Problem> {
    let text = stored.trim_ascii_end();
    let trailing = stored[text.len()..].to_vec();
    let standard = text.iter().any(|symbol| matches!(symbol, b'+' | b'/'));
    let url_safe = text.iter().any(|symbol| matches!(symbol, b'-' | b'_'));
    let (alphabet, engine) = match (standard, url_safe) {
        (true, true) => return Err(Base64Problem::MixedAlphabets),
        (true, false) => (Alphabet::Standard, STANDARD),
        (false, true) => (Alphabet::UrlSafe, URL_SAFE),
        (false, false) => (Alphabet::Neutral, STANDARD),
    };
    let raw = engine.decode(text).map_err(|error| match error {
        DecodeError::InvalidByte(_, b'=') => Base64Problem::Padding,
        DecodeError::InvalidByte(offset, _) | DecodeError::InvalidLastSymbol(offset, _) => {
            Base64Problem::Symbol(offset)
        }
        DecodeError::InvalidLength(_) => Base64Problem::Length,
        DecodeError::InvalidPadding => Base64Problem::Padding,
    })?;
    // Whole groups of three bytes need no padding and show no habit; then the alphabet tells what is usual.
    let padded = if raw.len() % 3 == 0 { alphabet != Alphabet::UrlSafe } else { text.ends_with(b"=") };
    Ok((raw, Form { alphabet, padded, trailing }))
}
