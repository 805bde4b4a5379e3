//! Values as applications really store them, and values that are none.

use ::base64::Engine;
use ::base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use devolutions_crypto::ciphertext::encrypt_asymmetric;
use devolutions_crypto::key::{KeyVersion, generate_keypair};
use devolutions_crypto::online_ciphertext::{OnlineCiphertextEncryptor, OnlineCiphertextVersion};
use proptest::prelude::*;

use super::*;
use CipherVersion::{V1, V2};
use Encoding::{Base64, Raw};

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(vec![byte; 32]).unwrap()
}

fn rewrapper() -> Rewrapper {
    Rewrapper::new(&key(1), &key(2))
}

fn encrypted(plaintext: &[u8], version: CipherVersion) -> Vec<u8> {
    Cipher::new(&key(1)).encrypt(plaintext, Raw, b"", version).unwrap()
}

fn rewrap_error(stored: &[u8], encoding: Encoding) -> ValueError {
    rewrapper().rewrap(stored, encoding, b"").unwrap_err()
}

/// The published test values of devolutions-crypto (tests/conformity.rs of 0.10.3): what earlier releases wrote.
const PUBLISHED_KEY: &str = "ozJVEme4+5e/4NG3C+Rl26GQbGWAqGc0QPX8/1xvaFM=";
const PUBLISHED_AAD: &str = "this is some public data";
const PUBLISHED: [(&str, &str, &str); 4] = [
    // Version 1, subtype 0.
    (
        "DQwCAAAAAQCK1twEut+TeJfFbTWCRgHjyS6bOPOZUEQAeBtSFFRl2jHggM/34n68zIZWGbsZHkufVzU6mTN5N2Dx9bTplrycv5eNVevT4P9FdVHJ751D+A==",
        "",
        "test Ciph3rtext~",
    ),
    // Version 2, subtype 0.
    (
        "DQwCAAAAAgAA0iPpI4IEzcrWAQiy6tqDqLbRYduGvlMC32mVH7tpIN2CXDUu5QHF91I7pMrmjt/61pm5CeR/IcU=",
        "",
        "test Ciph3rtext~2",
    ),
    (
        "DQwCAAEAAQCeKfbTqYjfVCEPEiAJjiypBstPmZz0AnpliZKoR+WXTKdj2f/4ops0++dDBVZ+XdyE1KfqxViWVc9djy/HSCcPR4nDehtNI69heGCIFudXfQ==",
        PUBLISHED_AAD,
        "test Ciph3rtext~",
    ),
    (
        "DQwCAAEAAgA9bh989dao0Pvaz1NpJTI5m7M4br2qVjZtFwXXoXZOlkCjtqU/uif4pbNCcpEodzeP4YG1QvfKVQ==",
        PUBLISHED_AAD,
        "test Ciph3rtext~",
    ),
];

#[test]
fn both_versions_are_kept_in_both_encodings() {
    for version in [V1, V2] {
        for encoding in [Raw, Base64] {
            let stored = Cipher::new(&key(1)).encrypt(b"secret", encoding, b"", version).unwrap();
            let rewrapped = rewrapper().rewrap(&stored, encoding, b"").unwrap();
            assert_eq!(&rewrapped.plaintext[..], b"secret");
            assert_eq!(rewrapped.stored.len(), stored.len(), "a value keeps its size");
            let opened = rewrapper().open_turned(&rewrapped.stored, encoding, b"").unwrap();
            assert_eq!((&opened.plaintext[..], opened.version), (&b"secret"[..], version));
            let back = Rewrapper::new(&key(2), &key(1)).rewrap(&rewrapped.stored, encoding, b"").unwrap();
            assert_eq!(Cipher::new(&key(1)).open(&back.stored, encoding, b"").unwrap().version, version);
        }
    }
}

#[test]
fn legacy_values_are_upgraded_on_request_only() {
    let stored = encrypted(b"secret", V1);
    let rewrapped = rewrapper().upgrading().rewrap(&stored, Raw, b"").unwrap();
    let opened = rewrapper().open_turned(&rewrapped.stored, Raw, b"").unwrap();
    assert_eq!((&opened.plaintext[..], opened.version), (&b"secret"[..], V2));
}

#[test]
fn values_of_earlier_releases_open_and_subtype_0_is_written_as_symmetric() {
    let old = SecretKey::from_bytes(STANDARD.decode(PUBLISHED_KEY).unwrap()).unwrap();
    let rewrapper = Rewrapper::new(&old, &key(2));
    for (text, aad, plaintext) in PUBLISHED {
        let raw = STANDARD.decode(text).unwrap();
        for (stored, encoding) in [(text.as_bytes(), Base64), (&raw[..], Raw)] {
            let rewrapped = rewrapper.rewrap(stored, encoding, aad.as_bytes()).unwrap();
            assert_eq!(&rewrapped.plaintext[..], plaintext.as_bytes());
            rewrapper.open_turned(&rewrapped.stored, encoding, aad.as_bytes()).unwrap();
        }
        let turned = rewrapper.rewrap(&raw, Raw, aad.as_bytes()).unwrap().stored;
        assert_eq!(turned[..8], [0x0D, 0x0C, 2, 0, 1, 0, raw[6], 0]);
    }
}

#[test]
fn empty_is_no_ciphertext_but_an_empty_plaintext_is_one() {
    for encoding in [Raw, Base64] {
        assert_eq!(rewrap_error(b"", encoding), ValueError::Empty);
    }
    for version in [V1, V2] {
        assert_eq!(rewrapper().rewrap(&encrypted(b"", version), Raw, b"").unwrap().plaintext.len(), 0);
    }
}

#[test]
fn the_associated_data_is_kept_exactly() {
    for version in [V1, V2] {
        let stored = Cipher::new(&key(1)).encrypt(b"secret", Raw, b"table.column", version).unwrap();
        assert_eq!(rewrap_error(&stored, Raw), ValueError::NoKnownKey);
        let rewrapped = rewrapper().rewrap(&stored, Raw, b"table.column").unwrap();
        assert!(rewrapper().open_turned(&rewrapped.stored, Raw, b"").is_err(), "none is dropped");
        rewrapper().open_turned(&rewrapped.stored, Raw, b"table.column").unwrap();
    }
}

#[test]
fn values_under_another_key() {
    let under = |byte| Cipher::new(&key(byte)).encrypt(b"secret", Raw, b"", V2).unwrap();
    assert_eq!(rewrap_error(&under(2), Raw), ValueError::UnderOtherKey);
    assert_eq!(rewrap_error(&under(3), Raw), ValueError::NoKnownKey);
    assert_eq!(Cipher::new(&key(1)).open(&under(2), Raw, b"").unwrap_err(), ValueError::NoKnownKey);
}

#[test]
fn a_value_cut_at_any_byte_is_named_for_what_it_is() {
    for (version, min) in [(V1, 72), (V2, 48)] {
        let whole = encrypted(b"a plaintext of more than one block", version);
        for length in 1..whole.len() {
            let expected = match length {
                ..2 => ValueError::NotCiphertext,
                2..8 => ValueError::Truncated { length, min: 8 },
                _ if length < min => ValueError::Truncated { length, min },
                _ => ValueError::NoKnownKey,
            };
            assert_eq!(rewrap_error(&whole[..length], Raw), expected, "{length}");
        }
    }
}

#[test]
fn a_value_altered_at_any_byte_does_not_open() {
    for version in [V1, V2] {
        let whole = encrypted(b"secret", version);
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            rewrap_error(&altered, Raw);
        }
    }
}

#[test]
fn what_is_no_ciphertext_says_what_it_is() {
    assert_eq!(rewrap_error(b"plain text in the wrong column", Raw), ValueError::NotCiphertext);
    assert_eq!(rewrap_error(b"cGxhaW4gdGV4dA==", Base64), ValueError::NotCiphertext);

    let pair = generate_keypair(KeyVersion::Latest);
    let asymmetric = encrypt_asymmetric(b"x", &pair.public_key, CiphertextVersion::V2).unwrap();
    assert_eq!(rewrap_error(&Vec::from(asymmetric), Raw), ValueError::Asymmetric);

    let online = OnlineCiphertextEncryptor::new(key(1).expose(), b"", 1024, OnlineCiphertextVersion::V1).unwrap();
    let mut online = Vec::from(&online.get_header());
    online.extend_from_slice(&[0; 64]);
    let error = rewrap_error(&online, Raw);
    assert_eq!(error, ValueError::OtherType { data_type: 7, what: "an online ciphertext" });
    assert!(error.to_string().contains("online ciphertext"));

    let header = |header: &[u8; 8]| rewrap_error(&[&header[..], &[0; 80]].concat(), Raw);
    assert_eq!(header(b"\x0D\x0C\x02\x00\x01\x00\x03\x00"), ValueError::Version(3));
    assert_eq!(header(b"\x0D\x0C\x02\x00\x01\x00\x00\x00"), ValueError::Version(0));
    assert_eq!(header(b"\x0D\x0C\x02\x00\x07\x00\x02\x00"), ValueError::Subtype(7));
    assert!(matches!(header(b"\x0D\x0C\x63\x00\x00\x00\x01\x00"), ValueError::OtherType { data_type: 99, .. }));
}

#[test]
fn more_than_100_mib_is_refused_unread() {
    let huge = vec![0; VALUE_BYTES_MAX + 1];
    for encoding in [Raw, Base64] {
        let error = rewrap_error(&huge, encoding);
        assert_eq!(error, ValueError::TooLarge(VALUE_BYTES_MAX + 1));
        assert!(error.to_string().contains("100 MiB"));
    }
}

/// The text in lines, as MIME, OpenSSL and databases write it.
fn in_lines(text: &str, width: usize, ending: &str) -> String {
    text.as_bytes()
        .chunks(width)
        .map(|line| std::str::from_utf8(line).unwrap().to_owned())
        .collect::<Vec<_>>()
        .join(ending)
}

#[test]
fn every_form_of_base64_goes_back_as_it_came() {
    for plaintext_bytes in 0..200_usize {
        let raw = encrypted(&vec![b'x'; plaintext_bytes], V2);
        let forms: [(&str, String); 9] = [
            ("standard", STANDARD.encode(&raw)),
            ("unpadded", STANDARD_NO_PAD.encode(&raw)),
            ("url-safe", URL_SAFE.encode(&raw)),
            ("url-safe, unpadded", URL_SAFE_NO_PAD.encode(&raw)),
            ("fixed width", format!("{}  ", STANDARD.encode(&raw))),
            ("76, as MIME", in_lines(&STANDARD.encode(&raw), 76, "\r\n")),
            ("76, as PostgreSQL and MariaDB", in_lines(&STANDARD.encode(&raw), 76, "\n")),
            ("64, as OpenSSL", in_lines(&STANDARD.encode(&raw), 64, "\n") + "\n"),
            ("odd", in_lines(&URL_SAFE_NO_PAD.encode(&raw), 7, "\r\n")),
        ];
        for (name, text) in forms {
            let rewrapped = rewrapper().rewrap(text.as_bytes(), Base64, b"").unwrap();
            let stored = String::from_utf8(rewrapped.stored).unwrap();
            assert_eq!(stored.len(), text.len(), "{name}");
            assert_eq!(stored.matches('=').count(), text.matches('=').count(), "{name}");
            let spaces = |text: &str| text.match_indices([' ', '\r', '\n']).map(|(at, _)| at).collect::<Vec<_>>();
            assert_eq!(spaces(&stored), spaces(&text), "{name}");
            // Whichever reader the text was made for, it reads the new one as well.
            let shows = |text: &str, symbols: [char; 2]| text.contains(symbols);
            if !shows(&text, ['+', '/']) {
                assert!(!shows(&stored, ['+', '/']), "{name}: {text} became {stored}");
            }
            if !shows(&text, ['-', '_']) {
                assert!(!shows(&stored, ['-', '_']), "{name}: {text} became {stored}");
            }
        }
    }
}

#[test]
fn base64_that_is_none_is_named_and_not_quoted() {
    let text = STANDARD.encode(encrypted(b"secret", V2));
    let problem = |text: &str| match rewrap_error(text.as_bytes(), Base64) {
        ValueError::Base64(problem) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem("DQwC!"), Base64Problem::Symbol(4));
    assert_eq!(problem("DQwC AAAA"), Base64Problem::Symbol(4));
    assert_eq!(problem("DQwC+_"), Base64Problem::MixedAlphabets);
    assert_eq!(problem(&text[..5]), Base64Problem::Length);
    assert_eq!(problem("DQ=C"), Base64Problem::Padding);
    assert_eq!(problem("===="), Base64Problem::Padding);
    let shown = rewrap_error("my-pässword".as_bytes(), Base64).to_string();
    assert!(!shown.contains("pass") && !shown.contains("195"), "{shown}");
}

#[test]
fn lines_that_could_not_be_put_back_as_they_are_are_named() {
    let text = STANDARD.encode(encrypted(&[b'x'; 200], V2));
    let (first, rest) = text.split_at(76);
    let regular = in_lines(rest, 76, "\n");
    for irregular in [
        format!("{}\n{}\n{regular}", &first[..70], &first[70..]),
        format!("{first}\r\n{regular}"),
        format!("{first}\n\n{regular}"),
        format!("\n{first}\n{regular}"),
        format!("{first}\n{rest}"),
        format!("{first}\r{regular}"),
        format!("{first}\n{}", regular.replace('\n', "\r\n")),
    ] {
        let error = rewrap_error(irregular.as_bytes(), Base64);
        assert_eq!(error, ValueError::Base64(Base64Problem::Lines), "{irregular:?}");
    }
    rewrapper().rewrap(format!("{first}\n{regular}").as_bytes(), Base64, b"").unwrap();
}

#[test]
fn a_value_that_is_upgraded_has_lines_of_the_width_that_it_had() {
    let text = STANDARD.encode(encrypted(&[b'x'; 200], V1));
    let upgraded = rewrapper().upgrading().rewrap(in_lines(&text, 76, "\r\n").as_bytes(), Base64, b"").unwrap().stored;
    let upgraded = String::from_utf8(upgraded).unwrap();
    let lines: Vec<&str> = upgraded.split("\r\n").collect();
    assert!(lines.len() < text.len().div_ceil(76) + 1 && lines[..lines.len() - 1].iter().all(|line| line.len() == 76));
}

#[test]
fn base64_cut_at_any_symbol_never_opens() {
    let text = STANDARD.encode(encrypted(b"secret", V2));
    for length in 1..text.trim_end_matches('=').len() {
        rewrap_error(&text.as_bytes()[..length], Base64);
    }
}

#[test]
fn nothing_that_is_printed_holds_a_plaintext() {
    let stored = encrypted(b"hunter2", V2);
    let rewrapped = rewrapper().rewrap(&stored, Raw, b"").unwrap();
    let opened = Cipher::new(&key(1)).open(&stored, Raw, b"").unwrap();
    let text = format!("{rewrapped:?} {opened:?} {:?}", rewrapper());
    assert!(!text.contains("hunter2") && !text.contains("104, 117") && !text.contains("1, 1, 1"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_plaintext_survives_there_and_back(
        plaintext in prop::collection::vec(any::<u8>(), 0..3000),
        aad in prop::collection::vec(any::<u8>(), 0..40),
        old in prop::collection::vec(any::<u8>(), 1..80),
        new in prop::collection::vec(any::<u8>(), 1..80),
        legacy in any::<bool>(),
        base64 in any::<bool>(),
    ) {
        prop_assume!(old != new);
        let (old, new) = (SecretKey::from_bytes(old).unwrap(), SecretKey::from_bytes(new).unwrap());
        let (version, encoding) = (if legacy { V1 } else { V2 }, if base64 { Base64 } else { Raw });
        let stored = Cipher::new(&old).encrypt(&plaintext, encoding, &aad, version).unwrap();
        let there = Rewrapper::new(&old, &new).rewrap(&stored, encoding, &aad).unwrap();
        prop_assert_eq!(&there.plaintext[..], &plaintext[..]);
        let again = Rewrapper::new(&old, &new).rewrap(&there.stored, encoding, &aad).unwrap_err();
        prop_assert_eq!(again, ValueError::UnderOtherKey);
        let back = Rewrapper::new(&new, &old).rewrap(&there.stored, encoding, &aad).unwrap();
        prop_assert_eq!(&Cipher::new(&old).open(&back.stored, encoding, &aad).unwrap().plaintext[..], &plaintext[..]);
    }

    #[test]
    fn the_library_opens_what_we_write_and_we_open_what_it_writes(
        plaintext in prop::collection::vec(any::<u8>(), 0..3000),
        aad in prop::collection::vec(any::<u8>(), 0..40),
        old in prop::collection::vec(any::<u8>(), 1..80),
        new in prop::collection::vec(any::<u8>(), 1..80),
        touched in any::<prop::sample::Index>(),
    ) {
        prop_assume!(old != new);
        let library = |key: &[u8], stored: &[u8]| {
            Ciphertext::try_from(stored).unwrap().decrypt_with_aad(key, &aad).map_err(|_| ())
        };
        let theirs: Vec<u8> = encrypt_with_aad(&plaintext, &old, &aad, CiphertextVersion::V2).unwrap().into();
        let keys = (SecretKey::from_bytes(old.clone()).unwrap(), SecretKey::from_bytes(new.clone()).unwrap());
        let opened = Cipher::new(&keys.0).open(&theirs, Raw, &aad).unwrap();
        prop_assert_eq!(&opened.plaintext[..], &plaintext[..]);
        let ours = Rewrapper::new(&keys.0, &keys.1).rewrap(&theirs, Raw, &aad).unwrap().stored;
        prop_assert_eq!(library(&new, &ours), Ok(plaintext.clone()));
        prop_assert_eq!(library(&old, &ours), Err(()));
        let nonce = |stored: &[u8]| stored[8..32].to_vec();
        prop_assert_ne!(nonce(&ours), nonce(&theirs));
        prop_assert_eq!(library(&old, &Cipher::new(&keys.0).encrypt(&plaintext, Raw, &aad, V2).unwrap()), Ok(plaintext));
        // Every byte is authenticated: the header, the nonce, the text and the tag.
        let mut broken = theirs;
        let at = touched.index(broken.len());
        broken[at] ^= 1;
        prop_assert!(Rewrapper::new(&keys.0, &keys.1).rewrap(&broken, Raw, &aad).is_err());
    }

    #[test]
    fn no_bytes_make_the_parser_panic_or_open(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        headed in any::<bool>(),
        version in 0_u8..4,
        base64 in any::<bool>(),
    ) {
        let header = [0x0D, 0x0C, 2, 0, 1, 0, version, 0];
        let value = if headed { [&header[..], &bytes].concat() } else { bytes };
        let encoding = if base64 { Base64 } else { Raw };
        prop_assert!(rewrapper().rewrap(&value, encoding, b"").is_err());
    }
}
