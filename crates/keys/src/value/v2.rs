//! Version 2 without the library's copies: XChaCha20-Poly1305 as devolutions-crypto writes it, in one buffer. HChaCha20 makes
//! the key of each value; the rest is ChaCha20-Poly1305 in the machine's own code (docs/decisions/0011).

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use chacha20::R20;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::ValueError;
use super::parse::{HEADER_BYTES, SIGNATURE, SUBTYPE_SYMMETRIC, TYPE_CIPHERTEXT};
use crate::SecretKey;

const NONCE_BYTES: usize = 24;
/// The first bytes of a nonce make the key of a value; the last are its nonce under that key.
const DERIVING_BYTES: usize = 16;
const TAG_BYTES: usize = 16;

/// Where the text of a value begins.
const TEXT_AT: usize = HEADER_BYTES + NONCE_BYTES;

/// What a value has more than its plaintext.
pub(super) const OVERHEAD_BYTES: usize = TEXT_AT + TAG_BYTES;

/// What every value that is written begins with.
const HEADER: [u8; HEADER_BYTES] = {
    let ([s0, s1], [t0, t1]) = (SIGNATURE.to_le_bytes(), TYPE_CIPHERTEXT.to_le_bytes());
    let ([u0, u1], [v0, v1]) = (SUBTYPE_SYMMETRIC.to_le_bytes(), 2_u16.to_le_bytes());
    [s0, s1, t0, t1, u0, u1, v0, v1]
};

/// A key of the farm as this version uses it: hashed.
#[derive(Clone)]
pub(super) struct Key(Zeroizing<[u8; 32]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

impl Key {
    pub(super) fn new(secret: &SecretKey) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        Sha256::new_with_prefix(secret.expose()).finalize_into((&mut *key).into());
        Self(key)
    }

    /// Opens a value that was parsed as one of this version into a buffer of [`text_bytes`] of it. `None` when it is not under
    /// this key; then nothing of it is in the buffer.
    pub(super) fn open(&self, stored: &[u8], aad: &[u8], plaintext: &mut [u8]) -> Option<()> {
        let (head, sealed) = stored.split_at_checked(TEXT_AT)?;
        let (text, tag) = sealed.split_at_checked(plaintext.len())?;
        let (header, nonce) = head.split_at(HEADER_BYTES);
        let (key, nonce) = self.of_value(nonce)?;
        let opened = key.open_separate_gather(nonce, Aad::from(&*after(header, aad)), text, tag, plaintext);
        if opened.is_err() {
            plaintext.zeroize();
        }
        opened.ok()
    }

    /// Turns a plaintext into a value.
    pub(super) fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, ValueError> {
        let mut value = Unsealed::new(plaintext.len());
        value.text().copy_from_slice(plaintext);
        self.seal_in_place(value, aad)
    }

    /// Turns a value of another key into one of this. `seen` gets the plaintext. `None` when it is not under the other.
    pub(super) fn turn(
        &self,
        from: &Self,
        stored: &[u8],
        aad: &[u8],
        seen: impl FnOnce(&[u8]),
    ) -> Option<Result<Vec<u8>, ValueError>> {
        let mut value = Unsealed::new(text_bytes(stored)?);
        from.open(stored, aad, value.text())?;
        seen(value.text());
        Some(self.seal_in_place(value, aad))
    }

    fn seal_in_place(&self, mut value: Unsealed, aad: &[u8]) -> Result<Vec<u8>, ValueError> {
        let (head, sealed) = value.0.split_at_mut(TEXT_AT);
        let (header, nonce) = head.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&HEADER);
        rand::rng().fill_bytes(nonce);
        let (key, nonce) = self.of_value(nonce).ok_or(ValueError::Cipher)?;
        let (text, tag) = sealed.split_at_mut(sealed.len() - TAG_BYTES);
        let made = key.seal_in_place_separate_tag(nonce, Aad::from(&*after(&HEADER, aad)), text);
        tag.copy_from_slice(made.map_err(|_| ValueError::Cipher)?.as_ref());
        Ok(std::mem::take(&mut *value.0))
    }

    /// The key of one value, and its nonce under that key.
    fn of_value(&self, nonce: &[u8]) -> Option<(LessSafeKey, Nonce)> {
        let (deriving, rest) = nonce.split_at_checked(DERIVING_BYTES)?;
        let deriving: &[u8; DERIVING_BYTES] = deriving.try_into().ok()?;
        let key = Zeroizing::new(chacha20::hchacha::<R20>((&*self.0).into(), deriving.into()).0);
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - rest.len()..].copy_from_slice(rest);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).ok()?;
        Some((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
    }
}

/// How long the plaintext of a value is.
pub(super) const fn text_bytes(stored: &[u8]) -> Option<usize> {
    stored.len().checked_sub(OVERHEAD_BYTES)
}

/// The header is authenticated as it stands, and what the application adds behind it.
fn after<'a>(header: &'a [u8], aad: &[u8]) -> Cow<'a, [u8]> {
    if aad.is_empty() { Cow::Borrowed(header) } else { Cow::Owned([header, aad].concat()) }
}

/// A value that holds its plaintext still, and is wiped if it is not sealed.
struct Unsealed(Zeroizing<Vec<u8>>);

impl Unsealed {
    fn new(text_bytes: usize) -> Self {
        Self(Zeroizing::new(vec![0; OVERHEAD_BYTES + text_bytes]))
    }

    fn text(&mut self) -> &mut [u8] {
        let end = self.0.len() - TAG_BYTES;
        &mut self.0[TEXT_AT..end]
    }
}
