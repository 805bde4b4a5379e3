//! Percent-encoding, for parts of URLs.

use std::fmt::Write as _;

/// Letters, digits and `/` as they are, everything else as `%XX`.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || *byte == b'/' {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// What a percent-encoded part of a URL says; `None` where it is malformed or no UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_and_holds_nothing_that_a_url_obeys() {
        let text = "/a b?c#d%e&f=g+ü";
        let there = encoded(text.as_bytes());
        assert!(!there.contains(['?', '#', '&', '=', '+', ' ']), "{there}");
        assert_eq!(decoded(&there).as_deref(), Some(text));
        assert_eq!((decoded("%4"), decoded("%zz"), decoded("%ff")), (None, None, None));
    }
}
