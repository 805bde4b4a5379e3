//! Who is waited for, since when, and what ends it: never silence.

use rotation::{Assignment, Course, Millis, Phase, Rotation, Work};
use wire::v1;

use super::View;

impl View<'_> {
    /// Everything that a rotation waits for now.
    pub(super) fn waiting(&self, rotation: &Rotation) -> Vec<v1::Waiting> {
        let since = rotation.times.last().map_or(rotation.requested_at, |time| time.started);
        let operator = |what: String| v1::Waiting { node: String::new(), what, since_ms: since.get(), until_ms: 0 };
        let id = rotation.id;
        let mut waiting = Vec::new();
        match &rotation.course {
            Course::Forward { phase: Phase::Approval } => {
                waiting.push(operator(format!("an operator's signature: keyturn rotation start {id}")));
            }
            Course::Stuck { .. } => {
                waiting
                    .push(operator(format!("an operator to follow the next steps, then: keyturn rotation retry {id}")));
            }
            Course::Forward { .. } | Course::Undo { .. } if rotation.paused => {
                waiting.push(operator(format!("an operator to go on: keyturn rotation resume {id}")));
            }
            Course::Forward { .. } | Course::Undo { .. } | Course::Ended(_) => {}
        }
        let pending = rotation::pending(self.state);
        let running = pending.iter().filter(|assignment| assignment.rotation == id);
        waiting.extend(running.map(|assignment| self.work(assignment, since)));
        waiting
    }

    fn work(&self, assignment: &Assignment, since: Millis) -> v1::Waiting {
        let mut what = assignment.work.kind().to_string();
        if let Work::ReencryptShard { shard, .. } | Work::VerifyShard { shard, .. } = &assignment.work {
            what = format!("{what} {} of {}", shard.id, shard.table);
        }
        let hint = self.hints.get(&assignment.id());
        match hint {
            Some(hint) if hint.trouble.is_some() => {
                what = format!("{what}, trying again: {}", hint.trouble.as_deref().unwrap_or_default());
            }
            Some(hint) if !hint.waiting_for.is_empty() => what = format!("{what}: {}", hint.waiting_for),
            Some(_) | None => {}
        }
        v1::Waiting {
            node: assignment.node.to_string(),
            what,
            since_ms: hint.map_or(since, |hint| hint.since).get(),
            until_ms: hint.map_or(0, |hint| hint.until.get()),
        }
    }
}
