//! Why a stored value cannot be opened. Nothing of the value is quoted: it may be a plaintext that somebody stored
//! in the wrong column.

use super::VALUE_BYTES_MAX;

/// Why a text is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Base64Problem {
    /// A symbol of no base64 alphabet.
    #[error("a symbol that is none of base64's at offset {0}")]
    Symbol(usize),
    /// Symbols of both alphabets.
    #[error("symbols of both the standard and the URL-safe alphabet")]
    MixedAlphabets,
    /// A length that no bytes have.
    #[error("a length that base64 never has")]
    Length,
    /// Line breaks that could not be put back as they are.
    #[error("lines that are not all of one width and end")]
    Lines,
    /// `=` where none may be.
    #[error("padding in the wrong place")]
    Padding,
}

/// Why a stored value was not opened or re-encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Zero length: no ciphertext, and to be left as it is.
    #[error("the value is empty")]
    Empty,
    /// More than is read.
    #[error("the value has {0} bytes, and at most {VALUE_BYTES_MAX} (100 MiB) are read")]
    TooLarge(usize),
    /// The column is registered as base64 and this is not.
    #[error("the value is not base64: {0}")]
    Base64(Base64Problem),
    /// It does not begin as a ciphertext does.
    #[error("the value is not a ciphertext: it does not begin with 0D 0C")]
    NotCiphertext,
    /// A structure of devolutions-crypto, and not a ciphertext.
    #[error("the value is {what} of devolutions-crypto (type {data_type}), not a ciphertext")]
    OtherType {
        /// The type's number.
        data_type: u16,
        /// The type in words.
        what: &'static str,
    },
    /// Encrypted to a public key; no farm key opens it.
    #[error("the value is encrypted to a public key, and no key of the farm can open it")]
    Asymmetric,
    /// A subtype that this release does not know.
    #[error("the value is a ciphertext of unknown subtype {0}")]
    Subtype(u16),
    /// A version that this release does not know.
    #[error("the value is a ciphertext of version {0}, and this release knows 1 and 2")]
    Version(u16),
    /// Shorter than its version ever is.
    #[error("the value is cut short: {length} bytes, and its version has at least {min}")]
    Truncated {
        /// Its bytes.
        length: usize,
        /// The least bytes of its version.
        min: usize,
    },
    /// Neither key opens it, or it was altered, or its additional authenticated data is another.
    #[error("the value opens under no known key, or it was altered")]
    NoKnownKey,
    /// It is under the key that it was to be turned to.
    #[error("the value is already under the key that was to be applied")]
    UnderOtherKey,
    /// The cipher failed, which has no known cause but a lack of random bytes.
    #[error("the value could not be encrypted")]
    Cipher,
}
