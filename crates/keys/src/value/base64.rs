//! Base64 as applications really store it: with or without padding, in the standard or the URL-safe alphabet, in lines of
//! one width as MIME has them, with white space behind. A value goes back into its column in the form it was found in, because its reader may be
//! stricter than we are.

use std::borrow::Cow;

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
    lines: Option<Lines>,
    /// White space behind the text, as a column of fixed width adds.
    trailing: Vec<u8>,
}

/// Lines of so many symbols, of which the last alone may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lines {
    width: usize,
    ending: &'static [u8],
}

impl Lines {
    /// The lines of a text and its symbols without them; `None` for a text without line breaks.
    fn of(text: &[u8]) -> Result<Option<(Self, Vec<u8>)>, Base64Problem> {
        let Some(first) = text.iter().position(|symbol| *symbol == b'\n') else { return Ok(None) };
        let ending: &[u8] = if text[..first].ends_with(b"\r") { b"\r\n" } else { b"\n" };
        let width = first + 1 - ending.len();
        if width == 0 {
            return Err(Base64Problem::Lines);
        }
        let mut symbols = Vec::with_capacity(text.len());
        let mut rest = text;
        while rest.len() > width {
            let (line, behind) = rest.split_at(width);
            symbols.extend_from_slice(line);
            rest = behind.strip_prefix(ending).ok_or(Base64Problem::Lines)?;
        }
        symbols.extend_from_slice(rest);
        // What is left of breaks stands where none is due.
        if symbols.iter().any(|symbol| matches!(symbol, b'\r' | b'\n')) {
            return Err(Base64Problem::Lines);
        }
        Ok(Some((Self { width, ending }, symbols)))
    }

    fn broken(self, symbols: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(symbols.len() + symbols.len() / self.width * self.ending.len());
        for line in symbols.chunks(self.width) {
            if !text.is_empty() {
                text.extend_from_slice(self.ending);
            }
            text.extend_from_slice(line);
        }
        text
    }
}

impl Form {
    /// How new values are written.
    pub(super) const STANDARD: Self =
        Self { alphabet: Alphabet::Standard, padded: true, lines: None, trailing: Vec::new() };

    pub(super) fn encode(&self, raw: &[u8]) -> Vec<u8> {
        let engine = match (self.alphabet, self.padded) {
            (Alphabet::Standard | Alphabet::Neutral, true) => STANDARD,
            (Alphabet::Standard | Alphabet::Neutral, false) => STANDARD_UNPADDED,
            (Alphabet::UrlSafe, true) => URL_SAFE,
            (Alphabet::UrlSafe, false) => URL_SAFE_UNPADDED,
        };
        let mut text = engine.encode(raw).into_bytes();
        if let Some(lines) = self.lines {
            text = lines.broken(&text);
        }
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
    let (lines, text) = match Lines::of(text)? {
        Some((lines, symbols)) => (Some(lines), Cow::Owned(symbols)),
        None => (None, Cow::Borrowed(text)),
    };
    let text = &*text;
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
    Ok((raw, Form { alphabet, padded, lines, trailing }))
}
