//! The survey of the database, checked, and the plan that is made of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget;
use crate::limits::{NAMED_MAX, SHARDS_MAX};
use crate::phases::backup;
use crate::run::Run;
use crate::{
    Fault, FaultCode, KeyBound, NodeId, Plan, PlanNode, PlanTable, ShardId, ShardProgress, Survey, UndecryptableValue,
};

/// Takes the survey; when it is fit for a rotation and nothing is to be backed up first, the plan is made.
pub(super) fn take(run: &mut Run<'_>, node: &NodeId, found: &Survey) -> Result<(), Fault> {
    // Kept even when refused, so that an operator sees which values do not open.
    run.rotation.survey = Some(found.clone());
    check_kind(run, node, found)?;
    let tables = check_tables(node, found)?;
    check_shards(node, found, &tables)?;
    check_undecryptable(&run.rotation.options.accepted, found)?;
    // Before anything is backed up, which takes long.
    if let Some(message) = plan_of(run).and_then(|plan| budget::over_budget(&plan, run.rotation.throttle)) {
        return Err(budget::unaffordable(message));
    }
    backup::check_choice(run.stand())?;
    if backup::is_complete(run.stand()) {
        make_plan(run);
    }
    Ok(())
}

/// Makes the plan of what was surveyed and backed up.
pub(super) fn make_plan(run: &mut Run<'_>) {
    let Some(plan) = plan_of(run) else { return };
    if let Some(survey) = &mut run.rotation.survey {
        survey.shards = Vec::new();
    }
    run.rotation.shards = plan.shards.iter().map(|shard| (shard.id, ShardProgress::default())).collect();
    run.rotation.plan_digest = Some(plan.digest());
    run.rotation.plan = Some(plan);
}

/// The plan of what is known so far.
fn plan_of(run: &Run<'_>) -> Option<Plan> {
    let survey = run.rotation.survey.as_ref()?;
    let nodes: BTreeMap<NodeId, PlanNode> = run
        .rotation
        .nodes
        .iter()
        .filter_map(|(id, progress)| {
            let inspection = progress.inspection.clone()?;
            let node = PlanNode {
                release: inspection.release,
                current_key: inspection.current_key,
                recipient_key: inspection.recipient_key,
                targets_digest: inspection.targets_digest,
                database: inspection.database,
                protector: inspection.protector,
                attestation: inspection.attestation,
            };
            Some((id.clone(), node))
        })
        .collect();
    let made = || run.rotation.nodes.iter().filter_map(|(id, progress)| Some((id, progress.backup.as_ref()?)));
    let backup = made().find_map(|(_, made)| made.database.clone());
    let folders: BTreeMap<_, _> = made().map(|(id, made)| (id.clone(), made.folder.clone())).collect();
    let budget = run.rotation.options.budget;
    let has_neither = folders.is_empty() && survey.unseen.is_empty();
    Some(Plan {
        format: if has_neither { Plan::format_with(budget.as_ref()) } else { Plan::FORMAT },
        farm: run.farm.to_owned(),
        rotation: run.rotation.id,
        nodes,
        tables: survey.tables.iter().cloned().collect(),
        shards: survey.shards.clone(),
        writers_max: survey.writers_max,
        accepted: survey.undecryptable.clone(),
        downtime_forecast_ms: survey.downtime_forecast_ms,
        budget,
        backup,
        folders,
        unseen: survey.unseen.clone(),
    })
}

fn check_kind(run: &Run<'_>, node: &NodeId, found: &Survey) -> Result<(), Fault> {
    let inspected =
        run.rotation.nodes.values().find_map(|progress| progress.inspection.as_ref()).map(|seen| seen.database.kind);
    match inspected {
        Some(kind) if kind != found.kind => {
            Err(inconsistent(node, format!("the database is {kind} by inspection and {} by survey", found.kind)))
        }
        Some(_) | None if found.writers_max == 0 => {
            Err(inconsistent(node, "the survey lets no agent write".to_owned()))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_tables(node: &NodeId, found: &Survey) -> Result<BTreeMap<String, PlanTable>, Fault> {
    let tables: BTreeMap<String, PlanTable> = found.tables.iter().cloned().collect();
    if tables.is_empty() {
        return Err(Fault::new(
            FaultCode::Targets,
            "no table is registered, so nothing would be re-encrypted",
            "register the tables with encrypted columns in targets.toml on every node",
        ));
    }
    if tables.len() != found.tables.len() {
        return Err(inconsistent(node, "the survey names a table twice".to_owned()));
    }
    if let Some((name, _)) = tables.iter().find(|(_, table)| table.columns.is_empty()) {
        return Err(Fault::new(
            FaultCode::Targets,
            format!("table {name} has no encrypted column"),
            "name its encrypted columns in targets.toml on every node, or take the table out",
        ));
    }
    Ok(tables)
}

/// The shards must cover every table from its beginning to its end, without a gap: a row in a gap would stay under the
/// old key and nobody would look at it.
fn check_shards(node: &NodeId, found: &Survey, tables: &BTreeMap<String, PlanTable>) -> Result<(), Fault> {
    if found.shards.len() > SHARDS_MAX {
        return Err(inconsistent(
            node,
            format!("the survey has {} shards and a plan at most {SHARDS_MAX}", found.shards.len()),
        ));
    }
    // Where each table's shards have come to: `None` is its end.
    let mut reached: BTreeMap<&str, Option<&KeyBound>> = BTreeMap::new();
    for (index, shard) in (0_u64..).zip(&found.shards) {
        if shard.id != ShardId::new(index) {
            return Err(inconsistent(node, format!("shard {} stands in place {index} of the survey", shard.id)));
        }
        if !tables.contains_key(&shard.table) {
            return Err(inconsistent(node, format!("shard {index} is of {}, which the survey lacks", shard.table)));
        }
        let continues = match reached.get(shard.table.as_str()) {
            None => shard.range.after.is_none(),
            Some(end) => end.is_some() && shard.range.after.as_ref() == *end,
        };
        if !continues {
            return Err(inconsistent(node, format!("shard {index} leaves a gap in table {}", shard.table)));
        }
        reached.insert(&shard.table, shard.range.through.as_ref());
    }
    for table in tables.keys() {
        match reached.get(table.as_str()) {
            None => return Err(inconsistent(node, format!("table {table} has no shard"))),
            Some(Some(_)) => {
                return Err(inconsistent(node, format!("the shards of table {table} stop before its end")));
            }
            Some(None) => {}
        }
    }
    Ok(())
}

/// Every value that does not open must be one that the operator accepted, with the very bytes it had.
fn check_undecryptable(accepted: &[UndecryptableValue], found: &Survey) -> Result<(), Fault> {
    let known: BTreeSet<_> = accepted.iter().map(identity).collect();
    let refused: Vec<&UndecryptableValue> =
        found.undecryptable.iter().filter(|value| !known.contains(&identity(value))).collect();
    let named = u64::try_from(found.undecryptable.len()).unwrap_or(u64::MAX);
    let unnamed = found.undecryptable_total.saturating_sub(named);
    let refused_total = unnamed.saturating_add(u64::try_from(refused.len()).unwrap_or(u64::MAX));
    if refused_total == 0 {
        return Ok(());
    }
    let mut names: Vec<String> = refused
        .iter()
        .take(NAMED_MAX)
        .map(|value| format!("{}.{} at {} ({})", value.table, value.column, value.key.0, value.reason))
        .collect();
    let rest = refused_total.saturating_sub(u64::try_from(names.len()).unwrap_or(u64::MAX));
    if rest > 0 {
        names.push(format!("and {rest} more"));
    }
    let values = if refused_total == 1 { "1 value opens".to_owned() } else { format!("{refused_total} values open") };
    Err(Fault::new(
        FaultCode::Undecryptable,
        format!("{values} under no known key: {}", names.join(", ")),
        "repair these values, or accept them by key and raw digest with `keyturn rotation plan --accept FILE`",
    ))
}

fn identity(value: &UndecryptableValue) -> (&str, &str, &KeyBound, &crate::Digest) {
    (&value.table, &value.column, &value.key, &value.raw_digest)
}

pub(super) fn inconsistent(node: &NodeId, message: String) -> Fault {
    Fault::new(
        FaultCode::Internal,
        message,
        "nothing was changed; run the same release of keyturn on every node, and report this if they are",
    )
    .on(node)
}
