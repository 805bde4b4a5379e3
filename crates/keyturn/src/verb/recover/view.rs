//! What `keyturn recover` tells: what was found, what is done, and what is left to do.

use agent::recover::{Decision, Findings, Step, Verdict};
use keys::FileRole;
use rotation::{DatabaseBackup, Direction, Fault, NodeId};
use serde::Serialize;

use crate::output::{Table, counted, date_time, fields, thousands};

/// The one JSON object.
#[derive(Debug, Serialize)]
pub(super) struct RecoveryView {
    node: String,
    /// `whole`, `back`, `forward`, `key`, `restore`, `wait` or `impossible`.
    verdict: &'static str,
    why: String,
    key: Option<String>,
    files: Vec<FileView>,
    instance: String,
    rotations: Vec<RotationView>,
    tables: Vec<TableView>,
    steps: Vec<StepView>,
    next_steps: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FileView {
    name: String,
    active_key: Option<String>,
    decrypt_only_keys: Vec<String>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct RotationView {
    rotation: String,
    direction: &'static str,
    epoch: u64,
    closed: bool,
    shards_turned: u64,
    shards_verified: u64,
    shards_restored: u64,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TableView {
    table: String,
    rows: u64,
    rows_tried: u64,
    values_by_key: std::collections::BTreeMap<String, u64>,
    values_unopened: u64,
    values_accepted: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct StepView {
    name: &'static str,
    text: String,
    /// `planned`, `done` or `failed`.
    state: &'static str,
    result: String,
}

impl RecoveryView {
    pub(super) fn new(found: &Findings, decision: &Decision) -> Self {
        Self {
            node: found.node.to_string(),
            verdict: verdict_text(decision.verdict),
            why: decision.why.clone(),
            key: decision.key.map(|key| key.to_string()),
            files: files(found),
            instance: found.instance.clone().unwrap_or_else(|problem| format!("unknown: {problem}")),
            rotations: rotations(found),
            tables: tables(found),
            steps: steps(decision),
            next_steps: decision.next_steps.clone(),
        }
    }

    /// A backup that is put back, before the database was looked at again.
    pub(super) fn of_restore(node: &NodeId, decision: &Decision) -> Self {
        Self {
            node: node.to_string(),
            verdict: verdict_text(decision.verdict),
            why: decision.why.clone(),
            key: decision.key.map(|key| key.to_string()),
            files: Vec::new(),
            instance: String::new(),
            rotations: Vec::new(),
            tables: Vec::new(),
            steps: steps(decision),
            next_steps: decision.next_steps.clone(),
        }
    }

    /// The same after these steps.
    pub(super) fn after(mut self, earlier: Vec<StepView>) -> Self {
        self.steps.splice(0..0, earlier);
        self
    }

    pub(super) fn into_steps(self) -> Vec<StepView> {
        self.steps
    }

    /// The next step was done.
    pub(super) fn done(&mut self, result: String) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.state == "planned") {
            step.state = "done";
            step.result = result;
        }
    }

    /// The first step that is not done failed.
    pub(super) fn failed(&mut self, fault: &Fault) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.state == "planned") {
            step.state = "failed";
            step.result = fault.to_string();
        }
        // What was to come after the last step does not hold yet.
        self.next_steps = vec!["run `keyturn recover` here again: it goes on from where things are".to_owned()];
    }

    /// The end, for people.
    pub(super) fn text(&self) -> String {
        let done = self.steps.iter().filter(|step| step.state == "done").count();
        fields(&[
            ("Node", self.node.clone()),
            ("Verdict", self.verdict.to_owned()),
            ("Key", self.key.clone().unwrap_or_default()),
            ("Steps", format!("{done} of {} done", self.steps.len())),
            ("Next", self.next_steps.join("\n")),
        ])
    }
}

fn steps(decision: &Decision) -> Vec<StepView> {
    let step =
        |step: &Step| StepView { name: step.name(), text: step.to_string(), state: "planned", result: String::new() };
    decision.steps.iter().map(step).collect()
}

fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Whole => "whole",
        Verdict::Back => "back",
        Verdict::Forward => "forward",
        Verdict::Key => "key",
        Verdict::Restore => "restore",
        Verdict::Wait => "wait",
        Verdict::Impossible => "impossible",
    }
}

fn files(found: &Findings) -> Vec<FileView> {
    found
        .files
        .iter()
        .map(|file| FileView {
            name: file.name.clone(),
            active_key: file.active.map(|key| key.to_string()),
            decrypt_only_keys: file.decrypt_only.iter().map(ToString::to_string).collect(),
            problem: file.problem.clone(),
        })
        .collect()
}

fn rotations(found: &Findings) -> Vec<RotationView> {
    found
        .ledger
        .iter()
        .map(|rotation| RotationView {
            rotation: rotation.rotation.to_string(),
            direction: match rotation.direction {
                Direction::Forward => "forward",
                Direction::Back => "back",
            },
            epoch: rotation.epoch.get(),
            closed: rotation.closed,
            shards_turned: rotation.shards_turned,
            shards_verified: rotation.shards_verified,
            shards_restored: rotation.shards_restored,
            notes: rotation.notes.iter().map(|(kind, node)| format!("{} {node}", kind.as_str())).collect(),
        })
        .collect()
}

fn tables(found: &Findings) -> Vec<TableView> {
    found
        .census
        .iter()
        .map(|table| TableView {
            table: table.table.clone(),
            rows: table.rows,
            rows_tried: table.rows_read,
            values_by_key: table.by_key.iter().map(|(key, values)| (key.to_string(), *values)).collect(),
            values_unopened: table.unopened,
            values_accepted: table.accepted,
        })
        .collect()
}

/// What was found, for people.
pub(super) fn findings_text(found: &Findings) -> String {
    let mut files = Table::new(&["FILE", "ACTIVE KEY", "OLDER KEYS", "PROBLEM"]);
    for file in &found.files {
        let older: Vec<String> = file.decrypt_only.iter().map(ToString::to_string).collect();
        let active = file.active.map(|key| key.to_string()).unwrap_or_default();
        let name = match file.role {
            FileRole::Pending => format!("{} (pending)", file.name),
            FileRole::Current | FileRole::Dated | FileRole::Other => file.name.clone(),
        };
        files.row([name, active, older.join(" "), file.problem.clone().unwrap_or_default()]);
    }
    let mut ledger =
        Table::new(&["ROTATION", "DIRECTION", "EPOCH", "STATE", "SHARDS TURNED/VERIFIED/RESTORED", "NOTES"]);
    for rotation in rotations(found) {
        ledger.row([
            rotation.rotation,
            rotation.direction.to_owned(),
            rotation.epoch.to_string(),
            if rotation.closed { "closed" } else { "open" }.to_owned(),
            format!("{}/{}/{}", rotation.shards_turned, rotation.shards_verified, rotation.shards_restored),
            rotation.notes.join(", "),
        ]);
    }
    let mut data = Table::new(&["TABLE", "ROWS", "TRIED", "VALUES BY KEY", "UNOPENED"]);
    for table in tables(found) {
        let by_key: Vec<String> = table.values_by_key.iter().map(|(key, values)| format!("{key}: {values}")).collect();
        data.row([
            table.table,
            table.rows.to_string(),
            table.rows_tried.to_string(),
            by_key.join(", "),
            table.values_unopened.to_string(),
        ]);
    }
    let held = found.held.map_or_else(String::new, |rotation| format!(", held offline for rotation {rotation}"));
    let instance = found.instance.clone().unwrap_or_else(|problem| format!("unknown: {problem}"));
    let kept = match &found.plan {
        Some(plan) => match &plan.misfit {
            None => format!("kept, rotation {}", plan.plan.rotation),
            Some(misfit) => format!("kept, rotation {}, but {misfit}", plan.plan.rotation),
        },
        None => "none kept".to_owned(),
    };
    let node =
        fields(&[("Node", found.node.to_string()), ("Instance", format!("{instance}{held}")), ("Signed plan", kept)]);
    [node, files.render(), ledger.render(), data.render()].join("\n\n")
}

/// The backup that was proved, for people.
pub(super) fn backup_text(backup: &DatabaseBackup) -> String {
    let rows: u64 = backup.tables.values().map(|table| table.rows).sum();
    let values: u64 = backup.tables.values().map(|table| table.values_opened).sum();
    fields(&[
        ("Backup", backup.path.clone()),
        ("Of", format!("{}; what was written since is not in it", date_time(backup.made_at.get()))),
        (
            "Holds",
            format!(
                "{}, of which {} were opened under key {}",
                counted(rows, "row"),
                counted(values, "value"),
                backup.key
            ),
        ),
        ("Proof", backup.proof.clone()),
        ("Size", format!("{} bytes, BLAKE3 {}", thousands(backup.bytes), backup.digest)),
    ])
}

/// What would be done, for people.
pub(super) fn plan_text(decision: &Decision) -> String {
    let mut text = format!("{}: {}.\n", verdict_text(decision.verdict), decision.why);
    if decision.steps.is_empty() {
        text.push_str("Nothing is to be done on this node.");
    } else {
        text.push_str(&format!("{}:", counted(decision.steps.len() as u64, "step")));
        for (index, step) in decision.steps.iter().enumerate() {
            text.push_str(&format!("\n  {}. {step}", index + 1));
        }
    }
    text
}
