//! Odd values: legacy, unpadded, corrupt, accepted, under the wrong key, huge.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys::value::{Cipher, CipherVersion, Encoding};
use keys::{KeySet, SecretKey};
use rotation::{Direction, FaultCode, UndecryptableValue};

use crate::farm::{Cell, Found, Vault, in_lines, on_both, request, turned, under};

/// What earlier releases of devolutions-crypto wrote: subtype 0, versions 1 and 2, as it publishes them with their key.
const PUBLISHED_KEY: &str = "ozJVEme4+5e/4NG3C+Rl26GQbGWAqGc0QPX8/1xvaFM=";
const SUBTYPE_0: [&str; 2] = [
    "DQwCAAAAAQCK1twEut+TeJfFbTWCRgHjyS6bOPOZUEQAeBtSFFRl2jHggM/34n68zIZWGbsZHkufVzU6mTN5N2Dx9bTplrycv5eNVevT4P9FdVHJ751D+A==",
    "DQwCAAAAAgAA0iPpI4IEzcrWAQiy6tqDqLbRYduGvlMC32mVH7tpIN2CXDUu5QHF91I7pMrmjt/61pm5CeR/IcU=",
];

/// The same legacy and odd values in both systems' first table.
async fn odd_values(vault: &Vault) {
    let cipher = Cipher::new(&vault.old);
    let v1 = cipher.encrypt(b"legacy", Encoding::Raw, b"connections.password", CipherVersion::V1).unwrap();
    let text = |plaintext: &[u8]| {
        String::from_utf8(cipher.encrypt(plaintext, Encoding::Base64, b"", CipherVersion::V2).unwrap()).unwrap()
    };
    let unpadded = text(b"no padding!").trim_end_matches('=').to_owned();
    let url_safe =
        text(b"url safe, and long enough to have both symbols in it, surely").replace('+', "-").replace('/', "_");
    let row = |id, password: Cell, notes: Cell| vec![Cell::Integer(id), Cell::Null, password, notes, Cell::Null];
    let rows = [
        row(1, Cell::Bytes(v1), Cell::Null),
        row(2, Cell::Null, Cell::Text(unpadded)),
        row(3, Cell::Bytes(Vec::new()), Cell::Text(url_safe)),
        row(4, vault.raw("", "connections.password"), Cell::Text(String::new())),
        row(i64::MAX, vault.raw(&"long ".repeat(30_000), "connections.password"), vault.base64("")),
        row(i64::MIN, Cell::Null, Cell::Null),
    ];
    vault.insert("connections", &rows).await;
}

on_both! {
    async fn legacy_unpadded_null_and_empty_values_survive_there_and_back_in_their_form(vault) {
        odd_values(&vault).await;
        let before = vault.census().await;
        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable, []);
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        assert_eq!((tally.rows, tally.values), (6, 6));
        assert_eq!(vault.census().await, turned(&before));
        let header = vault.rows("SELECT password FROM connections WHERE id = 1").await[0][0].clone().unwrap();
        assert_eq!(header[6..8], [1, 0], "a V1 value stays V1 unless asked otherwise");
        let unpadded = vault.text("SELECT notes FROM connections WHERE id = 2").await;
        assert!(!unpadded.ends_with('='));
        assert_eq!(vault.verify_all(&survey, 2, mark).await.unwrap(), tally);
        vault.engine().await.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
        vault.reencrypt_all(&survey, 3, vault.mark(3, Direction::Back)).await.unwrap();
        assert_eq!(vault.census().await, before);
    }

    async fn base64_in_lines_turns_and_goes_back_in_lines_as_they_were(vault) {
        let Cell::Text(text) = vault.base64(&"several lines ".repeat(20)) else { panic!("base64 values are text") };
        let wrapped = [in_lines(&text, 76, "\r\n"), in_lines(&text, 76, "\n"), in_lines(&text, 64, "\n") + "\n"];
        for (slug, text) in ["a", "b", "c"].into_iter().zip(&wrapped) {
            vault.insert("documents", &[vec![Cell::Text(slug.to_owned()), Cell::Text(text.clone())]]).await;
        }
        let texts = async || -> Vec<Vec<u8>> {
            let rows = vault.rows("SELECT body FROM documents ORDER BY 1, \"Slug\"").await;
            rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect()
        };
        let breaks = |texts: &[Vec<u8>]| {
            let of = |text: &Vec<u8>| text.iter().map(|byte| if byte.is_ascii_whitespace() { *byte } else { b'.' }).collect();
            let mut lines: Vec<Vec<u8>> = texts.iter().map(of).collect();
            lines.sort_unstable();
            lines
        };
        let (before, stored) = (vault.census().await, texts().await);
        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable, []);
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        assert_eq!(vault.verify_all(&survey, 2, mark).await.unwrap(), tally);
        assert_eq!(vault.census().await, turned(&before));
        let turned = texts().await;
        assert!(turned != stored && breaks(&turned) == breaks(&stored), "{turned:?}");
        vault.engine().await.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
        vault.reencrypt_all(&survey, 3, vault.mark(3, Direction::Back)).await.unwrap();
        assert_eq!(vault.census().await, before);
        assert_eq!(breaks(&texts().await), breaks(&stored));
    }

    async fn values_of_subtype_0_turn_and_go_back_and_are_written_as_symmetric(vault) {
        let mut vault = vault;
        vault.old = SecretKey::from_bytes(STANDARD.decode(PUBLISHED_KEY).unwrap()).unwrap();
        for (version, published) in (1..).zip(SUBTYPE_0) {
            let raw = Cell::Bytes(STANDARD.decode(published).unwrap());
            vault.insert("attachments", &[vec![Cell::Integer(version), Cell::Text("file".to_owned()), raw]]).await;
            let text = Cell::Text(published.to_owned());
            vault.insert("documents", &[vec![Cell::Text(version.to_string()), text]]).await;
        }
        let before = vault.census().await;
        assert_eq!(under(&before), (4, 0));
        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable, []);
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        assert_eq!((tally.rows, tally.values), (4, 4));
        assert_eq!(vault.verify_all(&survey, 2, mark).await.unwrap(), tally);
        assert_eq!(vault.census().await, turned(&before));
        for (version, row) in (1..).zip(vault.rows("SELECT content FROM attachments ORDER BY entry_id").await) {
            assert_eq!(row[0].as_ref().unwrap()[2..8], [2, 0, 1, 0, version, 0]);
        }
        vault.engine().await.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
        vault.reencrypt_all(&survey, 3, vault.mark(3, Direction::Back)).await.unwrap();
        assert_eq!(vault.census().await, before);
    }

    async fn a_value_that_opens_under_no_key_stops_the_pass_and_is_named(vault) {
        vault.seed(200).await;
        let survey = vault.survey().await;
        let broken = vault.literal(&Cell::Bytes(vec![0x0d, 0x0c, 2, 0, 1, 0, 2, 0, 1, 2, 3]));
        vault.run(&format!("UPDATE connections SET password = {broken} WHERE id = 0")).await;
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let before = vault.census().await;
        let error = vault.reencrypt_all(&survey, 1, mark).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Undecryptable);
        let message = error.fault().message;
        assert!(message.contains("connections.password of row [\"i:0\"]"), "{message}");
        assert!(!error.is_retryable());
        // Its page was not written; the tables before it were.
        let after = vault.census().await;
        assert_eq!(after[&("connections".into(), "password".into(), "3".into())],
                   before[&("connections".into(), "password".into(), "3".into())]);
    }

    async fn an_accepted_undecryptable_value_stays_as_it_is_and_is_counted(vault) {
        vault.seed(200).await;
        let broken = Cell::Bytes(b"not a ciphertext at all".to_vec());
        vault.run(&format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&broken))).await;
        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable_total, 1);
        let accepted: Vec<UndecryptableValue> = survey.undecryptable.clone();
        assert_eq!(accepted[0].key.0, "[\"i:0\"]");
        let mark = vault.mark(1, Direction::Forward);
        let engine = vault.engine().await;
        engine.fence(&mark).await.unwrap();
        let run = async |lease, mark, verify: bool| {
            let mut undecryptable = 0;
            let mut digests = Vec::new();
            for shard in &survey.shards {
                let job = reencrypt::ShardJob { accepted: accepted.clone(), ..vault.job(shard, lease, mark) };
                let tally = if verify { engine.verify(&job, &|_| {}).await? } else { engine.reencrypt(&job, &|_| {}).await? };
                undecryptable += tally.undecryptable;
                digests.push(tally.digest);
            }
            Ok::<_, reencrypt::EngineError>((undecryptable, digests))
        };
        let forward = run(1, mark, false).await.unwrap();
        assert_eq!(forward.0, 1);
        assert_eq!(run(2, vault.mark(2, Direction::Forward), true).await.unwrap(), forward);
        let found = &vault.census().await[&("connections".into(), "password".into(), "0".into())];
        assert_eq!(*found, Found::Neither(b"not a ciphertext at all".to_vec()));
        // Acceptance is bound to the raw bytes.
        let other = Cell::Bytes(b"not the same bytes".to_vec());
        vault.run(&format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&other))).await;
        let error = run(3, vault.mark(3, Direction::Forward), true).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Undecryptable);
    }

    async fn a_value_already_under_the_new_key_stops_the_first_pass(vault) {
        vault.seed(200).await;
        let survey = vault.survey().await;
        let early = Cell::Bytes(vault.encrypt(&vault.new, b"early", Encoding::Raw, "connections.password"));
        vault.run(&format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&early))).await;
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let error = vault.reencrypt_all(&survey, 1, mark).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::UnexpectedKey);
        assert!(error.fault().message.contains("row [\"i:0\"] is already under the new key"), "{error}");
    }

    async fn a_value_left_under_the_old_key_fails_the_verification(vault) {
        vault.seed(200).await;
        let survey = vault.survey().await;
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        let late = vault.raw("late", "connections.password");
        vault.run(&format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&late))).await;
        let error = vault.verify_all(&survey, 2, vault.mark(2, Direction::Forward)).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::UnexpectedKey);
        assert!(error.fault().message.contains("row [\"i:0\"] is still under the old key"), "{error}");
    }

    async fn a_value_bound_to_other_additional_data_does_not_open(vault) {
        vault.seed(200).await;
        let moved = vault.raw("moved here from elsewhere", "another.column");
        vault.run(&format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&moved))).await;
        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable_total, 1);
        assert_eq!(survey.undecryptable[0].column, "password");
    }

    async fn values_larger_than_a_page_pass_one_by_one(vault) {
        let rows: Vec<Vec<Cell>> = [5_000_000, 10, 3_000_000, 3_000_000, 0, 9_000_000]
            .into_iter()
            .enumerate()
            .map(|(at, bytes)| {
                vec![Cell::Integer(1), Cell::Text(format!("{at}")), vault.raw(&"y".repeat(bytes), "")]
            })
            .collect();
        for row in rows {
            vault.insert("attachments", &[row]).await;
        }
        let before = vault.census().await;
        let survey = vault.survey().await;
        assert_eq!(survey.shards.iter().filter(|shard| shard.table == "attachments").count(), 5, "{:?}", survey.shards);
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        assert_eq!(vault.verify_all(&survey, 2, mark).await.unwrap(), tally);
        assert_eq!(vault.census().await, turned(&before));
    }

    async fn large_values_of_several_columns_and_of_text_pass(vault) {
        let (large, small) = ("z".repeat(4_500_000), "z");
        // MariaDB's `text` holds less.
        let text = vault.base64(if vault.is_mariadb() { small } else { &large });
        let raw = |text: &str| vault.raw(text, "connections.password");
        let values = [
            (raw(&large), text.clone()),
            (Cell::Null, text.clone()),
            (raw(small), vault.base64(small)),
            // To the byte what comes in one piece.
            (raw(&"z".repeat((1 << 20) - 48)), Cell::Null),
            (Cell::Bytes(Vec::new()), text),
            (raw(&large), Cell::Null),
        ];
        for (id, (password, notes)) in (0..).zip(values) {
            let row = vec![Cell::Integer(id), Cell::Text("n".to_owned()), password, notes, Cell::Null];
            vault.insert("connections", &[row]).await;
        }
        let before = vault.census().await;
        let survey = vault.survey().await;
        assert_eq!(survey.undecryptable_total, 0);
        let mark = vault.mark(1, Direction::Forward);
        vault.engine().await.fence(&mark).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, mark).await.unwrap();
        assert_eq!(vault.verify_all(&survey, 2, mark).await.unwrap(), tally);
        assert_eq!(vault.census().await, turned(&before));
    }

    async fn a_value_under_an_older_key_of_the_farm_is_told_from_a_corrupt_one(vault) {
        vault.seed(100).await;
        let older = keys::SecretKey::generate();
        let forgotten = Cell::Bytes(vault.encrypt(&older, b"forgotten", Encoding::Raw, "connections.password"));
        vault.run(&format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&forgotten))).await;
        let active = keys::KeyEntry { state: keys::KeyState::Active, created_at_ms: 1, secret: vault.old.clone() };
        let ring = KeySet::new("farm", older.clone(), 0).promote(active, 1);
        let survey = vault.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap();
        assert_eq!(survey.undecryptable_total, 1);
        assert!(survey.undecryptable[0].reason.contains(&format!("only under the older key {}", older.id())));
        assert_eq!(under(&vault.census().await).1, 0);
    }
}

/// SQLite lets any column hold any type of value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_text_in_a_blob_column_stays_text_and_a_blob_in_a_text_column_a_blob() {
    let vault = Vault::sqlite().await;
    let Cell::Bytes(raw) = vault.raw("as text", "connections.password") else { panic!() };
    let Cell::Text(base64) = vault.base64("as a blob") else { panic!() };
    let as_text = format!("CAST({} AS TEXT)", vault.literal(&Cell::Bytes(raw)));
    let as_blob = vault.literal(&Cell::Bytes(base64.into_bytes()));
    vault.run(&format!("INSERT INTO connections VALUES (1, 'n', {as_text}, {as_blob}, 't')")).await;
    let types = "SELECT typeof(password) || ' ' || typeof(notes) FROM connections";
    assert_eq!(vault.text(types).await, "text blob");
    let before = vault.census().await;
    let survey = vault.survey().await;
    let mark = vault.mark(1, Direction::Forward);
    vault.engine().await.fence(&mark).await.unwrap();
    vault.reencrypt_all(&survey, 1, mark).await.unwrap();
    assert_eq!(vault.census().await, turned(&before));
    assert_eq!(under(&vault.census().await), (0, 2));
    assert_eq!(vault.text(types).await, "text blob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_a_number_in_an_encrypted_column_is_undecryptable_and_not_touched() {
    let vault = Vault::sqlite().await;
    vault.run("INSERT INTO connections VALUES (1, 'n', 42, NULL, 't'), (2, 'n', 1.5, NULL, 't')").await;
    let survey = vault.survey().await;
    assert_eq!(survey.undecryptable_total, 2);
    assert_eq!(survey.undecryptable[0].reason, "it is stored as a number");
    let mark = vault.mark(1, Direction::Forward);
    vault.engine().await.fence(&mark).await.unwrap();
    let error = vault.reencrypt_all(&survey, 1, mark).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Undecryptable);
    let engine = vault.engine().await;
    for shard in &survey.shards {
        let job = reencrypt::ShardJob { accepted: survey.undecryptable.clone(), ..vault.job(shard, 2, mark) };
        engine.reencrypt(&job, &|_| {}).await.unwrap();
    }
    assert_eq!(vault.text("SELECT group_concat(typeof(password), ' ') FROM connections").await, "integer real");
}
