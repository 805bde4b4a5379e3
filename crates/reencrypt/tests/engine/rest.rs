//! The rest of a row, its key and unregistered columns, is proved unchanged: whatever else is written is seen.

use rotation::{Direction, ShardTally, Survey};

use crate::farm::{Place, Vault, on_both};

/// Everything turned in place; the tally of that.
async fn turned_in_place(vault: &Vault) -> (Survey, ShardTally) {
    vault.seed(300).await;
    if matches!(vault.place, Place::Postgres { .. }) {
        // The rest can be proved as far as it can be read.
        vault.run(&vault.named("GRANT SELECT ON ALL TABLES IN SCHEMA public TO keyturn_agent")).await;
    }
    let survey = vault.survey().await;
    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    (survey, tally)
}

on_both! {
    async fn a_column_that_is_not_registered_is_seen_to_change(vault) {
        let (survey, tally) = turned_in_place(&vault).await;
        let untouched = vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap();
        assert_eq!(untouched, tally);
        assert_ne!(tally.rest, rotation::ContentDigest::default());
        vault.run("UPDATE connections SET updated_at = 'now' WHERE id = 0").await;
        let touched = vault.verify_all(&survey, 3, vault.mark(4, Direction::Forward)).await.unwrap();
        assert_eq!(touched.digest, tally.digest, "the plaintexts are the same");
        assert_ne!(touched.rest, tally.rest);
        vault.run("UPDATE connections SET updated_at = 'then' WHERE id = 0").await;
        assert_eq!(vault.verify_all(&survey, 4, vault.mark(5, Direction::Forward)).await.unwrap(), tally);
    }

    async fn two_rows_that_exchange_a_column_are_seen(vault) {
        let (survey, tally) = turned_in_place(&vault).await;
        vault
            .run(
                "UPDATE connections SET name = CASE id WHEN 0 THEN (SELECT name FROM (SELECT * FROM connections) c WHERE id = 3)
                 ELSE (SELECT name FROM (SELECT * FROM connections) c WHERE id = 0) END WHERE id IN (0, 3)",
            )
            .await;
        let touched = vault.verify_all(&survey, 3, vault.mark(4, Direction::Forward)).await.unwrap();
        assert_eq!(touched.digest, tally.digest);
        assert_ne!(touched.rest, tally.rest);
    }

    async fn an_undo_that_meets_another_rest_says_so(vault) {
        let (survey, tally) = turned_in_place(&vault).await;
        vault.run("UPDATE connections SET updated_at = 'now' WHERE id = 0").await;
        vault.engine().await.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
        let error = vault.reencrypt_all(&survey, 2, vault.mark(4, Direction::Back)).await.unwrap_err();
        assert!(error.fault().message.contains("not registered"), "{error:?}");
        vault.run("UPDATE connections SET updated_at = 'then' WHERE id = 0").await;
        assert_eq!(vault.reencrypt_all(&survey, 2, vault.mark(4, Direction::Back)).await.unwrap(), tally);
    }
}

/// What SQLite stores has types of its own; a value of another type is another value, also where it compares equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_the_type_of_a_value_counts() {
    for change in ["1.0", "'1'", "x'31'", "NULL", "2"] {
        let vault =
            Vault::sqlite_bare("version = 1\n[[table]]\nname = 't'\nkey = ['id']\n[[table.column]]\nname = 'c'\n");
        let value = vault.literal(&vault.raw("secret", ""));
        vault
            .run(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, c, other); INSERT INTO t VALUES (7, {value}, 1)"))
            .await;
        let survey = vault.survey().await;
        vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
        vault.run(&format!("UPDATE t SET other = {change}")).await;
        let verified = vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap();
        assert_eq!(verified.digest, tally.digest);
        assert_ne!(verified.rest, tally.rest, "{change}");
    }
}
