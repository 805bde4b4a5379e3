//! The result of a demo: a few lines for people, one JSON object for programs.

use std::collections::BTreeSet;

use serde::Serialize;
use wire::v1;

use super::checks::Findings;
use crate::farm::Farm;

/// The JSON object; its fields are promised by the command line's documentation and are only ever added to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) outcome: &'static str,
    rows_total: u64,
    rows_reencrypted: u64,
    rows_verified: u64,
    rows_undecryptable: u64,
    nodes: Vec<NodeSummary>,
    key_ids_agree: bool,
    downtime_ms: u64,
    requests_ok: u64,
    requests_refused: u64,
    requests_wrong: u64,
    leader_changes: u32,
    phases: Vec<PhaseSummary>,
    database: DatabaseSummary,
    directory: Option<String>,
    /// What went wrong and was dealt with, in one line each.
    faults: Vec<String>,
    /// Checks that did not hold.
    checks_failed: Vec<String>,
    /// What an operator does next, when it is stuck.
    next_steps: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct NodeSummary {
    id: String,
    key_id_before: String,
    key_id_after: String,
    downtime_ms: u64,
    canary_ok: bool,
}

#[derive(Debug, Clone, Serialize)]
struct PhaseSummary {
    phase: String,
    started_ms: u64,
    ended_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
struct DatabaseSummary {
    kind: &'static str,
    strategy: String,
    rows_per_second: u64,
    content_digest_before: String,
    content_digest_after: String,
}

impl Summary {
    pub(super) fn new(farm: &Farm, rotation: &v1::Rotation, findings: &Findings, keep: bool) -> Self {
        let progress = rotation.progress.clone().unwrap_or_default();
        let nodes = findings.nodes.iter().map(|now| {
            let node = rotation.nodes.iter().find(|node| node.id == now.id).cloned().unwrap_or_default();
            let was_offline = node.offline_at_ms > 0 && node.admitted_at_ms > 0;
            NodeSummary {
                id: now.id.clone(),
                key_id_before: node.key_before,
                key_id_after: now.key.clone(),
                downtime_ms: if was_offline { node.admitted_at_ms.saturating_sub(node.offline_at_ms) } else { 0 },
                canary_ok: now.canary_ok,
            }
        });
        let first = findings.nodes.first().map_or("", |node| node.key.as_str());
        Self {
            outcome: match rotation.outcome() {
                v1::Outcome::Completed => "completed",
                v1::Outcome::RolledBack => "rolled_back",
                v1::Outcome::Stuck
                | v1::Outcome::Unspecified
                | v1::Outcome::Running
                | v1::Outcome::Refused
                | v1::Outcome::Withdrawn => "stuck",
            },
            rows_total: progress.rows_total,
            rows_reencrypted: progress.rows_reencrypted,
            rows_verified: progress.rows_verified,
            rows_undecryptable: progress.undecryptable,
            nodes: nodes.collect(),
            key_ids_agree: !first.is_empty() && findings.nodes.iter().all(|node| node.key == first),
            downtime_ms: rotation.downtime_ms,
            requests_ok: findings.load.ok,
            requests_refused: findings.load.refused,
            requests_wrong: findings.load.wrong,
            leader_changes: rotation.leader_changes,
            phases: rotation
                .phases
                .iter()
                .map(|phase| PhaseSummary {
                    phase: phase.name.clone(),
                    started_ms: phase.started_ms,
                    ended_ms: phase.ended_ms,
                })
                .collect(),
            database: DatabaseSummary {
                kind: farm.database.kind(),
                strategy: strategies(&progress.tables),
                rows_per_second: rows_per_second(rotation, progress.rows_reencrypted),
                content_digest_before: progress.content_digest_before,
                content_digest_after: progress.content_digest_after,
            },
            directory: keep.then(|| farm.layout.root().display().to_string()),
            faults: rotation.faults.iter().map(super::rotate::describe).collect(),
            checks_failed: findings.failed().collect(),
            next_steps: rotation.next_steps.clone(),
        }
    }

    /// The object.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// A few lines.
    pub(super) fn text(&self, findings: &Findings) -> String {
        let title = match self.outcome {
            "completed" => "The rotation completed",
            "rolled_back" => "The rotation was rolled back",
            _ => "The rotation is stuck",
        };
        let before = self.nodes.first().map_or("", |node| node.key_id_before.as_str());
        let after = self.nodes.first().map_or("", |node| node.key_id_after.as_str());
        let agree = if self.key_ids_agree { "on all nodes" } else { "on the first node; others differ" };
        let mut lines = vec![
            format!(
                "{title}: {} nodes, {} rows, offline for {}.",
                self.nodes.len(),
                self.rows_total,
                seconds(self.downtime_ms)
            ),
            format!("  key       {before} before, {after} now, {agree}"),
            format!(
                "  rows      {} re-encrypted ({} rows/s, {}), {} verified, {} undecryptable",
                self.rows_reencrypted,
                self.database.rows_per_second,
                self.database.kind,
                self.rows_verified,
                self.rows_undecryptable
            ),
            format!(
                "  requests  {} right, {} refused while offline, {} wrong",
                self.requests_ok, self.requests_refused, self.requests_wrong
            ),
            format!("  checks    {} of {} held", findings.count() - self.checks_failed.len(), findings.count()),
        ];
        lines.extend(self.faults.iter().map(|fault| format!("  fault     {fault}")));
        lines.extend(self.next_steps.iter().map(|step| format!("  next      {step}")));
        if let Some(directory) = &self.directory {
            lines.push(format!("  kept in   {directory}; farm.json there names everything"));
        }
        lines.join("\n")
    }

    /// 0 done, 3 rolled back, 4 stuck, 6 when a check did not hold.
    pub(super) fn exit_code(&self, findings: &Findings) -> u8 {
        match self.outcome {
            "stuck" => 4,
            _ if !findings.all_held() => 6,
            "rolled_back" => 3,
            _ => 0,
        }
    }
}

/// Every strategy that some table goes by.
fn strategies(tables: &[v1::TableProgress]) -> String {
    let strategies: BTreeSet<&str> = tables.iter().map(|table| table.strategy.as_str()).collect();
    strategies.into_iter().collect::<Vec<_>>().join(", ")
}

/// Over the whole phase, waiting included, as a farm's downtime counts it.
fn rows_per_second(rotation: &v1::Rotation, rows: u64) -> u64 {
    let reencrypt = rotation.phases.iter().find(|phase| phase.name == "reencrypt");
    let lasted_ms = reencrypt.map_or(0, |phase| phase.ended_ms.saturating_sub(phase.started_ms));
    (rows * 1_000).checked_div(lasted_ms).unwrap_or(0)
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
