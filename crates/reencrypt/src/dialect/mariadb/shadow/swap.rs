//! The swap in MariaDB: one RENAME of all tables, which is atomic and survives a crash. RENAME is refused in a session that
//! holds tables, so others hold them, and pass every table on to the RENAME only when it waits there in front of everybody.

use std::time::{Duration, Instant};

use fail_points::point;
use rotation::Direction;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::super::ledger::{self, Hold};
use super::super::{Shared, connect, quote, sessions};
use super::definition::Definition;
use super::{must_go, name_of, same, state};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::{Doing, mariadb_number};
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::{HeldReaders, Pair, ShadowState};

/// How often it is looked whether the RENAME waits.
const WAIT_POLL: Duration = Duration::from_millis(5);

/// How long it may take to come to the next table. The RENAME itself gives up a moment later.
const WAIT_TIME_MAX: Duration = Duration::from_secs(4);

/// Sessions that hold the application's tables, one each: none is let go before the RENAME waits for that very table. Where
/// there are more tables, some share a session, and of those that share one only the first is never free for a moment.
const HOLDERS_MAX: usize = 32;

/// The error of a lock that cannot be had at once.
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// The error of a table that there is not.
const NO_SUCH_TABLE: u16 = 1146;

/// The column of a table that gives out numbers.
const NUMBERED: &str = "
    SELECT COLUMN_NAME FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND EXTRA LIKE '%auto_increment%'";

/// The tables of the ledger that a worker of a shard writes before any row.
const LEDGER: [&str; 2] = ["keyturn_rotation", "keyturn_shard"];

/// Sessions that keep everybody from writing to originals, copies, header and shards.
pub(in super::super) struct Guard {
    /// Holds the tables of the ledger.
    ledger: MySqlConnection,
    /// In the order in which a RENAME comes to the tables that they hold.
    holders: Vec<Holder>,
    /// Holds nothing, and looks how far the RENAME has come.
    looker: MySqlConnection,
}

/// One of them.
struct Holder {
    connection: MySqlConnection,
    tables: Vec<String>,
}

/// Raises the header, and holds everything for reading.
pub(in super::super) async fn hold(
    connection: &mut MySqlConnection,
    shared: &Shared,
    mark: &LedgerMark,
    pairs: &[Pair],
) -> Result<(Guard, HeldReaders), EngineError> {
    let doing = || "holding the tables for the swap".to_owned();
    admit(connection, mark).await?;
    sessions::end_other_workers(connection).await?;
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(HEADER_RAISED), transaction).await.doing(doing)?;

    let mut tables = Vec::with_capacity(pairs.len() * 2);
    for pair in pairs {
        let is_swapped = pair.shadow.state == ShadowState::Swapped;
        let copy = if is_swapped { &pair.shadow.retained_name } else { &pair.shadow.name };
        tables.push((name_of(&pair.original), true));
        tables.push((copy.clone(), false));
    }
    let mut ledger = connect(&shared.options).await?.connection;
    lock(&mut ledger, &LEDGER.map(str::to_owned)).await?;
    let mut holders = Vec::new();
    for tables in shared_out(tables) {
        let mut connection = connect(&shared.options).await?.connection;
        lock(&mut connection, &tables).await?;
        holders.push(Holder { connection, tables });
    }
    let looker = connect(&shared.options).await?.connection;
    // From here on it stays what it is.
    admit(connection, mark).await?;
    Ok((Guard { ledger, holders, looker }, HeldReaders::Everybody))
}

/// Who holds what: names with whether the application writes to them. A RENAME comes to tables by the bytes of their names;
/// that is not relied upon, since a table is let go only when somebody waits for it alone. Copies that follow each other
/// have one holder, for nobody but a worker writes to them, and the ledger keeps all of those out.
fn shared_out(mut tables: Vec<(String, bool)>) -> Vec<Vec<String>> {
    tables.sort_unstable();
    let originals = tables.iter().filter(|(_, is_original)| *is_original).count();
    let each_max = originals.div_ceil(HOLDERS_MAX).max(1);
    let mut shares: Vec<Vec<(String, bool)>> = Vec::new();
    for (name, is_original) in tables {
        let joins = |share: &&mut Vec<(String, bool)>| {
            share.iter().all(|(_, other)| *other == is_original) && (!is_original || share.len() < each_max)
        };
        match shares.last_mut().filter(joins) {
            Some(share) => share.push((name, is_original)),
            None => shares.push(vec![(name, is_original)]),
        }
    }
    shares.into_iter().map(|share| share.into_iter().map(|(name, _)| name).collect()).collect()
}

async fn admit(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let header = ledger::header(connection, &mark.rotation, Hold::Glance).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)
}

pub(in super::super) async fn swap(
    connection: &mut MySqlConnection,
    guard: Guard,
    mark: &LedgerMark,
    pairs: &[Pair],
) -> Result<(), EngineError> {
    must_go(mark, Direction::Forward)?;
    let mut renames = Vec::new();
    for pair in pairs {
        // Under the hold nobody changes either definition any more.
        same(connection, pair).await?;
        let Pair { original, shadow } = pair;
        let name = quote(&name_of(original));
        renames.push(format!("{name} TO {}", quote(&shadow.retained_name)));
        renames.push(format!("{} TO {name}", quote(&shadow.name)));
    }
    durable::around(point!(TABLES_SWAPPED), rename(connection, guard, &renames)).await?;
    note(connection, mark, pairs, ShadowState::Swapped).await
}

pub(in super::super) async fn swap_back(
    connection: &mut MySqlConnection,
    guard: Guard,
    mark: &LedgerMark,
    back: &[Pair],
    kept: &[Pair],
) -> Result<(), EngineError> {
    must_go(mark, Direction::Back)?;
    let (mut as_swapped, mut kept) = (Vec::new(), kept.to_vec());
    for pair in back {
        match altered(connection, pair).await? {
            None => as_swapped.push(pair.clone()),
            Some(difference) => {
                let table = pair.original.label.as_str();
                tracing::warn!(table, difference, "it was altered since it was swapped in; it goes back in place");
                kept.push(pair.clone());
            }
        }
    }
    let back = as_swapped;
    // First: they are not asked about again, whatever becomes of the others.
    note(connection, mark, &kept, ShadowState::Kept).await?;
    let mut renames = Vec::new();
    for Pair { original, shadow } in &back {
        let name = quote(&name_of(original));
        renames.push(format!("{name} TO {}", quote(&shadow.name)));
        renames.push(format!("{} TO {name}", quote(&shadow.retained_name)));
    }
    let mut guard = guard;
    // What stays where it is stands in no RENAME's way, so nothing would wait for it.
    let moves = |table: &String| {
        back.iter().any(|Pair { original, shadow }| *table == name_of(original) || *table == shadow.retained_name)
    };
    guard.holders.iter_mut().for_each(|holder| holder.tables.retain(moves));
    guard.holders.retain(|holder| !holder.tables.is_empty());
    durable::around(point!(TABLES_SWAPPED_BACK), rename(connection, guard, &renames)).await?;
    note(connection, mark, &back, ShadowState::Dropping).await
}

/// What the copy has become that the original, which is retained, is not.
async fn altered(connection: &mut MySqlConnection, pair: &Pair) -> Result<Option<String>, EngineError> {
    let retained = Definition::of(connection, &pair.shadow.retained_name).await?;
    let name = name_of(&pair.original);
    let copy = Definition::of(connection, &name).await?;
    if let Some(difference) = retained.difference(&copy) {
        return Ok(Some(difference));
    }
    // A copy may have been ahead when it was swapped in, but by no more than its own rows account for.
    if copy.next_number > retained.next_number && copy.next_number > number_after_rows(connection, &name).await? {
        let (now, then) = (copy.next_number, retained.next_number);
        return Ok(Some(format!("its next number was {then}, and has become {now}, which no row accounts for")));
    }
    Ok(None)
}

/// The next number that a table has from its rows alone, at the most.
async fn number_after_rows(connection: &mut MySqlConnection, name: &str) -> Result<u64, EngineError> {
    let doing = || format!("looking for the next number of {name}");
    let column: Option<String> =
        sqlx::query(NUMBERED).bind(name).fetch_optional(&mut *connection).await.and_then(first).doing(doing)?;
    let Some(column) = column else { return Ok(1) };
    // Reviewed: quoted identifiers only. A number below zero counts for nothing.
    let sql = format!(
        "SELECT CAST(GREATEST(COALESCE(MAX({}), 0), 0) AS UNSIGNED) + @@auto_increment_increment FROM {}",
        quote(&column),
        quote(name)
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await.and_then(|row| row.try_get_unchecked(0)).doing(doing)
}

fn first(row: Option<MySqlRow>) -> Result<Option<String>, sqlx::Error> {
    row.map(|row| row.try_get(0)).transpose()
}

async fn note(
    connection: &mut MySqlConnection,
    mark: &LedgerMark,
    pairs: &[Pair],
    state: ShadowState,
) -> Result<(), EngineError> {
    for pair in pairs {
        state::set(connection, &mark.rotation, &pair.shadow.label, state).await?;
    }
    Ok(())
}

/// Renames, from under the hold of the others. At every moment each table is held against writers, or is the RENAME's,
/// which keeps everybody from it.
async fn rename(connection: &mut MySqlConnection, mut guard: Guard, renames: &[String]) -> Result<(), EngineError> {
    let doing = || "swapping tables".to_owned();
    if renames.is_empty() {
        return release(guard).await;
    }
    let session: i64 = sqlx::raw_sql("SELECT CAST(CONNECTION_ID() AS SIGNED)")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    let swapped = {
        let renaming = run(connection, format!("RENAME TABLE {}", renames.join(", ")), doing);
        let passing_on = pass_on(&mut guard, session);
        tokio::try_join!(renaming, passing_on)
    };
    if let Err(error) = swapped {
        // It must not come through when what is held is let go.
        if let Err(error) = sessions::end(&mut guard.looker, &[session]).await {
            tracing::warn!(%error, "the session of a RENAME that failed could not be ended");
        }
        return Err(error);
    }
    release(guard).await
}

/// Lets one table after the other go to the RENAME. A lock for writing that waits comes before whoever wants to write,
/// also before those that have waited for longer; that the RENAME waits for a table shows in that nobody gets to it
/// any more, not even to read, whom those who want to write would not keep out.
async fn pass_on(guard: &mut Guard, session: i64) -> Result<(), EngineError> {
    let doing = || "passing the held tables on".to_owned();
    let Guard { holders, looker, .. } = guard;
    for Holder { connection, tables } in holders {
        let Some(first) = tables.first() else { continue };
        let began = Instant::now();
        while !is_wanted(looker, first).await? || !waits(looker, session).await? {
            if began.elapsed() >= WAIT_TIME_MAX {
                return Err(EngineError::TimedOut { doing: doing(), seconds: WAIT_TIME_MAX.as_secs() });
            }
            tokio::time::sleep(WAIT_POLL).await;
        }
        run(connection, "UNLOCK TABLES".to_owned(), doing).await?;
    }
    Ok(())
}

/// Whether somebody waits for a table alone that is held for reading, so that no further reader is let in.
async fn is_wanted(connection: &mut MySqlConnection, table: &str) -> Result<bool, EngineError> {
    // Reviewed: a quoted identifier only.
    let sql = format!("SET STATEMENT lock_wait_timeout = 0 FOR SELECT 1 FROM {} LIMIT 0", quote(table));
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await {
        Ok(_) => Ok(false),
        Err(error) if mariadb_number(&error) == Some(LOCK_WAIT_TIMEOUT) => Ok(true),
        Err(error) => Err(error).doing(|| "looking whether the tables can be swapped".to_owned()),
    }
}

/// Whether this session waits for a table that somebody holds.
async fn waits(connection: &mut MySqlConnection, session: i64) -> Result<bool, EngineError> {
    // Reviewed: a number.
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST
         WHERE ID = {session} AND STATE LIKE 'Waiting for table metadata lock%'"
    );
    let count: i64 = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking whether the tables can be swapped".to_owned())?;
    Ok(count > 0)
}

/// Holds these tables for reading.
async fn lock(connection: &mut MySqlConnection, tables: &[String]) -> Result<(), EngineError> {
    let locks: Vec<String> = tables.iter().map(|name| format!("{} READ", quote(name))).collect();
    let doing = || "holding the tables for the swap".to_owned();
    // Reviewed: quoted identifiers only.
    match sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLES {}", locks.join(", ")))).execute(connection).await {
        Err(error) if mariadb_number(&error) == Some(NO_SUCH_TABLE) => Err(EngineError::Overtaken(doing())),
        other => other.map(drop).doing(doing),
    }
}

/// Lets go of what is held.
pub(in super::super) async fn release(guard: Guard) -> Result<(), EngineError> {
    let doing = || "letting the tables go".to_owned();
    for holder in guard.holders {
        holder.connection.close().await.doing(doing)?;
    }
    guard.looker.close().await.doing(doing)?;
    guard.ledger.close().await.doing(doing)
}

async fn run(connection: &mut MySqlConnection, sql: String, doing: impl FnOnce() -> String) -> Result<(), EngineError> {
    // Reviewed: quoted identifiers only.
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_of_the_applications_has_a_holder_of_its_own_as_long_as_there_are_enough() {
        let named = |name: &str, is_original| (name.to_owned(), is_original);
        let tables = vec![
            named("zoo", true),
            named("keyturn_1_new", false),
            named("entries", true),
            named("keyturn_0_new", false),
            named("Users", true),
        ];
        let shares = shared_out(tables);
        assert_eq!(shares, [&["Users"][..], &["entries"], &["keyturn_0_new", "keyturn_1_new"], &["zoo"]]);
        let many = (0..100).map(|number| named(&format!("t{number:03}"), true)).collect();
        let shares = shared_out(many);
        assert!(shares.len() <= HOLDERS_MAX && shares.concat().len() == 100, "{}", shares.len());
    }
}
