//! Shadows in SQLite. A shadow is made from its table's own definition and filled beside it. What is swapped are not
//! names but contents: the pages at which the trees of table and indexes begin change places in the schema. So every
//! name, definition, trigger, view and foreign key stays exactly what it was, and what is retained is the other table.

mod attached;
mod definition;
mod swap;

use fail_points::point;
use rotation::RotationId;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::ledger::{self, shadows};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::ledger::{LedgerMark, direction_text};
use crate::shadow::{BuildStep, Pair, Shadow, ShadowState, Space};
use crate::table::{Table, quote};
use attached::Attached;
use rotation::Direction;

pub(super) use swap::{hold, release, swap, swap_back};

/// The copy's name while it is only tried whether there can be one.
const TRIAL: &str = "keyturn_trial_copy";

/// Tables that may be in the way of a name; nobody but us makes names like ours.
const NAMES_MAX: u32 = 10_000;

/// The table's name, which [`Table::from`] has in quotes behind its schema.
fn name_of(table: &Table) -> String {
    let quoted = table.from.strip_prefix("\"main\".").unwrap_or(&table.from);
    let inside = quoted.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(quoted);
    inside.replace("\"\"", "\"")
}

/// Makes the copy in a transaction that is taken back.
pub(super) async fn obstacle(connection: &mut SqliteConnection, table: &Table) -> Result<Option<String>, EngineError> {
    let doing = || format!("trying to make a copy of {}", table.label);
    let name = name_of(table);
    let mut transaction = ledger::begin(connection, doing).await?;
    let tried = async {
        let original = Attached::read(&mut transaction, &name).await?;
        if !original.without_rowid && !original.has_readable_rowid() {
            return Ok(Some("columns of it have all names of the rowid, so that rowids cannot be kept".to_owned()));
        }
        let Some(sql) = definition::of_table(&original.sql, TRIAL) else {
            return Ok(Some("its definition has a form that is not understood".to_owned()));
        };
        run(&mut transaction, sql, doing).await?;
        for (at, index) in original.own_indexes().enumerate() {
            let Some(sql) = definition::of_index(&index.sql, &index_name(TRIAL, at), TRIAL) else {
                return Ok(Some(format!("the definition of index {} has a form that is not understood", index.name)));
            };
            run(&mut transaction, sql, doing).await?;
        }
        let copy = Attached::read(&mut transaction, TRIAL).await?;
        Ok(original.difference(&copy, TRIAL))
    };
    let tried = tried.await;
    transaction.rollback().await.doing(doing)?;
    match tried {
        Err(EngineError::Database { source: sqlx::Error::Database(error), .. }) if !is_busy(error.as_ref()) => {
            Ok(Some(format!("a copy of it cannot be made: {}", error.message())))
        }
        other => other,
    }
}

fn is_busy(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13))
}

/// Pages of tables and indexes, and what the file's volume has left.
pub(super) async fn space(
    connection: &mut SqliteConnection,
    file: &std::path::Path,
    tables: &[Table],
) -> Result<Space, EngineError> {
    let mut needed_bytes = 0;
    for table in tables {
        let bytes: i64 = sqlx::query(
            "SELECT coalesce(sum(pgsize), 0) FROM dbstat('main', 1)
             WHERE name IN (SELECT name FROM main.sqlite_schema WHERE tbl_name = ? COLLATE NOCASE)",
        )
        .bind(name_of(table))
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("asking for the size of {}", table.label))?;
        needed_bytes += u64::try_from(bytes).unwrap_or_default();
    }
    let volume = nix::sys::statvfs::statvfs(file);
    let free_bytes = volume.ok().map(|volume| volume.blocks_available() * volume.fragment_size());
    Ok(Space { needed_bytes, free_bytes })
}

/// The shadow, made if it is not there yet.
pub(super) async fn make(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    table: &Table,
) -> Result<Shadow, EngineError> {
    let doing = || format!("making the shadow of {}", table.label);
    let mut transaction = ledger::begin(connection, doing).await?;
    ledger::known_header(&mut transaction, mark).await?.admit(mark)?;
    let known = shadows::all(&mut transaction, &mark.rotation).await?;
    if let Some(shadow) = known.iter().find(|shadow| shadow.label == table.label) {
        return Ok(shadow.clone());
    }
    let original = Attached::read(&mut transaction, &name_of(table)).await?;
    let name = free_name(&mut transaction, mark).await?;
    let unfit = || EngineError::ShadowState {
        table: table.label.clone(),
        problem: "cannot be made from the table's definition".to_owned(),
    };
    run(&mut transaction, definition::of_table(&original.sql, &name).ok_or_else(unfit)?, doing).await?;
    let shadow = Shadow {
        label: table.label.clone(),
        from: format!("\"main\".{}", quote(&name)),
        retained_name: name.clone(),
        name,
        state: ShadowState::Building,
    };
    shadows::insert(&mut transaction, mark, &original.name, &shadow).await?;
    durable::commit(point!(SHADOW_MADE), transaction).await.doing(doing)?;
    Ok(shadow)
}

/// A name that nothing in the schema has, and nothing that the copy's indexes will be called begins with.
async fn free_name(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<String, EngineError> {
    let rotation = mark.rotation.to_string();
    let short = &rotation[rotation.len().saturating_sub(8)..];
    for number in 0..NAMES_MAX {
        let name = format!("keyturn_{short}_{}_{number}_copy", mark.epoch);
        let taken: bool = sqlx::query(
            "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE lower(substr(name, 1, length(?1))) = ?1)",
        )
        .bind(&name)
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for a name".to_owned())?;
        if !taken {
            return Ok(name);
        }
    }
    Err(EngineError::Internal(format!("{NAMES_MAX} copies are in the way")))
}

fn index_name(copy: &str, at: usize) -> String {
    format!("{copy}_i{at}")
}

/// Indexes that the copy has not got yet. Those of constraints come with the table.
pub(super) async fn build_steps(connection: &mut SqliteConnection, pair: &Pair) -> Result<Vec<BuildStep>, EngineError> {
    let original = Attached::read(connection, &name_of(&pair.original)).await?;
    let copy = Attached::read(connection, &pair.shadow.name).await?;
    let mut steps = Vec::new();
    for (at, index) in original.own_indexes().enumerate() {
        let name = index_name(&pair.shadow.name, at);
        if copy.own_indexes().any(|built| built.name == name) {
            continue;
        }
        let Some(sql) = definition::of_index(&index.sql, &name, &pair.shadow.name) else {
            let problem = format!("cannot have index {}, whose definition is not understood", index.name);
            return Err(EngineError::ShadowState { table: pair.original.label.clone(), problem });
        };
        steps.push(BuildStep { stage: 0, what: format!("index {}", index.name), sql });
    }
    Ok(steps)
}

pub(super) async fn build(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    pair: &Pair,
    step: &BuildStep,
) -> Result<(), EngineError> {
    let doing = || format!("building {} of the shadow of {}", step.what, pair.original.label);
    let mut transaction = ledger::begin(connection, doing).await?;
    ledger::known_header(&mut transaction, mark).await?.admit(mark)?;
    // Somebody else may have built it since the steps were listed.
    let is_missing = build_steps(&mut transaction, pair).await?.iter().any(|missing| missing.sql == step.sql);
    if is_missing {
        run(&mut transaction, step.sql.clone(), doing).await?;
    }
    durable::commit(point!(SHADOW_STEP_BUILT), transaction).await.doing(doing)
}

pub(super) async fn built(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    pair: &Pair,
) -> Result<(), EngineError> {
    let doing = || format!("noting that the shadow of {} is built", pair.original.label);
    let mut transaction = ledger::begin(connection, doing).await?;
    ledger::known_header(&mut transaction, mark).await?.admit(mark)?;
    let known = shadows::all(&mut transaction, &mark.rotation).await?;
    let is_building =
        known.iter().any(|shadow| shadow.label == pair.original.label && shadow.state == ShadowState::Building);
    if is_building {
        same(&mut transaction, pair).await?;
        shadows::set_state(&mut transaction, &mark.rotation, &pair.original.label, ShadowState::Built).await?;
    }
    durable::commit(point!(SHADOW_BUILT), transaction).await.doing(doing)
}

/// Table and copy, if the one can take the other's place.
async fn same(connection: &mut SqliteConnection, pair: &Pair) -> Result<(Attached, Attached), EngineError> {
    let original = Attached::read(connection, &name_of(&pair.original)).await?;
    let copy = Attached::read(connection, &pair.shadow.name).await?;
    match original.difference(&copy, &pair.shadow.name) {
        None => Ok((original, copy)),
        Some(difference) => Err(EngineError::ShadowState {
            table: pair.original.label.clone(),
            problem: format!("is not like its table: {difference}"),
        }),
    }
}

/// Drops the copies of a rotation that goes back, in its own transaction.
pub(super) async fn drop_all(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || "dropping shadows".to_owned();
    let mut transaction = ledger::begin(connection, doing).await?;
    let Some(header) = ledger::header(&mut transaction, &mark.rotation).await? else { return Ok(()) };
    if header.closed && header.direction == direction_text(mark.direction) {
        return Ok(());
    }
    header.admit(mark)?;
    for shadow in shadows::all(&mut transaction, &mark.rotation).await? {
        match shadow.state {
            ShadowState::Building | ShadowState::Built | ShadowState::Dropping => {
                drop_table(&mut transaction, &shadow.name).await?;
                shadows::remove(&mut transaction, &mark.rotation, &shadow.label).await?;
            }
            ShadowState::Kept => {
                drop_table(&mut transaction, &shadow.retained_name).await?;
                shadows::set_state(&mut transaction, &mark.rotation, &shadow.label, ShadowState::Retired).await?;
            }
            ShadowState::Retired => {}
            ShadowState::Swapped => {
                let problem = "was not swapped back".to_owned();
                return Err(EngineError::ShadowState { table: shadow.label, problem });
            }
        }
    }
    durable::commit(point!(SHADOWS_DROPPED), transaction).await.doing(doing)
}

/// Drops the originals that a completed rotation retained.
pub(super) async fn retire(connection: &mut SqliteConnection, rotation: &RotationId) -> Result<(), EngineError> {
    let doing = || "dropping retained tables".to_owned();
    let mut transaction = ledger::begin(connection, doing).await?;
    let header = ledger::header(&mut transaction, rotation).await?.ok_or(EngineError::LedgerMissing(*rotation))?;
    if !header.closed {
        return Err(EngineError::LedgerOpen(rotation.to_string()));
    }
    if header.direction != direction_text(Direction::Forward) {
        // Closing it has dropped everything.
        return Ok(());
    }
    for shadow in shadows::all(&mut transaction, rotation).await? {
        if shadow.state == ShadowState::Swapped {
            drop_table(&mut transaction, &shadow.retained_name).await?;
            shadows::set_state(&mut transaction, rotation, &shadow.label, ShadowState::Retired).await?;
        }
    }
    durable::commit(point!(TABLES_RETIRED), transaction).await.doing(doing)
}

async fn drop_table(connection: &mut SqliteConnection, name: &str) -> Result<(), EngineError> {
    run(connection, format!("DROP TABLE IF EXISTS main.{}", quote(name)), || format!("dropping {name}")).await
}

/// Reviewed: what is run is made of quoted identifiers and of definitions as the schema itself holds them.
async fn run(
    connection: &mut SqliteConnection,
    sql: String,
    doing: impl FnOnce() -> String,
) -> Result<(), EngineError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).doing(doing)
}
