//! Leases: which node works on which shard. Given out inside `apply`, so that the log alone decides.

use std::collections::BTreeMap;

use crate::limits::{LEASE_ROUNDS_MAX, LEASE_ROUNDS_UNDO_MAX, SHARDS_PER_AGENT_MAX};
use crate::phases::rows::Pass;
use crate::run::{Run, Stand};
use crate::{Course, DatabaseKind, Fault, FaultCode, NodeId, ShardId, ShardLease, throttle};

/// Leases every shard that can be leased now. A fault when all nodes have been silent too often.
pub(crate) fn give_out(run: &mut Run<'_>) -> Result<(), Fault> {
    let Some(pass) = Pass::of(&run.rotation.course) else { return Ok(()) };
    let free = free_shards(run.stand(), pass);
    if free.is_empty() {
        return Ok(());
    }
    if run.stand().all(|progress| progress.undo.discarded) {
        return Err(Fault::new(
            FaultCode::KeyStore,
            format!("{} shards wait, and every node has discarded the new key already", free.len()),
            "if rows are under the new key, `keyturn recover` puts a backup back; its key is in the operator's bundle",
        ));
    }
    if run.stand().all(|progress| progress.shunned || progress.undo.discarded) {
        run.rotation.lease_rounds = run.rotation.lease_rounds.saturating_add(1);
        if run.rotation.lease_rounds > rounds_max(&run.rotation.course) {
            return Err(Fault::new(
                FaultCode::NodeUnreachable,
                format!("no agent works on the rows: {} shards wait and all nodes are silent", free.len()),
                "look whether the agents run and reach the database, and whether the coordinators reach the agents",
            ));
        }
        run.forgive();
    }
    let mut held = writers(run.stand(), pass);
    let rows_per_second = share(run.stand(), pass);
    for shard in free {
        // The least busy node, the first of equals.
        let Some((node, count)) = held.iter_mut().min_by_key(|(_, count)| *count) else { return Ok(()) };
        if *count >= SHARDS_PER_AGENT_MAX {
            return Ok(());
        }
        *count += 1;
        if let Some(progress) = run.rotation.shards.get_mut(&shard) {
            progress.leases = progress.leases.next();
            let (number, since) = (progress.leases, run.now);
            progress.lease = Some(ShardLease { node: node.clone(), number, since, rows_per_second });
        }
    }
    Ok(())
}

/// Every shard under way is leased anew to who has it, with its share of the present throttle.
pub(crate) fn renew(run: &mut Run<'_>) {
    let Some(pass) = Pass::of(&run.rotation.course) else { return };
    let rows_per_second = share(run.stand(), pass);
    for progress in run.rotation.shards.values_mut() {
        if let Some(lease) = &mut progress.lease {
            progress.leases = progress.leases.next();
            (lease.number, lease.since, lease.rows_per_second) = (progress.leases, run.now, rows_per_second);
        }
    }
}

/// No shard is anybody's any more; what was done of them stands in the ledger.
pub(crate) fn take_back(run: &mut Run<'_>) {
    for shard in run.rotation.shards.values_mut() {
        shard.lease = None;
    }
}

/// The node is silent: it loses all its leases, and is leased nothing until the next phase or step.
pub(crate) fn expire(run: &mut Run<'_>, node: &NodeId) {
    for shard in run.rotation.shards.values_mut() {
        if shard.lease.as_ref().is_some_and(|lease| lease.node == *node) {
            shard.lease = None;
        }
    }
    run.shun(node);
    if run.rotation.lead.as_ref() == Some(node) {
        run.change_lead();
    }
}

fn free_shards(stand: Stand<'_>, pass: Pass) -> Vec<ShardId> {
    stand
        .rotation
        .shards
        .iter()
        .filter(|(_, shard)| shard.lease.is_none() && pass.result(shard).is_none())
        .map(|(id, _)| *id)
        .collect()
}

/// The nodes that may hold leases, with the number that each has: those that have some first, then others by name, as
/// many as may work at once.
fn writers(stand: Stand<'_>, pass: Pass) -> Vec<(NodeId, usize)> {
    let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
    for shard in stand.rotation.shards.values() {
        if let Some(lease) = &shard.lease {
            *counts.entry(&lease.node).or_default() += 1;
        }
    }
    let mut nodes: Vec<(NodeId, usize)> = stand
        .present()
        .filter(|(_, progress)| !progress.shunned && !progress.undo.discarded)
        .map(|(id, _)| (id.clone(), counts.get(id).copied().unwrap_or(0)))
        .collect();
    nodes.sort_by_key(|(_, count)| *count == 0);
    nodes.truncate(writers_max(stand, pass));
    nodes
}

/// A shard's share of the throttle: by the shards that may be worked on at once, of those that are not done.
fn share(stand: Stand<'_>, pass: Pass) -> Option<u32> {
    let at_once = writers(stand, pass).len().saturating_mul(SHARDS_PER_AGENT_MAX);
    let left = stand.rotation.shards.values().filter(|shard| pass.result(shard).is_none()).count();
    throttle::share(stand.rotation.throttle, at_once.min(left))
}

/// How many nodes may work at once. Readers are not limited, but on SQLite a reader keeps its ledger in the same file.
fn writers_max(stand: Stand<'_>, pass: Pass) -> usize {
    let planned =
        stand.rotation.plan.as_ref().map_or(1, |plan| usize::try_from(plan.writers_max).unwrap_or(usize::MAX));
    match stand.rotation.survey.as_ref().map(|survey| survey.kind) {
        Some(DatabaseKind::Postgres | DatabaseKind::Mariadb) if !pass.writes() => usize::MAX,
        Some(DatabaseKind::Postgres | DatabaseKind::Mariadb | DatabaseKind::Sqlite) | None => planned,
    }
}

const fn rounds_max(course: &Course) -> u32 {
    match course {
        Course::Forward { .. } => LEASE_ROUNDS_MAX,
        Course::Undo { .. } | Course::Stuck { .. } | Course::Ended(_) => LEASE_ROUNDS_UNDO_MAX,
    }
}
