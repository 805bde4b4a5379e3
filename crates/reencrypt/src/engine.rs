//! The engine's door: one call for each piece of work that an agent is given on the database.

mod shadows;
mod shard;

use std::num::NonZeroU32;
use std::sync::Arc;

use keys::{KeySet, SecretKey};
use rotation::{
    DatabaseIdentity, DatabaseKind, DatabasePosition, Direction, LeaseNumber, RotationId, Shard, ShardId, ShardTally,
    Strategy, StrategyChoice, Survey, UndecryptableValue,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::census::{CensusRequest, CensusTaker, TableCensus};
use crate::config::{CONNECTIONS_MAX_DEFAULT, CONNECTIONS_MIN};
use crate::dialect::{self, Dialect, Session};
use crate::doctor::{Doctor, DoctorReport};
use crate::history::{LedgerRotation, NoteKind};
use crate::key::Key;
use crate::ledger::{LedgerMark, Pass};
use crate::pace::Limits;
use crate::scan::{self, ScanReport};
use crate::shadow::ShadowState;
use crate::sink::Rooms;
use crate::survey::Surveyor;
use crate::table::{KeyRange, Table};
use crate::transform::Accepted;
use crate::{DatabaseConfig, EngineError, Targets};

/// Told how many rows of the present work are done; a hint for people. Called often, so it must be quick.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// One shard to be worked on.
#[derive(Debug, Clone)]
pub struct ShardJob {
    /// With what right. Its direction says which way: `Back` turns rows from `new` to `old`.
    pub mark: LedgerMark,
    /// The shard.
    pub shard: Shard,
    /// Its lease.
    pub lease: LeaseNumber,
    /// The key of the farm before the rotation.
    pub old: SecretKey,
    /// The key of the farm after it.
    pub new: SecretKey,
    /// Values that may stay undecryptable.
    pub accepted: Vec<UndecryptableValue>,
    /// How the signed plan has the shard's table re-encrypted.
    pub strategy: Strategy,
    /// At most so many rows a second are written; no limit without.
    pub rows_per_second: Option<NonZeroU32>,
}

/// What a survey is to find out.
#[derive(Debug, Clone, Copy)]
pub struct SurveyRequest<'a> {
    /// The keys of the farm; every value should open with the active one.
    pub ring: &'a KeySet,
    /// Values that may stay undecryptable.
    pub accepted: &'a [UndecryptableValue],
    /// Into how many shards the work is to be split, about.
    pub shards_wanted: u32,
    /// How tables are to be re-encrypted.
    pub strategy: StrategyChoice,
    /// How many agents will share the work; for the forecast.
    pub agents: u32,
}

/// The swap of a rotation's shadows, or of their originals back.
#[derive(Debug, Clone)]
pub struct SwapJob {
    /// With what right.
    pub mark: LedgerMark,
    /// The key of the farm before the rotation.
    pub old: SecretKey,
    /// The key of the farm after it.
    pub new: SecretKey,
    /// Every shard of every table that goes by shadow in the signed plan.
    pub shards: Vec<Shard>,
}

/// Works on one database. Holds no connection for longer than a moment after a shard, so that an idle agent is nobody's
/// foreign session.
/// Every call may be dropped at any time: what was not committed is not done.
pub struct Engine {
    dialect: Arc<dyn Dialect>,
    targets: Targets,
    connections: Semaphore,
    limits: Limits,
    rooms: Rooms,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("kind", &self.dialect.kind()).field("targets", &self.targets).finish()
    }
}

impl Engine {
    /// Reads the configuration. Opens nothing yet; a database that is down is found out by the first call.
    #[expect(clippy::unused_async, reason = "callers should not notice when a later dialect has something to await")]
    pub async fn connect(config: &DatabaseConfig, targets: Targets) -> Result<Self, EngineError> {
        if config.connections_max < CONNECTIONS_MIN {
            let problem = format!("connections_max is {}, and a shard needs {CONNECTIONS_MIN}", config.connections_max);
            return Err(EngineError::Configuration(problem));
        }
        let connections = Semaphore::new(config.connections_max as usize);
        let limits = Limits {
            rows_per_second: None,
            lag_bytes_max: config.replication_lag_bytes_max,
            lag_seconds_max: config.replication_lag_seconds_max,
            lagging_rows_per_second_min: config.lagging_rows_per_second_min,
        };
        Ok(Self { dialect: dialect::of(config)?.into(), targets, connections, limits, rooms: Rooms::new() })
    }

    /// Another engine on the same database.
    pub(crate) fn on(dialect: Arc<dyn Dialect>, targets: Targets) -> Self {
        // For measuring: no standby slows it down.
        let limits = Limits {
            rows_per_second: None,
            lag_bytes_max: u64::MAX,
            lag_seconds_max: u64::MAX,
            lagging_rows_per_second_min: NonZeroU32::MIN,
        };
        Self {
            dialect,
            targets,
            connections: Semaphore::new(CONNECTIONS_MAX_DEFAULT as usize),
            limits,
            rooms: Rooms::new(),
        }
    }

    /// An engine on a simulated database, over this line.
    #[cfg(feature = "simulation")]
    pub fn simulated(
        database: Arc<dialect::simulated::Database>,
        line: Arc<dyn dialect::simulated::Line>,
        targets: Targets,
    ) -> Self {
        Self::on(Arc::new(dialect::simulated::Simulated::new(database, line)), targets)
    }

    /// Which system it is.
    pub fn kind(&self) -> DatabaseKind {
        self.dialect.kind()
    }

    /// How many agents may write at once.
    pub(crate) fn writers_max(&self) -> u32 {
        self.dialect.writers_max()
    }

    /// What is registered.
    pub const fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Which database it is.
    pub async fn identity(&self) -> Result<DatabaseIdentity, EngineError> {
        let mut session = self.open().await?;
        let identity = session.session.identity().await?;
        session.end().await;
        Ok(identity)
    }

    /// Checks that every registered table and column exists and can be worked on, and that the agent's role may do
    /// what it will have to. Names every problem at once; changes nothing.
    pub async fn check_targets(&self) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.tables(&self.targets).await?;
        session.session.check_rights().await?;
        session.end().await;
        Ok(())
    }

    /// Checks that backups of this database are made and proved at all: of MySQL none are.
    pub async fn check_backups(&self) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.check_backups().await?;
        session.end().await;
        Ok(())
    }

    /// Checks that this login sees everything of the database, for a backup that is made with it. Names every problem at once.
    pub async fn check_backup_rights(&self) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.check_backup_rights().await?;
        session.end().await;
        Ok(())
    }

    /// Looks through the whole database, as far as the role may read it, for values of devolutions-crypto, registered or
    /// not. Reads everything once, and lets the database count; changes nothing.
    pub async fn scan(&self, progress: Progress<'_>) -> Result<ScanReport, EngineError> {
        let _permit = self.permits(1).await?;
        scan::scan(self.dialect.as_ref(), &self.targets, progress).await
    }

    /// Reads every registered value, and says under which key of the ring it is. With `repair`, values under an older key
    /// are turned to the active one, each only if it still holds what was read, and everything is read again; refused
    /// while a rotation is under way. Nothing else of a row is touched. Without it the right to read is enough.
    /// `accepted` are values that may open under none, as a plan takes them.
    pub async fn doctor(
        &self,
        ring: &KeySet,
        accepted: &[UndecryptableValue],
        repair: bool,
        progress: Progress<'_>,
    ) -> Result<DoctorReport, EngineError> {
        let mut session = self.open().await?;
        let tables = match repair {
            true => session.session.tables(&self.targets).await?,
            false => session.session.tables_to_read(&self.targets).await?,
        };
        scan::check_excludes(self.dialect.as_ref(), &self.targets).await?;
        let page_rows_max = |table: &Table| self.dialect.page_rows_max(table);
        let doctor = Doctor { tables: &tables, ring, accepted: Accepted::new(accepted), page_rows_max: &page_rows_max };
        let findings = doctor.run(session.session.as_mut(), repair, progress).await?;
        session.end().await;
        Ok(findings.report(self.dialect.kind().to_string(), ring.active().secret.id()))
    }

    /// Reads every registered value with the current key while the farm serves. Counts, names what does not open,
    /// sets the bounds of the shards, chooses each table's strategy and forecasts the time offline. Changes nothing.
    ///
    /// Refuses ([`EngineError::Unregistered`]) while any column that the role may read holds ciphertexts and is neither
    /// registered nor excluded.
    pub async fn survey(&self, request: &SurveyRequest<'_>, progress: Progress<'_>) -> Result<Survey, EngineError> {
        let _permit = self.permits(CONNECTIONS_MIN).await?;
        let mut reader = self.dialect.open().await?;
        let mut trier = self.dialect.open().await?;
        let tables = reader.tables(&self.targets).await?;
        reader.check_rights().await?;
        let unseen = scan::check(self.dialect.as_ref(), &self.targets, progress).await?;
        let surveyor = Surveyor {
            tables: &tables,
            ring: request.ring,
            accepted: Accepted::new(request.accepted),
            shards_wanted: request.shards_wanted,
            choice: request.strategy,
            agents: request.agents,
            dialect: &self.dialect,
            rooms: &self.rooms,
            unseen,
        };
        let survey = surveyor.survey(reader.as_mut(), trier.as_mut(), progress).await?;
        reader.end().await;
        trier.end().await;
        Ok(survey)
    }

    /// Writes the ledger's header, fences the application, proves that nobody else is left in the database, and
    /// counts the rows of every table. The tables are checked again first: the farm served since Preflight.
    pub async fn fence(&self, mark: &LedgerMark) -> Result<Vec<(String, u64)>, EngineError> {
        let mut session = self.open().await?;
        let tables = session.session.tables(&self.targets).await?;
        session.session.fence(mark).await?;
        let mut rows = Vec::with_capacity(tables.len());
        for table in &tables {
            rows.push((table.label.clone(), session.session.count(table, &KeyRange::default()).await?));
        }
        session.end().await;
        Ok(rows)
    }

    /// Turns the rows of a shard from the old key to the new, or back. Asked again after a crash, under the same
    /// lease or a later one, it goes on after the last chunk that was committed.
    ///
    /// Going back, only the rows that had been turned are read, their digest must be the one they had then, and
    /// the tally counts all rows of the shard. Once the application had been let in with the new key, every row is read,
    /// what it wrote is turned too, and the tally is what was found.
    ///
    /// A table that goes by shadow is copied instead, its values turned on the way; going back, it is left alone unless
    /// its shadow had to stay.
    pub async fn reencrypt(&self, job: &ShardJob, progress: Progress<'_>) -> Result<ShardTally, EngineError> {
        match job.mark.direction {
            Direction::Forward => shard::reencrypt(self, job, progress).await,
            Direction::Back => shard::restore(self, job, progress).await,
        }
    }

    /// Reads the rows of a shard and opens every value: under the new key, or under the old one when going back. Of a
    /// table that goes by shadow the shadow is read until it is swapped in; going back, always the table that is live.
    pub async fn verify(&self, job: &ShardJob, progress: Progress<'_>) -> Result<ShardTally, EngineError> {
        match job.mark.direction {
            Direction::Forward => shard::verify(self, job, progress).await,
            Direction::Back => shard::verify_restored(self, job, progress).await,
        }
    }

    /// Where the database's history stands, with everything so far durable.
    pub async fn position(&self) -> Result<DatabasePosition, EngineError> {
        let mut session = self.open().await?;
        let position = session.session.position().await?;
        session.end().await;
        Ok(position)
    }

    /// Checks that the database is the one of this position, and has lost nothing since.
    pub async fn check_position(&self, position: &DatabasePosition) -> Result<(), EngineError> {
        match self.position().await?.loss_since(position) {
            Some(loss) => Err(EngineError::Position(loss)),
            None => Ok(()),
        }
    }

    /// Before anything else of an undo: ends the sessions of other workers, turns the ledger back under this epoch,
    /// so that no late worker changes anything, and fences the application again if it had been let in.
    pub async fn turn_back(&self, mark: &LedgerMark) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.turn_back(mark).await?;
        session.end().await;
        Ok(())
    }

    /// Gives the application's role the attributes back that it had before it was fenced.
    pub async fn lift_fence(&self, mark: &LedgerMark) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.lift_fence(mark).await?;
        session.end().await;
        Ok(())
    }

    /// The first of these shards whose rows still need the new key: turned forward, as far as the ledger knows, and
    /// not verified back. For who is about to give that key up.
    pub async fn unrestored(
        &self,
        rotation: &RotationId,
        shards: impl IntoIterator<Item = ShardId> + Send,
    ) -> Result<Option<ShardId>, EngineError> {
        let mut session = self.open().await?;
        let mut found = None;
        let shards: Vec<ShardId> = shards.into_iter().collect();
        for shard in shards {
            let forward = match session.session.record(rotation, shard, Pass::Reencrypt).await {
                // There is no ledger at all, so no row was turned.
                Err(EngineError::LedgerMissing(_)) => None,
                found => found?,
            };
            if forward.is_some_and(|record| record.cursor.is_some()) {
                let back = session.session.record(rotation, shard, Pass::VerifyRestored).await?;
                if !back.is_some_and(|record| record.done) {
                    found = Some(shard);
                    break;
                }
            }
        }
        session.end().await;
        Ok(found)
    }

    /// The first of these shards that was not read back whole under the new key, as far as the ledger knows. For who is
    /// about to let the application in with that key.
    pub async fn unverified(
        &self,
        rotation: &RotationId,
        shards: impl IntoIterator<Item = ShardId> + Send,
    ) -> Result<Option<ShardId>, EngineError> {
        let mut session = self.open().await?;
        let mut found = None;
        let shards: Vec<ShardId> = shards.into_iter().collect();
        for shard in shards {
            let verified = session.session.record(rotation, shard, Pass::Verify).await?;
            if !verified.is_some_and(|record| record.done) {
                found = Some(shard);
                break;
            }
        }
        session.end().await;
        Ok(found)
    }

    /// Builds keys, indexes and constraints of every shadow of the rotation, several at once. What is built already is
    /// not built again; without shadows there is nothing to do. Progress is told in steps that are built, and while one
    /// takes long.
    pub async fn finish_shadows(&self, mark: &LedgerMark, progress: Progress<'_>) -> Result<(), EngineError> {
        shadows::finish(self, mark, progress).await
    }

    /// Puts the shadows into the places of their tables, all in one transaction, after it was seen under its lock that
    /// no original has changed since it was copied; else [`EngineError::RowsChanged`], and nothing is changed. Asked
    /// again, it finds that it is done.
    pub async fn swap(&self, job: &SwapJob, progress: Progress<'_>) -> Result<(), EngineError> {
        shadows::swap(self, job, progress).await
    }

    /// Puts the originals back that were swapped out. A table that the application has written to since it was verified
    /// stays, and the restore of its shards turns its rows back in place.
    pub async fn swap_back(&self, job: &SwapJob, progress: Progress<'_>) -> Result<(), EngineError> {
        shadows::swap_back(self, job, progress).await
    }

    /// Drops the original tables that a completed rotation retained. Dropped already is as good.
    pub async fn retire(&self, rotation: &RotationId) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.retire(rotation).await?;
        session.end().await;
        Ok(())
    }

    /// The first of these tables (those that go by shadow in the signed plan) whose shadow does not stand in its place,
    /// as far as the ledger knows. For who is about to let the application in with the new key.
    pub async fn unswapped(
        &self,
        rotation: &RotationId,
        tables: impl IntoIterator<Item = String> + Send,
    ) -> Result<Option<String>, EngineError> {
        let tables: Vec<String> = tables.into_iter().collect();
        let mut session = self.open().await?;
        let shadows = session.session.shadows(rotation).await?;
        session.end().await;
        let is_swapped = |label: &String| {
            shadows.iter().any(|shadow| {
                shadow.label == *label && matches!(shadow.state, ShadowState::Swapped | ShadowState::Retired)
            })
        };
        Ok(tables.into_iter().find(|label| !is_swapped(label)))
    }

    /// Why the first table that has a reason cannot go by shadow.
    pub(crate) async fn shadow_obstacle(&self) -> Result<Option<String>, EngineError> {
        let mut session = self.open().await?;
        let mut obstacle = None;
        for table in &session.session.tables(&self.targets).await? {
            obstacle = session.session.shadow_obstacle(table).await?;
            if obstacle.is_some() {
                break;
            }
        }
        session.end().await;
        Ok(obstacle)
    }

    /// Drops what was copied and never swapped in, without closing the ledger.
    pub(crate) async fn drop_shadows(&self, mark: &LedgerMark) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.drop_shadows(mark).await?;
        session.end().await;
        Ok(())
    }

    /// Closes the ledger of a rotation that has ended. Nothing enters under it any more. Going back, the shadows that are
    /// left are dropped; going forward, the retained originals stay until [`retire`](Self::retire).
    pub async fn close(&self, mark: &LedgerMark) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        if mark.direction == Direction::Back {
            session.session.drop_shadows(mark).await?;
        }
        match session.session.close(mark).await {
            // A database that lost the whole rotation never had a row of it turned.
            Err(EngineError::LedgerMissing(_)) if mark.direction == Direction::Back => {}
            closed => closed?,
        }
        session.end().await;
        Ok(())
    }

    /// Copies a SQLite database, as it is at one moment and while it is in use, into a file that is not there yet.
    pub async fn copy_into(&self, path: &std::path::Path) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.copy_into(path).await?;
        session.end().await;
        Ok(())
    }

    /// Sees that a SQLite file is whole, page by page and index by index. Other databases look after that themselves.
    pub async fn check_file(&self) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.check_file().await?;
        session.end().await;
        Ok(())
    }

    /// All rotations that the ledger remembers, oldest first, with how far each had come. Changes nothing.
    pub async fn history(&self) -> Result<Vec<LedgerRotation>, EngineError> {
        let mut session = self.open().await?;
        let history = session.session.history().await?;
        session.end().await;
        Ok(history)
    }

    /// Leaves a note about a node in the ledger. Noted already is as good. What only the way forward
    /// allows is [`EngineError::Superseded`] once the ledger was turned back or a recovery by hand has begun.
    pub async fn note(&self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError> {
        let mut session = self.open().await?;
        session.session.note(rotation, kind, node).await?;
        session.end().await;
        Ok(())
    }

    /// Tries the registered values with some keys and counts which opens what. Changes nothing; progress is told in rows.
    pub async fn census(
        &self,
        request: &CensusRequest<'_>,
        progress: Progress<'_>,
    ) -> Result<Vec<TableCensus>, EngineError> {
        let mut session = self.open().await?;
        let tables = session.session.tables(&self.targets).await?;
        let taker = CensusTaker { request, page_rows_max: &|table| self.dialect.page_rows_max(table) };
        let census = taker.take(&tables, session.session.as_mut(), progress).await?;
        session.end().await;
        Ok(census)
    }

    async fn open(&self) -> Result<Open<'_>, EngineError> {
        let permit = self.permits(1).await?;
        Ok(Open { session: self.dialect.open().await?, _permit: permit })
    }

    /// Up to so many further connections, as far as nobody else needs them now.
    async fn more(&self, wanted: usize) -> Result<Vec<Open<'_>>, EngineError> {
        let mut more = Vec::new();
        while more.len() < wanted {
            let Ok(permit) = self.connections.try_acquire() else { break };
            more.push(Open { session: self.dialect.open().await?, _permit: permit });
        }
        Ok(more)
    }

    async fn permits(&self, count: u32) -> Result<SemaphorePermit<'_>, EngineError> {
        let closed = |_| EngineError::Internal("the engine is closed".to_owned());
        self.connections.acquire_many(count).await.map_err(closed)
    }
}

/// One connection and the right to have it.
struct Open<'a> {
    session: Box<dyn Session>,
    _permit: SemaphorePermit<'a>,
}

impl Open<'_> {
    async fn end(self) {
        self.session.end().await;
    }
}

/// The range of a shard, if its bounds are keys of its table.
pub(crate) fn range(shard: &Shard, table: &Table) -> Result<KeyRange, EngineError> {
    let bound = |bound: Option<&rotation::KeyBound>| {
        let Some(bound) = bound else { return Ok(None) };
        match Key::parse(&bound.0) {
            Ok(key) if key.fits(table) => Ok(Some(key)),
            Ok(_) | Err(_) => Err(EngineError::ShardBounds(shard.id.to_string())),
        }
    };
    Ok(KeyRange { after: bound(shard.range.after.as_ref())?, through: bound(shard.range.through.as_ref())? })
}
