//! PostgreSQL 14 and later: connecting with the settings that the work needs, and what the session answers.

mod bench;
mod catalog;
mod history;
mod idle;
mod layout;
mod ledger;
mod load;
mod login;
mod look;
mod mend;
mod names;
mod place;
mod replication;
mod role;
mod rows;
mod scan;
mod settings;
mod shadow;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use login::libpq_fields;
pub use names::role_names;
pub(crate) use place::PostgresPlace;

use async_trait::async_trait;
use fail_points::point;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, RotationId, ShardId};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Row as _};

use self::idle::Idle;
use self::layout::Layout;
use super::found::Seen;
use super::scratch::{Scratch, ScratchNames};
use super::{Chunk, Dialect, Fields, PageLimit, Scan, Session, Turn, Use, Written};
use crate::dialect::durable;
use crate::error::Doing;
use crate::history::{LedgerRotation, NoteKind};
use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::pace::Lag;
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, Space};
use crate::sink::PageSink;
use crate::table::{Change, KeyRange, Row, Table};
use crate::targets::Exclude;
use crate::{DatabaseConfig, EngineError, Targets};

/// Agents that may write at once. Beyond this, on the hardware of a vault, they wait for the same log and disk.
const WRITERS_MAX: u32 = 8;

/// How long a connection may take to come about before the database counts as unreachable.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// The names by which our sessions are told from all others; the client's name follows.
const APPLICATION_PREFIX: &str = "keyturn-agent/";

/// PostgreSQL cuts application names here.
const APPLICATION_NAME_BYTES_MAX: usize = 63;

/// What every session needs, whatever the role's or the server's defaults are:
/// names resolve to the catalog alone; a policy that would hide rows is an error instead; a commit is durable;
/// each statement sees what is committed; nobody waits for ever for a lock, and a worker that is stopped inside a
/// transaction is ended by the server, but not one that waits for the next page; text forms of keys and the names of
/// types read back exactly; pages and batches come from the key's index, as the planner would otherwise read whole
/// tables for a batch of a small one. What it needs for that is switched on and not only the rest off: defaults of the
/// database or the role may have it off. A bitmap would have to be sorted again, so it stays off.
const SETTINGS: &str = "
    SET quote_all_identifiers = off;
    SET search_path = pg_catalog, pg_temp;
    SET row_security = off;
    SET synchronous_commit = on;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off;
    SET default_transaction_deferrable = off;
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '15s';
    SET statement_timeout = 0;
    SET idle_session_timeout = 0;
    SET \"DateStyle\" = 'ISO, YMD';
    SET \"TimeZone\" = 'UTC';
    SET bytea_output = 'hex';
    SET enable_indexscan = on;
    SET enable_indexonlyscan = on;
    SET enable_nestloop = on;
    SET enable_partition_pruning = on;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_sort = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET plan_cache_mode = auto;
    SET jit = off;
";

/// What the sessions of one engine share.
#[derive(Debug)]
struct Shared {
    application_role: Option<String>,
    allowed_session_users: Vec<String>,
    sessions_wait: Duration,
}

pub(crate) struct Postgres {
    options: PgConnectOptions,
    shared: Arc<Shared>,
    idle: Arc<Idle>,
}

impl Postgres {
    pub(crate) fn new(options: PgConnectOptions, config: &DatabaseConfig) -> Self {
        let mut name = format!("{APPLICATION_PREFIX}{}", config.client_name);
        while name.len() > APPLICATION_NAME_BYTES_MAX {
            name.pop();
        }
        let shared = Shared {
            application_role: config.application_role.clone(),
            allowed_session_users: config.allowed_session_users.clone(),
            sessions_wait: config.sessions_wait,
        };
        Self { options: options.application_name(&name), shared: Arc::new(shared), idle: Arc::default() }
    }
}

/// One connection.
struct PostgresSession {
    connection: PgConnection,
    shared: Arc<Shared>,
    idle: Arc<Idle>,
    /// Whether triggers and rules of the user are off; setting that takes a right of its own.
    triggers_off: bool,
    /// How rows of a table travel, by its SQL name, once a copy of it was filled in this session.
    layouts: HashMap<String, Arc<Layout>>,
}

impl PostgresSession {
    async fn layout(&mut self, table: &Table) -> Result<Arc<Layout>, EngineError> {
        if let Some(layout) = self.layouts.get(&table.from) {
            return Ok(Arc::clone(layout));
        }
        let layout = Arc::new(Layout::of(&mut self.connection, table).await?);
        self.layouts.insert(table.from.clone(), Arc::clone(&layout));
        Ok(layout)
    }
}

#[async_trait]
impl Dialect for Postgres {
    fn kind(&self) -> DatabaseKind {
        DatabaseKind::Postgres
    }

    fn writers_max(&self) -> u32 {
        WRITERS_MAX
    }

    fn page_rows_max(&self, _table: &Table) -> usize {
        // Batches travel as arrays, so their length is no matter of parameters.
        usize::MAX
    }

    fn auto_shadow(&self) -> Result<(), &'static str> {
        Ok(())
    }

    async fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        let (connection, triggers_off) = match self.idle.take().await {
            Some(left) => left,
            None => {
                let mut connection = connect(&self.options).await?;
                sqlx::raw_sql(SETTINGS)
                    .execute(&mut connection)
                    .await
                    .doing(|| "setting up a PostgreSQL session".to_owned())?;
                let triggers_off = turn_triggers_off(&mut connection).await?;
                (connection, triggers_off)
            }
        };
        let (shared, idle, layouts) = (Arc::clone(&self.shared), Arc::clone(&self.idle), HashMap::new());
        Ok(Box::new(PostgresSession { connection, shared, idle, triggers_off, layouts }))
    }

    async fn scratch(&self, names: ScratchNames) -> Result<Box<dyn Scratch>, EngineError> {
        Ok(Box::new(bench::PostgresScratch::open(&self.options, names).await?))
    }

    async fn see(&self) -> Result<Seen, EngineError> {
        look::see(&self.options).await
    }

    async fn missing(&self, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
        look::missing(&self.options, excludes).await
    }
}

/// A session in which a backslash within quotes is a backslash, whatever the defaults of database and role are.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, EngineError> {
    let doing = || "connecting to PostgreSQL".to_owned();
    let connecting = async {
        let mut connection = PgConnection::connect_with(options).await?;
        sqlx::raw_sql("SET standard_conforming_strings = on").execute(&mut connection).await?;
        Ok(connection)
    };
    match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
        Ok(connected) => connected.doing(doing),
        Err(_) => Err(EngineError::TimedOut { doing: doing(), seconds: CONNECT_TIME_MAX.as_secs() }),
    }
}

/// A literal that means the same whatever the session's settings are.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// Whether it is permitted. Without it, tables with triggers are refused and all others work.
async fn turn_triggers_off(connection: &mut PgConnection) -> Result<bool, EngineError> {
    match sqlx::raw_sql("SET session_replication_role = replica").execute(connection).await {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => Ok(false),
        Err(error) => Err(error).doing(|| "turning triggers off for the session".to_owned()),
    }
}

#[async_trait]
impl Session for PostgresSession {
    async fn identity(&mut self) -> Result<DatabaseIdentity, EngineError> {
        let row = sqlx::query(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()), d.oid::text
             FROM pg_database d WHERE d.datname = current_database()",
        )
        .fetch_one(&mut self.connection)
        .await
        .doing(|| "asking for the database's identity".to_owned())?;
        let read = || Ok(format!("{}/{}", row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        let identity = read().doing(|| "reading the database's identity".to_owned())?;
        Ok(DatabaseIdentity { kind: DatabaseKind::Postgres, identity })
    }

    async fn position(&mut self) -> Result<DatabasePosition, EngineError> {
        let identity = self.identity().await?;
        // The name of the present log file begins with the timeline in hexadecimal; the control file would say it
        // only after the next checkpoint. What is flushed is what a crash cannot take away.
        let row = sqlx::query(
            "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8,
                    (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8",
        )
        .fetch_one(&mut self.connection)
        .await
        .doing(|| "asking for the position of the database's history".to_owned())?;
        let read = || Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?));
        let (timeline, position) = read().doing(|| "reading the position of the database's history".to_owned())?;
        Ok(DatabasePosition {
            identity,
            timeline: u64::try_from(timeline).unwrap_or_default(),
            position: u64::try_from(position).unwrap_or_default(),
        })
    }

    async fn tables(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        catalog::tables(&mut self.connection, targets, Use::Turn, self.triggers_off).await
    }

    async fn tables_to_read(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        catalog::tables(&mut self.connection, targets, Use::Read, self.triggers_off).await
    }

    async fn check_rights(&mut self) -> Result<(), EngineError> {
        role::check_rights(&mut self.connection, &self.shared).await
    }

    async fn page(&mut self, scan: &Scan<'_>, limit: PageLimit) -> Result<Vec<Row>, EngineError> {
        if scan.fields != Fields::Registered {
            return Err(EngineError::Internal("whole rows of PostgreSQL come from scans".to_owned()));
        }
        rows::page(&mut self.connection, scan.table, scan.range, limit).await
    }

    async fn scan(&mut self, scan: &Scan<'_>, sink: &mut PageSink) -> Result<(), EngineError> {
        match scan.fields {
            Fields::All | Fields::AllAndVersion => {
                let layout = self.layout(scan.table).await?;
                scan::scan(&mut self.connection, scan, &layout, sink).await
            }
            Fields::Registered => scan::scan(&mut self.connection, scan, &Layout::of_key(scan.table), sink).await,
            // Nothing else is sent.
            Fields::Version => {
                let key = Table { columns: Vec::new(), ..scan.table.clone() };
                let scan = Scan { table: &key, ..*scan };
                scan::scan(&mut self.connection, &scan, &Layout::of_key(&key), sink).await
            }
        }
    }

    async fn row(&mut self, table: &Table, key: &Key) -> Result<Option<Row>, EngineError> {
        rows::row(&mut self.connection, table, key).await
    }

    async fn count(&mut self, table: &Table, range: &KeyRange) -> Result<u64, EngineError> {
        rows::count(&mut self.connection, table, range).await
    }

    async fn enter(&mut self, claim: &Claim) -> Result<ShardRecord, EngineError> {
        ledger::enter(&mut self.connection, claim).await
    }

    async fn record(
        &mut self,
        rotation: &RotationId,
        shard: ShardId,
        pass: Pass,
    ) -> Result<Option<ShardRecord>, EngineError> {
        ledger::record(&mut self.connection, rotation, shard, pass).await
    }

    async fn commit(&mut self, chunk: &Chunk<'_>) -> Result<Written, EngineError> {
        let layout = match chunk.into {
            Some(_) => Some(self.layout(chunk.table).await?),
            None => None,
        };
        durable::around(point!(CHUNK), ledger::commit(&mut self.connection, chunk, layout.as_deref())).await
    }

    async fn try_write(&mut self, table: &Table, key: &Key, turn: Turn<'_>) -> Result<bool, EngineError> {
        rows::try_write(&mut self.connection, table, key, turn).await
    }

    async fn fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        role::fence(&mut self.connection, &self.shared, mark).await
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        role::turn_back(&mut self.connection, &self.shared, mark).await
    }

    async fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        shadow::let_go(&mut self.connection, mark).await?;
        role::lift_fence(&mut self.connection, mark).await
    }

    async fn was_let_in(&mut self, rotation: &RotationId) -> Result<bool, EngineError> {
        ledger::was_let_in(&mut self.connection, rotation).await
    }

    async fn replication_lag(&mut self) -> Result<Option<Lag>, EngineError> {
        Ok(replication::lag(&mut self.connection).await?.map(Lag::Bytes))
    }

    async fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        role::close(&mut self.connection, mark).await
    }

    async fn history(&mut self) -> Result<Vec<LedgerRotation>, EngineError> {
        history::history(&mut self.connection).await
    }

    async fn note(&mut self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError> {
        history::note(&mut self.connection, rotation, kind, node).await
    }

    async fn hold_repairs(&mut self) -> Result<(), EngineError> {
        mend::hold(&mut self.connection).await
    }

    async fn mend(&mut self, table: &Table, changes: &[Change]) -> Result<Written, EngineError> {
        mend::mend(&mut self.connection, table, changes).await
    }

    async fn shadow_obstacle(&mut self, table: &Table) -> Result<Option<String>, EngineError> {
        shadow::obstacle(&mut self.connection, table, self.triggers_off).await
    }

    async fn space(&mut self, tables: &[Table]) -> Result<Space, EngineError> {
        shadow::space(&mut self.connection, tables).await
    }

    async fn shadow(&mut self, mark: &LedgerMark, table: &Table) -> Result<Shadow, EngineError> {
        shadow::shadow(&mut self.connection, mark, table).await
    }

    async fn shadows(&mut self, rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
        shadow::shadows(&mut self.connection, rotation).await
    }

    async fn build_steps(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<Vec<BuildStep>, EngineError> {
        shadow::build_steps(&mut self.connection, mark, &pair.original).await
    }

    async fn build(&mut self, mark: &LedgerMark, pair: &Pair, step: &BuildStep) -> Result<(), EngineError> {
        shadow::build(&mut self.connection, mark, &pair.original, step).await
    }

    async fn built(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
        shadow::built(&mut self.connection, mark, &pair.original).await
    }

    async fn hold_for_swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<HeldReaders, EngineError> {
        shadow::hold(&mut self.connection, mark, pairs).await
    }

    async fn swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<(), EngineError> {
        shadow::swap(&mut self.connection, mark, pairs).await
    }

    async fn swap_back(&mut self, mark: &LedgerMark, back: &[Pair], kept: &[Pair]) -> Result<(), EngineError> {
        shadow::swap_back(&mut self.connection, mark, back, kept).await
    }

    async fn release(&mut self) -> Result<(), EngineError> {
        shadow::release(&mut self.connection).await
    }

    async fn drop_shadows(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        shadow::drop_shadows(&mut self.connection, mark).await
    }

    async fn retire(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        shadow::retire(&mut self.connection, rotation).await
    }

    async fn leave(self: Box<Self>) {
        self.idle.leave(self.connection, self.triggers_off);
    }

    async fn end(self: Box<Self>) {
        // A connection that does not close in an orderly way is closed by dropping it; the server notices either.
        let _ = self.connection.close().await;
    }
}
