//! Quiesce: every instance goes offline, then one node fences the database and the row counts are fixed.

use std::collections::BTreeMap;

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Fault, FaultCode, NodeId, Plan, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    let to_stop = stand.each_until(|progress| progress.offline_at.is_some(), &Work::TakeOffline);
    if to_stop.is_empty() { stand.lead_until(stand.rotation.lead_done, Work::FenceDatabase) } else { to_stop }
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    match (work, answer) {
        (Work::TakeOffline, Answer::WentOffline) => {
            let now = run.now;
            if let Some(progress) = run.progress(node) {
                progress.offline_at = Some(now);
            }
            Ok(())
        }
        (Work::FenceDatabase, Answer::DatabaseFenced { rows }) => {
            let fixed: BTreeMap<String, u64> = rows.iter().cloned().collect();
            if let Some(plan) = &run.rotation.plan {
                check_counts(plan, &fixed).map_err(|fault| fault.on(node))?;
            }
            run.rotation.rows_fixed = fixed;
            run.rotation.lead_done = true;
            Ok(())
        }
        _ => Err(unexpected(node, work, answer)),
    }
}

/// Holds the fixed counts against the survey's. Rows come and go while the farm serves, but a table that has lost
/// [more than half](is_shrunken) of its rows since is rather one that could not be read.
fn check_counts(plan: &Plan, fixed: &BTreeMap<String, u64>) -> Result<(), Fault> {
    if !fixed.keys().eq(plan.tables.keys()) {
        return Err(Fault::new(
            FaultCode::RowsChanged,
            "the tables whose rows were counted are not those of the plan",
            "the rotation is undone; look whether tables were dropped or renamed, then plan again",
        ));
    }
    for (name, table) in &plan.tables {
        let rows = fixed.get(name).copied().unwrap_or(0);
        if is_shrunken(table.rows, rows) {
            return Err(Fault::new(
                FaultCode::RowsChanged,
                format!("table {name} had {} rows in preflight and has {rows} now that nobody writes", table.rows),
                "the rotation is undone; look where the rows went, then plan again",
            ));
        }
    }
    Ok(())
}

/// Whether fewer than half of the surveyed rows are left.
const fn is_shrunken(surveyed: u64, fixed: u64) -> bool {
    fixed < surveyed.div_ceil(2)
}
