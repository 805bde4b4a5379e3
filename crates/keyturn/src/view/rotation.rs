//! A rotation as the object that every verb about one prints with `-o json`. Scripts rely on its fields: they are only
//! ever added to.

use std::collections::BTreeSet;

use rotation::{NodeId, Phase, Plan};
use serde::Serialize;
use serde_json::Value;
use wire::v1;

use crate::exit::Exit;

/// One rotation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RotationView {
    pub(crate) id: String,
    /// `running`, `completed`, `rolled_back`, `refused`, `withdrawn` or `stuck`.
    pub(crate) outcome: &'static str,
    /// The phase reached; while undoing, the one from which.
    pub(crate) phase: &'static str,
    /// The undo's step; null when going forward.
    pub(crate) undo_step: Option<String>,
    pub(crate) paused: bool,
    pub(crate) epoch: u64,
    pub(crate) requested_by: String,
    pub(crate) requested_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    pub(crate) now_ms: u64,
    pub(crate) old_key: Option<String>,
    pub(crate) new_key: Option<String>,
    pub(crate) plan_digest: Option<String>,
    pub(crate) database: Option<&'static str>,
    pub(crate) downtime_ms: u64,
    pub(crate) leader_changes: u32,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) phases: Vec<PhaseView>,
    pub(crate) waiting: Vec<WaitingView>,
    pub(crate) faults: Vec<FaultView>,
    pub(crate) next_steps: Vec<String>,
    pub(crate) progress: ProgressView,
    /// Values that open under no known key; what `rotation plan --accept` takes.
    pub(crate) undecryptable: Vec<UndecryptableView>,
    /// Rows per second that all agents together may work on; null without a bound.
    pub(crate) throttle_rows_per_second: Option<u32>,
    /// Tables whose originals are kept beside them, under the old key.
    pub(crate) kept_tables: Vec<String>,
    /// Who asked for them to be dropped; null when nobody did, or when it failed.
    pub(crate) retired_by: Option<String>,
    /// When they were gone.
    pub(crate) retired_at_ms: Option<u64>,
    /// The expected time offline at the present throttle; null before there is a plan.
    pub(crate) downtime_forecast_ms: Option<u64>,
    /// The downtime budget and where the rotation stands towards it; null without one.
    pub(crate) budget: Option<BudgetView>,
    /// The plan as it is signed; null before there is one.
    pub(crate) plan: Option<Value>,
}

/// The downtime budget, and where the rotation stands towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct BudgetView {
    pub(crate) max_downtime_ms: u64,
    /// `undo` or `continue`: what happens when it would be exceeded.
    pub(crate) on_budget: &'static str,
    pub(crate) used_ms: u64,
    pub(crate) left_ms: u64,
    /// Estimated time to the end forward; null when not offline and going forward.
    pub(crate) forward_ms: Option<u64>,
    /// Estimated time of an undo that began now; null as above.
    pub(crate) back_ms: Option<u64>,
    /// When an undo begins by itself, if the way forward is the longer one by then; null for never.
    pub(crate) turns_back_at_ms: Option<u64>,
    /// When it was found that the budget could not be kept; null while it can.
    pub(crate) spent_at_ms: Option<u64>,
}

/// One node's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) id: String,
    pub(crate) key_before: Option<String>,
    pub(crate) key_after: Option<String>,
    pub(crate) key_stored: bool,
    pub(crate) offline_at_ms: Option<u64>,
    pub(crate) admitted_at_ms: Option<u64>,
    pub(crate) canary_ok: bool,
    pub(crate) held: bool,
    pub(crate) protector: String,
}

/// When a phase or a step of an undo began and ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PhaseView {
    pub(crate) phase: String,
    pub(crate) started_ms: u64,
    pub(crate) ended_ms: Option<u64>,
}

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WaitingView {
    /// Null when it is an operator.
    pub(crate) node: Option<String>,
    pub(crate) what: String,
    pub(crate) since_ms: u64,
    /// When it is given up on; null for never.
    pub(crate) until_ms: Option<u64>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FaultView {
    pub(crate) code: String,
    pub(crate) node: Option<String>,
    pub(crate) message: String,
    pub(crate) next_step: String,
    pub(crate) retryable: bool,
}

/// How far the rows are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProgressView {
    pub(crate) shards_total: u32,
    pub(crate) shards_done: u32,
    pub(crate) rows_total: u64,
    pub(crate) rows_done: u64,
    pub(crate) rows_per_second: f64,
    pub(crate) time_left_ms: Option<u64>,
    pub(crate) rows_reencrypted: u64,
    pub(crate) rows_verified: u64,
    pub(crate) undecryptable: u64,
    pub(crate) content_digest_before: Option<String>,
    pub(crate) content_digest_after: Option<String>,
    /// Of the primary keys and all columns that are not registered.
    pub(crate) rest_digest_before: Option<String>,
    pub(crate) rest_digest_after: Option<String>,
    pub(crate) tables: Vec<TableView>,
}

/// How far one table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TableView {
    pub(crate) name: String,
    pub(crate) strategy: String,
    pub(crate) rows: u64,
    pub(crate) rows_reencrypted: u64,
    pub(crate) rows_verified: u64,
    pub(crate) content_digest_before: Option<String>,
    pub(crate) content_digest_after: Option<String>,
    /// Of the primary keys and all columns that are not registered.
    pub(crate) rest_digest_before: Option<String>,
    pub(crate) rest_digest_after: Option<String>,
}

/// A value that opens under no known key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UndecryptableView {
    pub(crate) table: String,
    pub(crate) column: String,
    pub(crate) key: String,
    pub(crate) raw_digest: String,
    pub(crate) reason: String,
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

/// The stable name of a phase; `unknown` for one that this release does not know.
pub(super) fn phase_name(phase: v1::Phase) -> &'static str {
    Phase::try_from(phase).map_or("unknown", Phase::as_str)
}

const fn outcome_name(outcome: v1::Outcome) -> &'static str {
    match outcome {
        v1::Outcome::Unspecified => "unknown",
        v1::Outcome::Running => "running",
        v1::Outcome::Completed => "completed",
        v1::Outcome::RolledBack => "rolled_back",
        v1::Outcome::Refused => "refused",
        v1::Outcome::Withdrawn => "withdrawn",
        v1::Outcome::Stuck => "stuck",
    }
}

/// The exit code of a verb that waited for the end. `None` while there is none.
pub(crate) fn outcome_exit(rotation: &v1::Rotation) -> Option<Exit> {
    match rotation.outcome() {
        v1::Outcome::Unspecified | v1::Outcome::Running => None,
        v1::Outcome::Completed if super::report::adds_up(rotation) => Some(Exit::Done),
        v1::Outcome::Completed => Some(Exit::VerificationFailed),
        v1::Outcome::RolledBack => Some(Exit::RolledBack),
        v1::Outcome::Refused | v1::Outcome::Withdrawn => Some(Exit::Refused),
        v1::Outcome::Stuck => Some(Exit::Stuck),
    }
}

impl From<&v1::Rotation> for RotationView {
    fn from(from: &v1::Rotation) -> Self {
        Self {
            id: from.id.clone(),
            outcome: outcome_name(from.outcome()),
            phase: phase_name(from.phase()),
            undo_step: text(&from.undo_step),
            paused: from.paused,
            epoch: from.epoch,
            requested_by: from.requested_by.clone(),
            requested_at_ms: from.requested_at_ms,
            ended_at_ms: number(from.ended_at_ms),
            now_ms: from.now_ms,
            old_key: text(&from.old_key),
            new_key: text(&from.new_key),
            plan_digest: text(&from.plan_digest),
            database: match from.database() {
                v1::DatabaseKind::Unspecified => None,
                v1::DatabaseKind::Postgres => Some("postgres"),
                v1::DatabaseKind::Mariadb => Some("mariadb"),
                v1::DatabaseKind::Sqlite => Some("sqlite"),
            },
            downtime_ms: from.downtime_ms,
            leader_changes: from.leader_changes,
            nodes: from.nodes.iter().map(NodeView::from).collect(),
            phases: from.phases.iter().map(PhaseView::from).collect(),
            waiting: from.waiting.iter().map(WaitingView::from).collect(),
            faults: from.faults.iter().map(FaultView::from).collect(),
            next_steps: from.next_steps.clone(),
            progress: ProgressView::from(&from.progress.clone().unwrap_or_default()),
            undecryptable: from.undecryptable.iter().map(UndecryptableView::from).collect(),
            throttle_rows_per_second: from.throttle,
            kept_tables: from.kept_tables.clone(),
            retired_by: text(&from.retired_by),
            retired_at_ms: number(from.retired_at_ms),
            downtime_forecast_ms: number(from.downtime_forecast_ms),
            budget: from.budget.as_ref().map(BudgetView::from),
            plan: serde_json::from_slice(&from.plan).ok(),
        }
    }
}

impl From<&v1::Budget> for BudgetView {
    fn from(from: &v1::Budget) -> Self {
        Self {
            max_downtime_ms: from.max_downtime_ms,
            on_budget: match from.on_budget() {
                v1::OnBudget::Unspecified | v1::OnBudget::Undo => "undo",
                v1::OnBudget::Continue => "continue",
            },
            used_ms: from.used_ms,
            left_ms: from.left_ms,
            forward_ms: from.forward_ms,
            back_ms: from.back_ms,
            turns_back_at_ms: number(from.turns_back_at_ms),
            spent_at_ms: number(from.spent_at_ms),
        }
    }
}

impl From<&v1::RotationNode> for NodeView {
    fn from(from: &v1::RotationNode) -> Self {
        Self {
            id: from.id.clone(),
            key_before: text(&from.key_before),
            key_after: text(&from.key_after),
            key_stored: from.key_stored,
            offline_at_ms: number(from.offline_at_ms),
            admitted_at_ms: number(from.admitted_at_ms),
            canary_ok: from.canary_ok,
            held: from.held,
            protector: from.protector.clone(),
        }
    }
}

impl From<&v1::PhaseTime> for PhaseView {
    fn from(from: &v1::PhaseTime) -> Self {
        Self { phase: from.name.clone(), started_ms: from.started_ms, ended_ms: number(from.ended_ms) }
    }
}

impl From<&v1::Waiting> for WaitingView {
    fn from(from: &v1::Waiting) -> Self {
        Self {
            node: text(&from.node),
            what: from.what.clone(),
            since_ms: from.since_ms,
            until_ms: number(from.until_ms),
        }
    }
}

impl From<&v1::Fault> for FaultView {
    fn from(from: &v1::Fault) -> Self {
        Self {
            code: from.code.clone(),
            node: text(&from.node),
            message: from.message.clone(),
            next_step: from.next_step.clone(),
            retryable: from.retryable,
        }
    }
}

impl From<&v1::RotationProgress> for ProgressView {
    fn from(from: &v1::RotationProgress) -> Self {
        Self {
            shards_total: from.shards_total,
            shards_done: from.shards_done,
            rows_total: from.rows_total,
            rows_done: from.rows_done,
            rows_per_second: from.rows_per_second,
            time_left_ms: number(from.time_left_ms),
            rows_reencrypted: from.rows_reencrypted,
            rows_verified: from.rows_verified,
            undecryptable: from.undecryptable,
            content_digest_before: text(&from.content_digest_before),
            content_digest_after: text(&from.content_digest_after),
            rest_digest_before: text(&from.rest_digest_before),
            rest_digest_after: text(&from.rest_digest_after),
            tables: from.tables.iter().map(TableView::from).collect(),
        }
    }
}

impl From<&v1::TableProgress> for TableView {
    fn from(from: &v1::TableProgress) -> Self {
        Self {
            name: from.name.clone(),
            strategy: from.strategy.clone(),
            rows: from.rows,
            rows_reencrypted: from.rows_reencrypted,
            rows_verified: from.rows_verified,
            content_digest_before: text(&from.content_digest_before),
            content_digest_after: text(&from.content_digest_after),
            rest_digest_before: text(&from.rest_digest_before),
            rest_digest_after: text(&from.rest_digest_after),
        }
    }
}

impl From<&v1::UndecryptableValue> for UndecryptableView {
    fn from(from: &v1::UndecryptableValue) -> Self {
        Self {
            table: from.table.clone(),
            column: from.column.clone(),
            key: from.key.clone(),
            raw_digest: from.raw_digest.clone(),
            reason: from.reason.clone(),
        }
    }
}

/// The plan inside, if there is one that this release reads.
pub(crate) fn plan_of(rotation: &v1::Rotation) -> Option<Plan> {
    Plan::from_bytes(&rotation.plan).ok()
}

/// Nodes in words: `node-1, node-2`.
pub(super) fn names<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    nodes.map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

/// The protector's name, without what it is worth: `hostkey`.
pub(super) fn protector_name(protector: &str) -> &str {
    protector.split(" (").next().unwrap_or(protector)
}

/// The protectors of all nodes with what each is worth, one per line; mostly there is only one.
pub(super) fn protectors<'a>(protectors: impl Iterator<Item = &'a str>) -> String {
    protectors.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n")
}
