//! How long turning a value takes, against the library's own calls in a bare loop: what is ours of the cost of a row.

use std::hint::black_box;
use std::time::{Duration, Instant};

use devolutions_crypto::CiphertextVersion;
use devolutions_crypto::ciphertext::{Ciphertext, encrypt_with_aad};
use zeroize::Zeroizing;

use super::{Cipher, CipherVersion, Encoding, Rewrapper, ValueError};
use crate::SecretKey;

/// Values that are turned in one go, about a millisecond's work for small ones.
const VALUES: u32 = 200;

/// How often both are measured, in turn; the fastest of each counts, as all others were held up by something else.
const TURNS: u32 = 25;

/// Header, nonce and tag of a ciphertext.
const OVERHEAD_BYTES: usize = 48;

/// The time for one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewrapSpeed {
    /// [`Rewrapper::rewrap`].
    pub rewrap: Duration,
    /// The library's parsing, decryption and encryption, and nothing else.
    pub bare: Duration,
}

impl RewrapSpeed {
    /// How many times the library's time ours is.
    pub fn over_library(self) -> f64 {
        self.rewrap.as_secs_f64() / self.bare.as_secs_f64().max(1e-9)
    }
}

/// Measures with raw values of this many stored bytes, on the thread that calls, for some tens of milliseconds.
pub fn measure(stored_bytes: usize) -> Result<RewrapSpeed, ValueError> {
    let (old, new) = (SecretKey::generate(), SecretKey::generate());
    let plaintext = vec![b'x'; stored_bytes.saturating_sub(OVERHEAD_BYTES).max(1)];
    let stored = Cipher::new(&old).encrypt(&plaintext, Encoding::Raw, &[], CipherVersion::V2)?;
    let rewrapper = Rewrapper::new(&old, &new);
    let mut fastest = RewrapSpeed { rewrap: Duration::MAX, bare: Duration::MAX };
    for _ in 0..TURNS {
        let bare = clocked(|| by_library(black_box(&stored), &old, &new).map(drop))?;
        let rewrap = clocked(|| rewrapper.rewrap(black_box(&stored), Encoding::Raw, &[]).map(drop))?;
        fastest.bare = fastest.bare.min(bare);
        fastest.rewrap = fastest.rewrap.min(rewrap);
    }
    Ok(fastest)
}

/// As anybody would write it: what is decrypted is wiped, as it must be.
fn by_library(stored: &[u8], old: &SecretKey, new: &SecretKey) -> Result<Vec<u8>, ValueError> {
    let ciphertext = Ciphertext::try_from(stored).map_err(|_| ValueError::NotCiphertext)?;
    let plaintext = ciphertext.decrypt_with_aad(old.expose(), &[]).map_err(|_| ValueError::NoKnownKey)?;
    let plaintext = Zeroizing::new(plaintext);
    let turned = encrypt_with_aad(&plaintext, new.expose(), &[], CiphertextVersion::V2);
    turned.map(Vec::from).map_err(|_| ValueError::Cipher)
}

fn clocked(mut work: impl FnMut() -> Result<(), ValueError>) -> Result<Duration, ValueError> {
    let began = Instant::now();
    for _ in 0..VALUES {
        work()?;
    }
    Ok(began.elapsed() / VALUES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_a_value_costs_little_more_than_the_librarys_own_calls() {
        let speed = measure(512).unwrap();
        // Tests run unoptimised; the figure itself is taken by `keyturn db bench`.
        assert!(speed.over_library() < 3.0, "{speed:?}");
    }
}
