//! The swap in MariaDB: one RENAME of all tables, which is atomic and survives a crash. RENAME is refused in a session that
//! holds tables, so a second session holds them; it lets go when the RENAME waits in front of everybody else.

use std::time::{Duration, Instant};

use fail_points::point;
use rotation::Direction;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::super::ledger::{self, Hold};
use super::super::{Shared, connect, quote, sessions};
use super::{must_go, name_of, same, state};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::{HeldReaders, Pair, ShadowState};

/// How often it is looked whether the RENAME waits.
const WAIT_POLL: Duration = Duration::from_millis(10);

/// How long it may take to. The RENAME itself gives up a moment later.
const WAIT_TIME_MAX: Duration = Duration::from_secs(4);

/// Raises the header, and opens the session that keeps everybody from writing to originals, copies, header and shards.
pub(in super::super) async fn hold(
    connection: &mut MySqlConnection,
    shared: &Shared,
    mark: &LedgerMark,
    pairs: &[Pair],
) -> Result<(MySqlConnection, HeldReaders), EngineError> {
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

    let (mut guard, _) = connect(&shared.options).await?;
    let mut names = vec!["keyturn_rotation".to_owned(), "keyturn_shard".to_owned()];
    for pair in pairs {
        let is_swapped = pair.shadow.state == ShadowState::Swapped;
        names.push(name_of(&pair.original));
        names.push(if is_swapped { pair.shadow.retained_name.clone() } else { pair.shadow.name.clone() });
    }
    let locks: Vec<String> = names.iter().map(|name| format!("{} READ", quote(name))).collect();
    run(&mut guard, format!("LOCK TABLES {}", locks.join(", ")), doing).await?;
    // From here on it stays what it is.
    admit(connection, mark).await?;
    Ok((guard, HeldReaders::Everybody))
}

async fn admit(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let header = ledger::header(connection, &mark.rotation, Hold::Glance).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)
}

pub(in super::super) async fn swap(
    connection: &mut MySqlConnection,
    guard: MySqlConnection,
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
    guard: MySqlConnection,
    mark: &LedgerMark,
    back: &[Pair],
    kept: &[Pair],
) -> Result<(), EngineError> {
    must_go(mark, Direction::Back)?;
    // First: they are not asked about again, whatever becomes of the others.
    note(connection, mark, kept, ShadowState::Kept).await?;
    let mut renames = Vec::new();
    for Pair { original, shadow } in back {
        let name = quote(&name_of(original));
        renames.push(format!("{name} TO {}", quote(&shadow.name)));
        renames.push(format!("{} TO {name}", quote(&shadow.retained_name)));
    }
    durable::around(point!(TABLES_SWAPPED_BACK), rename(connection, guard, &renames)).await?;
    note(connection, mark, back, ShadowState::Dropping).await
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

/// Renames, from under the hold of another session: a RENAME that waits comes before whoever wants to write, also
/// before those that have waited for longer.
async fn rename(
    connection: &mut MySqlConnection,
    mut guard: MySqlConnection,
    renames: &[String],
) -> Result<(), EngineError> {
    let doing = || "swapping tables".to_owned();
    if !renames.is_empty() {
        let session: i64 = sqlx::raw_sql("SELECT CAST(CONNECTION_ID() AS SIGNED)")
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(doing)?;
        let renaming = run(connection, format!("RENAME TABLE {}", renames.join(", ")), doing);
        let letting_go = async {
            let began = Instant::now();
            while !waits(&mut guard, session).await? {
                if began.elapsed() >= WAIT_TIME_MAX {
                    return Err(EngineError::TimedOut { doing: doing(), seconds: WAIT_TIME_MAX.as_secs() });
                }
                tokio::time::sleep(WAIT_POLL).await;
            }
            run(&mut guard, "UNLOCK TABLES".to_owned(), doing).await
        };
        tokio::try_join!(renaming, letting_go)?;
    }
    release(guard).await
}

/// Whether this session waits for a table that somebody holds.
async fn waits(guard: &mut MySqlConnection, session: i64) -> Result<bool, EngineError> {
    // Reviewed: a number.
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST
         WHERE ID = {session} AND STATE LIKE 'Waiting for table metadata lock%'"
    );
    let count: i64 = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(guard)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking whether the tables can be swapped".to_owned())?;
    Ok(count > 0)
}

/// Lets go of what is held.
pub(in super::super) async fn release(guard: MySqlConnection) -> Result<(), EngineError> {
    guard.close().await.doing(|| "letting the tables go".to_owned())
}

async fn run(connection: &mut MySqlConnection, sql: String, doing: impl FnOnce() -> String) -> Result<(), EngineError> {
    // Reviewed: quoted identifiers only.
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).doing(doing)
}
