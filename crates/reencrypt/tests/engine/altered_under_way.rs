//! A table that goes in place and is altered, renamed or dropped, or whose primary key is another one, between two chunks:
//! it is told by its name, no row is written, and once it is mended the work goes on where it was.

use rotation::{Direction, FaultCode, Shard, Survey};

use crate::farm::{Census, Found, Vault, on_both, request, under};

/// As many rows as take several chunks.
const ROWS: i64 = 6000;

/// A shard of the whole table, cut off behind its first chunk; and the values of before.
async fn begun(vault: &Vault) -> (Survey, Shard, Census) {
    vault.seed(ROWS).await;
    let before = connections(vault).await;
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let shard = survey.shards.iter().find(|shard| shard.table == "connections").unwrap().clone();
    let (cut, mut was_cut) = tokio::sync::mpsc::unbounded_channel();
    let (gate, stands_until) = std::sync::mpsc::channel::<()>();
    let stands_until = std::sync::Mutex::new(stands_until);
    let job = vault.job(&shard, 1, vault.mark(2, Direction::Forward));
    let work = tokio::spawn(async move {
        engine
            .reencrypt(&job, &move |rows| {
                let _ = cut.send(rows);
                // Stands still until it is cut off, so that no further chunk is begun.
                let _ = stands_until.lock().unwrap().recv();
            })
            .await
    });
    was_cut.recv().await.unwrap();
    work.abort();
    drop(gate);
    assert!(work.await.is_err_and(|error| error.is_cancelled()));
    let (old, new) = under(&connections(vault).await);
    assert!(old > 0 && new > 0, "{old} and {new}");
    (survey, shard, before)
}

async fn connections(vault: &Vault) -> Census {
    vault.census().await.into_iter().filter(|((table, ..), _)| table == "connections").collect()
}

/// The change, how it is mended, and what is said of it.
fn alterations(vault: &Vault) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut alterations = vec![
        (
            "ALTER TABLE connections RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO connections",
            "does not exist",
        ),
        (
            "ALTER TABLE connections RENAME COLUMN notes TO remarks",
            "ALTER TABLE connections RENAME COLUMN remarks TO notes",
            "\"notes\"",
        ),
    ];
    let another_key = "primary key";
    if vault.is_postgres() {
        alterations.extend([
            (
                "ALTER TABLE connections DROP CONSTRAINT connections_pkey",
                "ALTER TABLE connections ADD PRIMARY KEY (id)",
                another_key,
            ),
            (
                "ALTER TABLE connections DROP CONSTRAINT connections_pkey, ADD PRIMARY KEY (name)",
                "ALTER TABLE connections DROP CONSTRAINT connections_pkey, ADD PRIMARY KEY (id)",
                another_key,
            ),
            (
                "ALTER TABLE connections ADD CHECK (notes = 'x') NOT VALID",
                "ALTER TABLE connections DROP CONSTRAINT connections_notes_check",
                "connections_notes_check",
            ),
        ]);
    } else if vault.is_mariadb() {
        alterations.extend([
            ("ALTER TABLE connections DROP PRIMARY KEY", "ALTER TABLE connections ADD PRIMARY KEY (id)", another_key),
            (
                "ALTER TABLE connections DROP PRIMARY KEY, ADD PRIMARY KEY (id, updated_at(10))",
                "ALTER TABLE connections DROP PRIMARY KEY, ADD PRIMARY KEY (id)",
                another_key,
            ),
            (
                "CREATE TRIGGER meddler BEFORE UPDATE ON connections FOR EACH ROW SET NEW.name = 'x'",
                "DROP TRIGGER meddler",
                "meddler",
            ),
        ]);
    }
    alterations
}

on_both! {
    async fn it_is_told_by_name_and_the_work_goes_on_once_it_is_mended(vault) {
        let (survey, shard, _) = begun(&vault).await;
        let stands = connections(&vault).await;
        let engine = vault.engine().await;
        let mut lease = 1;
        for (change, mend, said) in alterations(&vault) {
            vault.run(change).await;
            lease += 1;
            let fault = engine
                .reencrypt(&vault.job(&shard, lease, vault.mark(2, Direction::Forward)), &|_| {})
                .await
                .unwrap_err()
                .fault();
            assert_eq!(fault.code, FaultCode::Targets, "{change}: {fault:?}");
            assert!(fault.message.contains("connections") && fault.message.contains(said), "{change}: {fault:?}");
            assert!(!fault.retryable);
            vault.run(mend).await;
            assert_eq!(connections(&vault).await, stands, "{change}");
        }
        lease += 1;
        let tally = vault.reencrypt_all(&survey, lease, vault.mark(2, Direction::Forward)).await.unwrap();
        assert_eq!(vault.verify_all(&survey, lease, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
        assert_eq!(under(&connections(&vault).await).0, 0);
    }

    async fn a_row_whose_key_changes_under_way_is_told_and_neither_lost_nor_turned_twice(vault) {
        let (survey, shard, before) = begun(&vault).await;
        let stands = connections(&vault).await;
        let under_new = |key: &str| {
            stands.iter().any(|((_, column, at), found)| column == "password" && at == key && matches!(found, Found::New(_)))
        };
        let (first, last) = (-(ROWS / 3) * 3, (ROWS - 1 - ROWS / 3) * 3);
        assert!(under_new(&first.to_string()) && !under_new(&last.to_string()));
        let engine = vault.engine().await;
        // One that is turned goes to where it would be turned again.
        vault.run(&format!("UPDATE connections SET id = {} WHERE id = {first}", last + 1)).await;
        let fault = engine
            .reencrypt(&vault.job(&shard, 2, vault.mark(2, Direction::Forward)), &|_| {})
            .await
            .unwrap_err()
            .fault();
        assert_eq!(fault.code, FaultCode::UnexpectedKey, "{fault:?}");
        assert!(fault.message.contains(&format!("i:{}", last + 1)), "{fault:?}");
        vault.run(&format!("UPDATE connections SET id = {first} WHERE id = {}", last + 1)).await;
        // One that is not goes to where nobody comes by any more; the others are turned, and Verify finds it.
        let behind = first + 1;
        vault.run(&format!("UPDATE connections SET id = {behind} WHERE id = {last}")).await;
        vault.reencrypt_all(&survey, 3, vault.mark(2, Direction::Forward)).await.unwrap();
        let fault = vault.verify_all(&survey, 3, vault.mark(3, Direction::Forward)).await.unwrap_err().fault();
        assert_eq!(fault.code, FaultCode::UnexpectedKey, "{fault:?}");
        assert!(fault.message.contains(&format!("i:{behind}")), "{fault:?}");
        let all: Census = connections(&vault).await;
        let old = all.values().filter(|found| matches!(found, Found::Old(_))).count();
        assert!((1..=2).contains(&old), "{old} values of the one row are under the old key");
        // What comes back must be what was turned; with the row in its place it is, and not a value is lost.
        engine.turn_back(&vault.mark(4, Direction::Back)).await.unwrap();
        let back = vault.mark(5, Direction::Back);
        let fault = vault.reencrypt_all(&survey, 4, back).await.unwrap_err().fault();
        assert_eq!(fault.code, FaultCode::RowsChanged, "{fault:?}");
        assert!(fault.message.contains("connections"), "{fault:?}");
        vault.run(&format!("UPDATE connections SET id = {last} WHERE id = {behind}")).await;
        vault.reencrypt_all(&survey, 5, back).await.unwrap();
        vault.verify_all(&survey, 6, vault.mark(6, Direction::Back)).await.unwrap();
        assert_eq!(connections(&vault).await, before);
    }
}
