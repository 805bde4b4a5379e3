//! The four passes over all rows: re-encrypt and verify, restore and verify again. The same shards, leases and counts.

use std::collections::BTreeMap;

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{
    Answer, Course, Direction, Fault, FaultCode, NodeId, Phase, Rotation, Shard, ShardId, ShardLease, ShardProgress,
    ShardTally, UndoStep, Work,
};

/// A pass over all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Reencrypt,
    Verify,
    RestoreRows,
    VerifyRows,
}

impl Pass {
    /// The pass that a rotation is in, if in one.
    pub(crate) const fn of(course: &Course) -> Option<Self> {
        match course {
            Course::Forward { phase: Phase::Reencrypt } => Some(Self::Reencrypt),
            Course::Forward { phase: Phase::Verify } => Some(Self::Verify),
            Course::Undo { step: UndoStep::RestoreRows, .. } => Some(Self::RestoreRows),
            Course::Undo { step: UndoStep::VerifyRows, .. } => Some(Self::VerifyRows),
            Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } | Course::Ended(_) => None,
        }
    }

    /// What this pass found in a shard, once it is through.
    pub(crate) const fn result(self, shard: &ShardProgress) -> Option<&ShardTally> {
        match self {
            Self::Reencrypt => shard.reencrypted.as_ref(),
            Self::Verify => shard.verified.as_ref(),
            Self::RestoreRows => shard.restored.as_ref(),
            Self::VerifyRows => shard.restored_verified.as_ref(),
        }
    }

    /// Whether this pass changes rows.
    pub(crate) const fn writes(self) -> bool {
        match self {
            Self::Reencrypt | Self::RestoreRows => true,
            Self::Verify | Self::VerifyRows => false,
        }
    }

    fn result_mut(self, shard: &mut ShardProgress) -> &mut Option<ShardTally> {
        match self {
            Self::Reencrypt => &mut shard.reencrypted,
            Self::Verify => &mut shard.verified,
            Self::RestoreRows => &mut shard.restored,
            Self::VerifyRows => &mut shard.restored_verified,
        }
    }

    fn work(self, shard: Shard, lease: &ShardLease) -> Work {
        let ShardLease { number: lease, rows_per_second, .. } = *lease;
        match self {
            Self::Reencrypt => Work::ReencryptShard { shard, lease, direction: Direction::Forward, rows_per_second },
            Self::Verify => Work::VerifyShard { shard, lease, direction: Direction::Forward, rows_per_second },
            Self::RestoreRows => Work::ReencryptShard { shard, lease, direction: Direction::Back, rows_per_second },
            Self::VerifyRows => Work::VerifyShard { shard, lease, direction: Direction::Back, rows_per_second },
        }
    }
}

/// Whether every shard is through this pass.
pub(crate) fn is_complete(stand: Stand<'_>, pass: Pass) -> bool {
    stand.rotation.shards.values().all(|shard| pass.result(shard).is_some())
}

/// Every shard that is leased.
pub(crate) fn work(stand: Stand<'_>, pass: Pass) -> Vec<(NodeId, Work)> {
    let Some(plan) = &stand.rotation.plan else { return Vec::new() };
    plan.shards
        .iter()
        .filter_map(|shard| {
            let lease = stand.rotation.shards.get(&shard.id)?.lease.as_ref()?;
            Some((lease.node.clone(), pass.work(shard.clone(), lease)))
        })
        .collect()
}

/// Reencrypt: every shard, then the shadows are finished, if there are any.
pub(super) fn reencrypt_work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    if is_complete(stand, Pass::Reencrypt) {
        stand.lead_until(is_reencrypted(stand), Work::FinishShadows)
    } else {
        work(stand, Pass::Reencrypt)
    }
}

/// Whether every shard is through, and no shadow lacks anything that its original has.
pub(super) fn is_reencrypted(stand: Stand<'_>) -> bool {
    is_complete(stand, Pass::Reencrypt) && (stand.rotation.lead_done || !stand.rotation.has_shadows())
}

pub(super) fn take_reencrypt(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    let Answer::ShadowsFinished = answer else { return take(run, node, work, answer, Pass::Reencrypt) };
    run.rotation.lead_done = true;
    Ok(())
}

/// Verify: every shard, then where the database's history stands.
pub(super) fn verify_work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    if is_complete(stand, Pass::Verify) {
        stand.lead_until(stand.rotation.lead_done, Work::RecordPosition)
    } else {
        work(stand, Pass::Verify)
    }
}

pub(super) fn take_verify(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    let Answer::PositionRecorded(position) = answer else { return take(run, node, work, answer, Pass::Verify) };
    let planned = run.rotation.plan.as_ref().and_then(|plan| Some(&plan.nodes.values().next()?.database));
    if let Some(planned) = planned
        && *planned != position.identity
    {
        return Err(Fault::new(
            FaultCode::DatabasePosition,
            format!("the database is {} now and was {} in preflight", position.identity.identity, planned.identity),
            "the rotation is undone; find out which server the agents reach, then plan again",
        )
        .on(node));
    }
    run.rotation.position = Some(position.clone());
    run.rotation.lead_done = true;
    Ok(())
}

/// Takes a shard's tally, and when it is the last one holds all of them against the counts fixed at Quiesce.
pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer, pass: Pass) -> Result<(), Fault> {
    let (Answer::ShardReencrypted { shard, lease, tally } | Answer::ShardVerified { shard, lease, tally }) = answer
    else {
        return Err(unexpected(node, work, answer));
    };
    let asked = match work {
        Work::ReencryptShard { shard, lease, .. } | Work::VerifyShard { shard, lease, .. } => Some((shard.id, *lease)),
        _ => None,
    };
    if asked != Some((*shard, *lease)) {
        return Err(unexpected(node, work, answer));
    }
    // Checked before it is recorded: what does not hold must not count as done after a retry.
    check_contents(run.stand(), *shard, tally, pass).map_err(|fault| fault.on(node))?;
    let Some(progress) = run.rotation.shards.get_mut(shard) else { return Ok(()) };
    progress.lease = None;
    *pass.result_mut(progress) = Some(*tally);
    if is_complete(run.stand(), pass) { check_rows(run.stand(), pass) } else { Ok(()) }
}

/// Whether the application may have been let in since the rows were counted: from Start on. What it wrote then is counted
/// by nobody; it opens under the old key all the same, or the engine says which value does not.
fn was_let_in(course: &Course) -> bool {
    match course {
        Course::Undo { from, .. } | Course::Stuck { from, .. } => *from >= Phase::Start,
        Course::Forward { .. } | Course::Ended(_) => false,
    }
}

/// Whether the database is known to have lost history since the rows were counted, and perhaps what the application had
/// written before that. The ledger's word of the way forward comes back with each restored shard, so it is lost too where
/// that differs from the log's.
fn has_lost_history(rotation: &Rotation) -> bool {
    let contents = |tally: &ShardTally| (tally.values, tally.undecryptable, tally.digest, tally.rest);
    let differs = |shard: &ShardProgress| {
        let (before, back) = (shard.reencrypted.as_ref(), shard.restored.as_ref());
        before.zip(back).is_some_and(|(before, back)| contents(before) != contents(back))
    };
    rotation.faults.iter().any(|fault| fault.code == FaultCode::DatabasePosition)
        || rotation.shards.values().any(differs)
}

/// Whether what was counted on the way forward says nothing of what must be there now: in an undo, after the application was
/// let in or history was lost. Every value must open under the old key all the same.
fn counts_no_more(rotation: &Rotation) -> bool {
    match rotation.course {
        Course::Undo { .. } => was_let_in(&rotation.course) || has_lost_history(rotation),
        Course::Forward { .. } | Course::Stuck { .. } | Course::Ended(_) => false,
    }
}

/// A verified shard must hold exactly what was counted and summed while it was re-encrypted.
fn check_contents(stand: Stand<'_>, shard: ShardId, after: &ShardTally, pass: Pass) -> Result<(), Fault> {
    // A shard that was not re-encrypted wholly has no digest of the whole to compare with; when it is turned back, the
    // engine compares the part that was.
    let before = match stand.rotation.shards.get(&shard).and_then(|progress| progress.reencrypted) {
        Some(before) if !pass.writes() && before != *after && !counts_no_more(stand.rotation) => before,
        Some(_) | None => return Ok(()),
    };
    let table = table_of(stand, shard);
    let code = if before.rows == after.rows { FaultCode::DigestDiffers } else { FaultCode::RowsChanged };
    Err(Fault::new(
        code,
        format!(
            "{} of shard {shard} of table {table} differ: {} when it was re-encrypted, and {} when it was read back",
            differing(&before, after),
            counted(&before),
            counted(after)
        ),
        "somebody changed rows while the farm was offline, or they were damaged: find out who or what",
    ))
}

/// What differs between two tallies, in words.
fn differing(before: &ShardTally, after: &ShardTally) -> &'static str {
    let plaintexts =
        (before.values, before.undecryptable, before.digest) != (after.values, after.undecryptable, after.digest);
    match (before.rows != after.rows, plaintexts, before.rest != after.rest) {
        (true, _, _) => "the rows",
        (false, true, true) => "the plaintexts and the other columns",
        (false, true, false) => "the plaintexts",
        (false, false, _) => "the keys or the other columns",
    }
}

fn counted(tally: &ShardTally) -> String {
    format!(
        "{} rows, {} values and {} undecryptable ones, with plaintexts of digest {} and other columns of digest {}",
        tally.rows, tally.values, tally.undecryptable, tally.digest, tally.rest
    )
}

/// The rows of all shards must be those that were counted at Quiesce, table by table.
fn check_rows(stand: Stand<'_>, pass: Pass) -> Result<(), Fault> {
    if counts_no_more(stand.rotation) {
        return Ok(());
    }
    let mut found: BTreeMap<&str, u128> = stand.rotation.rows_fixed.keys().map(|table| (table.as_str(), 0)).collect();
    for (shard, progress) in &stand.rotation.shards {
        let rows = pass.result(progress).map_or(0, |tally| u128::from(tally.rows));
        *found.entry(table_of(stand, *shard)).or_default() += rows;
    }
    for (table, rows) in found {
        let fixed = stand.rotation.rows_fixed.get(table).copied().unwrap_or(0);
        if rows != u128::from(fixed) {
            return Err(Fault::new(
                FaultCode::RowsChanged,
                format!("table {table} has {fixed} rows, and its shards together had {rows}"),
                "somebody added or removed rows while the farm was offline: find the writer",
            ));
        }
    }
    Ok(())
}

/// Forgets what was restored and read back, so that an undo that begins again asks for all of it.
pub(crate) fn forget_restored(run: &mut Run<'_>) {
    for shard in run.rotation.shards.values_mut() {
        shard.restored = None;
        shard.restored_verified = None;
    }
}

fn table_of(stand: Stand<'_>, shard: ShardId) -> &str {
    stand
        .rotation
        .plan
        .as_ref()
        .and_then(|plan| plan.shards.get(usize::try_from(shard.get()).ok()?))
        .map_or("", |shard| shard.table.as_str())
}
