//! How far a rotation's rows have come.

use std::collections::BTreeMap;

use rotation::{ContentDigest, Course, Phase, Rotation, ShardId, ShardProgress, ShardTally, UndoStep};
use wire::v1;

use super::View;

/// One pass over all shards; each leaves its own tallies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Reencrypt,
    Verify,
    Restore,
    VerifyRestored,
}

impl Pass {
    fn of(course: &Course) -> Option<Self> {
        match course {
            Course::Forward { phase: Phase::Reencrypt } => Some(Self::Reencrypt),
            Course::Forward { phase: Phase::Verify } => Some(Self::Verify),
            Course::Undo { step: UndoStep::RestoreRows, .. } | Course::Stuck { step: UndoStep::RestoreRows, .. } => {
                Some(Self::Restore)
            }
            Course::Undo { step: UndoStep::VerifyRows, .. } | Course::Stuck { step: UndoStep::VerifyRows, .. } => {
                Some(Self::VerifyRestored)
            }
            Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } | Course::Ended(_) => None,
        }
    }

    fn tally(self, shard: &ShardProgress) -> Option<&ShardTally> {
        match self {
            Self::Reencrypt => shard.reencrypted.as_ref(),
            Self::Verify => shard.verified.as_ref(),
            Self::Restore => shard.restored.as_ref(),
            Self::VerifyRestored => shard.restored_verified.as_ref(),
        }
    }
}

/// What a pass has counted over some shards.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    rows: u64,
    digest: ContentDigest,
    rest: ContentDigest,
    shards_done: u32,
    complete: bool,
}

impl Sum {
    fn over<'a>(pass: Pass, shards: impl Iterator<Item = &'a ShardProgress>) -> Self {
        let mut sum = Self { complete: true, ..Self::default() };
        let mut any = false;
        for shard in shards {
            any = true;
            match pass.tally(shard) {
                Some(tally) => {
                    sum.rows += tally.rows;
                    sum.digest = sum.digest.plus(tally.digest);
                    sum.rest = sum.rest.plus(tally.rest);
                    sum.shards_done += 1;
                }
                None => sum.complete = false,
            }
        }
        sum.complete &= any;
        sum
    }

    fn digest_text(&self) -> String {
        if self.complete { self.digest.to_string() } else { String::new() }
    }

    fn rest_text(&self) -> String {
        if self.complete { self.rest.to_string() } else { String::new() }
    }
}

impl View<'_> {
    /// The progress of a rotation's rows.
    pub(super) fn progress(&self, rotation: &Rotation) -> v1::RotationProgress {
        let pass = Pass::of(&rotation.course);
        let running = self.running_rows(rotation, pass);
        let live = |of: Pass| if pass == Some(of) { running.values().sum() } else { 0 };
        let reencrypted = Sum::over(Pass::Reencrypt, rotation.shards.values());
        let verified = Sum::over(Pass::Verify, rotation.shards.values());
        let present = pass.map(|pass| Sum::over(pass, rotation.shards.values()));
        // Between passes the last one that was completed stands.
        let shown = present.unwrap_or(if verified.shards_done > 0 { verified } else { reencrypted });

        let tables = tables(rotation, &running, pass);
        let rows_total = tables.iter().map(|table| table.rows).sum();
        let rows_done = shown.rows + present.map_or(0, |_| running.values().sum());
        let rows_per_second = present.map_or(0.0, |_| self.hints.rows_per_second(rotation.epoch, self.instant));
        v1::RotationProgress {
            shards_total: u32::try_from(rotation.shards.len()).unwrap_or(u32::MAX),
            shards_done: shown.shards_done,
            rows_total,
            rows_done,
            rows_per_second,
            time_left_ms: time_left_ms(rows_total.saturating_sub(rows_done), rows_per_second),
            rows_reencrypted: reencrypted.rows + live(Pass::Reencrypt),
            rows_verified: verified.rows + live(Pass::Verify),
            undecryptable: rotation.survey.as_ref().map_or(0, |survey| survey.undecryptable_total),
            content_digest_before: reencrypted.digest_text(),
            content_digest_after: verified.digest_text(),
            tables,
            rest_digest_before: reencrypted.rest_text(),
            rest_digest_after: verified.rest_text(),
        }
    }

    /// Rows that agents report of shards of the present pass that are not done yet.
    fn running_rows(&self, rotation: &Rotation, pass: Option<Pass>) -> BTreeMap<ShardId, u64> {
        let Some(pass) = pass else { return BTreeMap::new() };
        let mut rows = BTreeMap::new();
        for (id, hint) in self.hints.of_epoch(rotation.epoch) {
            let Some((shard, _)) = id.shard.filter(|_| id.rotation == rotation.id) else { continue };
            if rotation.shards.get(&shard).is_some_and(|progress| pass.tally(progress).is_none()) {
                rows.insert(shard, hint.rows_done.unwrap_or(0));
            }
        }
        rows
    }
}

fn tables(rotation: &Rotation, running: &BTreeMap<ShardId, u64>, pass: Option<Pass>) -> Vec<v1::TableProgress> {
    let Some(plan) = &rotation.plan else { return Vec::new() };
    plan.tables
        .iter()
        .map(|(name, table)| {
            let ids = || plan.shards.iter().filter(|shard| shard.table == *name).map(|shard| shard.id);
            let sum = |of| Sum::over(of, ids().filter_map(|id| rotation.shards.get(&id)));
            let live: u64 = ids().filter_map(|id| running.get(&id)).sum();
            let (reencrypted, verified) = (sum(Pass::Reencrypt), sum(Pass::Verify));
            v1::TableProgress {
                name: name.clone(),
                strategy: table.strategy.to_string(),
                rows: rotation.rows_fixed.get(name).copied().unwrap_or(table.rows),
                rows_reencrypted: reencrypted.rows + if pass == Some(Pass::Reencrypt) { live } else { 0 },
                rows_verified: verified.rows + if pass == Some(Pass::Verify) { live } else { 0 },
                content_digest_before: reencrypted.digest_text(),
                content_digest_after: verified.digest_text(),
                rest_digest_before: reencrypted.rest_text(),
                rest_digest_after: verified.rest_text(),
            }
        })
        .collect()
}

fn time_left_ms(rows_left: u64, rows_per_second: f64) -> u64 {
    if rows_left == 0 || rows_per_second < 1.0 { 0 } else { (rows_left as f64 / rows_per_second * 1_000.0) as u64 }
}
