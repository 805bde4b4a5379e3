//! Bundles that open, and everything that must not: cut, foreign, altered, hostile.

use proptest::prelude::*;

use super::*;
use crate::{KeyEntry, KeyState, SecretKey};

/// Offsets of what a hostile writer would change; docs/formats.md has the whole layout.
const OUTER_VERSION: usize = 6;
const PARAMETERS_LENGTH: usize = 8;
const KEY_DERIVATION_VERSION: usize = 22;
const ARGON2_LAYOUT: usize = 24;
const DERIVED_LENGTH: usize = 28;
const LANES: usize = 32;
const MEMORY_KIB: usize = 36;
const ITERATIONS: usize = 40;
const VARIANT: usize = 44;
const ASSOCIATED_LENGTH: usize = 46;
const SALT_LENGTH: usize = 50;
const CIPHERTEXT: usize = 70;

fn password(text: &str) -> Password {
    Password::from_bytes(text.as_bytes().to_vec()).unwrap()
}

fn set() -> KeySet {
    let key = |byte: u8, length| SecretKey::from_bytes(vec![byte; length]).unwrap();
    let new = KeyEntry { state: KeyState::Active, created_at_ms: 8, secret: key(2, 32) };
    KeySet::new("demo", key(1, 16), 5).promote(new, 9)
}

/// A bundle whose derivation costs nothing, for tests that open many.
fn cheap(json: &[u8]) -> Vec<u8> {
    let parameters = Argon2Parameters::builder().memory(8).iterations(1).lanes(1).build();
    let parameters = Argon2::with_params(parameters).parameters();
    encrypt_with_password(json, b"password", parameters, CiphertextVersion::V2).unwrap().into()
}

fn cheap_set() -> Vec<u8> {
    cheap(&payload::to_json(&set()))
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut bundle = cheap_set();
    bundle[at..at + bytes.len()].copy_from_slice(bytes);
    bundle
}

/// What is refused like this was refused before anything was derived: deriving itself ends in other errors.
fn header_error(bundle: &[u8]) -> HeaderError {
    match open(bundle, &password("password")).unwrap_err() {
        BundleError::Header(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_opens_with_its_password_alone() {
    let bundle = seal(&set(), &password("correct horse")).unwrap();
    assert_eq!(open(&bundle, &password("correct horse")).unwrap(), set());
    for wrong in ["correct hors", "correct horse\n", "Correct horse"] {
        assert!(matches!(open(&bundle, &password(wrong)), Err(BundleError::WrongPassword)));
    }
}

#[test]
fn a_new_bundle_costs_what_the_design_says() {
    let bundle = seal(&set(), &password("p")).unwrap();
    let header = inspect_header(&bundle).unwrap();
    assert_eq!(header.argon2, Argon2Cost { memory_kib: 65_536, iterations: 3, lanes: 1 });
    assert_eq!(header.ciphertext_bytes, bundle.len() - CIPHERTEXT);
}

#[test]
fn no_two_bundles_of_the_same_keys_are_alike() {
    assert_ne!(cheap_set()[54..70], cheap_set()[54..70], "the salt");
    assert_ne!(cheap_set()[CIPHERTEXT..], cheap_set()[CIPHERTEXT..]);
}

#[test]
fn hostile_costs_are_refused_before_deriving() {
    for (at, what, max) in
        [(MEMORY_KIB, "memory (KiB)", 1_048_576), (ITERATIONS, "passes", 16), (LANES, "lanes", 16_u32)]
    {
        for value in [max + 1, u32::MAX] {
            let error = header_error(&patched(at, &value.to_le_bytes()));
            assert_eq!(error, HeaderError::CostTooHigh { what, value, max });
            assert!(error.to_string().contains("nothing was derived"));
        }
        let mut most = patched(MEMORY_KIB, &1024_u32.to_le_bytes());
        most[at..at + 4].copy_from_slice(&max.to_le_bytes());
        inspect_header(&most).expect("the limit itself is accepted");
    }
}

#[test]
fn parameters_that_no_writer_uses_are_refused_before_deriving() {
    let hostile: [(usize, &[u8]); 11] = [
        (DERIVED_LENGTH, &u32::MAX.to_le_bytes()),
        (DERIVED_LENGTH, &16_u32.to_le_bytes()),
        (LANES, &0_u32.to_le_bytes()),
        (MEMORY_KIB, &7_u32.to_le_bytes()),
        (ITERATIONS, &0_u32.to_le_bytes()),
        (VARIANT, &[0]),
        (VARIANT, &[9]),
        (VARIANT + 1, &[0x10]),
        (ASSOCIATED_LENGTH, &u32::MAX.to_le_bytes()),
        (SALT_LENGTH, &u32::MAX.to_le_bytes()),
        (SALT_LENGTH, &15_u32.to_le_bytes()),
    ];
    for (at, bytes) in hostile {
        assert_eq!(header_error(&patched(at, bytes)), HeaderError::Malformed, "{bytes:?} at {at}");
    }
    let huge = header_error(&patched(PARAMETERS_LENGTH, &u32::MAX.to_le_bytes()));
    assert_eq!(huge, HeaderError::Truncated);
}

#[test]
fn other_versions_are_named() {
    for (at, what, version) in [
        (OUTER_VERSION, "file", 2),
        (KEY_DERIVATION_VERSION, "key derivation", 1_u32),
        (ARGON2_LAYOUT, "Argon2 layout", 2),
        (CIPHERTEXT + 6, "ciphertext", 1),
    ] {
        let error = header_error(&patched(at, &version.to_le_bytes()[..2]));
        assert_eq!(error, HeaderError::Version { what, version });
    }
}

#[test]
fn a_bundle_cut_at_any_byte_is_refused_before_deriving() {
    let whole = cheap_set();
    for length in 0..8 {
        assert_eq!(header_error(&whole[..length]), HeaderError::Foreign, "{length}");
    }
    for length in 8..whole.len() {
        assert_eq!(header_error(&whole[..length]), HeaderError::Truncated, "{length}");
    }
    assert_eq!(header_error(&[&whole[..], b"\n"].concat()), HeaderError::Malformed, "and a byte too many");
}

#[test]
fn a_bundle_altered_at_any_byte_does_not_open() {
    let whole = cheap_set();
    for at in 0..whole.len() {
        for bit in [1, 0x80] {
            let mut altered = whole.clone();
            altered[at] ^= bit;
            // A lower cost is a valid one; it derives another key, and that is all.
            if inspect_header(&altered).is_ok_and(|header| header.argon2.memory_kib > 1024) {
                continue;
            }
            assert!(open(&altered, &password("password")).is_err(), "{at}");
        }
    }
}

#[test]
fn foreign_files_are_refused() {
    for foreign in [&b""[..], b"PK\x03\x04", b"{\"format\":\"keyturn-encryption-config\"}", &[0; 4096]] {
        assert_eq!(header_error(foreign), HeaderError::Foreign);
    }
    let ciphertext = devolutions_crypto::ciphertext::encrypt(b"x", b"key", CiphertextVersion::V2).unwrap();
    assert_eq!(header_error(&Vec::from(ciphertext)), HeaderError::Foreign, "a row is no bundle");
    assert!(matches!(open(&vec![0; BUNDLE_BYTES_MAX + 1], &password("p")), Err(BundleError::TooLarge(_))));
}

#[test]
fn what_opens_and_holds_no_keys_says_so() {
    for json in [&b""[..], b"{}", b"not json"] {
        let error = open(&cheap(json), &password("password")).unwrap_err();
        assert!(matches!(error, BundleError::Payload(PayloadError::Malformed { .. })));
    }
    let later = String::from_utf8(payload::to_json(&set()).to_vec()).unwrap().replace("\"version\":1", "\"version\":2");
    let error = open(&cheap(later.as_bytes()), &password("password")).unwrap_err();
    assert!(matches!(error, BundleError::Payload(PayloadError::Version(2))));
    assert!(error.next_step().contains("release"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_keys_come_back(
        farm in ".{0,40}",
        created in any::<u64>(),
        secrets in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..80), 1..6),
    ) {
        let entries = secrets.into_iter().enumerate().map(|(at, bytes)| KeyEntry {
            state: if at == 0 { KeyState::Active } else { KeyState::DecryptOnly },
            created_at_ms: at as u64,
            secret: SecretKey::from_bytes(bytes).unwrap(),
        });
        let set = KeySet::from_entries(&farm, created, entries.collect()).unwrap();
        let opened = open(&cheap(&payload::to_json(&set)), &password("password")).unwrap();
        prop_assert_eq!(opened, set);
    }

    #[test]
    fn no_bytes_make_the_header_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = inspect_header(&bytes);
        let start = cheap_set();
        let _ = inspect_header(&[&start[..bytes.len().min(70)], &bytes[..]].concat());
    }
}
