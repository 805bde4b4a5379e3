//! The survey of Preflight.

use std::sync::atomic::{AtomicU64, Ordering};

use keys::KeySet;
use rotation::{DatabaseKind, Strategy};

use crate::farm::{Cell, Place, Vault, on_both, request};

on_both! {
    async fn it_counts_every_row_and_value_and_covers_every_table_with_shards(vault) {
        vault.seed(2000).await;
        let ring = KeySet::new("farm", vault.old.clone(), 0);
        let seen = AtomicU64::new(0);
        let progress = |rows| seen.store(rows, Ordering::SeqCst);
        let survey = vault.engine().await.survey(&request(&ring, &[], 8), &progress).await.unwrap();
        let kind = match vault.place {
            Place::Sqlite { .. } => DatabaseKind::Sqlite,
            Place::Postgres { .. } => DatabaseKind::Postgres,
            Place::Mariadb { .. } => DatabaseKind::Mariadb,
        };
        assert_eq!(survey.kind, kind);
        assert_eq!(survey.writers_max == 1, vault.is_sqlite());
        let names: Vec<&str> = survey.tables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["User Entries", "attachments", "connections", "documents"]);
        let connections = &survey.tables[2].1;
        assert_eq!((connections.rows, connections.strategy), (2000, Strategy::InPlace));
        assert_eq!(connections.columns, ["password", "notes"]);
        assert_eq!(connections.values, 2 * 2000 - 2 * 40 - 2 * 50, "neither NULL nor empty");
        assert_eq!(seen.load(Ordering::SeqCst), survey.tables.iter().map(|(_, table)| table.rows).sum::<u64>());
        for (name, table) in &survey.tables {
            let shards: Vec<_> = survey.shards.iter().filter(|shard| shard.table == *name).collect();
            assert_eq!(shards.iter().map(|shard| shard.rows_estimated).sum::<u64>(), table.rows);
            assert!(shards[0].range.after.is_none() && shards[shards.len() - 1].range.through.is_none());
            assert!(shards.windows(2).all(|pair| pair[0].range.through == pair[1].range.after));
        }
        assert!(survey.downtime_forecast_ms > 0);
    }

    async fn it_changes_nothing(vault) {
        vault.seed(100).await;
        let before = vault.rows("SELECT password FROM connections ORDER BY id").await;
        vault.engine().await.check_targets().await.unwrap();
        vault.survey().await;
        assert_eq!(vault.rows("SELECT password FROM connections ORDER BY id").await, before);
        let ledger = match vault.place {
            Place::Sqlite { .. } => "SELECT CAST(count(*) AS text) FROM sqlite_schema WHERE name LIKE 'keyturn%'",
            Place::Postgres { .. } => {
                "SELECT count(*)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'keyturn'"
            }
            Place::Mariadb { .. } => {
                "SELECT CAST(count(*) AS text) FROM information_schema.tables
                 WHERE table_schema = database() AND table_name LIKE 'keyturn%'"
            }
        };
        assert_eq!(vault.text(ledger).await, "0");
    }

    async fn all_undecryptable_values_are_counted_and_a_thousand_are_named(vault) {
        let rows: Vec<Vec<Cell>> = (0..1200)
            .map(|id| vec![Cell::Integer(id), Cell::Null, Cell::Bytes(vec![1, 2, 3]), Cell::Null, Cell::Null])
            .collect();
        vault.insert("connections", &rows).await;
        let survey = vault.survey().await;
        assert_eq!((survey.undecryptable_total, survey.undecryptable.len()), (1200, 1000));
        assert_eq!(survey.undecryptable[0].key.0, "[\"i:0\"]");
        assert!(survey.undecryptable[0].reason.contains("not a ciphertext"), "{:?}", survey.undecryptable[0]);
        // What nobody has accepted is named first.
        let accepted: Vec<_> = survey.undecryptable[..900].to_vec();
        let ring = KeySet::new("farm", vault.old.clone(), 0);
        let again = vault.engine().await.survey(&request(&ring, &accepted, 8), &|_| {}).await.unwrap();
        assert!(again.undecryptable[..300].iter().all(|value| !accepted.contains(value)));
    }

    async fn with_a_wrong_key_nothing_opens_and_nothing_is_changed(vault) {
        vault.seed(100).await;
        let ring = KeySet::new("farm", vault.new.clone(), 0);
        let survey = vault.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap();
        assert_eq!(survey.undecryptable_total, survey.tables.iter().map(|(_, table)| table.values).sum::<u64>());
    }
}
