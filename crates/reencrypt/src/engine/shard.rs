//! The passes over one shard: which table each of them reads, and what it does with it.

use std::sync::Arc;

use rotation::{RotationId, ShardTally, Strategy};
use tokio::sync::SemaphorePermit;

use super::{Engine, Progress, ShardJob, range};
use crate::config::CONNECTIONS_MIN;
use crate::dialect::{Fields, Session};
use crate::ledger::{Claim, Pass, ShardRecord};
use crate::pace::Limits;
use crate::pass::{self, Scope, with_rows};
use crate::shadow::{Pair, Shadow, ShadowState};
use crate::sink::Rooms;
use crate::table::{KeyRange, Table};
use crate::transform::{Accepted, HandOn, Transformer};
use crate::{EngineError, Targets};

pub(super) async fn reencrypt(
    engine: &Engine,
    job: &ShardJob,
    progress: Progress<'_>,
) -> Result<ShardTally, EngineError> {
    let mut work = begin(engine, job, Pass::Reencrypt).await?;
    if !work.record.done && job.strategy == Strategy::Shadow {
        let shadow = work.writer.shadow(&job.mark, &work.table).await?;
        match shadow.state {
            ShadowState::Building | ShadowState::Built => {}
            ShadowState::Swapped | ShadowState::Dropping | ShadowState::Kept | ShadowState::Retired => {
                return Err(unfit(&shadow, "cannot be filled"));
            }
        }
        work.into = Some(Pair { original: work.table.clone(), shadow }.copy());
    }
    work.whole_range(job, progress).await
}

pub(super) async fn verify(engine: &Engine, job: &ShardJob, progress: Progress<'_>) -> Result<ShardTally, EngineError> {
    let mut work = begin(engine, job, Pass::Verify).await?;
    if !work.record.done && job.strategy == Strategy::Shadow {
        let original = work.table.clone();
        match work.shadow(&job.mark.rotation).await? {
            None => return Err(missing(&original)),
            Some(shadow) => match shadow.state {
                ShadowState::Built => work.table = Pair { original, shadow }.copy(),
                ShadowState::Swapped => {}
                ShadowState::Building | ShadowState::Dropping | ShadowState::Kept | ShadowState::Retired => {
                    return Err(unfit(&shadow, "cannot be verified"));
                }
            },
        }
    }
    work.whole_range(job, progress).await
}

pub(super) async fn verify_restored(
    engine: &Engine,
    job: &ShardJob,
    progress: Progress<'_>,
) -> Result<ShardTally, EngineError> {
    let mut work = begin(engine, job, Pass::VerifyRestored).await?;
    // Whatever the plan says: what is live decides what the application will read.
    if let Some(shadow) = work.shadow(&job.mark.rotation).await? {
        refuse_swapped(&shadow)?;
    }
    work.whole_range(job, progress).await
}

pub(super) async fn restore(
    engine: &Engine,
    job: &ShardJob,
    progress: Progress<'_>,
) -> Result<ShardTally, EngineError> {
    let mut work = begin(engine, job, Pass::Restore).await?;
    let rotation = &job.mark.rotation;
    let forward = work.writer.record(rotation, job.shard.id, Pass::Reencrypt).await?.unwrap_or_default();
    let shadow = work.shadow(rotation).await?;
    if let Some(shadow) = &shadow {
        refuse_swapped(shadow)?;
    }
    let original_is_live = shadow.as_ref().is_some_and(|shadow| shadow.state.is_original_live());
    if original_is_live || (shadow.is_none() && job.strategy == Strategy::Shadow) {
        // No row of it was touched. What was counted on the way to the copy stays what was counted.
        return work.count(&forward.tally).await;
    }
    if shadow.is_some() || work.writer.was_let_in(rotation).await? {
        // The application may have written anything, anywhere, under the new key.
        return work.whole_range(job, progress).await;
    }
    // Rows past the forward cursor were never touched. Without a cursor none was.
    let Some(cursor) = forward.cursor else { return work.count(&ShardTally::default()).await };
    let range = KeyRange { after: work.range.after.clone(), through: Some(cursor) };
    let restored = work.run(job, range, Some(forward.tally), progress).await?;
    if restored.tally != forward.tally {
        return Err(differs(job, &forward.tally, &restored.tally));
    }
    work.count(&restored.tally).await
}

/// Opens the two connections of a shard and enters the ledger.
async fn begin<'e>(engine: &'e Engine, job: &ShardJob, pass: Pass) -> Result<ShardWork<'e>, EngineError> {
    let label = &job.shard.table;
    let Some(target) = engine.targets.table(label) else {
        return Err(EngineError::UnknownTable(label.clone()));
    };
    let permit = engine.permits(CONNECTIONS_MIN).await?;
    let mut writer = engine.dialect.open().await?;
    let mut tables = writer.tables(&Targets::only(target.clone())).await?;
    let Some(table) = tables.pop() else {
        return Err(EngineError::Internal(format!("table {label} was not described")));
    };
    let range = range(&job.shard, &table)?;
    let claim = Claim { mark: job.mark, shard: job.shard.id, pass, lease: job.lease };
    let record = writer.enter(&claim).await?;
    let reader = engine.dialect.open().await?;
    Ok(ShardWork {
        claim,
        page_rows_max: engine.dialect.page_rows_max(&table),
        compares_copied: engine.dialect.compares_copied(),
        rooms: engine.rooms.clone(),
        limits: Limits { rows_per_second: job.rows_per_second, ..engine.limits },
        table,
        into: None,
        range,
        record,
        reader,
        writer,
        _permit: permit,
    })
}

/// A shard that was entered.
struct ShardWork<'e> {
    claim: Claim,
    table: Table,
    into: Option<Table>,
    range: KeyRange,
    record: ShardRecord,
    page_rows_max: usize,
    compares_copied: bool,
    limits: Limits,
    rooms: Rooms,
    reader: Box<dyn Session>,
    writer: Box<dyn Session>,
    _permit: SemaphorePermit<'e>,
}

impl ShardWork<'_> {
    async fn shadow(&mut self, rotation: &RotationId) -> Result<Option<Shadow>, EngineError> {
        let shadows = self.writer.shadows(rotation).await?;
        Ok(shadows.into_iter().find(|shadow| shadow.label == self.table.label))
    }

    async fn whole_range(mut self, job: &ShardJob, progress: Progress<'_>) -> Result<ShardTally, EngineError> {
        let range = self.range.clone();
        let record = self.run(job, range, None, progress).await?;
        self.leave(record.done).await;
        Ok(record.tally)
    }

    /// The tally with all rows of the shard.
    async fn count(mut self, tally: &ShardTally) -> Result<ShardTally, EngineError> {
        let rows = self.writer.count(&self.table, &self.range).await?;
        self.leave(false).await;
        Ok(with_rows(tally, rows))
    }

    async fn run(
        &mut self,
        job: &ShardJob,
        range: KeyRange,
        expected: Option<ShardTally>,
        progress: Progress<'_>,
    ) -> Result<ShardRecord, EngineError> {
        let accepted = Accepted::new(&job.accepted);
        let keys = (&job.old, &job.new);
        let hand_on = match (&self.into, self.compares_copied) {
            (None, _) => HandOn::Changed,
            (Some(_), false) => HandOn::Every,
            (Some(_), true) => HandOn::EveryAsRead,
        };
        // Before tables are swapped, either way, it is asked whether anybody wrote to them since these passes.
        let watches_writes =
            job.strategy == Strategy::Shadow && matches!(self.claim.pass, Pass::Reencrypt | Pass::Verify);
        let fields = if watches_writes { Fields::AllAndVersion } else { Fields::All };
        let transformer =
            Transformer::new(self.table.clone(), self.claim.pass, keys, &job.mark.rotation, accepted, hand_on)
                .watching_writes(watches_writes);
        let scope = Scope {
            claim: &self.claim,
            table: &self.table,
            into: self.into.as_ref(),
            range,
            fields,
            page_rows_max: self.page_rows_max,
            limits: self.limits,
            rooms: &self.rooms,
            keeps_read: hand_on != HandOn::Every,
            expected,
        };
        let (reader, writer) = (self.reader.as_mut(), self.writer.as_mut());
        pass::run(&scope, Arc::new(transformer), self.record.clone(), reader, writer, progress).await
    }

    /// Of a shard that is done, nothing is left in its sessions; of any other, the ledger names the writer as its holder.
    async fn leave(self, done: bool) {
        if done {
            self.reader.leave().await;
            self.writer.leave().await;
        } else {
            self.reader.end().await;
            self.writer.end().await;
        }
    }
}

/// Nothing goes back while a copy stands under the table's name that nobody has looked at.
fn refuse_swapped(shadow: &Shadow) -> Result<(), EngineError> {
    match shadow.state {
        ShadowState::Swapped | ShadowState::Retired => Err(unfit(shadow, "was not swapped back")),
        ShadowState::Building | ShadowState::Built | ShadowState::Dropping | ShadowState::Kept => Ok(()),
    }
}

pub(super) fn unfit(shadow: &Shadow, problem: &str) -> EngineError {
    let problem = format!("{problem}: the ledger has it as {}", shadow.state.as_str());
    EngineError::ShadowState { table: shadow.label.clone(), problem }
}

pub(super) fn missing(table: &Table) -> EngineError {
    EngineError::ShadowState { table: table.label.clone(), problem: "is not known to the ledger".to_owned() }
}

fn differs(job: &ShardJob, before: &ShardTally, after: &ShardTally) -> EngineError {
    let table = job.shard.table.clone();
    if before.rows != after.rows {
        let what = format!("{} rows of shard {} were turned, and {} came back", before.rows, job.shard.id, after.rows);
        return EngineError::RowsChanged { table, what };
    }
    if before.digest == after.digest && before.rest != after.rest {
        let what =
            format!("columns of shard {} that are not registered, or keys, are not what they were", job.shard.id);
        return EngineError::RowsChanged { table, what };
    }
    EngineError::DigestDiffers {
        shard: job.shard.id.to_string(),
        table,
        before: before.digest.to_string(),
        after: after.digest.to_string(),
    }
}
