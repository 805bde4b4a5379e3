//! The swap in MariaDB from close by: nobody writes between the comparison and the RENAME, a crash leaves all tables or none
//! swapped, and a row that changes while it is copied is seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rotation::{Direction, FaultCode, Strategy};
use sqlx::{Connection as _, Row as _};

use crate::farm::{Found, Place, Vault, request, stand_still, under};
use crate::mariadb::{Server, waits_for_a_row};
use crate::shadow::{undo, verified};

/// One row more, for each table.
const INSERTS: [&str; 4] = [
    "INSERT INTO connections (id, name) VALUES (?, 'late')",
    "INSERT INTO \"User Entries\" (owner, \"Seq\") VALUES ('00000000-0000-4000-8000-000000000009', ?)",
    "INSERT INTO documents (\"Slug\") VALUES (CONCAT('late ', ?))",
    "INSERT INTO attachments (entry_id, file_name) VALUES (?, 'late')",
];

/// Writers of each table.
const WRITERS: i64 = 3;

async fn vault_on(server: Option<Arc<Server>>, size: i64) -> Vault {
    let mut vault = match server {
        Some(server) => Vault::mariadb_on(server).await,
        None => Vault::mariadb().await,
    };
    vault.strategy = Strategy::Shadow;
    vault.grant_shadows().await;
    vault.seed(size).await;
    vault
}

/// How many rows each table has, the retained ones too.
async fn counts(vault: &Vault) -> BTreeMap<String, u64> {
    let names = vault
        .rows(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()
             AND (TABLE_NAME NOT LIKE 'keyturn!_%' ESCAPE '!' OR TABLE_NAME LIKE '%!_old' ESCAPE '!')",
        )
        .await;
    let mut counts = BTreeMap::new();
    for name in names {
        let name = String::from_utf8(name[0].clone().unwrap()).unwrap();
        let count = vault.text(&format!("SELECT CAST(COUNT(*) AS text) FROM \"{name}\"")).await;
        counts.insert(name, count.parse().unwrap());
    }
    counts
}

/// Writers that nothing fences wait for every table while it is held. Each of them gets in when the table is swapped, and
/// not a moment before: what it writes would be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_to_write_gets_in_after_the_swap_and_never_between() {
    let vault = vault_on(None, 200).await;
    let survey = verified(&vault).await;
    let before = counts(&vault).await;
    let writers = Mutex::new(Vec::new());
    let begun = AtomicBool::new(false);
    let begin = |_rows| {
        if begun.swap(true, Ordering::SeqCst) {
            return;
        }
        stand_still(async {
            for (at, sql) in INSERTS.into_iter().enumerate() {
                for number in 0..WRITERS {
                    let Place::Mariadb { server, database, .. } = &vault.place else { panic!("MariaDB only") };
                    let (server, database) = (Arc::clone(server), database.clone());
                    writers.lock().unwrap().push(std::thread::spawn(move || {
                        stand_still(async {
                            let mut writer = server.superuser(&database).await;
                            let id = 1_000_000 + number * 10 + i64::try_from(at).unwrap();
                            sqlx::query(sql).bind(id).execute(&mut writer).await.unwrap();
                        });
                    }));
                }
            }
            let waiting = "SELECT CAST(COUNT(*) AS text) FROM information_schema.PROCESSLIST
                WHERE DB = DATABASE() AND STATE LIKE 'Waiting for table metadata lock%'";
            while vault.text(waiting).await != (WRITERS * 4).to_string() {}
        });
    };
    let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
    vault.engine().await.swap(&job, &begin).await.unwrap();
    for writer in writers.into_inner().unwrap() {
        writer.join().unwrap();
    }
    let after = counts(&vault).await;
    let retained = |counts: &BTreeMap<String, u64>| {
        let of_ours = counts.iter().filter(|(name, _)| name.starts_with("keyturn_"));
        of_ours.map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!(retained(&after), before.values().sum::<u64>(), "nothing was written to what went out");
    for (name, count) in &before {
        assert_eq!(after[name], count + WRITERS.unsigned_abs(), "{name}");
    }
}

/// The server is killed when the RENAME is about to be made, and at ever later moments; whatever it finds when it is back, all
/// tables are swapped or none, the names say which, and asked again the swap is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_around_the_swap_has_all_tables_swapped_or_none() {
    let server = Arc::new(Server::start(""));
    let mut found = Vec::new();
    for after_us in [0, 500, 2_000, 4_000, 8_000, 20_000, 60_000] {
        let vault = vault_on(Some(Arc::clone(&server)), 40).await;
        let census = vault.census().await;
        let survey = verified(&vault).await;
        let engine = vault.engine().await;
        let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
        let swapping = tokio::spawn(async move { engine.swap(&job, &|_| {}).await });
        let mut watcher = vault.root().await;
        while !swapping.is_finished() {
            let row = sqlx::raw_sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'RENAME %'")
                .fetch_one(&mut watcher)
                .await
                .unwrap();
            if row.try_get::<i64, _>(0).unwrap() > 0 {
                tokio::time::sleep(Duration::from_micros(after_us)).await;
                break;
            }
        }
        server.crash_and_restart();
        let told = swapping.await.unwrap();
        assert!(told.as_ref().err().is_none_or(reencrypt::EngineError::is_retryable), "{told:?}");
        let retained = counts(&vault).await.into_keys().filter(|name| name.starts_with("keyturn_")).count();
        assert!(retained == 0 || retained == 4, "{retained} of 4 tables are swapped");
        assert!(told.is_err() || retained == 4, "what is told done is done");
        found.push(retained);
        let engine = vault.engine().await;
        let tables = || survey.tables.iter().map(|(name, _)| name.clone());
        let unswapped = engine.unswapped(&vault.rotation, tables()).await.unwrap();
        assert_eq!(unswapped.is_none(), retained == 4, "{unswapped:?}");
        if found.len() % 2 == 0 {
            engine.swap(&vault.swap_job(&survey, vault.mark(6, Direction::Forward)), &|_| {}).await.unwrap();
            assert_eq!(under(&vault.census().await).0, 0);
        }
        undo(&vault, &survey, 10).await;
        assert!(vault.census().await == census);
    }
    eprintln!("swapped when killed: {found:?}");
}

/// The copy is held up by a lock on a row that it is about to copy, and the row changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_changed_between_reading_and_copying_is_named_and_its_chunk_is_not_copied() {
    let vault = vault_on(Some(Arc::new(Server::start(""))), 600).await;
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let shard = survey.shards.iter().find(|shard| shard.table == "connections").unwrap();
    let mut intruder = vault.root().await;
    let mut transaction = intruder.begin().await.unwrap();
    sqlx::raw_sql("UPDATE connections SET password = NULL WHERE id = 0").execute(&mut *transaction).await.unwrap();
    let job = vault.job(shard, 1, vault.mark(2, Direction::Forward));
    let work = tokio::spawn(async move { engine.reencrypt(&job, &|_| {}).await });
    let mut watcher = vault.root().await;
    while !waits_for_a_row(&mut watcher).await {
        assert!(!work.is_finished(), "{:?}", work.await);
    }
    transaction.commit().await.unwrap();
    let error = work.await.unwrap().unwrap_err();
    assert_eq!(error.code(), FaultCode::RowsChanged, "{error:?}");
    assert!(error.fault().message.contains("[\"i:0\"] changed"), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(vault.census().await[&("connections".into(), "password".into(), "0".into())], Found::Null);
    let copied = "SELECT CAST(COUNT(*) AS text) FROM keyturn_shard WHERE rows_done > 0";
    assert_eq!(vault.text(copied).await, "0", "no row of the chunk is copied");
    undo(&vault, &survey, 10).await;
}
