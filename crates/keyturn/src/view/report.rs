//! The evidence of a rotation: what was done, under which keys, whether it adds up, and where old ciphertext remains.

use std::collections::BTreeMap;

use rotation::{DatabaseBackup, FolderArchive, NodeId};
use serde::Serialize;
use wire::v1;

use super::rotation::{
    BudgetView, FaultView, NodeView, PhaseView, RotationView, TableView, names, plan_of, protector_name, protectors,
};
use super::status::{budget_words, kept, standing};
use crate::output::{Paint, Table, date_time, duration, fields, file_date, thousands};

/// The version of the report's form.
const FORMAT: u32 = 1;

/// Evidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    format: u32,
    id: String,
    farm: Option<String>,
    outcome: &'static str,
    /// Whether every row of every table was verified, digests agree, and every node that is not held has the key.
    adds_up: bool,
    requested_by: String,
    requested_at_ms: u64,
    ended_at_ms: Option<u64>,
    old_key: Option<String>,
    new_key: Option<String>,
    plan_digest: Option<String>,
    database: Option<&'static str>,
    database_identity: Option<String>,
    downtime_ms: u64,
    downtime_forecast_ms: Option<u64>,
    /// What was allowed, used, and whether it was kept; null without a budget.
    budget: Option<BudgetView>,
    leader_changes: u32,
    rows: u64,
    rows_reencrypted: u64,
    rows_verified: u64,
    undecryptable: u64,
    content_digest_before: Option<String>,
    content_digest_after: Option<String>,
    /// Of the primary keys and all columns that are not registered.
    rest_digest_before: Option<String>,
    rest_digest_after: Option<String>,
    tables: Vec<TableView>,
    /// The backup of the database that Preflight made or was shown, as the plan has it; null when there is none.
    backup: Option<DatabaseBackup>,
    /// The archives of the nodes' folders.
    folders: BTreeMap<NodeId, FolderArchive>,
    nodes: Vec<NodeView>,
    phases: Vec<PhaseView>,
    faults: Vec<FaultView>,
    /// Tables whose originals are kept beside them, under the old key, until they are retired.
    kept_tables: Vec<String>,
    /// When they were gone; null while they are not, or where there were none.
    retired_at_ms: Option<u64>,
    /// Where ciphertext of the rotation's other side may remain, and which key opens it.
    remains: Vec<Remainder>,
}

/// A place that the rotation does not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Remainder {
    place: String,
    opened_by: String,
}

/// Whether a completed rotation's evidence is complete: rows counted, rows turned and rows verified are the same for every
/// table, contents and all other columns are, and every node that is not held proved the new key.
pub(super) fn adds_up(rotation: &v1::Rotation) -> bool {
    let Some(progress) = &rotation.progress else { return false };
    let rows = !progress.tables.is_empty()
        && progress.tables.iter().all(|table| {
            table.rows == table.rows_reencrypted
                && table.rows == table.rows_verified
                && table.content_digest_before == table.content_digest_after
                && table.rest_digest_before == table.rest_digest_after
        });
    let contents =
        !progress.content_digest_before.is_empty() && progress.content_digest_before == progress.content_digest_after;
    let others = progress.rest_digest_before == progress.rest_digest_after;
    let mut free = rotation.nodes.iter().filter(|node| !node.held).peekable();
    let nodes = free.peek().is_some() && free.all(|node| node.canary_ok && node.key_after == rotation.new_key);
    rotation.outcome() == v1::Outcome::Completed && rows && contents && others && nodes && !rotation.new_key.is_empty()
}

impl From<&v1::Rotation> for Report {
    fn from(rotation: &v1::Rotation) -> Self {
        let view = RotationView::from(rotation);
        let plan = plan_of(rotation);
        let identity = plan.as_ref().and_then(|plan| plan.nodes.values().next());
        Self {
            format: FORMAT,
            farm: plan.as_ref().map(|plan| plan.farm.clone()),
            adds_up: adds_up(rotation),
            database_identity: identity.map(|node| node.database.identity.clone()),
            downtime_forecast_ms: plan.as_ref().map(|plan| plan.downtime_forecast_ms),
            budget: view.budget,
            backup: plan.as_ref().and_then(|plan| plan.backup.clone()),
            folders: plan.as_ref().map(|plan| plan.folders.clone()).unwrap_or_default(),
            rows: view.progress.tables.iter().map(|table| table.rows).sum(),
            rows_reencrypted: view.progress.rows_reencrypted,
            rows_verified: view.progress.rows_verified,
            undecryptable: view.progress.undecryptable,
            content_digest_before: view.progress.content_digest_before,
            content_digest_after: view.progress.content_digest_after,
            rest_digest_before: view.progress.rest_digest_before,
            rest_digest_after: view.progress.rest_digest_after,
            tables: view.progress.tables,
            kept_tables: view.kept_tables,
            retired_at_ms: view.retired_at_ms,
            remains: remains(rotation),
            id: view.id,
            outcome: view.outcome,
            requested_by: view.requested_by,
            requested_at_ms: view.requested_at_ms,
            ended_at_ms: view.ended_at_ms,
            old_key: view.old_key,
            new_key: view.new_key,
            plan_digest: view.plan_digest,
            database: view.database,
            downtime_ms: view.downtime_ms,
            leader_changes: view.leader_changes,
            nodes: view.nodes,
            phases: view.phases,
            faults: view.faults,
        }
    }
}

/// Where ciphertext under the key that is no longer used may remain. Empty when no row was touched.
fn remains(rotation: &v1::Rotation) -> Vec<Remainder> {
    let touched = rotation.phases.iter().any(|phase| phase.name == "reencrypt");
    let key = match rotation.outcome() {
        v1::Outcome::Completed => &rotation.old_key,
        v1::Outcome::RolledBack if touched => &rotation.new_key,
        v1::Outcome::RolledBack
        | v1::Outcome::Unspecified
        | v1::Outcome::Running
        | v1::Outcome::Refused
        | v1::Outcome::Withdrawn
        | v1::Outcome::Stuck => return Vec::new(),
    };
    let places: &[&str] = match rotation.database() {
        v1::DatabaseKind::Postgres => &[
            "dead row versions in the registered tables, until VACUUM has run",
            "the write-ahead log and its archive",
            "replicas that lag behind or were split off",
            "backups and dumps taken before the end of the rotation",
        ],
        v1::DatabaseKind::Mariadb => &[
            "the undo log, until it is purged",
            "the binary log and its copies",
            "replicas that lag behind or were split off",
            "backups and dumps taken before the end of the rotation",
        ],
        v1::DatabaseKind::Sqlite => &[
            "free pages of the database file, until VACUUM has run",
            "the write-ahead log beside it, until its checkpoint",
            "copies and backups taken before the end of the rotation",
        ],
        v1::DatabaseKind::Unspecified => &["backups and dumps taken before the end of the rotation"],
    };
    let kept = (!rotation.kept_tables.is_empty()).then(|| {
        format!(
            "the original tables of {}, kept beside their copies until `keyturn rotation retire`",
            rotation.kept_tables.join(", ")
        )
    });
    let places = kept.into_iter().chain(places.iter().map(|place| (*place).to_owned()));
    places.map(|place| Remainder { place, opened_by: key.clone() }).collect()
}

impl Report {
    /// Whether a completed rotation's evidence is complete.
    pub(crate) fn adds_up(&self) -> bool {
        self.adds_up
    }

    /// Whether the rotation completed.
    pub(crate) fn completed(&self) -> bool {
        self.outcome == "completed"
    }

    /// The text for people.
    pub(crate) fn text(&self, rotation: &v1::Rotation, paint: Paint) -> String {
        let view = RotationView::from(rotation);
        let verdict = match rotation.outcome() {
            v1::Outcome::Completed if self.adds_up => {
                paint.green("every row verified, contents unchanged, every node proved its key")
            }
            v1::Outcome::Completed => paint.red("the evidence does not add up"),
            v1::Outcome::RolledBack | v1::Outcome::Refused | v1::Outcome::Withdrawn => standing(&view),
            v1::Outcome::Running | v1::Outcome::Stuck | v1::Outcome::Unspecified => {
                paint.yellow("none: the rotation is not finished")
            }
        };
        let plan = plan_of(rotation);
        let mut list = vec![
            ("Report", format!("rotation {}", self.id)),
            ("Farm", self.farm.clone().unwrap_or_default()),
            ("Outcome", standing(&view)),
            ("Verdict", verdict),
            ("Requested", format!("{} by {}", date_time(self.requested_at_ms), self.requested_by)),
            ("Ended", date_time(self.ended_at_ms.unwrap_or(0))),
            ("Nodes", plan.as_ref().map(|plan| names(plan.nodes.keys())).unwrap_or_default()),
            ("Protector", protectors(self.nodes.iter().map(|node| node.protector.as_str()))),
            ("Old key", self.old_key.clone().unwrap_or_default()),
            ("New key", self.new_key.clone().unwrap_or_default()),
            ("Plan digest", self.plan_digest.clone().unwrap_or_default()),
            (
                "Database",
                format!("{} {}", self.database.unwrap_or("-"), self.database_identity.as_deref().unwrap_or("-")),
            ),
            (
                "Rows",
                format!(
                    "{} counted, {} re-encrypted, {} verified, {} values left undecryptable as accepted",
                    thousands(self.rows),
                    thousands(self.rows_reencrypted),
                    thousands(self.rows_verified),
                    thousands(self.undecryptable)
                ),
            ),
            ("Content before", self.content_digest_before.clone().unwrap_or_default()),
            ("Content after", self.content_digest_after.clone().unwrap_or_default()),
            ("Other columns", self.other_columns().to_owned()),
            (
                "Downtime",
                match self.downtime_forecast_ms {
                    Some(forecast) => format!("{} (forecast {})", duration(self.downtime_ms), duration(forecast)),
                    None => duration(self.downtime_ms),
                },
            ),
            ("Kept", kept(&view).unwrap_or_else(|| "no original tables".to_owned())),
            ("Leader changes", self.leader_changes.to_string()),
        ];
        list.extend(self.budget.map(|budget| ("Budget", budget_words(&budget, view.now_ms))));
        let mut parts = vec![fields(&list)];
        parts.extend(plan.as_ref().map(super::plan::backups));
        parts.extend([self.tables_text(), self.nodes_text(), self.phases_text()].into_iter().flatten());
        let faults = super::faults_text(rotation, paint);
        if !faults.is_empty() {
            parts.push(faults);
        }
        parts.extend(self.remains_text());
        parts.join("\n\n")
    }

    /// Whether keys and columns that are not registered are what they were.
    fn other_columns(&self) -> &'static str {
        match (&self.rest_digest_before, &self.rest_digest_after) {
            (Some(before), Some(after)) if before == after => "unchanged",
            (Some(_), Some(_)) => "CHANGED",
            (Some(_), None) | (None, Some(_)) | (None, None) => "",
        }
    }

    fn tables_text(&self) -> Option<String> {
        let mut table = Table::new(&["TABLE", "STRATEGY", "ROWS", "REENCRYPTED", "VERIFIED", "CONTENT"]);
        for one in &self.tables {
            let content = match (&one.content_digest_before, &one.content_digest_after) {
                (Some(before), Some(after)) if before == after => "unchanged",
                (Some(_), Some(_)) => "CHANGED",
                (Some(_), None) | (None, Some(_)) | (None, None) => "",
            };
            table.row([
                one.name.clone(),
                one.strategy.clone(),
                one.rows.to_string(),
                one.rows_reencrypted.to_string(),
                one.rows_verified.to_string(),
                content.to_owned(),
            ]);
        }
        (!self.tables.is_empty()).then(|| table.render())
    }

    fn nodes_text(&self) -> Option<String> {
        let mut table = Table::new(&["NODE", "KEY-BEFORE", "KEY-AFTER", "OFFLINE", "CANARY", "PROTECTOR"]);
        for node in &self.nodes {
            let offline = match (node.offline_at_ms, node.admitted_at_ms) {
                (Some(from), Some(to)) => duration(to.saturating_sub(from)),
                (Some(_), None) => "still".to_owned(),
                (None, _) => String::new(),
            };
            table.row([
                node.id.clone(),
                node.key_before.clone().unwrap_or_default(),
                node.key_after.clone().unwrap_or_default(),
                offline,
                if node.canary_ok { "ok" } else { "" }.to_owned(),
                protector_name(&node.protector).to_owned(),
            ]);
        }
        (!self.nodes.is_empty()).then(|| table.render())
    }

    fn phases_text(&self) -> Option<String> {
        let mut table = Table::new(&["PHASE", "STARTED", "TOOK"]);
        for phase in &self.phases {
            let took = phase.ended_ms.map(|ended| duration(ended.saturating_sub(phase.started_ms)));
            table.row([phase.phase.clone(), date_time(phase.started_ms), took.unwrap_or_default()]);
        }
        (!self.phases.is_empty()).then(|| table.render())
    }

    fn remains_text(&self) -> Option<String> {
        let key = &self.remains.first()?.opened_by;
        let mut lines = vec![format!("Ciphertext that only the key {key} opens may remain in:")];
        lines.extend(self.remains.iter().map(|one| format!("- {}", one.place)));
        let activated = self.phases.iter().find(|phase| phase.phase == "activate").filter(|_| self.completed());
        if let Some(phase) = activated {
            lines.push(format!(
                "That key is escrowed in its bundle, and on every node in encryption.{}.config.",
                file_date(phase.started_ms)
            ));
        }
        Some(lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::view::outcome_exit;

    fn completed() -> v1::Rotation {
        let table = v1::TableProgress {
            name: "vault".to_owned(),
            rows: 2,
            rows_reencrypted: 2,
            rows_verified: 2,
            content_digest_before: "ab".to_owned(),
            content_digest_after: "ab".to_owned(),
            ..Default::default()
        };
        let node = v1::RotationNode {
            id: "node-1".to_owned(),
            key_after: "new".to_owned(),
            canary_ok: true,
            ..Default::default()
        };
        let mut rotation = v1::Rotation {
            id: "r".to_owned(),
            old_key: "old".to_owned(),
            new_key: "new".to_owned(),
            nodes: vec![node],
            progress: Some(v1::RotationProgress {
                tables: vec![table],
                content_digest_before: "ab".to_owned(),
                content_digest_after: "ab".to_owned(),
                ..Default::default()
            }),
            phases: vec![v1::PhaseTime { name: "activate".to_owned(), started_ms: 1_769_868_309_000, ended_ms: 0 }],
            ..Default::default()
        };
        rotation.set_outcome(v1::Outcome::Completed);
        rotation.set_database(v1::DatabaseKind::Sqlite);
        rotation
    }

    fn check(change: impl FnOnce(&mut v1::Rotation)) -> Option<Exit> {
        let mut rotation = completed();
        change(&mut rotation);
        outcome_exit(&rotation)
    }

    #[test]
    fn complete_evidence_adds_up() {
        assert_eq!(check(|_| ()), Some(Exit::Done));
        let report = Report::from(&completed());
        let text = report.text(&completed(), Paint::plain());
        assert!(text.contains("encryption.20260131-140509.config"), "{text}");
        assert!(text.contains("only the key old opens"), "{text}");
    }

    #[test]
    fn what_is_still_kept_is_said_until_it_is_gone() {
        let mut rotation = completed();
        rotation.kept_tables = vec!["vault".to_owned()];
        let text = |rotation: &v1::Rotation| Report::from(rotation).text(rotation, Paint::plain());
        let kept = text(&rotation);
        assert!(kept.contains("the originals of vault; until `keyturn rotation retire r`"), "{kept}");
        assert!(remains(&rotation)[0].place.contains("original tables of vault"));
        rotation.retired_by = "alice".to_owned();
        assert!(text(&rotation).contains("being dropped, asked for by alice"));
        (rotation.kept_tables, rotation.retired_at_ms) = (Vec::new(), 1_769_868_309_000);
        let gone = text(&rotation);
        assert!(gone.contains("nothing; the original tables were dropped"), "{gone}");
        assert!(!remains(&rotation).iter().any(|one| one.place.contains("original")));
    }

    #[test]
    fn a_rotation_that_is_not_finished_has_no_verdict() {
        let verdict = |outcome| {
            let mut rotation = completed();
            rotation.set_outcome(outcome);
            let text = Report::from(&rotation).text(&rotation, Paint::plain());
            text.lines().find_map(|line| line.strip_prefix("Verdict:")).expect("a verdict").trim().to_owned()
        };
        assert!(verdict(v1::Outcome::Completed).contains("every row verified"));
        for outcome in [v1::Outcome::Running, v1::Outcome::Stuck] {
            assert_eq!(verdict(outcome), "none: the rotation is not finished");
        }
        assert!(verdict(v1::Outcome::RolledBack).contains("rolled back"));
    }

    #[test]
    fn every_gap_in_the_evidence_is_a_failed_verification() {
        let failed = Some(Exit::VerificationFailed);
        let progress = |rotation: &mut v1::Rotation| rotation.progress.clone().unwrap_or_default();
        assert_eq!(check(|rotation| rotation.progress = None), failed);
        assert_eq!(check(|rotation| rotation.nodes.clear()), failed);
        assert_eq!(check(|rotation| rotation.nodes[0].canary_ok = false), failed);
        assert_eq!(check(|rotation| rotation.nodes[0].key_after = "old".to_owned()), failed);
        assert_eq!(check(|rotation| rotation.nodes[0].held = true), failed, "somebody must hold the key");
        let changes: [fn(&mut v1::RotationProgress); 7] = [
            |progress| progress.tables.clear(),
            |progress| progress.tables[0].rows_verified = 1,
            |progress| progress.tables[0].rows_reencrypted = 1,
            |progress| progress.tables[0].content_digest_after = "cd".to_owned(),
            |progress| progress.content_digest_after = "cd".to_owned(),
            |progress| progress.tables[0].rest_digest_after = "cd".to_owned(),
            |progress| progress.rest_digest_after = "cd".to_owned(),
        ];
        for change in changes {
            let exit = check(|rotation| {
                let mut changed = progress(rotation);
                change(&mut changed);
                rotation.progress = Some(changed);
            });
            assert_eq!(exit, failed);
        }
    }

    #[test]
    fn a_rotation_that_was_rolled_back_leaves_ciphertext_of_the_new_key() {
        let mut rotation = completed();
        rotation.set_outcome(v1::Outcome::RolledBack);
        assert_eq!(remains(&rotation), [], "no row was touched");
        rotation.phases.push(v1::PhaseTime { name: "reencrypt".to_owned(), started_ms: 1, ended_ms: 2 });
        assert!(remains(&rotation).iter().all(|one| one.opened_by == "new"));
    }
}
