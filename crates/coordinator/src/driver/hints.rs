//! What the leader knows of running work beyond the log: since when, until when, rows done, and the present speed.
//! Nothing is decided by it; it is lost with the leader and shown to operators only.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rotation::{AssignmentId, Epoch, Millis};
use wire::v1;

/// How far back the speed looks.
const SPEED_WINDOW: Duration = Duration::from_secs(10);
/// Between two samples, so that their number is bounded however often agents report.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Below this much time a speed would be a guess.
const SPEED_AFTER: Duration = Duration::from_millis(500);

/// All hints of one leader.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    work: BTreeMap<AssignmentId, Hint>,
    speed: Speed,
}

/// What is known of one running assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    /// When it was given out.
    pub(crate) since: Millis,
    /// When it is given up on.
    pub(crate) until: Millis,
    /// Rows of its shard that are done; `None` before the first report.
    pub(crate) rows_done: Option<u64>,
    /// What the agent says it waits for.
    pub(crate) waiting_for: String,
    /// Why the last attempt failed, while the next one is not under way.
    pub(crate) trouble: Option<String>,
}

impl Hints {
    /// The hint on an assignment.
    pub(crate) fn get(&self, id: &AssignmentId) -> Option<&Hint> {
        self.work.get(id)
    }

    /// All hints with the epoch of the given one.
    pub(crate) fn of_epoch(&self, epoch: Epoch) -> impl Iterator<Item = (&AssignmentId, &Hint)> {
        self.work.iter().filter(move |(id, _)| id.epoch == epoch)
    }

    /// Rows per second in this epoch, zero when not known.
    pub(crate) fn rows_per_second(&self, epoch: Epoch, now: Instant) -> f64 {
        if self.speed.epoch == epoch { self.speed.per_second(now) } else { 0.0 }
    }

    pub(super) fn begin(&mut self, id: AssignmentId, since: Millis, until: Millis, now: Instant) {
        self.speed.enter(id.epoch, now);
        let hint = Hint { since, until, rows_done: None, waiting_for: String::new(), trouble: None };
        self.work.insert(id, hint);
    }

    pub(super) fn progress(&mut self, id: &AssignmentId, report: v1::Progress, until: Millis, now: Instant) {
        let v1::Progress { rows_done, waiting_for } = report;
        let Some(hint) = self.work.get_mut(id) else { return };
        hint.until = until;
        // The first report of a shard that was begun before counts rows that nobody has just done.
        let before = hint.rows_done.replace(rows_done).unwrap_or(rows_done);
        hint.waiting_for = waiting_for;
        hint.trouble = None;
        self.speed.add(id.epoch, rows_done.saturating_sub(before), now);
    }

    pub(super) fn trouble(&mut self, id: &AssignmentId, trouble: String) {
        if let Some(hint) = self.work.get_mut(id) {
            hint.trouble = Some(trouble);
        }
    }

    /// A shard is done; `rows` are all of its rows.
    pub(super) fn done(&mut self, id: &AssignmentId, rows: u64, now: Instant) {
        let before = self.work.get(id).and_then(|hint| hint.rows_done).unwrap_or(0);
        self.speed.add(id.epoch, rows.saturating_sub(before), now);
    }

    pub(super) fn end(&mut self, id: &AssignmentId) {
        self.work.remove(id);
    }
}

/// Rows over a window of time, within one epoch.
#[derive(Debug, Clone, Default)]
struct Speed {
    epoch: Epoch,
    rows: u64,
    samples: VecDeque<(Instant, u64)>,
}

impl Speed {
    fn enter(&mut self, epoch: Epoch, now: Instant) {
        if self.epoch != epoch || self.samples.is_empty() {
            *self = Self { epoch, rows: 0, samples: VecDeque::from([(now, 0)]) };
        }
    }

    fn add(&mut self, epoch: Epoch, rows: u64, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        self.rows += rows;
        let due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_INTERVAL);
        if due {
            self.samples.push_back((now, self.rows));
        }
        // The oldest sample is kept at the window's edge, never within it.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) > SPEED_WINDOW) {
            self.samples.pop_front();
        }
    }

    fn per_second(&self, now: Instant) -> f64 {
        let Some((at, rows)) = self.samples.front() else { return 0.0 };
        let elapsed = now.duration_since(*at);
        if elapsed < SPEED_AFTER { 0.0 } else { (self.rows - rows) as f64 / elapsed.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use rotation::{LeaseNumber, RotationId, ShardId, WorkKind};

    use super::*;

    fn id(epoch: u64, shard: u64) -> AssignmentId {
        AssignmentId {
            rotation: RotationId::new(uuid::Uuid::nil()),
            epoch: Epoch::new(epoch),
            node: "node-1".parse().expect("valid"),
            kind: WorkKind::ReencryptShard,
            shard: Some((ShardId::new(shard), LeaseNumber::new(1))),
        }
    }

    fn rows(rows_done: u64) -> v1::Progress {
        v1::Progress { rows_done, waiting_for: String::new() }
    }

    #[test]
    fn speed_counts_new_rows_only_and_forgets() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let epoch = Epoch::new(1);
        let mut hints = Hints::default();
        hints.begin(id(1, 0), Millis::new(0), Millis::new(0), start);
        hints.progress(&id(1, 0), rows(5_000), Millis::new(0), at(1));
        assert_eq!(hints.rows_per_second(epoch, at(1)), 0.0);
        hints.progress(&id(1, 0), rows(6_000), Millis::new(0), at(2));
        assert_eq!(hints.rows_per_second(epoch, at(2)), 500.0);
        hints.done(&id(1, 0), 8_000, at(4));
        assert_eq!(hints.rows_per_second(epoch, at(4)), 750.0);
        // A shard that was done before its first report counts wholly.
        hints.begin(id(1, 1), Millis::new(0), Millis::new(0), at(4));
        hints.done(&id(1, 1), 1_000, at(5));
        assert_eq!(hints.rows_per_second(epoch, at(5)), 800.0);
        hints.progress(&id(1, 0), rows(8_000), Millis::new(0), at(60));
        hints.progress(&id(1, 0), rows(8_000), Millis::new(0), at(72));
        assert_eq!(hints.rows_per_second(epoch, at(72)), 0.0);
        // The next epoch begins from nothing.
        hints.begin(id(2, 0), Millis::new(0), Millis::new(0), at(80));
        assert_eq!(hints.rows_per_second(epoch, at(81)), 0.0);
    }
}
