//! Shadows in PostgreSQL: whether a table can be copied exactly, its copy, what is built on it, and what becomes of it.

mod clone;
mod describe;
mod obstacles;
mod relation;
mod space;
mod state;
mod swap;

use fail_points::point;
use rotation::{Direction, RotationId};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use self::clone::{Done, Step};
use self::describe::{Description, Extent};
use self::relation::{Relation, act_as_agent};
use self::state::{Attached, Entry};
use super::layout::{Layout, relation};
use super::ledger::{self, Hold};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::ledger::{LedgerMark, direction_text};
use crate::shadow::{BuildStep, Shadow, ShadowState};
use crate::table::{Table, quote};

pub(super) use self::space::space;
pub(super) use self::state::CREATE;
pub(super) use self::swap::{hold, release, swap, swap_back};

/// How long a trial may wait for a lock: the farm serves meanwhile.
const TRIAL_LOCKS: &str = "SET LOCAL lock_timeout = '1s'";

/// The name of a copy in a trial; nobody ever sees it.
const TRIAL_NAME: &str = "keyturn_trial_new";
const TRIAL_RETAINED: &str = "keyturn_trial_old";

/// How many rows a trial copies at most, and how large each may be.
const TRIAL_ROWS: u32 = 100;
const TRIAL_ROW_BYTES: u32 = 64 * 1024;

/// Whoever makes a copy holds this, so that two do not make two. With the table's oid it is a lock of its own.
const SHADOW_LOCK: i32 = 0x6b65_7973;

/// Why this table cannot be re-encrypted by a copy.
pub(super) async fn obstacle(
    connection: &mut PgConnection,
    table: &Table,
    triggers_off: bool,
) -> Result<Option<String>, EngineError> {
    let layout = Layout::of(connection, table).await?;
    if let Some(column) = layout.unreadable.first() {
        let what =
            format!("the agent's role may not read its column {}: GRANT SELECT on the whole table", quote(column));
        return Ok(Some(what));
    }
    let oid = relation::oid(connection, relation(table), &table.label).await?;
    if let Some(reason) = obstacles::find(connection, oid, triggers_off, &table.label).await? {
        return Ok(Some(reason));
    }
    if layout.inexact.is_some() {
        return Ok(layout.inexact);
    }
    let original = Relation::of(connection, oid, &table.label).await?;
    let doing = || format!("trying to copy the definition of {}", table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    let tried = trial(&mut transaction, &original, table, &layout).await;
    transaction.rollback().await.doing(doing)?;
    match tried {
        Ok(difference) => Ok(difference.map(|what| format!("a copy would not be the same: {what}"))),
        // What the database says against it is the reason; what passes by itself is not.
        Err(EngineError::Database { source: sqlx::Error::Database(error), .. }) if !passes(error.code().as_deref()) => {
            Ok(Some(format!("a copy cannot be made: {}", error.message())))
        }
        Err(error) => Err(error),
    }
}

/// Locks, shutdowns and lack of room.
fn passes(code: Option<&str>) -> bool {
    code.is_some_and(|code| {
        code.starts_with("53") || code.starts_with("57") || matches!(code, "55P03" | "40P01" | "40001" | "25P03")
    })
}

/// Makes a copy of a few rows with all that is attached, but for foreign keys, which would lock other tables, and compares.
/// The rows show what is only asked of rows, such as what the functions do that indexes and checks call.
async fn trial(
    connection: &mut PgConnection,
    original: &Relation,
    table: &Table,
    layout: &Layout,
) -> Result<Option<String>, EngineError> {
    let doing = || format!("trying to copy the definition of {}", original.label);
    relation::execute(connection, TRIAL_LOCKS, doing).await?;
    original.act_as_owner(connection).await?;
    let (oid, mut named) = clone::bare(connection, original, TRIAL_NAME, TRIAL_RETAINED).await?;
    named.extend(clone::names(connection, original, TRIAL_NAME, TRIAL_RETAINED).await?);
    let copy = format!("{}.{}", quote(&original.schema), quote(TRIAL_NAME));
    let rows = format!(
        "INSERT INTO {copy} ({columns}) OVERRIDING SYSTEM VALUE
         SELECT {columns} FROM (SELECT * FROM {table} LIMIT {TRIAL_ROWS}) AS t WHERE {size} <= {TRIAL_ROW_BYTES}",
        columns = layout.columns_sql(table),
        table = original.sql(),
        size = layout.stored_size_sql(table),
    );
    relation::execute(connection, &rows, doing).await?;
    for step in clone::steps(connection, original, &copy, &named).await? {
        if !matches!(step.done, Done::Analyzed | Done::ForeignKey(_)) {
            relation::execute(connection, &step.build.sql, doing).await?;
        }
    }
    let extent = Extent { foreign_keys: false, serial_sequences: false };
    difference(connection, original, oid, &named, extent).await
}

/// What the copy has otherwise than the original, or the other way round.
async fn difference(
    connection: &mut PgConnection,
    original: &Relation,
    copy: i64,
    named: &[state::Named],
    extent: Extent,
) -> Result<Option<String>, EngineError> {
    let of_original = Description::of(connection, original.oid, extent, &original.label).await?;
    let of_copy = Description::of(connection, copy, extent, &original.label).await?;
    Ok(of_original.difference(&of_copy.named_as_original(named)))
}

/// The copy of a table for this rotation, made empty if there is none yet.
pub(super) async fn shadow(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    table: &Table,
) -> Result<Shadow, EngineError> {
    let doing = || format!("making the copy of {}", table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark, Hold::Shared).await?;
    let oid = relation::oid(&mut transaction, relation(table), &table.label).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1, $2::oid::int8::bit(32)::int4)")
        .bind(SHADOW_LOCK)
        .bind(oid)
        .execute(&mut *transaction)
        .await
        .doing(doing)?;
    let entry = match state::one(&mut transaction, &mark.rotation, &table.label).await? {
        Some(entry) => entry,
        None => make(&mut transaction, mark, table, oid).await?,
    };
    durable::commit(point!(SHADOW_MADE), transaction).await.doing(doing)?;
    Ok(entry.shadow)
}

async fn make(connection: &mut PgConnection, mark: &LedgerMark, table: &Table, oid: i64) -> Result<Entry, EngineError> {
    let original = Relation::of(connection, oid, &table.label).await?;
    let rotation = mark.rotation.to_string();
    // Eight digits tell rotations apart for people; the oid makes the name this table's own.
    let digits: String = rotation.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    let base = format!("keyturn_{digits}_{}_{oid}", mark.epoch);
    let (name, retained_name) = (format!("{base}_new"), format!("{base}_old"));
    original.act_as_owner(connection).await?;
    let (shadow_oid, mut objects) = clone::bare(connection, &original, &name, &retained_name).await?;
    objects.extend(clone::names(connection, &original, &name, &retained_name).await?);
    act_as_agent(connection).await?;
    let attached = Attached::new(&original, shadow_oid, objects);
    let entry = Entry {
        shadow: Shadow {
            label: table.label.clone(),
            from: state::from(&original.schema, &name),
            name,
            retained_name,
            state: ShadowState::Building,
        },
        schema: original.schema,
        relation: original.name,
        attached,
    };
    state::insert(connection, mark, &entry).await?;
    Ok(entry)
}

/// Acts as the owner of a copy, in the transaction of a chunk, after the ledger's rows are written. In one question: it
/// is asked for every chunk.
pub(super) async fn act_as_owner_of(connection: &mut PgConnection, into: &Table) -> Result<(), EngineError> {
    let doing = || format!("acting as the owner of the copy of {}", into.label);
    let role =
        "SELECT set_config('role', pg_get_userbyid(relowner)::text, true) FROM pg_class WHERE oid = $1::regclass";
    let found = sqlx::query(role).bind(relation(into)).fetch_optional(connection).await.doing(doing)?;
    found.map(drop).ok_or_else(|| relation::gone(&into.label))
}

/// All of a rotation.
pub(super) async fn shadows(connection: &mut PgConnection, rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
    Ok(state::all(connection, rotation).await?.into_iter().map(|entry| entry.shadow).collect())
}

/// What is still to be built. Nothing once the ledger says so.
pub(super) async fn build_steps(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    table: &Table,
) -> Result<Vec<BuildStep>, EngineError> {
    let entry = entry(connection, mark, &table.label).await?;
    if entry.shadow.state != ShadowState::Building {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for step in all_steps(connection, &entry).await? {
        if !is_done(connection, &entry, &step.done).await? {
            steps.push(step.build);
        }
    }
    Ok(steps)
}

async fn all_steps(connection: &mut PgConnection, entry: &Entry) -> Result<Vec<Step>, EngineError> {
    let original = Relation::of(connection, entry.attached.original_oid, &entry.shadow.label).await?;
    let copy = Relation::of(connection, entry.attached.shadow_oid, &entry.shadow.label).await?;
    clone::steps(connection, &original, &copy.sql(), &entry.attached.objects).await
}

/// Whether the step's result is there. An index that is there is whole: it was built in one transaction.
async fn is_done(connection: &mut PgConnection, entry: &Entry, done: &Done) -> Result<bool, EngineError> {
    let (sql, name, schema) = match done {
        Done::Index(name) => (
            "SELECT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                            WHERE i.indrelid = $1::oid AND x.relname = $2 AND $3 = '' AND i.indisvalid)",
            name.as_str(),
            "",
        ),
        Done::Constraint(name) | Done::ForeignKey(name) => (
            "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE conrelid = $1::oid AND conname = $2 AND $3 = '')",
            name.as_str(),
            "",
        ),
        Done::Statistics(schema, name) => (
            "SELECT EXISTS (SELECT 1 FROM pg_statistic_ext WHERE stxrelid = $1::oid AND stxname = $2
                            AND stxnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $3))",
            name.as_str(),
            schema.as_str(),
        ),
        Done::Clustered(name) => (
            "SELECT EXISTS (SELECT 1 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                            WHERE i.indrelid = $1::oid AND x.relname = $2 AND $3 = '' AND i.indisclustered)",
            name.as_str(),
            "",
        ),
        Done::ReplicaIdentity => (
            "SELECT EXISTS (SELECT 1 FROM pg_class WHERE oid = $1::oid AND $2 = '' AND $3 = '' AND relreplident <> 'd')",
            "",
            "",
        ),
        // Cheap, and the last: done again whenever anything had to be.
        Done::Analyzed => return Ok(false),
    };
    sqlx::query(sql)
        .bind(entry.attached.shadow_oid)
        .bind(name)
        .bind(schema)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("looking at the copy of {}", entry.shadow.label))
}

/// Builds one step, in one transaction.
pub(super) async fn build(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    table: &Table,
    step: &BuildStep,
) -> Result<(), EngineError> {
    let doing = || format!("building the {} on the copy of {}", step.what, table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark, Hold::Shared).await?;
    let entry = entry(&mut transaction, mark, &table.label).await?;
    let steps = all_steps(&mut transaction, &entry).await?;
    // By its words: the statement is made anew from the catalog, never taken from whoever asks.
    let known = steps.into_iter().find(|known| known.build.what == step.what && known.build.stage == step.stage);
    let Some(known) = known else {
        return Err(EngineError::Internal(format!("{} has no step {:?}", table.label, step.what)));
    };
    if entry.shadow.state == ShadowState::Building && !is_done(&mut transaction, &entry, &known.done).await? {
        let copy = Relation::of(&mut transaction, entry.attached.shadow_oid, &table.label).await?;
        copy.act_as_owner(&mut transaction).await?;
        relation::execute(&mut transaction, &known.build.sql, doing).await?;
    }
    durable::commit(point!(SHADOW_STEP_BUILT), transaction).await.doing(doing)
}

/// Records that everything is built, once the copy is the original's like in every respect.
pub(super) async fn built(connection: &mut PgConnection, mark: &LedgerMark, table: &Table) -> Result<(), EngineError> {
    let doing = || format!("comparing the copy of {}", table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark, Hold::Shared).await?;
    let entry = entry(&mut transaction, mark, &table.label).await?;
    if entry.shadow.state == ShadowState::Building {
        let original = Relation::of(&mut transaction, entry.attached.original_oid, &table.label).await?;
        let (copy, named) = (entry.attached.shadow_oid, &entry.attached.objects);
        let extent = Extent { foreign_keys: true, serial_sequences: false };
        if let Some(difference) = difference(&mut transaction, &original, copy, named, extent).await? {
            return Err(differs(&table.label, &difference));
        }
        state::set_state(&mut transaction, &mark.rotation, &table.label, ShadowState::Built).await?;
    }
    durable::commit(point!(SHADOW_BUILT), transaction).await.doing(doing)
}

fn differs(label: &str, difference: &str) -> EngineError {
    let problem = format!("is not defined as the table is: {difference}");
    EngineError::ShadowState { table: label.to_owned(), problem }
}

/// The entry of a table that must have one.
async fn entry(connection: &mut PgConnection, mark: &LedgerMark, label: &str) -> Result<Entry, EngineError> {
    let entry =
        if ledger::exists(connection).await? { state::one(connection, &mark.rotation, label).await? } else { None };
    let problem = "is not known to the ledger".to_owned();
    entry.ok_or_else(|| EngineError::ShadowState { table: label.to_owned(), problem })
}

/// Holds the header, and lets nobody in who comes too late.
async fn admit(connection: &mut PgConnection, mark: &LedgerMark, hold: Hold) -> Result<(), EngineError> {
    let header = ledger::header(connection, &mark.rotation, hold).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)
}

/// Drops the copies of a rotation that was undone.
pub(super) async fn drop_shadows(connection: &mut PgConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    must_go(mark, Direction::Back)?;
    if !ledger::exists(connection).await? {
        return Ok(());
    }
    let doing = || "dropping the copies".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    for entry in state::all(&mut transaction, &mark.rotation).await? {
        // Asked again after everything was dropped and the ledger closed, there is no entry to be let in for.
        header.admit(mark)?;
        let label = &entry.shadow.label;
        let (oid, name) = match entry.shadow.state {
            ShadowState::Building | ShadowState::Built | ShadowState::Dropping => {
                (entry.attached.shadow_oid, &entry.shadow.name)
            }
            // The application has gone on with the copy; what it left behind is of no use to anybody.
            ShadowState::Kept => (entry.attached.original_oid, &entry.shadow.retained_name),
            ShadowState::Retired => continue,
            ShadowState::Swapped if header.direction == direction_text(Direction::Forward) => continue,
            ShadowState::Swapped => {
                let problem = "was not swapped back".to_owned();
                return Err(EngineError::ShadowState { table: label.clone(), problem });
            }
        };
        drop_if_named(&mut transaction, oid, name, label).await?;
        state::forget(&mut transaction, &mark.rotation, label).await?;
    }
    durable::commit(point!(SHADOWS_DROPPED), transaction).await.doing(doing)
}

/// Before the application is let in again after an undo: copies that are not in use yet still there let go of the rows of
/// other tables.
pub(super) async fn let_go(connection: &mut PgConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    if mark.direction == Direction::Forward || !ledger::exists(connection).await? {
        return Ok(());
    }
    let doing = || "letting other tables go".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark, Hold::Alone).await?;
    for entry in state::all(&mut transaction, &mark.rotation).await? {
        if entry.shadow.state.is_original_live() {
            let (oid, label) = (entry.attached.shadow_oid, &entry.shadow.label);
            if let Some(copy) = Relation::find(&mut transaction, oid, label).await? {
                copy.act_as_owner(&mut transaction).await?;
                clone::drop_foreign_keys(&mut transaction, &copy).await?;
                act_as_agent(&mut transaction).await?;
            }
        }
    }
    durable::commit(point!(LET_IN_PREPARED), transaction).await.doing(doing)
}

/// Drops the originals that a rotation retained which has ended.
pub(super) async fn retire(connection: &mut PgConnection, rotation: &RotationId) -> Result<(), EngineError> {
    if !ledger::exists(connection).await? {
        return Ok(());
    }
    let doing = || "dropping the retained tables".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, rotation, Hold::Alone).await?;
    let header = header.ok_or(EngineError::LedgerMissing(*rotation))?;
    if !header.closed {
        return Err(EngineError::LedgerOpen(rotation.to_string()));
    }
    if header.direction != direction_text(Direction::Forward) {
        return Err(EngineError::Superseded(format!("rotation {rotation} was undone and retains no tables")));
    }
    for entry in state::all(&mut transaction, rotation).await? {
        if entry.shadow.state == ShadowState::Swapped {
            let label = &entry.shadow.label;
            let (oid, name) = (entry.attached.original_oid, &entry.shadow.retained_name);
            drop_if_named(&mut transaction, oid, name, label).await?;
            refuse_namesake(&mut transaction, name, label).await?;
            state::set_state(&mut transaction, rotation, label, ShadowState::Retired).await?;
        }
    }
    durable::commit(point!(TABLES_RETIRED), transaction).await.doing(doing)
}

/// Drops the relation with this oid, if it is there and still has the name that is ours. One that somebody has renamed,
/// perhaps because it is wanted, is left alone and told.
async fn drop_if_named(connection: &mut PgConnection, oid: i64, name: &str, label: &str) -> Result<(), EngineError> {
    let Some(found) = Relation::find(connection, oid, label).await? else { return Ok(()) };
    if found.name != name {
        let what = format!("the relation that was to be dropped as {name} is called {} now", found.name);
        return Err(EngineError::RowsChanged { table: label.to_owned(), what });
    }
    found.act_as_owner(connection).await?;
    let sql = AssertSqlSafe(format!("DROP TABLE {}", found.sql()));
    // Reviewed: a quoted name. Without CASCADE: what somebody has built on it is named, and stays.
    sqlx::raw_sql(sql).execute(&mut *connection).await.doing(|| format!("dropping {name}, a copy of {label}"))?;
    act_as_agent(connection).await
}

/// What is gone is dropped; but a relation that was brought back from a dump is another one under the same name, with
/// the same ciphertexts, and nobody may believe that it is gone.
async fn refuse_namesake(connection: &mut PgConnection, name: &str, label: &str) -> Result<(), EngineError> {
    let found: bool = sqlx::query("SELECT EXISTS (SELECT 1 FROM pg_class WHERE relname = $1)")
        .bind(name)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("looking for {name}"))?;
    if found {
        let problem = format!("has a copy {name} that is not the one of this rotation; drop it by hand");
        return Err(EngineError::ShadowState { table: label.to_owned(), problem });
    }
    Ok(())
}

/// Only a rotation that goes forward swaps in, only one that goes back swaps out.
fn must_go(mark: &LedgerMark, direction: Direction) -> Result<(), EngineError> {
    if mark.direction == direction {
        return Ok(());
    }
    Err(EngineError::Internal("tables were to be swapped against the direction of the rotation".to_owned()))
}
