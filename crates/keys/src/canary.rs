//! The canary: a value under the key that an instance must hold. Whoever answers its plaintext runs with that key.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::SecretKey;
use crate::secret::random_bytes;
use crate::value::{Cipher, CipherVersion, Encoding};

/// The random bytes of a canary; nobody guesses them.
const CANARY_BYTES: usize = 32;

/// What is shown to the instance, and what it must answer.
pub struct Challenge {
    /// A V2 ciphertext in standard base64, without additional authenticated data.
    pub ciphertext_base64: String,
    /// Its plaintext: 64 hexadecimal digits.
    pub expected_plaintext: Zeroizing<String>,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenge(redacted)")
    }
}

impl Challenge {
    /// Whether this is the right answer. White space around it is not part of it.
    pub fn is_answered_by(&self, answer: &[u8]) -> bool {
        self.expected_plaintext.as_bytes().ct_eq(answer.trim_ascii()).into()
    }
}

/// A new challenge for whoever must hold `key`.
pub fn challenge(key: &SecretKey) -> Challenge {
    let expected_plaintext = Zeroizing::new(hex::encode(random_bytes(CANARY_BYTES)));
    let ciphertext = Cipher::new(key)
        .encrypt(expected_plaintext.as_bytes(), Encoding::Base64, b"", CipherVersion::V2)
        .expect("64 bytes are within the limit, and the operating system's random source answers");
    let ciphertext_base64 = String::from_utf8(ciphertext).expect("base64 is ASCII");
    Challenge { ciphertext_base64, expected_plaintext }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_answers() {
        let key = SecretKey::generate();
        let challenge = challenge(&key);
        let opened = Cipher::new(&key).open(challenge.ciphertext_base64.as_bytes(), Encoding::Base64, b"").unwrap();
        assert!(challenge.is_answered_by(&opened.plaintext));
        assert!(challenge.is_answered_by(&[&opened.plaintext[..], b"\r\n"].concat()));
        assert!(!challenge.is_answered_by(b""));
        assert!(!challenge.is_answered_by(&opened.plaintext[1..]));
        let other = Cipher::new(&SecretKey::generate());
        assert!(other.open(challenge.ciphertext_base64.as_bytes(), Encoding::Base64, b"").is_err());
    }

    #[test]
    fn no_two_are_alike_and_none_prints_its_answer() {
        let key = SecretKey::generate();
        let (one, other) = (challenge(&key), challenge(&key));
        assert_ne!(one.expected_plaintext, other.expected_plaintext);
        assert!(!format!("{one:?}").contains(one.expected_plaintext.as_str()));
    }
}
