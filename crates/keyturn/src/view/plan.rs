//! A plan for people: what will be done, to which tables, on which nodes, and how long the farm will be offline.

use std::collections::BTreeSet;

use rotation::Plan;
use wire::v1;

use super::rotation::{plan_of, protector_name, protectors};
use crate::output::{Table, counted, date_time, duration, fields, thousands};

/// The text. Before there is a plan it says so and shows what was found.
pub(crate) fn plan_text(rotation: &v1::Rotation) -> String {
    let mut parts = Vec::new();
    if let Some(plan) = plan_of(rotation) {
        parts.push(head(rotation, &plan));
        parts.push(nodes(&plan));
        parts.push(tables(&plan));
        parts.push(backups(&plan));
        parts.extend(unseen(&plan));
    } else {
        parts.push(fields(&[("Rotation", rotation.id.clone()), ("Plan", "none was made".to_owned())]));
    }
    if !rotation.undecryptable.is_empty() {
        parts.push(undecryptable(rotation));
    }
    parts.join("\n\n")
}

fn head(rotation: &v1::Rotation, plan: &Plan) -> String {
    let database = plan.nodes.values().next().map(|node| &node.database);
    let rows: u64 = plan.tables.values().map(|table| table.rows).sum();
    let values: u64 = plan.tables.values().map(|table| table.values).sum();
    let bytes: u64 = plan.tables.values().map(|table| table.bytes).sum();
    let keys: BTreeSet<String> = plan.nodes.values().map(|node| node.current_key.to_string()).collect();
    let mut list = vec![
        ("Rotation", rotation.id.clone()),
        ("Farm", plan.farm.clone()),
        ("Plan digest", rotation.plan_digest.clone()),
        ("Present key", keys.into_iter().collect::<Vec<_>>().join(", ")),
        ("Database", database.map_or_else(String::new, |one| format!("{} {}", one.kind, one.identity))),
        (
            "Work",
            format!(
                "{}, {}, {} KiB in {}, at most {} writing at once",
                counted(rows, "row"),
                counted(values, "value"),
                thousands(bytes.div_ceil(1024)),
                counted(plan.shards.len() as u64, "shard"),
                counted(plan.writers_max.into(), "node"),
            ),
        ),
        ("Protector", protectors(plan.nodes.values().map(|node| node.protector.as_str()))),
        ("Time offline", format!("about {}", duration(rotation.downtime_forecast_ms.max(plan.downtime_forecast_ms)))),
    ];
    if let Some(budget) = &plan.budget {
        list.push(("Budget", format!("{}, then {}", duration(budget.max_downtime_ms), budget.on_budget.as_str())));
    }
    fields(&list)
}

fn nodes(plan: &Plan) -> String {
    let mut table = Table::new(&["NODE", "KEY", "RELEASE", "TARGETS", "PROTECTOR"]);
    for (id, node) in &plan.nodes {
        // The first 12 digits tell digests apart at a glance; the plan itself has all of them.
        let targets: String = node.targets_digest.to_string().chars().take(12).collect();
        table.row([
            id.to_string(),
            node.current_key.to_string(),
            node.release.version.clone(),
            targets,
            protector_name(&node.protector).to_owned(),
        ]);
    }
    table.render()
}

/// What the farm can fall back on, and what not.
/// The backups that a plan names, for people.
pub(crate) fn backups(plan: &Plan) -> String {
    let mut lines = Vec::new();
    match &plan.backup {
        None => lines.push((
            "Backup",
            "no backup of the database was made or shown; what the undo cannot restore would be lost".to_owned(),
        )),
        Some(backup) => {
            let rows: u64 = backup.tables.values().map(|table| table.rows).sum();
            let values: u64 = backup.tables.values().map(|table| table.values_opened).sum();
            let origin = if backup.shown { "shown" } else { "made" };
            let made = if backup.shown { String::new() } else { format!("made in {}, ", duration(backup.made_ms)) };
            let text = [
                format!("{} on {}", backup.path, backup.node),
                format!(
                    "{origin}, of {}; what is written later is not in it; {} bytes, BLAKE3 {}",
                    date_time(backup.made_at.get()),
                    thousands(backup.bytes),
                    backup.digest
                ),
                format!(
                    "{made}proved in {}: {}; {} registered, {} opened under key {}",
                    duration(backup.proved_ms),
                    backup.proof,
                    counted(rows, "row"),
                    counted(values, "value"),
                    backup.key
                ),
            ];
            lines.push(("Backup", text.join("\n")));
        }
    }
    for (id, folder) in &plan.folders {
        lines.push((
            "Folder",
            format!("of {id} in {}, {} bytes, BLAKE3 {}", folder.path, thousands(folder.bytes), folder.digest),
        ));
    }
    fields(&lines)
}

fn tables(plan: &Plan) -> String {
    let mut table = Table::new(&["TABLE", "STRATEGY", "ROWS", "FORECAST", "VALUES", "BYTES", "COLUMNS", "WHY"]);
    for (name, facts) in &plan.tables {
        table.row([
            name.clone(),
            facts.strategy.to_string(),
            facts.rows.to_string(),
            duration(facts.forecast_ms),
            facts.values.to_string(),
            facts.bytes.to_string(),
            facts.columns.join(","),
            facts.reason.clone(),
        ]);
    }
    table.render()
}

/// A warning: what is not registered there would stay under the old key, and nobody would know.
pub(crate) fn unseen(plan: &Plan) -> Option<String> {
    if plan.unseen.is_empty() {
        return None;
    }
    let mut table = Table::new(&["NOT-LOOKED-INTO", "WHY"]);
    for unseen in &plan.unseen.named {
        let column = unseen.column.as_ref().map_or_else(String::new, |column| format!(".{column}"));
        table.row([format!("{}{column}", unseen.table), unseen.reason.clone()]);
    }
    Some(format!(
        "Warning: {} where values may stand that are not registered could not be looked into; they would stay under the \
         old key. docs/database.md lists the right to see everything.\n{}",
        counted(plan.unseen.total, "place"),
        table.render()
    ))
}

fn undecryptable(rotation: &v1::Rotation) -> String {
    let accepted = plan_of(rotation).map(|plan| plan.accepted).unwrap_or_default();
    let mut table = Table::new(&["UNDECRYPTABLE", "KEY", "ACCEPTED", "REASON"]);
    for value in &rotation.undecryptable {
        let matches = accepted.iter().any(|one| {
            one.table == value.table
                && one.column == value.column
                && one.key.0 == value.key
                && one.raw_digest.to_string() == value.raw_digest
        });
        table.row([
            format!("{}.{}", value.table, value.column),
            value.key.clone(),
            if matches { "yes" } else { "no" }.to_owned(),
            value.reason.clone(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_warns_of_what_nobody_looked_into() {
        let plan = |unseen: &str| {
            let text = format!(
                r#"{{"format":3,"farm":"f","rotation":"01a21d34-7efd-745b-ae17-49739ea16bcb","nodes":{{}},"tables":{{}},
                    "shards":[],"writers_max":1,"accepted":[],"downtime_forecast_ms":1{unseen}}}"#
            );
            Plan::from_bytes(text.as_bytes()).expect("a plan")
        };
        assert_eq!(unseen(&plan("")), None);
        let named =
            r#","unseen":{"total":300,"named":[{"table":"audit","column":"body","reason":"may not SELECT it"}]}"#;
        let text = unseen(&plan(named)).expect("a warning");
        for said in ["Warning: 300 places", "audit.body", "may not SELECT it", "docs/database.md"] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }
}
