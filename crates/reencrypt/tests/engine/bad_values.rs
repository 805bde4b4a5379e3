//! What is no ciphertext of the farm, in every form, as bytes and as base64: each is named by its row with what it is, no
//! row of its page is written, and what is accepted stays to the byte while everything else turns and goes back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::value::Encoding;
use reencrypt::{EngineError, ShardJob};
use rotation::{Direction, FaultCode, ShardTally, Survey};

use crate::farm::{Cell, Found, Vault, add, on_both, turned};

const AAD: &str = "connections.password";

/// Type, subtype and version behind the signature, and some bytes.
fn structure(kind: u8, subtype: u8, version: u8) -> Vec<u8> {
    [&[0x0d, 0x0c, kind, 0, subtype, 0, version, 0][..], &[7; 100]].concat()
}

/// What stands there, and what is said of it.
fn as_bytes(vault: &Vault) -> Vec<(Vec<u8>, &'static str)> {
    let whole = vault.encrypt(&vault.old, b"a secret", Encoding::Raw, AAD);
    let mut altered = whole.clone();
    altered[50] ^= 1;
    vec![
        (whole[..1].to_vec(), "is not a ciphertext"),
        (whole[..7].to_vec(), "is cut short: 7 bytes"),
        (whole[..47].to_vec(), "is cut short: 47 bytes"),
        (whole[..whole.len() - 1].to_vec(), "opens under no known key, or it was altered"),
        ([&whole[..], &[0]].concat(), "opens under no known key, or it was altered"),
        (altered, "opens under no known key, or it was altered"),
        (b"a password that somebody stored as it is".to_vec(), "is not a ciphertext"),
        (vec![0; 300], "is not a ciphertext"),
        (vec![0xff, 0xfe, 0x00, 0x80], "is not a ciphertext"),
        (structure(2, 2, 2), "is encrypted to a public key"),
        (structure(7, 1, 1), "an online ciphertext"),
        (structure(7, 2, 1), "an online ciphertext"),
        (structure(3, 0, 1), "a password hash"),
        (structure(1, 0, 1), "a key of devolutions-crypto"),
        (structure(6, 0, 1), "a signature"),
        (structure(99, 0, 1), "an unknown structure"),
        (structure(2, 9, 2), "of unknown subtype 9"),
        (structure(2, 1, 3), "of version 3"),
    ]
}

fn as_base64(vault: &Vault) -> Vec<(Vec<u8>, &'static str)> {
    let whole = vault.encrypt(&vault.old, b"a secret, with both symbols??>>", Encoding::Base64, "");
    let text = |bytes: Vec<u8>| STANDARD.encode(bytes).into_bytes();
    let mut within = whole.clone();
    within.insert(9, b' ');
    vec![
        (within, "is not base64: a symbol that is none of base64's at offset 9"),
        (b"DQwC+_AA".to_vec(), "is not base64: symbols of both"),
        (b"DQwCA".to_vec(), "is not base64: a length"),
        (b"DQ=wCAAE".to_vec(), "is not base64: padding in the wrong place"),
        (b"a password, as it is".to_vec(), "is not base64"),
        ("Kennw\u{f6}rter".as_bytes().to_vec(), "is not base64"),
        (b"aGVsbG8gd29ybGQ=".to_vec(), "is not a ciphertext"),
        (whole[..40].to_vec(), "is cut short"),
        (whole[..whole.len() / 4 * 4 - 4].to_vec(), "opens under no known key, or it was altered"),
        (text(structure(2, 2, 2)), "is encrypted to a public key"),
        (text(structure(7, 1, 1)), "an online ciphertext"),
        (text(structure(3, 0, 1)), "a password hash"),
    ]
}

async fn pass(vault: &Vault, survey: &Survey, epoch: u64, direction: Direction) -> Result<ShardTally, EngineError> {
    let (engine, mark) = (vault.engine().await, vault.mark(epoch, direction));
    let mut sum = ShardTally::default();
    for shard in &survey.shards {
        let job = ShardJob { accepted: survey.undecryptable.clone(), ..vault.job(shard, epoch, mark) };
        let turned = engine.reencrypt(&job, &|_| {}).await?;
        sum = add(&sum, &turned);
        assert_eq!(engine.verify(&job, &|_| {}).await?, turned);
    }
    Ok(sum)
}

on_both! {
    async fn each_is_named_by_its_row_and_nothing_is_written_until_it_is_accepted_and_then_it_stays(vault) {
        let (raw, base64) = (as_bytes(&vault), as_base64(&vault));
        let good = (vault.raw("good", AAD), vault.base64("good"));
        let rows = raw.len().max(base64.len());
        let mut bad = Vec::new();
        for at in 0..rows {
            let id = i64::try_from(at).unwrap();
            let password = raw.get(at).map_or(Cell::Null, |(value, said)| {
                bad.push((id, "password", value.clone(), *said));
                Cell::Bytes(value.clone())
            });
            let notes = base64.get(at).map_or(good.1.clone(), |(value, said)| {
                bad.push((id, "notes", value.clone(), *said));
                Cell::Text(String::from_utf8(value.clone()).unwrap())
            });
            vault.insert("connections", &[vec![Cell::Integer(id), Cell::Null, password, notes, Cell::Null]]).await;
        }
        // The end of a line behind base64 is none of these.
        let Cell::Text(notes) = good.1 else { panic!("base64 is text") };
        let healthy = vec![Cell::Integer(1000), Cell::Null, good.0, Cell::Text(notes + "\n"), Cell::Null];
        vault.insert("connections", &[healthy]).await;
        let before = vault.census().await;

        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable_total, bad.len() as u64, "{:?}", survey.undecryptable);
        for (id, column, _, said) in &bad {
            let key = format!("[\"i:{id}\"]");
            let named = survey.undecryptable.iter().find(|value| value.column == *column && value.key.0 == key);
            let reason = &named.unwrap_or_else(|| panic!("{column} of {key}, which {said}")).reason;
            assert!(reason.contains(said), "{column} of {key}: {reason}, and not {said}");
        }

        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let fault = vault.reencrypt_all(&survey, 1, vault.mark(1, Direction::Forward)).await.unwrap_err().fault();
        assert_eq!((fault.code, fault.retryable), (FaultCode::Undecryptable, false), "{fault:?}");
        assert!(fault.message.contains("connections.password of row [\"i:0\"]: the value is not a ciphertext"), "{fault:?}");
        assert!(fault.next_step.contains("accept"), "{fault:?}");
        assert_eq!(vault.census().await, before);

        let tally = pass(&vault, &survey, 2, Direction::Forward).await.unwrap();
        assert_eq!(tally.undecryptable, bad.len() as u64);
        let after = vault.census().await;
        assert_eq!(after, turned(&before));
        for (id, column, value, said) in &bad {
            let found = &after[&("connections".to_owned(), (*column).to_owned(), id.to_string())];
            assert_eq!(*found, Found::Neither(value.clone()), "{column} of {id}, which {said}");
        }
        engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
        assert_eq!(pass(&vault, &survey, 4, Direction::Back).await.unwrap(), tally);
        assert_eq!(vault.census().await, before);
    }
}
