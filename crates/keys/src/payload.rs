//! The one JSON form of a key set, which stands encrypted inside bundles, sealed bundles and `encryption.config`.
//!
//! The text holds keys, so it only ever exists in memory that is wiped, and errors never quote it.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rotation::KeyId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{KeyEntry, KeySet, KeySetError, KeyState, SecretKey};

/// The name in the payload's `format`.
const FORMAT: &str = "keyturn-bundle";
/// The version that this release writes, and the only one that it reads.
const VERSION: u32 = 1;
/// A farm turns its keys a few times a year; more than this is no farm's history, and ids are compared pairwise.
const KEYS_MAX: usize = 1000;

/// A payload that was decrypted and yet is no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not the JSON of a key set. What stands there is not quoted: it may be a key.
    #[error("what is inside is not the JSON of a key set (line {line}, column {column})")]
    Malformed {
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// JSON of something else.
    #[error("what is inside is not of format keyturn-bundle")]
    Format,
    /// Written by a release that this one does not know.
    #[error("what is inside has version {0}, and this release reads version 1; use the release that wrote it")]
    Version(u32),
    /// More keys than a farm ever has.
    #[error("it holds {0} keys, more than the {KEYS_MAX} that are read")]
    TooManyKeys(usize),
    /// A secret that is no base64, or empty.
    #[error("the secret of key {0} is not base64 of at least one byte")]
    Secret(KeyId),
    /// A secret under another key's id.
    #[error("the secret that stands under key id {0} is another key's")]
    IdDiffers(KeyId),
    /// The keys make no set.
    #[error(transparent)]
    Set(#[from] KeySetError),
}

#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    format: &'a str,
    version: u32,
    farm: String,
    created_at_ms: u64,
    #[serde(borrow)]
    keys: Vec<PayloadKey<'a>>,
}

#[derive(Serialize, Deserialize)]
struct PayloadKey<'a> {
    id: KeyId,
    state: PayloadState,
    created_at_ms: u64,
    // Borrowed from the text, so that reading makes no copy of the secret that nobody wipes.
    secret: &'a str,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PayloadState {
    Active,
    DecryptOnly,
}

/// The version alone, read first so that another version is told from a broken file.
#[derive(Deserialize)]
struct Versioned {
    format: String,
    version: u32,
}

/// The JSON of a key set.
pub(crate) fn to_json(set: &KeySet) -> Zeroizing<Vec<u8>> {
    let secrets: Vec<Zeroizing<String>> = set.entries().map(|entry| base64_secret(&entry.secret)).collect();
    let keys = set
        .entries()
        .zip(&secrets)
        .map(|(entry, secret)| PayloadKey {
            id: entry.secret.id(),
            state: match entry.state {
                KeyState::Active => PayloadState::Active,
                KeyState::DecryptOnly => PayloadState::DecryptOnly,
            },
            created_at_ms: entry.created_at_ms,
            secret,
        })
        .collect();
    let payload = Payload {
        format: FORMAT,
        version: VERSION,
        farm: set.farm().to_owned(),
        created_at_ms: set.created_at_ms(),
        keys,
    };
    // Measured first: a buffer that grows leaves unwiped copies of its content behind.
    let mut counter = Counter(0);
    write(&payload, &mut counter);
    let mut json = Zeroizing::new(Vec::with_capacity(counter.0));
    write(&payload, &mut *json);
    json
}

/// Reads what [`to_json`] wrote.
pub(crate) fn from_json(json: &[u8]) -> Result<KeySet, PayloadError> {
    let versioned: Versioned = serde_json::from_slice(json).map_err(malformed)?;
    if versioned.format != FORMAT {
        return Err(PayloadError::Format);
    }
    if versioned.version != VERSION {
        return Err(PayloadError::Version(versioned.version));
    }
    let payload: Payload<'_> = serde_json::from_slice(json).map_err(malformed)?;
    if payload.keys.len() > KEYS_MAX {
        return Err(PayloadError::TooManyKeys(payload.keys.len()));
    }
    let entries = payload.keys.iter().map(read_key).collect::<Result<Vec<_>, _>>()?;
    Ok(KeySet::from_entries(&payload.farm, payload.created_at_ms, entries)?)
}

fn read_key(key: &PayloadKey<'_>) -> Result<KeyEntry, PayloadError> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(key.secret.len())]);
    let length = STANDARD.decode_slice(key.secret, &mut bytes).map_err(|_| PayloadError::Secret(key.id))?;
    // A copy of exactly the right size; the roomier buffer is wiped.
    let secret = SecretKey::from_bytes(bytes[..length].to_vec()).map_err(|_| PayloadError::Secret(key.id))?;
    if secret.id() != key.id {
        return Err(PayloadError::IdDiffers(key.id));
    }
    let state = match key.state {
        PayloadState::Active => KeyState::Active,
        PayloadState::DecryptOnly => KeyState::DecryptOnly,
    };
    Ok(KeyEntry { state, created_at_ms: key.created_at_ms, secret })
}

fn base64_secret(secret: &SecretKey) -> Zeroizing<String> {
    let length = base64::encoded_len(secret.expose().len(), true).expect("a key is far shorter than the address space");
    let mut text = Zeroizing::new(String::with_capacity(length));
    STANDARD.encode_string(secret.expose(), &mut text);
    text
}

fn write(payload: &Payload<'_>, to: &mut impl Write) {
    serde_json::to_writer(to, payload).expect("a payload has string keys only, and memory takes every byte");
}

/// Drops the message of serde_json, which quotes the text that it could not read.
fn malformed(error: serde_json::Error) -> PayloadError {
    PayloadError::Malformed { line: error.line(), column: error.column() }
}

/// Counts what is written.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn id(byte: u8) -> KeyId {
        SecretKey::from_bytes(vec![byte; 32]).unwrap().id()
    }

    fn key(byte: u8, state: &str) -> String {
        let secret = STANDARD.encode([byte; 32]);
        format!(r#"{{"id":"{}","state":"{state}","created_at_ms":7,"secret":"{secret}"}}"#, id(byte))
    }

    fn json(version: u32, keys: &[String]) -> String {
        let keys = keys.join(",");
        format!(r#"{{"format":"keyturn-bundle","version":{version},"farm":"demo","created_at_ms":5,"keys":[{keys}]}}"#)
    }

    fn read(json: &str) -> Result<KeySet, PayloadError> {
        from_json(json.as_bytes())
    }

    #[test]
    fn the_exact_text() {
        let set = KeySet::new("demo", SecretKey::from_bytes(vec![1; 32]).unwrap(), 5);
        let text = format!(
            r#"{{"format":"keyturn-bundle","version":1,"farm":"demo","created_at_ms":5,"keys":[{{"id":"{}","state":"active","created_at_ms":5,"secret":"{SECRET}"}}]}}"#,
            id(1)
        );
        let written = to_json(&set);
        assert_eq!(std::str::from_utf8(&written).unwrap(), text);
        assert_eq!(written.capacity(), written.len(), "the buffer was measured and never grew");
        assert_eq!(from_json(&written).unwrap(), set);
    }

    #[test]
    fn only_one_active_key_and_no_key_twice() {
        assert_eq!(read(&json(1, &[])), Err(KeySetError::NoActive.into()));
        assert_eq!(read(&json(1, &[key(1, "decrypt-only")])), Err(KeySetError::NoActive.into()));
        let two = json(1, &[key(1, "active"), key(2, "active")]);
        assert_eq!(read(&two), Err(KeySetError::SeveralActive(2).into()));
        let twice = json(1, &[key(1, "active"), key(1, "decrypt-only")]);
        assert_eq!(read(&twice), Err(KeySetError::Duplicate(id(1)).into()));
        assert_eq!(read(&json(1, &[key(1, "active"), key(2, "decrypt-only")])).unwrap().entries().count(), 2);
    }

    #[test]
    fn another_keys_id_another_version_another_format() {
        let wrong_id = json(1, &[key(1, "active").replace(&id(1).to_string(), &id(2).to_string())]);
        assert_eq!(read(&wrong_id), Err(PayloadError::IdDiffers(id(2))));
        assert_eq!(read(&json(2, &[key(1, "active")])), Err(PayloadError::Version(2)));
        assert_eq!(read(&json(2, &[]).replace("keys", "boxes")), Err(PayloadError::Version(2)));
        let other = json(1, &[key(1, "active")]).replace("keyturn-bundle", "something");
        assert_eq!(read(&other), Err(PayloadError::Format));
        assert!(matches!(read(&json(1, &[key(1, "retired")])), Err(PayloadError::Malformed { .. })));
    }

    #[test]
    fn a_secret_that_is_none() {
        for secret in ["", "####", "AQE"] {
            let broken = json(1, &[key(1, "active").replace(SECRET, secret)]);
            assert_eq!(read(&broken), Err(PayloadError::Secret(id(1))), "{secret:?}");
        }
    }

    #[test]
    fn too_many_keys() {
        let keys = vec![key(1, "active"); KEYS_MAX + 1];
        assert_eq!(read(&json(1, &keys)), Err(PayloadError::TooManyKeys(KEYS_MAX + 1)));
    }

    #[test]
    fn errors_quote_nothing_of_the_text() {
        let leaky =
            json(1, &[key(1, "active")]).replace(r#""created_at_ms":7"#, &format!(r#""created_at_ms":"{SECRET}""#));
        let error = read(&leaky).unwrap_err();
        assert!(matches!(error, PayloadError::Malformed { .. }));
        assert!(!format!("{error} {error:?}").contains("AQEB"));
    }

    #[test]
    fn a_cut_text_is_malformed_at_every_byte() {
        let whole = json(1, &[key(1, "active")]);
        for length in 0..whole.len() {
            assert!(matches!(read(&whole[..length]), Err(PayloadError::Malformed { .. })), "{length}");
        }
    }
}
