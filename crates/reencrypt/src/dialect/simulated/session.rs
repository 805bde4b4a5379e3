//! One simulated connection: each call is a statement that travels, waits for what others hold, is done as a whole or not
//! at all, and is answered; any of which may fail.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, Epoch, RotationId, ShardId};
use tokio::time::{sleep, timeout};

use super::Line;
use super::data::Data;
use super::server::{Commit, Database, Hold, Server, lost};
use crate::dialect::{Chunk, PageLimit, Scan, Session, Turn, Written};
use crate::history::{LedgerRotation, NoteKind};
use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord, epoch_number};
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, ShadowState};
use crate::sink::{PageSink, scan_by_pages};
use crate::table::{KeyColumn, KeyKind, KeyRange, Row, Table, ValueColumn};
use crate::{EngineError, Targets};

/// How long a statement waits for a lock.
const LOCK_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a fence waits for sessions of the application to end by themselves.
const APPLICATION_TIME_MAX: Duration = Duration::from_secs(10);

/// How often it looks.
const APPLICATION_POLL: Duration = Duration::from_millis(100);

pub(super) struct SimulatedSession {
    database: Arc<Database>,
    line: Arc<dyn Line>,
    id: u64,
}

impl Drop for SimulatedSession {
    fn drop(&mut self) {
        self.database.disconnect(self.id);
    }
}

/// A transaction as it is told to the observer.
#[derive(Debug, Clone, Copy, Default)]
struct Told<'a> {
    claim: Option<&'a Claim>,
    mark: Option<&'a LedgerMark>,
    rows: usize,
    /// Its commit need not have reached the disk when it is answered.
    hasty: bool,
}

impl<'a> Told<'a> {
    fn of(mark: &'a LedgerMark) -> Self {
        Self { mark: Some(mark), ..Self::default() }
    }
}

impl SimulatedSession {
    pub(super) async fn open(database: Arc<Database>, line: Arc<dyn Line>) -> Result<Self, EngineError> {
        let doing = "connecting to the database";
        line.to_server(doing).await.map_err(|_| lost(doing))?;
        let id = database.connect(line.worker());
        let session = Self { database, line, id };
        session.answer(doing).await?;
        Ok(session)
    }

    /// The session is useless from here on.
    fn break_off(&self, doing: &str) -> EngineError {
        self.database.disconnect(self.id);
        lost(doing)
    }

    async fn ask(&self, doing: &str) -> Result<(), EngineError> {
        self.line.to_server(doing).await.map_err(|_| self.break_off(doing))?;
        if self.database.server().is_open(self.id) { Ok(()) } else { Err(lost(doing)) }
    }

    async fn answer(&self, doing: &str) -> Result<(), EngineError> {
        self.line.to_client(doing).await.map_err(|_| self.break_off(doing))
    }

    /// A statement that only reads.
    async fn read<T: Send>(
        &self,
        doing: &str,
        look: impl FnOnce(&mut Server) -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        self.ask(doing).await?;
        let found = look(&mut self.database.server());
        self.answer(doing).await?;
        found
    }

    async fn hold(&self, doing: &str, hold: Hold) -> Result<(), EngineError> {
        let acquired = async {
            loop {
                let changed = self.database.changed.notified();
                {
                    let mut server = self.database.server();
                    if !server.is_open(self.id) {
                        return Err(lost(doing));
                    }
                    if server.try_hold(self.id, hold) {
                        return Ok(());
                    }
                }
                changed.await;
            }
        };
        match timeout(LOCK_TIME_MAX, acquired).await {
            Ok(acquired) => acquired,
            Err(_) => Err(EngineError::TimedOut { doing: doing.to_owned(), seconds: LOCK_TIME_MAX.as_secs() }),
        }
    }

    fn let_go(&self) {
        self.database.server().let_go(self.id);
        self.database.changed.notify_waiters();
    }

    /// A transaction: takes its lock, is checked, waits for the word to commit, and commits, if the session still lives.
    async fn transaction<T: Send>(
        &self,
        doing: &str,
        hold: Hold,
        told: Told<'_>,
        work: impl Fn(&mut Data) -> Result<T, EngineError> + Send + Sync,
    ) -> Result<T, EngineError> {
        self.ask(doing).await?;
        self.hold(doing, hold).await?;
        let done = self.within(doing, told, work).await;
        self.let_go();
        let done = done?;
        self.answer(doing).await?;
        Ok(done)
    }

    /// What a transaction does while it holds its lock.
    async fn within<T: Send>(
        &self,
        doing: &str,
        told: Told<'_>,
        work: impl Fn(&mut Data) -> Result<T, EngineError> + Send + Sync,
    ) -> Result<T, EngineError> {
        // What it is refused for, it is refused for before it waits; what it depends on is locked from here on.
        let tried = work(&mut self.database.server().data.clone());
        if let Err(refused) = tried {
            self.answer(doing).await?;
            return Err(refused);
        }
        self.line.inside(doing).await.map_err(|_| self.break_off(doing))?;
        let (done, commit) = {
            let mut server = self.database.server();
            if !server.is_open(self.id) {
                return Err(lost(doing));
            }
            let mut data = server.data.clone();
            let done = work(&mut data)?;
            let mark = told.mark.or(told.claim.map(|claim| &claim.mark));
            let before = mark.and_then(|mark| server.data.headers.get(&mark.rotation));
            let epoch_before = before.map(|header| Epoch::new(u64::try_from(header.epoch).unwrap_or_default()));
            server.store(data, !told.hasty);
            let commit = Commit {
                worker: self.line.worker(),
                doing: doing.to_owned(),
                mark: mark.copied(),
                lease: told.claim.map(|claim| claim.lease),
                rows: told.rows,
                epoch_before,
            };
            (done, commit)
        };
        self.database.tell(&commit);
        Ok(done)
    }
}

#[async_trait]
impl Session for SimulatedSession {
    async fn identity(&mut self) -> Result<DatabaseIdentity, EngineError> {
        self.read("asking which database this is", |_| Ok(identity())).await
    }

    async fn position(&mut self) -> Result<DatabasePosition, EngineError> {
        self.read("asking for the position", |server| {
            server.flush();
            let (timeline, position) = server.place();
            Ok(DatabasePosition { identity: identity(), timeline: u64::from(timeline), position })
        })
        .await
    }

    async fn tables(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        let table = |server: &Server, target: &crate::TableTarget| {
            if !server.data.tables.contains_key(&target.name) {
                return Err(EngineError::Targets(vec![format!("table {} does not exist", target.label())]));
            }
            let key = |name: &String| KeyColumn {
                sql: name.clone(),
                kind: KeyKind::Integer,
                cast: String::new(),
                collation: None,
                descending: false,
            };
            let column = |column: &crate::ColumnTarget| ValueColumn {
                name: column.name.clone(),
                sql: column.name.clone(),
                encoding: column.encoding,
                aad: column.aad.clone(),
                text: true,
            };
            Ok(Table {
                label: target.label(),
                from: target.name.clone(),
                key: target.key.iter().map(key).collect(),
                columns: target.columns.iter().map(column).collect(),
                others: Vec::new(),
                triggers: Vec::new(),
                kept: Vec::new(),
                exact: Vec::new(),
            })
        };
        self.read("reading the catalogue", |server| {
            targets.tables().iter().map(|target| table(server, target)).collect()
        })
        .await
    }

    async fn check_rights(&mut self) -> Result<(), EngineError> {
        self.read("asking for rights", |_| Ok(())).await
    }

    async fn page(&mut self, scan: &Scan<'_>, limit: PageLimit) -> Result<Vec<Row>, EngineError> {
        self.read("reading a page", |server| {
            let mut rows = server.data.rows(&scan.table.from, scan.range)?;
            rows.truncate(limit.rows_max.clamp(1, super::PAGE_ROWS_MAX));
            if !scan.is_whole() {
                rows.iter_mut().for_each(|row| row.rest.clear());
            }
            Ok(rows)
        })
        .await
    }

    async fn scan(&mut self, scan: &Scan<'_>, sink: &mut PageSink) -> Result<(), EngineError> {
        scan_by_pages(self, scan, sink).await
    }

    async fn row(&mut self, table: &Table, key: &Key) -> Result<Option<Row>, EngineError> {
        self.read("reading a row", |server| {
            Ok(server.data.rows(&table.from, &KeyRange::default())?.into_iter().find(|row| row.key == *key))
        })
        .await
    }

    async fn count(&mut self, table: &Table, range: &KeyRange) -> Result<u64, EngineError> {
        self.read("counting rows", |server| Ok(server.data.rows(&table.from, range)?.len() as u64)).await
    }

    async fn enter(&mut self, claim: &Claim) -> Result<ShardRecord, EngineError> {
        let doing = "entering a shard in the ledger";
        self.ask(doing).await?;
        let hold = {
            let mut server = self.database.server();
            let header = server.data.known_header(&claim.mark.rotation)?;
            header.admit(&claim.mark)?;
            let raises = header.epoch < epoch_number(&claim.mark);
            let of_this = |(rotation, shard, pass): &(RotationId, ShardId, &'static str)| {
                *rotation == claim.mark.rotation && *shard == claim.shard && *pass == claim.pass.as_str()
            };
            let lease = crate::ledger::number(claim.lease.get());
            let earlier = server.data.shards.iter().filter(|(key, row)| {
                key.0 == claim.mark.rotation
                    && ((of_this(key) && row.stored.lease <= lease) || row.stored.epoch < epoch_number(&claim.mark))
            });
            let holders: Vec<u64> = earlier.map(|(_, row)| row.holder).collect();
            server.end_holders(holders, self.id);
            if raises { Hold::Alone } else { Hold::Shared }
        };
        self.database.changed.notify_waiters();
        let told = Told { claim: Some(claim), ..Told::default() };
        let session = self.id;
        self.hold(doing, hold).await?;
        let done = self.within(doing, told, |data| data.enter(claim, session)).await;
        self.let_go();
        let done = done?;
        self.answer(doing).await?;
        Ok(done)
    }

    async fn record(
        &mut self,
        rotation: &RotationId,
        shard: ShardId,
        pass: Pass,
    ) -> Result<Option<ShardRecord>, EngineError> {
        self.read("reading a shard in the ledger", |server| server.data.record(rotation, shard, pass)).await
    }

    async fn commit(&mut self, chunk: &Chunk<'_>) -> Result<Written, EngineError> {
        /// What is rolled back without being an error.
        const DIFFER: &str = "rows differ";
        let hasty = !chunk.after.done && chunk.after.cursor.is_some();
        let told = Told { claim: Some(chunk.claim), rows: chunk.changes.len(), hasty, mark: None };
        let session = self.id;
        let committed = self
            .transaction("committing a chunk", Hold::Shared, told, |data| match data.commit(chunk, session)? {
                Written::Committed => Ok(()),
                Written::RowsDiffer => Err(EngineError::Internal(DIFFER.to_owned())),
            })
            .await;
        match committed {
            Ok(()) => Ok(Written::Committed),
            Err(EngineError::Internal(what)) if what == DIFFER => Ok(Written::RowsDiffer),
            Err(error) => Err(error),
        }
    }

    async fn try_write(&mut self, table: &Table, key: &Key, turn: Turn<'_>) -> Result<bool, EngineError> {
        let row = self.row(table, key).await?;
        Ok(row.and_then(turn).is_some())
    }

    async fn fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let has_role = self.database.server().has_role;
        self.transaction("fencing the database", Hold::Alone, Told::of(mark), |data| data.fence(mark, has_role))
            .await?;
        let mut waited = Duration::ZERO;
        loop {
            let remain = self.read("looking for other sessions", |server| Ok(server.has_applications())).await?;
            if !remain {
                return Ok(());
            }
            if waited >= APPLICATION_TIME_MAX {
                return Err(EngineError::SessionsRemain(vec!["an instance is connected".to_owned()]));
            }
            sleep(APPLICATION_POLL).await;
            waited += APPLICATION_POLL;
        }
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let doing = "turning the ledger back";
        self.ask(doing).await?;
        {
            let mut server = self.database.server();
            if let Some(header) = server.data.headers.get(&mark.rotation) {
                header.admit_epoch(mark)?;
            }
            server.end_others(self.id);
        }
        self.database.changed.notify_waiters();
        self.transaction(doing, Hold::Alone, Told::of(mark), |data| data.turn_back(mark)).await?;
        self.read("ending the application's sessions", |server| {
            let remain = server.has_applications();
            let fenced = server.data.role_fenced;
            if remain && fenced { Err(EngineError::SessionsRemain(Vec::new())) } else { Ok(()) }
        })
        .await
    }

    async fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        self.transaction("lifting the fence", Hold::Alone, Told::of(mark), |data| data.lift_fence(mark)).await
    }

    async fn was_let_in(&mut self, rotation: &RotationId) -> Result<bool, EngineError> {
        self.read("reading the header", |server| {
            Ok(server.data.headers.get(rotation).is_some_and(|header| header.let_in))
        })
        .await
    }

    async fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        self.transaction("closing the ledger", Hold::Alone, Told::of(mark), |data| data.close(mark)).await
    }

    async fn history(&mut self) -> Result<Vec<LedgerRotation>, EngineError> {
        self.read("reading the ledger's rotations", |server| server.data.history()).await
    }

    async fn note(&mut self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError> {
        self.transaction("leaving a note in the ledger", Hold::Shared, Told::default(), |data| {
            data.note(rotation, kind, node)
        })
        .await
    }

    async fn shadow_obstacle(&mut self, _table: &Table) -> Result<Option<String>, EngineError> {
        self.read("looking for obstacles", |_| Ok(None)).await
    }

    async fn shadow(&mut self, mark: &LedgerMark, table: &Table) -> Result<Shadow, EngineError> {
        self.transaction("making a shadow", Hold::Shared, Told::of(mark), |data| data.shadow(mark, table)).await
    }

    async fn shadows(&mut self, rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
        self.read("reading the shadows in the ledger", |server| Ok(server.data.shadows_of(rotation))).await
    }

    async fn build_steps(&mut self, _mark: &LedgerMark, pair: &Pair) -> Result<Vec<BuildStep>, EngineError> {
        let step = BuildStep { stage: 0, what: format!("index of {}", pair.original.label), sql: String::new() };
        self.read("listing what is to be built", |_| Ok(vec![step])).await
    }

    async fn build(&mut self, mark: &LedgerMark, _pair: &Pair, _step: &BuildStep) -> Result<(), EngineError> {
        self.transaction("building an index", Hold::Shared, Told::of(mark), |data| {
            data.known_header(&mark.rotation)?.admit(mark)
        })
        .await
    }

    async fn built(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
        self.transaction("noting that a shadow is built", Hold::Shared, Told::of(mark), |data| data.built(mark, pair))
            .await
    }

    async fn hold_for_swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<HeldReaders, EngineError> {
        let doing = "holding tables for a swap";
        self.ask(doing).await?;
        {
            let mut server = self.database.server();
            server.data.known_header(&mark.rotation)?.admit(mark)?;
            server.end_others(self.id);
        }
        self.database.changed.notify_waiters();
        self.hold(doing, Hold::Alone).await?;
        debug_assert!(pairs.iter().all(|pair| pair.shadow.state != ShadowState::Retired), "they are gone");
        let held = self.database.server().data.clone().hold(mark);
        if let Err(error) = held {
            self.let_go();
            return Err(error);
        }
        self.answer(doing).await?;
        Ok(HeldReaders::Everybody)
    }

    async fn swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<(), EngineError> {
        self.transaction("swapping tables", Hold::Alone, Told::of(mark), |data| {
            data.hold(mark)?;
            data.swap(mark, pairs)
        })
        .await
    }

    async fn swap_back(&mut self, mark: &LedgerMark, back: &[Pair], kept: &[Pair]) -> Result<(), EngineError> {
        self.transaction("swapping tables back", Hold::Alone, Told::of(mark), |data| {
            data.hold(mark)?;
            data.swap_back(mark, back, kept)
        })
        .await
    }

    async fn release(&mut self) -> Result<(), EngineError> {
        self.let_go();
        self.read("releasing the tables", |_| Ok(())).await
    }

    async fn drop_shadows(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        self.transaction("dropping shadows", Hold::Alone, Told::of(mark), |data| data.drop_shadows(mark)).await
    }

    async fn retire(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        self.transaction("dropping retained tables", Hold::Alone, Told::default(), |data| data.retire(rotation)).await
    }

    async fn end(self: Box<Self>) {}
}

fn identity() -> DatabaseIdentity {
    DatabaseIdentity { kind: DatabaseKind::Postgres, identity: "simulated".to_owned() }
}
