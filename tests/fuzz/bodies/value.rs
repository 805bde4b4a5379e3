//! What must hold for any bytes that stand where a ciphertext should: no panic, no value of another, and the same answer
//! by the header alone as by the whole.

use keys::SecretKey;
use keys::value::{
    BASE64_HEADER_CHARS, Cipher, CipherVersion, Encoding, Rewrapper, ValueError, ValueHeader, ValueKind,
};

/// Any key of the right length; what is found does not depend on it.
fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(vec![byte; 32]).expect("32 bytes are a key")
}

/// Holds it against `bytes` as they are, as the plaintext of a value, and as a change to one.
pub(crate) fn check(bytes: &[u8]) {
    let (old, new) = (Cipher::new(&key(1)), Cipher::new(&key(2)));
    let rewrapper = Rewrapper::new(&key(1), &key(2));
    for encoding in [Encoding::Raw, Encoding::Base64] {
        as_found(&old, &rewrapper, bytes, encoding);
        let version = if bytes.len().is_multiple_of(2) { CipherVersion::V1 } else { CipherVersion::V2 };
        let stored = old.encrypt(bytes, encoding, b"aad", version).expect("bytes can be encrypted");
        let opened = old.open(&stored, encoding, b"aad").expect("what was encrypted opens");
        assert_eq!((&opened.plaintext[..], opened.version), (bytes, version));
        let turned = rewrapper.rewrap(&stored, encoding, b"aad").expect("what opens can be turned");
        assert_eq!(&turned.plaintext[..], bytes);
        let again = new.open(&turned.stored, encoding, b"aad").expect("what was turned opens");
        assert_eq!((&again.plaintext[..], again.version), (bytes, version));
        assert!(matches!(old.open(&turned.stored, encoding, b"aad"), Err(ValueError::NoKnownKey)));
        changed(&old, &stored, encoding, bytes);
    }
}

fn as_found(cipher: &Cipher, rewrapper: &Rewrapper, bytes: &[u8], encoding: Encoding) {
    let opened = cipher.open(bytes, encoding, &[]);
    let turned = rewrapper.rewrap(bytes, encoding, &[]);
    assert_eq!(opened.is_ok(), turned.is_ok(), "what opens can be turned, and nothing else");
    let header = match encoding {
        Encoding::Raw => ValueHeader::of_raw(&bytes[..bytes.len().min(8)]),
        Encoding::Base64 => bytes
            .get(..BASE64_HEADER_CHARS.min(bytes.len()))
            .and_then(|head| std::str::from_utf8(head).ok())
            .and_then(ValueHeader::of_base64),
    };
    // Whatever was read as a ciphertext is one by its header too, or a scan would pass over it.
    if matches!(opened, Ok(_) | Err(ValueError::NoKnownKey)) {
        assert_eq!(header.map(|header| header.kind), Some(ValueKind::SymmetricCiphertext));
    }
}

/// A value with some bytes altered opens as what it was, if it opens at all.
fn changed(cipher: &Cipher, stored: &[u8], encoding: Encoding, bytes: &[u8]) {
    let mut altered = stored.to_vec();
    let length = altered.len();
    for (at, byte) in bytes.iter().take(4).enumerate() {
        let place = (usize::from(*byte) * (at + 7)) % length;
        altered[place] ^= byte.rotate_left(3);
    }
    if let Ok(opened) = cipher.open(&altered, encoding, b"aad") {
        assert_eq!(&opened.plaintext[..], bytes, "an altered value opened as something else");
    }
    let cut = usize::from(bytes.first().copied().unwrap_or(1)) % length;
    assert!(
        cut == 0 || cipher.open(&stored[..length - cut], encoding, b"aad").is_err() || encoding == Encoding::Base64
    );
}
