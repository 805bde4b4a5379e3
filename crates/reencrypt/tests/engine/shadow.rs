//! Tables that are copied and swapped: the whole way forward, back from every point, and what is left afterwards.

use rotation::{Direction, FaultCode, Strategy, Survey};

use crate::farm::{Cell, Found, Vault, turned, under};

/// Names, definitions and everything else of the schema, without what is ours.
pub(crate) const SCHEMA: &str = "SELECT CAST(rowid AS text), type, name, tbl_name, sql FROM sqlite_schema
    WHERE name NOT LIKE '%keyturn%' ORDER BY rowid";

const LEFT: &str = "SELECT name FROM sqlite_schema WHERE tbl_name LIKE 'keyturn!_%!_copy' ESCAPE '!'";

pub(crate) async fn vault(size: i64) -> Vault {
    let mut vault = Vault::sqlite().await;
    vault.strategy = Strategy::Shadow;
    vault
        .run(
            "CREATE INDEX by_name ON connections (name); CREATE UNIQUE INDEX unique_slug ON documents (\"Slug\" DESC);
             CREATE INDEX some ON \"User Entries\" (owner, secret) WHERE secret IS NOT NULL",
        )
        .await;
    vault.seed(size).await;
    vault
}

/// Fenced, every shard copied, indexes built; epochs 1 to 3.
pub(crate) async fn copied(vault: &Vault) -> Survey {
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    engine.finish_shadows(&vault.mark(3, Direction::Forward), &|_| {}).await.unwrap();
    survey
}

/// And verified; epoch 4.
pub(crate) async fn verified(vault: &Vault) -> Survey {
    let survey = copied(vault).await;
    vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap();
    survey
}

/// And swapped in; epoch 5.
pub(crate) async fn swapped(vault: &Vault) -> Survey {
    let survey = verified(vault).await;
    let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
    vault.engine().await.swap(&job, &|_| {}).await.unwrap();
    survey
}

/// Everything in the tables, with the rowids.
pub(crate) async fn content(vault: &Vault) -> Vec<Vec<Vec<Option<Vec<u8>>>>> {
    let mut content = Vec::new();
    for table in ["connections", "\"User Entries\"", "documents", "attachments"] {
        content.push(vault.rows(&format!("SELECT CAST(rowid AS text), * FROM {table} ORDER BY rowid")).await);
    }
    content.push(vault.rows(SCHEMA).await);
    content
}

pub(crate) async fn healthy(vault: &Vault) {
    assert_eq!(vault.text("PRAGMA integrity_check").await, "ok");
}

/// The undo from wherever it is, from this epoch on. Everything must be as it was.
pub(crate) async fn undo(vault: &Vault, survey: &Survey, epoch: u64) {
    let engine = vault.engine().await;
    let mark = |step| vault.mark(epoch + step, Direction::Back);
    engine.turn_back(&mark(0)).await.unwrap();
    engine.swap_back(&vault.swap_job(survey, mark(1)), &|_| {}).await.unwrap();
    vault.reencrypt_all(survey, 50, mark(2)).await.unwrap();
    vault.verify_all(survey, 51, mark(3)).await.unwrap();
    let shards = survey.shards.iter().map(|shard| shard.id);
    assert_eq!(engine.unrestored(&vault.rotation, shards).await.unwrap(), None);
    engine.lift_fence(&mark(4)).await.unwrap();
    engine.close(&mark(5)).await.unwrap();
    engine.close(&mark(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_way_forward_keeps_everything_but_the_key() {
    let vault = vault(3000).await;
    let (before, schema, census) = (content(&vault).await, vault.rows(SCHEMA).await, vault.census().await);
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    let rotation = vault.rotation;
    let tables = || survey.tables.iter().map(|(name, _)| name.clone());
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    assert_eq!(engine.unswapped(&rotation, tables()).await.unwrap(), Some("User Entries".to_owned()));

    let copied = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(content(&vault).await, before, "nothing of the user's is touched");
    let mark = vault.mark(3, Direction::Forward);
    engine.finish_shadows(&mark, &|_| {}).await.unwrap();
    engine.finish_shadows(&mark, &|_| {}).await.unwrap();
    let verified = vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap();
    assert_eq!(verified, copied, "rows, values, plaintexts and all other columns");
    assert_eq!(content(&vault).await, before, "still nothing");

    let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
    engine.swap(&job, &|_| {}).await.unwrap();
    engine.swap(&job, &|_| {}).await.unwrap();
    assert_eq!(vault.census().await, turned(&census));
    assert_eq!(vault.rows(SCHEMA).await, schema);
    assert_eq!(engine.unswapped(&rotation, tables()).await.unwrap(), None);
    healthy(&vault).await;
    // Verified once more it is the live table that is read.
    assert_eq!(vault.verify_all(&survey, 3, vault.mark(6, Direction::Forward)).await.unwrap(), copied);

    engine.lift_fence(&vault.mark(7, Direction::Forward)).await.unwrap();
    assert_eq!(engine.retire(&rotation).await.unwrap_err().code(), FaultCode::Database, "it is still open");
    engine.close(&vault.mark(8, Direction::Forward)).await.unwrap();
    assert!(!vault.rows(LEFT).await.is_empty(), "the originals are retained");
    assert_eq!(engine.unswapped(&rotation, tables()).await.unwrap(), None);
    engine.retire(&rotation).await.unwrap();
    engine.retire(&rotation).await.unwrap();
    assert!(vault.rows(LEFT).await.is_empty());
    assert_eq!(vault.census().await, turned(&census));
    assert_eq!(vault.rows(SCHEMA).await, schema);
    healthy(&vault).await;
    vault.run("PRAGMA foreign_key_check; VACUUM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_from_every_point_leaves_every_byte_as_it_was() {
    for point in 0..6 {
        let vault = vault(600).await;
        let before = content(&vault).await;
        let survey = match point {
            0 => {
                let survey = vault.survey().await;
                vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
                survey
            }
            1 => {
                let survey = vault.survey().await;
                let engine = vault.engine().await;
                engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
                let job = vault.job(&survey.shards[0], 1, vault.mark(2, Direction::Forward));
                engine.reencrypt(&job, &|_| {}).await.unwrap();
                survey
            }
            2 => copied(&vault).await,
            3 => verified(&vault).await,
            4 => swapped(&vault).await,
            _ => {
                let survey = swapped(&vault).await;
                vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
                survey
            }
        };
        undo(&vault, &survey, 10).await;
        assert_eq!(content(&vault).await, before, "from point {point}");
        assert!(vault.rows(LEFT).await.is_empty(), "from point {point}");
        healthy(&vault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tally_of_an_undo_is_the_one_that_went_forward_as_long_as_nobody_was_let_in() {
    let vault = vault(600).await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let forward = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    engine.finish_shadows(&vault.mark(3, Direction::Forward), &|_| {}).await.unwrap();
    vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap();
    engine.swap(&vault.swap_job(&survey, vault.mark(5, Direction::Forward)), &|_| {}).await.unwrap();
    engine.turn_back(&vault.mark(6, Direction::Back)).await.unwrap();
    let error = vault.reencrypt_all(&survey, 3, vault.mark(7, Direction::Back)).await.unwrap_err();
    assert!(error.fault().message.contains("was not swapped back"), "{error:?}");
    let error = vault.verify_all(&survey, 3, vault.mark(7, Direction::Back)).await.unwrap_err();
    assert!(error.fault().message.contains("was not swapped back"), "{error:?}");
    let error = engine.close(&vault.mark(7, Direction::Back)).await.unwrap_err();
    assert!(error.fault().message.contains("was not swapped back"), "{error:?}");
    engine.swap_back(&vault.swap_job(&survey, vault.mark(8, Direction::Back)), &|_| {}).await.unwrap();
    assert_eq!(vault.reencrypt_all(&survey, 4, vault.mark(9, Direction::Back)).await.unwrap(), forward);
    assert_eq!(vault.verify_all(&survey, 5, vault.mark(10, Direction::Back)).await.unwrap(), forward);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_that_changed_since_it_was_copied_is_not_swapped_out() {
    for change in [
        "UPDATE connections SET name = 'renamed' WHERE id = 0",
        "UPDATE connections SET password = (SELECT password FROM connections WHERE id = 3) WHERE id = 0",
        "DELETE FROM documents WHERE \"Slug\" = (SELECT min(\"Slug\") FROM documents)",
        "INSERT INTO attachments VALUES (9999, 'x', NULL)",
        "UPDATE connections SET id = 100000 WHERE id = 0",
        "UPDATE documents SET rowid = 100000 WHERE \"Slug\" = (SELECT min(\"Slug\") FROM documents)",
    ] {
        let vault = vault(600).await;
        let survey = verified(&vault).await;
        vault.run(change).await;
        let (census, schema) = (vault.census().await, vault.rows(SCHEMA).await);
        let engine = vault.engine().await;
        let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
        let error = engine.swap(&job, &|_| {}).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::RowsChanged, "{change}: {error:?}");
        assert!(error.fault().message.contains("shard"), "{error:?}");
        assert_eq!(under(&vault.census().await).1, 0, "{change}");
        assert_eq!(vault.rows(SCHEMA).await, schema);
        undo(&vault, &survey, 10).await;
        assert_eq!(vault.census().await, census, "the change stays, as it was made");
        assert_eq!(vault.rows(SCHEMA).await, schema);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_written_to_after_the_swap_stays_and_goes_back_in_place() {
    let vault = vault(600).await;
    let census = vault.census().await;
    let survey = swapped(&vault).await;
    vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
    // What the application may do under the new key, in one of the tables: another value, another row, one less.
    let written = vault.encrypt(&vault.new, b"written", keys::value::Encoding::Raw, "connections.password");
    let value = vault.literal(&Cell::Bytes(written));
    vault
        .run(&format!(
            "UPDATE connections SET password = {value} WHERE id = 0;
             INSERT INTO connections VALUES (-100000, 'new', {value}, NULL, 'now'), (100000, 'new', {value}, NULL, 'now');
             DELETE FROM connections WHERE id = 3"
        ))
        .await;
    let (others, schema) =
        (vault.rows("SELECT CAST(id AS text), name, updated_at FROM connections").await, vault.rows(SCHEMA).await);
    undo(&vault, &survey, 10).await;
    let mut expected = census;
    let at = |column: &str, key: &str| ("connections".to_owned(), column.to_owned(), key.to_owned());
    for key in ["0", "-100000", "100000"] {
        expected.insert(at("password", key), Found::Old(b"written".to_vec()));
    }
    for key in ["-100000", "100000"] {
        expected.insert(at("notes", key), Found::Null);
    }
    for column in ["password", "notes"] {
        expected.remove(&at(column, "3"));
    }
    assert_eq!(vault.census().await, expected);
    assert_eq!(vault.rows("SELECT CAST(id AS text), name, updated_at FROM connections").await, others);
    assert_eq!(vault.rows(SCHEMA).await, schema);
    assert!(vault.rows(LEFT).await.is_empty());
    healthy(&vault).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_after_the_swap_keeps_that_when_it_goes_back() {
    let vault = vault(200).await;
    let census = vault.census().await;
    let survey = swapped(&vault).await;
    vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
    vault.run("CREATE INDEX later ON connections (name, id)").await;
    let altered = vault.rows(SCHEMA).await;
    undo(&vault, &survey, 10).await;
    assert_eq!(vault.census().await, census);
    assert_eq!(vault.rows(SCHEMA).await, altered);
    assert!(vault.rows(LEFT).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_place_too_everything_goes_back_once_the_application_was_let_in() {
    let mut vault = vault(600).await;
    vault.strategy = Strategy::InPlace;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap();
    engine.lift_fence(&vault.mark(4, Direction::Forward)).await.unwrap();
    let written = vault.encrypt(&vault.new, b"written", keys::value::Encoding::Raw, "connections.password");
    let value = vault.literal(&Cell::Bytes(written));
    vault.run(&format!("INSERT INTO connections VALUES (100000, 'new', {value}, NULL, 'now')")).await;
    undo(&vault, &survey, 10).await;
    assert_eq!(under(&vault.census().await).1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_swapped_that_was_not_finished_and_verified() {
    let vault = vault(600).await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    let refused = async |epoch: u64, expected: &str| {
        let job = vault.swap_job(&survey, vault.mark(epoch, Direction::Forward));
        let error = engine.swap(&job, &|_| {}).await.unwrap_err();
        assert!(error.fault().message.contains(expected) && !error.is_retryable(), "{error:?}");
    };
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    refused(2, "not known to the ledger").await;
    vault.reencrypt_all(&survey, 1, vault.mark(3, Direction::Forward)).await.unwrap();
    refused(4, "the ledger has it as building").await;
    let error = vault.verify_all(&survey, 2, vault.mark(5, Direction::Forward)).await.unwrap_err();
    assert!(error.fault().message.contains("the ledger has it as building"), "{error:?}");
    engine.finish_shadows(&vault.mark(6, Direction::Forward), &|_| {}).await.unwrap();
    refused(7, "is not verified").await;
    vault.verify_all(&survey, 3, vault.mark(8, Direction::Forward)).await.unwrap();
    let job = vault.swap_job(&survey, vault.mark(9, Direction::Forward));
    let partly = reencrypt::SwapJob { shards: job.shards[1..].to_vec(), ..job.clone() };
    assert!(engine.swap(&partly, &|_| {}).await.unwrap_err().fault().message.contains("is not in the plan"));
    engine.swap(&job, &|_| {}).await.unwrap();
}
