//! Shadows in MariaDB: whether a table can be copied exactly, its copy, what is built on it, and what becomes of it.
//!
//! No data definition is transactional here. Every step is found done or not done by what stands in the catalog, and the
//! ledger is written before what it announces and after what it reports.

mod definition;
mod state;
mod swap;

use fail_points::point;
use rotation::{Direction, RotationId};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use self::definition::Definition;
use self::state::Entry;
use super::grants::Grants;
use super::ledger::{self, Hold};
use super::make::Make;
use super::{quote, sessions};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::{Doing, mariadb_number};
use crate::ledger::{LedgerMark, direction_text};
use crate::shadow::{BuildStep, Pair, Shadow, ShadowState, Space};
use crate::table::Table;

pub(super) use self::swap::{Guard, hold, release, swap, swap_back};

/// What copies take, on the whole database: their names are not known beforehand.
const RIGHTS: [&str; 7] = ["SELECT", "INSERT", "CREATE", "DROP", "ALTER", "LOCK TABLES", "SHOW VIEW"];

/// Names tried for a copy. Only leftovers that the ledger has forgotten can be in the way.
const NAMES_MAX: u32 = 1000;

/// A column that numbers rows must be the first of some index.
const WRONG_AUTO_KEY: u16 = 1075;

/// Two primary keys, two indexes or two foreign keys of one name.
const THERE_ALREADY: [u16; 3] = [1061, 1068, 1826];

/// Foreign keys on either side, also of tables elsewhere.
const FOREIGN_KEYS: &str = "
    SELECT f.ID
    FROM (SELECT CONCAT(CAST(CONVERT(DATABASE() USING filename) AS BINARY), '/',
                        CAST(CONVERT(? USING filename) AS BINARY)) AS name) n
    JOIN information_schema.INNODB_SYS_FOREIGN f ON BINARY f.FOR_NAME = n.name OR BINARY f.REF_NAME = n.name LIMIT 1";

const TRIGGERS: &str = "
    SELECT TRIGGER_NAME FROM information_schema.TRIGGERS
    WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = ? LIMIT 1";

/// Views that name the table; one whose definition is hidden may.
const VIEWS: &str = "
    SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.VIEWS
    WHERE TABLE_SCHEMA NOT IN ('sys', 'information_schema', 'performance_schema', 'mysql')
      AND (VIEW_DEFINITION = '' OR LOCATE(?, VIEW_DEFINITION) > 0) LIMIT 1";

const INDEXES: &str = "
    SELECT INDEX_NAME FROM information_schema.STATISTICS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME <> 'PRIMARY' GROUP BY INDEX_NAME";

/// The table's name without its database and quotes.
pub(super) fn name_of(table: &Table) -> String {
    let mut name = String::new();
    let mut letters = table.from.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '`' if quoted && letters.next_if_eq(&'`').is_some() => name.push('`'),
            '`' => {
                quoted = !quoted;
                if quoted {
                    name.clear();
                }
            }
            _ if quoted => name.push(letter),
            _ => {}
        }
    }
    name
}

/// Why this table cannot be re-encrypted by a copy.
pub(super) async fn obstacle(connection: &mut MySqlConnection, table: &Table) -> Result<Option<String>, EngineError> {
    let doing = || format!("looking whether {} can be copied", table.label);
    let row = sqlx::raw_sql(
        "SELECT DATABASE(), SUBSTRING_INDEX(CURRENT_USER(), '@', 1), SUBSTRING_INDEX(CURRENT_USER(), '@', -1)",
    )
    .fetch_one(&mut *connection)
    .await
    .doing(doing)?;
    let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
    let (database, user, host) = (text(0)?, text(1)?, text(2)?);
    let grants = Grants::of(connection, Make::MariaDb).await?;
    let missing: Vec<&str> = RIGHTS.into_iter().filter(|right| !grants.on_database(right, &database)).collect();
    if !missing.is_empty() {
        return Ok(Some(format!(
            "the agent's account lacks rights: GRANT {} ON {}.* TO {}@{}",
            missing.join(", "),
            quote(&database),
            quote(&user),
            quote(&host)
        )));
    }
    let name = name_of(table);
    let definition = match Definition::of(connection, &name).await {
        Ok(definition) => definition,
        Err(EngineError::ShadowState { problem, .. }) => return Ok(Some(format!("it {problem}"))),
        Err(error) => return Err(error),
    };
    if let Some(problem) = definition.unfit() {
        return Ok(Some(problem.to_owned()));
    }
    if definition.indexes.len() != indexes(connection, &name).await?.len() {
        return Ok(Some("its definition names other indexes than the catalog".to_owned()));
    }
    for (sql, sought, what) in [
        (FOREIGN_KEYS, &name, "it is part of the foreign key"),
        (TRIGGERS, &name, "it has the trigger"),
        (VIEWS, &quote(&name), "it may be part of the view"),
    ] {
        let found = sqlx::query(sql).bind(sought).fetch_optional(&mut *connection).await.doing(doing)?;
        if let Some(row) = found {
            let found: String = row.try_get(0).doing(doing)?;
            return Ok(Some(format!("{what} {found}")));
        }
    }
    Ok(None)
}

async fn indexes(connection: &mut MySqlConnection, name: &str) -> Result<Vec<String>, EngineError> {
    let doing = || format!("looking for the indexes of {name}");
    let rows = sqlx::query(INDEXES).bind(name).fetch_all(connection).await.doing(doing)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().doing(doing)
}

/// The files of tables with their indexes; the server does not tell what its volume has left.
pub(super) async fn space(connection: &mut MySqlConnection, tables: &[Table]) -> Result<Space, EngineError> {
    let mut needed_bytes = 0;
    for table in tables {
        let bytes: i64 = sqlx::query(
            "SELECT CAST(COALESCE(SUM(DATA_LENGTH + INDEX_LENGTH), 0) AS SIGNED) FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
        )
        .bind(name_of(table))
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("asking for the size of {}", table.label))?;
        needed_bytes += u64::try_from(bytes).unwrap_or_default();
    }
    Ok(Space { needed_bytes, free_bytes: None })
}

/// All of a rotation.
pub(super) async fn shadows(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
) -> Result<Vec<Shadow>, EngineError> {
    Ok(state::all(connection, rotation).await?.into_iter().map(|entry| entry.shadow).collect())
}

/// The copy of a table for this rotation, made if it is not there yet. Whoever makes one has the turn; a maker that was
/// stopped is ended by the next.
pub(super) async fn shadow(
    connection: &mut MySqlConnection,
    mark: &LedgerMark,
    table: &Table,
) -> Result<Shadow, EngineError> {
    if let Some(entry) = state::one(connection, &mark.rotation, &table.label).await?
        && !entry.is_making
    {
        return Ok(entry.shadow);
    }
    sessions::take_turn(connection, Make::MariaDb).await?;
    let made = make(connection, mark, table).await;
    let given_up = sessions::give_turn_up(connection, Make::MariaDb).await;
    let made = made?;
    given_up?;
    Ok(made)
}

async fn make(connection: &mut MySqlConnection, mark: &LedgerMark, table: &Table) -> Result<Shadow, EngineError> {
    let doing = || format!("making the copy of {}", table.label);
    let original = name_of(table);
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark).await?;
    let shadow = match state::one(&mut transaction, &mark.rotation, &table.label).await? {
        Some(entry) if !entry.is_making => return Ok(entry.shadow),
        Some(entry) => entry.shadow,
        None => {
            let (name, retained_name) = free_names(&mut transaction, mark).await?;
            let (label, from, state) = (table.label.clone(), quote(&name), ShadowState::Building);
            let shadow = Shadow { label, name, from, retained_name, state };
            state::insert(&mut transaction, mark, &original, &shadow).await?;
            shadow
        }
    };
    transaction.commit().await.doing(doing)?;
    let copy = quote(&shadow.name);
    // Nothing was filled in yet, so what an interrupted maker left goes.
    run(connection, format!("DROP TABLE IF EXISTS {copy}"), doing).await?;
    run(connection, format!("CREATE TABLE {copy} LIKE {}", quote(&original)), doing).await?;
    let drops: Vec<String> =
        indexes(connection, &shadow.name).await?.iter().map(|index| format!("DROP INDEX {}", quote(index))).collect();
    if !drops.is_empty() {
        // Reviewed: quoted identifiers only.
        let sql = format!("ALTER TABLE {copy} {}", drops.join(", "));
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await {
            Ok(_) => {}
            // It keeps all of them, and is filled with them.
            Err(error) if mariadb_number(&error) == Some(WRONG_AUTO_KEY) => {}
            Err(error) => return Err(error).doing(doing),
        }
    }
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark).await?;
    state::set(&mut transaction, &mark.rotation, &shadow.label, ShadowState::Building).await?;
    durable::commit(point!(SHADOW_MADE), transaction).await.doing(doing)?;
    Ok(shadow)
}

/// Names that neither a table nor the ledger has.
async fn free_names(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(String, String), EngineError> {
    let rotation = mark.rotation.to_string();
    let short = &rotation[rotation.len().saturating_sub(8)..];
    for number in 0..NAMES_MAX {
        let base = format!("keyturn_{short}_{}_{number}", mark.epoch);
        let (name, retained_name) = (format!("{base}_new"), format!("{base}_old"));
        let taken: i64 = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM information_schema.TABLES
                     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN (?, ?))
                  + (SELECT COUNT(*) FROM keyturn_shadow WHERE shadow_name = ? OR retained_name = ?)",
        )
        .bind(&name)
        .bind(&retained_name)
        .bind(&name)
        .bind(&retained_name)
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get_unchecked(0))
        .doing(|| "looking for a name".to_owned())?;
        if taken == 0 {
            return Ok((name, retained_name));
        }
    }
    Err(EngineError::Internal(format!("{NAMES_MAX} copies are in the way")))
}

/// All that is missing, in one statement: the table is read once for all indexes.
pub(super) async fn build_steps(
    connection: &mut MySqlConnection,
    mark: &LedgerMark,
    pair: &Pair,
) -> Result<Vec<BuildStep>, EngineError> {
    let entry = entry(connection, mark, &pair.original.label).await?;
    if entry.shadow.state != ShadowState::Building {
        return Ok(Vec::new());
    }
    let original = Definition::of(connection, &name_of(&pair.original)).await?;
    let copy = Definition::of(connection, &entry.shadow.name).await?;
    let changes = original.completion(&copy);
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("ALTER TABLE {} {}", quote(&entry.shadow.name), changes.join(", "));
    Ok(vec![BuildStep { stage: 0, what: "secondary indexes".to_owned(), sql }])
}

pub(super) async fn build(connection: &mut MySqlConnection, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
    admit_now(connection, mark).await?;
    // The statement is made anew from the catalog, never taken from whoever asks.
    let mut steps = build_steps(connection, mark, pair).await?;
    while let Some(BuildStep { what, sql, .. }) = steps.pop() {
        let doing = || format!("building the {what} on the copy of {}", pair.original.label);
        match durable::around(point!(SHADOW_STEP_BUILT), run(connection, sql.clone(), doing)).await {
            // A session that was lost while it built goes on for as long as the server does not notice, and has built
            // meanwhile what this one has waited for.
            Err(EngineError::Database { doing, source }) if is_there_already(&source) => {
                steps = build_steps(connection, mark, pair).await?;
                if steps.iter().any(|step| step.sql == sql) {
                    return Err(EngineError::Database { doing, source });
                }
            }
            done => done?,
        }
    }
    Ok(())
}

fn is_there_already(error: &sqlx::Error) -> bool {
    mariadb_number(error).is_some_and(|number| THERE_ALREADY.contains(&number))
}

/// Records that everything is built, once the copy is defined as the original is.
pub(super) async fn built(connection: &mut MySqlConnection, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
    let label = &pair.original.label;
    let doing = || format!("comparing the copy of {label}");
    let mut transaction = connection.begin().await.doing(doing)?;
    admit(&mut transaction, mark).await?;
    let entry = entry(&mut transaction, mark, label).await?;
    if entry.shadow.state == ShadowState::Building {
        same(&mut transaction, pair).await?;
        state::set(&mut transaction, &mark.rotation, label, ShadowState::Built).await?;
    }
    durable::commit(point!(SHADOW_BUILT), transaction).await.doing(doing)
}

/// Refuses a copy that is not defined as its table is.
async fn same(connection: &mut MySqlConnection, pair: &Pair) -> Result<(), EngineError> {
    let original = Definition::of(connection, &name_of(&pair.original)).await?;
    let copy = Definition::of(connection, &pair.shadow.name).await?;
    match original.difference(&copy) {
        None => Ok(()),
        Some(difference) => {
            let problem = format!("is not defined as the table is: {difference}");
            Err(EngineError::ShadowState { table: pair.original.label.clone(), problem })
        }
    }
}

/// The entry of a table that must have one.
async fn entry(connection: &mut MySqlConnection, mark: &LedgerMark, label: &str) -> Result<Entry, EngineError> {
    let problem = "is not known to the ledger".to_owned();
    let entry = state::one(connection, &mark.rotation, label).await?;
    entry.filter(|entry| !entry.is_making).ok_or_else(|| EngineError::ShadowState { table: label.to_owned(), problem })
}

/// Holds the header for the transaction, and lets nobody in who comes too late.
async fn admit(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let header = ledger::header(connection, &mark.rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)
}

/// Before what commits whatever transaction is open. Who turns the header ends all other sessions first.
async fn admit_now(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let header = ledger::header(connection, &mark.rotation, Hold::Glance).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)
}

fn must_go(mark: &LedgerMark, direction: Direction) -> Result<(), EngineError> {
    if mark.direction == direction {
        return Ok(());
    }
    Err(EngineError::Internal(format!("this is done going {} only", direction_text(direction))))
}

/// Drops the copies of a rotation that was undone.
pub(super) async fn drop_shadows(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    must_go(mark, Direction::Back)?;
    for Entry { shadow, .. } in state::all(connection, &mark.rotation).await? {
        match shadow.state {
            ShadowState::Building | ShadowState::Built | ShadowState::Dropping => {
                // Asked again after everything was dropped and the ledger closed, there is nothing to be let in for.
                admit_now(connection, mark).await?;
                durable::around(point!(SHADOWS_DROPPED), drop_table(connection, &shadow.name)).await?;
                state::remove(connection, &mark.rotation, &shadow.label).await?;
            }
            // The application has gone on with the copy; what it left behind is of no use to anybody.
            ShadowState::Kept => {
                admit_now(connection, mark).await?;
                durable::around(point!(SHADOWS_DROPPED), drop_table(connection, &shadow.retained_name)).await?;
                state::set(connection, &mark.rotation, &shadow.label, ShadowState::Retired).await?;
            }
            ShadowState::Retired => {}
            ShadowState::Swapped => {
                let problem = "was not swapped back".to_owned();
                return Err(EngineError::ShadowState { table: shadow.label, problem });
            }
        }
    }
    Ok(())
}

/// Drops the originals that a completed rotation retained.
pub(super) async fn retire(connection: &mut MySqlConnection, rotation: &RotationId) -> Result<(), EngineError> {
    if !ledger::exists(connection).await? {
        return Err(EngineError::LedgerMissing(*rotation));
    }
    let header = ledger::header(connection, rotation, Hold::Glance).await?;
    let header = header.ok_or(EngineError::LedgerMissing(*rotation))?;
    if !header.closed {
        return Err(EngineError::LedgerOpen(rotation.to_string()));
    }
    if header.direction != direction_text(Direction::Forward) {
        // Closing it has dropped everything.
        return Ok(());
    }
    for Entry { shadow, .. } in state::all(connection, rotation).await? {
        if shadow.state == ShadowState::Swapped {
            // If nobody noted it after the swap: without its retained table it could not be told any more.
            state::set(connection, rotation, &shadow.label, ShadowState::Swapped).await?;
            durable::around(point!(TABLES_RETIRED), drop_table(connection, &shadow.retained_name)).await?;
            state::set(connection, rotation, &shadow.label, ShadowState::Retired).await?;
        }
    }
    Ok(())
}

async fn drop_table(connection: &mut MySqlConnection, name: &str) -> Result<(), EngineError> {
    run(connection, format!("DROP TABLE IF EXISTS {}", quote(name)), || format!("dropping {name}")).await
}

/// Reviewed: what is run is made of quoted identifiers and of definitions as the catalog itself holds them.
async fn run(connection: &mut MySqlConnection, sql: String, doing: impl FnOnce() -> String) -> Result<(), EngineError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).doing(doing)
}
