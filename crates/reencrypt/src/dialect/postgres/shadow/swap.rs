//! The swap: copies take the names of their tables, and of all that is attached to them, in one transaction with the
//! ledger; and the way back.

use fail_points::point;
use rotation::Direction;
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::super::ledger::{self, Hold};
use super::super::role;
use super::clone;
use super::describe::{Description, Extent};
use super::relation::{self, Relation, act_as_agent, execute};
use super::state::{self, Entry, Kind, Named};
use super::{differs, must_go};
use crate::EngineError;
use crate::dialect::durable;
use crate::dialect::postgres::literal;
use crate::error::Doing;
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::{HeldReaders, Pair, ShadowState};
use crate::table::quote;

/// Everything that can be compared.
const ALL: Extent = Extent { foreign_keys: true, serial_sequences: true };

/// The transaction of a hold is idle while others read what it holds, for as long as that takes. Whoever comes after
/// ends its session.
const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0;";

/// Sequences of serial columns, with the column that owns each.
const SERIALS: &str = "
    SELECT n.nspname::text, s.relname::text, a.attname::text
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid
      AND d.deptype = 'a' ORDER BY 1, 2";

/// Begins the transaction that holds header, originals and copies: others may read, nobody may write.
pub(in super::super) async fn hold(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    pairs: &[Pair],
) -> Result<HeldReaders, EngineError> {
    if let Some(header) = ledger::header(connection, &mark.rotation, Hold::Glance).await? {
        header.admit(mark)?;
    }
    role::end_other_workers(connection).await?;
    let doing = || "holding the tables for the swap".to_owned();
    execute(connection, BEGIN, doing).await?;
    let held = take(connection, mark, pairs).await;
    if held.is_err() {
        // The error that counts is the first.
        let _ = execute(connection, "ROLLBACK", doing).await;
    }
    held.map(|()| HeldReaders::Everybody)
}

async fn take(connection: &mut PgConnection, mark: &LedgerMark, pairs: &[Pair]) -> Result<(), EngineError> {
    let header = ledger::header(connection, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    ledger::update_header(connection, mark, &header).await?;
    for entry in entries(connection, mark, pairs).await? {
        let label = &entry.shadow.label;
        let mut names = Vec::new();
        let mut owner = None;
        for oid in [entry.attached.original_oid, entry.attached.shadow_oid] {
            if let Some(found) = Relation::find(connection, oid, label).await? {
                names.push(found.sql());
                owner = Some(found);
            }
        }
        let Some(owner) = owner else { return Err(relation::gone(label)) };
        owner.act_as_owner(connection).await?;
        let doing = || format!("holding {label} and its copy");
        execute(connection, &format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", ")), doing).await?;
        act_as_agent(connection).await?;
    }
    Ok(())
}

/// The ledger's entries of these pairs; every pair must have one.
async fn entries(connection: &mut PgConnection, mark: &LedgerMark, pairs: &[Pair]) -> Result<Vec<Entry>, EngineError> {
    let mut all = state::all(connection, &mark.rotation).await?;
    all.retain(|entry| pairs.iter().any(|pair| pair.shadow.label == entry.shadow.label));
    if all.len() != pairs.len() {
        return Err(EngineError::Internal("the ledger does not know all copies that are to be swapped".to_owned()));
    }
    Ok(all)
}

/// Ends the hold as it began.
pub(in super::super) async fn release(connection: &mut PgConnection) -> Result<(), EngineError> {
    execute(connection, "ROLLBACK", || "letting the tables go".to_owned()).await
}

async fn commit(connection: &mut PgConnection) -> Result<(), EngineError> {
    execute(connection, "COMMIT", || "committing the swap".to_owned()).await
}

/// Swaps all of them in that are not yet, and commits.
pub(in super::super) async fn swap(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    pairs: &[Pair],
) -> Result<(), EngineError> {
    must_go(mark, Direction::Forward)?;
    for entry in entries(connection, mark, pairs).await? {
        match entry.shadow.state {
            ShadowState::Swapped => continue,
            ShadowState::Built => {}
            ShadowState::Building | ShadowState::Dropping | ShadowState::Kept | ShadowState::Retired => {
                let problem = format!("is {}", entry.shadow.state.as_str());
                return Err(EngineError::ShadowState { table: entry.shadow.label, problem });
            }
        }
        swap_in(connection, &entry).await?;
        state::set_state(connection, &mark.rotation, &entry.shadow.label, ShadowState::Swapped).await?;
    }
    durable::around(point!(TABLES_SWAPPED), commit(connection)).await
}

async fn swap_in(connection: &mut PgConnection, entry: &Entry) -> Result<(), EngineError> {
    let label = &entry.shadow.label;
    let original = Relation::of(connection, entry.attached.original_oid, label).await?;
    let copy = Relation::of(connection, entry.attached.shadow_oid, label).await?;
    expect_name(&original, &entry.relation)?;
    expect_name(&copy, &entry.shadow.name)?;
    let columns_ever = entry.attached.original_columns_ever;
    if copy.has_dropped_columns || columns_ever.is_some_and(|columns| columns != original.columns_ever) {
        let what = "columns of it were dropped or made since it was copied".to_owned();
        return Err(EngineError::RowsChanged { table: label.clone(), what });
    }
    let before = Description::of(connection, original.oid, ALL, label).await?;
    original.act_as_owner(connection).await?;
    // Retained, it would keep the application from deleting what its old rows refer to.
    clone::drop_foreign_keys(connection, &original).await?;
    let leaving = Side { relation: &original, name: &entry.shadow.retained_name, rename: to_retained };
    let coming = Side { relation: &copy, name: &entry.relation, rename: from_shadow };
    exchange(connection, &leaving, &coming, &entry.attached.objects).await?;
    act_as_agent(connection).await?;
    // Under its new name, with everything that came over in the swap, it must be what the original was.
    let after = Description::of(connection, copy.oid, ALL, label).await?;
    match before.difference(&after) {
        None => Ok(()),
        Some(difference) => Err(differs(label, &difference)),
    }
}

/// Puts the originals of `back` back, leaves the copies of `kept` where they are, and those that were altered since they were
/// swapped in, and commits.
pub(in super::super) async fn swap_back(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    back: &[Pair],
    kept: &[Pair],
) -> Result<(), EngineError> {
    must_go(mark, Direction::Back)?;
    for entry in entries(connection, mark, back).await? {
        let mut state = ShadowState::Dropping;
        match entry.shadow.state {
            ShadowState::Swapped => {
                if let Some(difference) = try_swap_out(connection, &entry).await? {
                    let table = entry.shadow.label.as_str();
                    tracing::warn!(table, difference, "it was altered since it was swapped in; it goes back in place");
                    state = ShadowState::Kept;
                }
            }
            ShadowState::Building | ShadowState::Built | ShadowState::Dropping => {}
            ShadowState::Kept | ShadowState::Retired => {
                let problem = format!("is {}", entry.shadow.state.as_str());
                return Err(EngineError::ShadowState { table: entry.shadow.label, problem });
            }
        }
        state::set_state(connection, &mark.rotation, &entry.shadow.label, state).await?;
    }
    for entry in entries(connection, mark, kept).await? {
        if entry.shadow.state == ShadowState::Swapped {
            state::set_state(connection, &mark.rotation, &entry.shadow.label, ShadowState::Kept).await?;
        }
    }
    durable::around(point!(TABLES_SWAPPED_BACK), commit(connection)).await
}

/// Swaps it out, unless the original is not what the copy has become: then says what differs, and nothing is changed.
async fn try_swap_out(connection: &mut PgConnection, entry: &Entry) -> Result<Option<String>, EngineError> {
    let doing = || format!("swapping {} out", entry.shadow.label);
    execute(connection, "SAVEPOINT as_swapped", doing).await?;
    let difference = match swap_out(connection, entry).await {
        Ok(difference) => difference,
        Err(EngineError::Database { source, .. }) if is_about_definitions(&source) => Some(source.to_string()),
        Err(error) => return Err(error),
    };
    if difference.is_some() {
        execute(connection, "ROLLBACK TO as_swapped", doing).await?;
    }
    Ok(difference)
}

/// Whether what is to be renamed or made again does not fit what is there: class 42 of the SQLSTATEs.
fn is_about_definitions(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code.starts_with("42"))
}

async fn swap_out(connection: &mut PgConnection, entry: &Entry) -> Result<Option<String>, EngineError> {
    let label = &entry.shadow.label;
    let original = Relation::of(connection, entry.attached.original_oid, label).await?;
    let copy = Relation::of(connection, entry.attached.shadow_oid, label).await?;
    expect_name(&original, &entry.shadow.retained_name)?;
    expect_name(&copy, &entry.relation)?;
    if copy.has_dropped_columns {
        return Ok(Some("columns of it were dropped".to_owned()));
    }
    let before = Description::of(connection, copy.oid, ALL, label).await?;
    original.act_as_owner(connection).await?;
    // The copy has those that the original had.
    let foreign_keys = clone::foreign_keys(connection, &copy).await?;
    clone::drop_foreign_keys(connection, &copy).await?;
    let leaving = Side { relation: &copy, name: &entry.shadow.name, rename: to_shadow };
    let coming = Side { relation: &original, name: &entry.relation, rename: from_retained };
    exchange(connection, &leaving, &coming, &entry.attached.objects).await?;
    let restored = format!("{}.{}", quote(&original.schema), quote(&entry.relation));
    for key in foreign_keys {
        let doing = || format!("giving {label} its foreign key {} back", key.name);
        execute(connection, &key.add_sql(&restored), doing).await?;
    }
    act_as_agent(connection).await?;
    let after = Description::of(connection, original.oid, ALL, label).await?;
    Ok(after.difference(&before))
}

fn expect_name(found: &Relation, name: &str) -> Result<(), EngineError> {
    if found.name == name {
        return Ok(());
    }
    let what = format!("the relation that was {name} is called {} now", found.name);
    Err(EngineError::RowsChanged { table: found.label.clone(), what })
}

/// A relation that changes its name, and how what is attached to it changes its own: (from, to).
struct Side<'a> {
    relation: &'a Relation,
    name: &'a str,
    rename: fn(&Named) -> (&str, &str),
}

fn to_retained(named: &Named) -> (&str, &str) {
    (&named.name, &named.retained)
}

fn from_retained(named: &Named) -> (&str, &str) {
    (&named.retained, &named.name)
}

fn to_shadow(named: &Named) -> (&str, &str) {
    (&named.name, &named.shadow)
}

fn from_shadow(named: &Named) -> (&str, &str) {
    (&named.shadow, &named.name)
}

/// As the owner: one side leaves its names, the other takes them, and the sequences go on where they are.
async fn exchange(
    connection: &mut PgConnection,
    leaving: &Side<'_>,
    coming: &Side<'_>,
    objects: &[Named],
) -> Result<(), EngineError> {
    let label = &leaving.relation.label;
    let doing = || format!("swapping {label}");
    let rows = sqlx::query(SERIALS).bind(leaving.relation.oid).fetch_all(&mut *connection).await.doing(doing)?;
    for side in [leaving, coming] {
        let sql = format!("ALTER TABLE {} RENAME TO {}", side.relation.sql(), quote(side.name));
        execute(connection, &sql, doing).await?;
        for named in objects {
            let (from, to) = (side.rename)(named);
            let word = match named.kind {
                Kind::Index => "INDEX",
                Kind::Sequence => "SEQUENCE",
                Kind::Statistics => "STATISTICS",
            };
            let sql = format!("ALTER {word} {}.{} RENAME TO {}", quote(&named.schema), quote(from), quote(to));
            execute(connection, &sql, doing).await?;
        }
    }
    for named in objects.iter().filter(|named| named.kind == Kind::Sequence) {
        let (_, left) = (leaving.rename)(named);
        go_on(connection, named, left, label).await?;
    }
    for row in &rows {
        let read = || Ok((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?));
        let (schema, sequence, column) = read().doing(doing)?;
        let sql = format!(
            "ALTER SEQUENCE {}.{} OWNED BY {}.{}.{}",
            quote(&schema),
            quote(&sequence),
            quote(&coming.relation.schema),
            quote(coming.name),
            quote(&column)
        );
        execute(connection, &sql, doing).await?;
    }
    Ok(())
}

/// An identity's sequence goes on where the other stands, so that no number is given out twice. Setting a sequence is
/// not taken back with its transaction; the one that is set is not in use until that commits, or is what it was.
async fn go_on(connection: &mut PgConnection, named: &Named, left: &str, label: &str) -> Result<(), EngineError> {
    let doing = || format!("setting the sequence {} of {label}", named.name);
    let (live, other) = (
        format!("{}.{}", quote(&named.schema), quote(&named.name)),
        format!("{}.{}", quote(&named.schema), quote(left)),
    );
    // Reviewed: quoted names, and a literal of one.
    let sql = format!(
        "SELECT setval({}::regclass, o.last_value, o.is_called) FROM {other} o, {live} l
         WHERE (o.last_value, o.is_called) IS DISTINCT FROM (l.last_value, l.is_called)",
        literal(&live)
    );
    execute(connection, &sql, doing).await
}
