//! Proving a backup: restored aside, it must have every registered table, the rows that the database had, and values that
//! open with the node's key.

use std::collections::BTreeMap;
use std::path::Path;

use agent::BackupJob;
use keys::SecretKey;
use reencrypt::{CensusRequest, DatabaseConfig, Engine, TableCensus, Targets};
use rotation::{BackedUpTable, DatabaseKind, KeyId};

use super::super::engine_problem;
use super::tools::Source;
use super::{files, mariadb, postgres};
use crate::problem::Problem;

/// Rows of each table that are opened, before and after. All would double a large backup's time.
pub(super) const SAMPLE_ROWS: u64 = 1_000;

/// What the live database held when the backup was made.
pub(super) struct Live<'a> {
    pub(super) before: &'a [TableCensus],
    pub(super) after: &'a [TableCensus],
}

/// Restores a backup aside and opens rows of it.
pub(super) async fn restored(
    job: &BackupJob<'_>,
    keys: &[SecretKey],
    kind: DatabaseKind,
    path: &Path,
    source: &Source,
) -> Result<(Vec<TableCensus>, String), Problem> {
    let targets = &source.targets;
    let (census, how) = match kind {
        DatabaseKind::Sqlite => {
            let engine = connect(&DatabaseConfig::sqlite_file(path), targets).await?;
            let whole = engine.check_file().await;
            whole.map_err(|error| engine_problem("the backup is damaged", &error))?;
            (census(&engine, keys).await?, "the copy was opened as a database of its own")
        }
        DatabaseKind::Postgres | DatabaseKind::Mariadb => {
            // Bytes stand in a dump as two digits each at most: what does not fit even so is not begun.
            let bytes = path.metadata().map_or(0, |found| found.len() / 2);
            local_farm::room_aside(bytes).map_err(|error| no_room(path, error.as_ref()))?;
            (job.told)("the backup to be restored into a temporary server");
            let spare = spare(kind, path).await?;
            let proved = async {
                let url = if kind == DatabaseKind::Mariadb {
                    mariadb::restore_aside(path, &spare).await?
                } else {
                    postgres::restore_aside(&source.login, path, &spare).await?
                };
                census(&connect(&DatabaseConfig::new(url), targets).await?, keys).await
            };
            let proved = proved.await;
            if let Err(error) = spare.end().await {
                tracing::warn!("ending the temporary server: {error:#}");
            }
            (proved?, "it was restored into a temporary server of this machine")
        }
    };
    Ok((census, format!("{how}, rows were counted, and the first {SAMPLE_ROWS} of every table opened")))
}

/// What does not fit where temporary servers lie.
pub(super) fn no_room(path: &Path, why: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::refused(
        "no-room",
        format!("{} is not brought to a temporary server, and so not proved", path.display()),
        "make room there, or set TMPDIR in the agent's environment (systemctl edit: [Service] Environment=TMPDIR=...) to a folder of \
         at most 69 letters with room that every user may pass through, and restart the agent",
    )
    .because(why)
}

async fn spare(kind: DatabaseKind, path: &Path) -> Result<local_farm::SpareDatabase, Problem> {
    local_farm::SpareDatabase::prepare(&kind.to_string()).await.map_err(|error| {
        let problem = Problem::refused(
            "not-proved",
            format!("there is no temporary server to restore {} into", path.display()),
            "install the database's server programs on this node, or have no backup made here and restore one elsewhere \
             before you rely on it",
        );
        problem.because(error.as_ref())
    })
}

pub(super) async fn connect(database: &DatabaseConfig, targets: &Targets) -> Result<Engine, Problem> {
    let connected = Engine::connect(database, targets.clone()).await;
    connected.map_err(|error| engine_problem("the database cannot be reached", &error))
}

pub(super) async fn census(engine: &Engine, keys: &[SecretKey]) -> Result<Vec<TableCensus>, Problem> {
    let request = CensusRequest { keys, accepted: &[], sample_rows: Some(SAMPLE_ROWS), shards: &[] };
    engine.census(&request, &|_| {}).await.map_err(|error| engine_problem("the rows could not be opened", &error))
}

/// A backup that was just made must hold what the database held: as many rows as before or after or in between, since the
/// farm may have served meanwhile, and no more values that do not open.
pub(super) fn compare(path: &Path, live: &Live<'_>, restored: &[TableCensus]) -> Result<(), Problem> {
    for ((before, after), restored) in live.before.iter().zip(live.after).zip(restored) {
        let rows = before.rows.min(after.rows)..=before.rows.max(after.rows);
        if !rows.contains(&restored.rows) {
            return Err(not_proved(format!(
                "{} holds {} rows of table {}, and the database has {}",
                path.display(),
                restored.rows,
                before.table,
                after.rows
            )));
        }
        opens(path, restored, before.unopened.max(after.unopened))?;
    }
    Ok(())
}

/// One that was made some time ago may have other rows, but must open as well.
pub(super) fn compare_shown(path: &Path, live: &[TableCensus], restored: &[TableCensus]) -> Result<(), Problem> {
    live.iter().zip(restored).try_for_each(|(live, restored)| opens(path, restored, live.unopened))
}

/// Of a table no more values may fail to open than this.
pub(super) fn opens(path: &Path, restored: &TableCensus, unopened_max: u64) -> Result<(), Problem> {
    let opened: u64 = restored.by_key.values().sum();
    if restored.unopened > unopened_max {
        let first = restored.first_unopened.as_deref().unwrap_or_default();
        return Err(not_proved(format!(
            "{} values of table {} in {} do not open with the key of this node ({opened} do); the first is {first}",
            restored.unopened,
            restored.table,
            path.display(),
        )));
    }
    Ok(())
}

/// The one key that what was read of a backup is under.
pub(super) fn key_of(path: &Path, keys: &[SecretKey], restored: &[TableCensus]) -> Result<KeyId, Problem> {
    let mut found: Vec<KeyId> = restored
        .iter()
        .flat_map(|table| &table.by_key)
        .filter(|(_, values)| **values > 0)
        .map(|(key, _)| *key)
        .collect();
    found.sort();
    found.dedup();
    let shut = restored.iter().find(|table| table.unopened > 0 && table.by_key.values().sum::<u64>() == 0);
    if let Some(shut) = shut {
        return Err(not_proved(format!(
            "no value of table {} in {} opens with a key of this node",
            shut.table,
            path.display()
        )));
    }
    match found[..] {
        [key] => Ok(key),
        [] => keys.first().map(SecretKey::id).ok_or_else(|| not_proved("this node holds no key".to_owned())),
        _ => {
            Err(not_proved(format!("{} holds values under several keys: it was made in mid-rotation", path.display())))
        }
    }
}

fn not_proved(message: String) -> Problem {
    Problem::refused(
        "not-proved",
        message,
        "do not rely on this backup; if it is of this farm and whole, it may be under an earlier key",
    )
}

pub(super) fn tables(restored: Vec<TableCensus>) -> BTreeMap<String, BackedUpTable> {
    let table = |table: TableCensus| {
        let values_opened = table.by_key.values().sum();
        (table.table, BackedUpTable { rows: table.rows, rows_opened: table.rows_read, values_opened })
    };
    restored.into_iter().map(table).collect()
}

/// The bytes must be those that were described when it was made.
pub(super) async fn undamaged(path: &Path) -> Result<(u64, rotation::Digest, Option<files::Description>), Problem> {
    let (bytes, digest) = files::digest(path).await?;
    let description = files::description(path)?;
    if let Some(described) = &description
        && (described.backup.bytes, described.backup.digest) != (bytes, digest)
    {
        let what = match bytes.cmp(&described.backup.bytes) {
            std::cmp::Ordering::Less => "it was cut off",
            std::cmp::Ordering::Greater => "something was added to it",
            std::cmp::Ordering::Equal => "bytes in it changed",
        };
        return Err(Problem::refused(
            "backup-damaged",
            format!(
                "{} is not what was made: {what}; it has {bytes} bytes of digest {digest}, and was made with {} of {}",
                path.display(),
                described.backup.bytes,
                described.backup.digest
            ),
            "take another backup",
        ));
    }
    Ok((bytes, digest, description))
}
