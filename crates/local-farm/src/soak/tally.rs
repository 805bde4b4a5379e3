//! What came of a soak: a table for people, one JSON object for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::LoadCounts;

/// Checks that did not hold, kept as text; the rest is counted.
const NAMED_MAX: usize = 20;

/// Everything that was counted. Fields are only ever added to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) database: String,
    pub(super) seed: u64,
    pub(super) seconds: u64,
    /// By kind.
    pub(super) faults_injected: BTreeMap<String, u64>,
    pub(super) rotations_completed: u64,
    pub(super) rotations_rolled_back: u64,
    pub(super) rotations_stuck: u64,
    /// Not begun, or ended before anything was changed, because of what was broken.
    pub(super) rotations_refused: u64,
    pub(super) leader_changes: u64,
    pub(super) requests_ok: u64,
    pub(super) requests_refused: u64,
    pub(super) requests_wrong: u64,
    pub(super) rows: u64,
    pub(super) rows_lost: u64,
    pub(super) checks: u64,
    pub(super) checks_failed: u64,
    /// The first of them, in words.
    pub(super) problems: Vec<String>,
}

impl Tally {
    pub(super) fn load(&mut self, counts: LoadCounts) {
        (self.requests_ok, self.requests_refused, self.requests_wrong) = (counts.ok, counts.refused, counts.wrong);
    }

    pub(super) fn problem(&mut self, problem: String) {
        if self.problems.len() < NAMED_MAX {
            self.problems.push(problem);
        }
    }

    /// 0 only if nothing was stuck, wrong or lost; 4 stuck, 6 otherwise, as everywhere.
    pub(super) const fn exit_code(&self) -> u8 {
        if self.rotations_stuck > 0 {
            4
        } else if self.requests_wrong > 0
            || self.rows_lost > 0
            || self.checks_failed > 0
            || self.rotations_completed + self.rotations_rolled_back == 0
        {
            6
        } else {
            0
        }
    }

    /// The object.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The table.
    pub(super) fn text(&self) -> String {
        let faults: u64 = self.faults_injected.values().sum();
        let kinds: Vec<String> = self.faults_injected.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let mut lines = vec![
            format!("SOAK       {} s on {}, seed {}", self.seconds, self.database, self.seed),
            format!("FAULTS     {faults} injected: {}", kinds.join(", ")),
            format!(
                "ROTATIONS  {} completed, {} rolled back, {} stuck, {} not begun; {} changes of leader",
                self.rotations_completed,
                self.rotations_rolled_back,
                self.rotations_stuck,
                self.rotations_refused,
                self.leader_changes
            ),
            format!(
                "REQUESTS   {} right, {} refused, {} wrong",
                self.requests_ok, self.requests_refused, self.requests_wrong
            ),
            format!("ROWS       {} of {} lost", self.rows_lost, self.rows),
            format!("CHECKS     {} of {} failed", self.checks_failed, self.checks),
        ];
        lines.extend(self.problems.iter().map(|problem| format!("  {problem}")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_soak_without_a_flaw_exits_with_0() {
        let good = Tally { rotations_completed: 3, rotations_rolled_back: 2, rotations_refused: 1, ..Tally::default() };
        assert_eq!(good.exit_code(), 0);
        assert_eq!(Tally { rotations_stuck: 1, ..good.clone() }.exit_code(), 4);
        for flawed in [
            Tally { requests_wrong: 1, ..good.clone() },
            Tally { rows_lost: 1, ..good.clone() },
            Tally { checks_failed: 1, ..good.clone() },
            // Nothing was shown.
            Tally { rotations_completed: 0, rotations_rolled_back: 0, ..good.clone() },
        ] {
            assert_eq!(flawed.exit_code(), 6, "{flawed:?}");
        }
    }
}
