//! How long one assignment is tried: what to do after each failure, and what to log when patience ends. No clock and
//! no network in here; the time is an argument.

use std::time::{Duration, Instant};

use rotation::{Assignment, AssignmentId, Course, Event, Fault, FaultCode, LEASE_MS, WorkKind};

/// The first pause after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest pause: an agent that comes back is not kept waiting.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Doublings of the pause that are counted; more than reach its bound.
const DOUBLINGS_MAX: u32 = 8;
/// An agent reports every second; one that was silent for this long is not heard any more.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A deadline beyond this is none. Keeps sums of times within bounds.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why an attempt came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The agent answered that it could not.
    Fault(Fault),
    /// The agent was not reached, or fell silent; in words.
    Unreached(String),
}

/// What to do after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after this pause.
    TryAgain(Duration),
    /// Log this; there is nothing more to try.
    Log(Event),
}

/// The patience left for one assignment.
#[derive(Debug)]
pub(super) struct Patience {
    assignment: AssignmentId,
    started: Instant,
    deadline: Duration,
    /// For work on rows: the deadline counts from the last word, since it takes as long as there are rows.
    restarts: bool,
    /// For shards: how long their holder may be silent.
    lease: Option<Duration>,
    /// Faults that say that trying again is of no use are tried again nevertheless.
    stubborn: bool,
    /// In an undo: that the database lost what was done to it is no reason to wait, but to do it again.
    undoes: bool,
    /// The last word of any kind.
    heard: Option<Instant>,
    /// From when a deadline that restarts counts.
    advanced: Instant,
    /// Rows done when that was.
    rows_done: u64,
    /// The last failure since then.
    last: Option<Failure>,
    failures: u32,
}

impl Patience {
    pub(super) fn new(assignment: &Assignment, course: &Course, now: Instant) -> Self {
        let kind = assignment.work.kind();
        let shard = matches!(kind, WorkKind::ReencryptShard | WorkKind::VerifyShard);
        Self {
            assignment: assignment.id(),
            started: now,
            deadline: Duration::from_millis(rotation::deadline_ms(kind, course)).min(DEADLINE_MAX),
            restarts: rotation::deadline_restarts(kind),
            lease: shard.then_some(Duration::from_millis(LEASE_MS)),
            stubborn: rotation::retry_until_deadline(kind, course),
            undoes: matches!(course, Course::Undo { .. }),
            heard: None,
            advanced: now,
            rows_done: 0,
            last: None,
            failures: 0,
        }
    }

    /// The agent reported that it works. After a failure that alone is no progress: more rows must be done, or work
    /// that fails again and again would never end.
    pub(super) fn heard(&mut self, rows_done: u64, now: Instant) {
        self.heard = Some(now);
        if self.last.is_none() || rows_done > self.rows_done {
            self.advanced = now;
            self.rows_done = rows_done;
            self.last = None;
            self.failures = 0;
        }
    }

    fn deadline_at(&self) -> Instant {
        (if self.restarts { self.advanced } else { self.started }) + self.deadline
    }

    /// When patience ends if nothing more is heard.
    pub(super) fn ends(&self) -> Instant {
        match self.lease {
            Some(lease) => self.deadline_at().min(self.heard.unwrap_or(self.started) + lease),
            None => self.deadline_at(),
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) -> Next {
        if let Failure::Fault(fault) = &failure {
            self.heard = Some(now);
            // What was undone by hand stays so, however often it is asked for.
            let recovered = fault.code == FaultCode::Recovered;
            let lost = fault.code == FaultCode::DatabasePosition && self.undoes;
            if recovered || lost || !fault.retryable && !self.stubborn {
                return Next::Log(Event::WorkFailed { assignment: self.assignment.clone(), fault: fault.clone() });
            }
        }
        self.last = Some(failure);
        if now >= self.ends() {
            return Next::Log(self.ended(now));
        }
        let pause = (BACKOFF_MIN * 2_u32.saturating_pow(self.failures)).min(BACKOFF_MAX);
        self.failures = (self.failures + 1).min(DOUBLINGS_MAX);
        Next::TryAgain(pause)
    }

    /// What to log now that patience has ended.
    pub(super) fn ended(&self, now: Instant) -> Event {
        let assignment = self.assignment.clone();
        if self.lease.is_some() && now < self.deadline_at() {
            return Event::LeaseExpired { assignment };
        }
        match &self.last {
            Some(Failure::Fault(fault)) => Event::WorkFailed { assignment, fault: fault.clone() },
            None if self.heard.is_some_and(|heard| now.duration_since(heard) <= SILENCE_MAX) => {
                let fault = self.too_slow();
                Event::WorkFailed { assignment, fault }
            }
            last => {
                let fault = self.unreachable(last.as_ref());
                Event::DeadlineMissed { assignment, fault }
            }
        }
    }

    fn unreachable(&self, last: Option<&Failure>) -> Fault {
        let (node, kind) = (&self.assignment.node, self.assignment.kind);
        let reason = match last {
            Some(Failure::Unreached(reason)) => reason.as_str(),
            Some(Failure::Fault(_)) | None => "it fell silent",
        };
        Fault {
            code: FaultCode::NodeUnreachable,
            node: Some(node.clone()),
            message: format!("{node} did not answer {kind} within {} s: {reason}", self.deadline.as_secs()),
            next_step: format!("see that the agent on {node} runs and that every coordinator reaches it"),
            retryable: true,
        }
    }

    fn too_slow(&self) -> Fault {
        let (node, kind) = (&self.assignment.node, self.assignment.kind);
        let code = match kind {
            WorkKind::TakeOffline | WorkKind::StartInstance | WorkKind::AdmitInstance => FaultCode::Instance,
            WorkKind::StoreKey | WorkKind::ActivateKey | WorkKind::RestoreKey | WorkKind::DiscardKey => {
                FaultCode::KeyStore
            }
            WorkKind::SurveyDatabase
            | WorkKind::FenceDatabase
            | WorkKind::ReencryptShard
            | WorkKind::VerifyShard
            | WorkKind::RecordPosition
            | WorkKind::LiftFence
            | WorkKind::CloseLedger
            | WorkKind::TurnBack
            | WorkKind::FinishShadows
            | WorkKind::SwapTables
            | WorkKind::SwapTablesBack
            | WorkKind::RetireTables => FaultCode::Database,
            WorkKind::BackUp => FaultCode::Backup,
            WorkKind::Inspect => FaultCode::Internal,
        };
        Fault {
            code,
            node: Some(node.clone()),
            message: format!("{node} works on {kind}, but was not done within {} s", self.deadline.as_secs()),
            next_step: format!("see in the agent's log on {node} what it waits for"),
            retryable: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use rotation::{Epoch, Phase, RotationId, Work};

    use super::*;

    const FORWARD: Course = Course::Forward { phase: Phase::Distribute };
    const UNDO: Course = Course::Undo { from: Phase::Verify, step: rotation::UndoStep::RestoreKeys };

    fn patience(work: Work, course: &Course, now: Instant) -> Patience {
        let assignment = Assignment {
            rotation: RotationId::new(uuid::Uuid::nil()),
            epoch: Epoch::new(1),
            node: "node-1".parse().expect("valid"),
            work,
        };
        Patience::new(&assignment, course, now)
    }

    fn shard() -> Work {
        let range = rotation::ShardRange { after: None, through: None };
        let shard =
            rotation::Shard { id: rotation::ShardId::new(0), table: "items".to_owned(), range, rows_estimated: 1 };
        Work::ReencryptShard {
            shard,
            lease: rotation::LeaseNumber::new(1),
            direction: rotation::Direction::Forward,
            rows_per_second: None,
        }
    }

    fn fault(retryable: bool) -> Failure {
        Failure::Fault(Fault {
            code: FaultCode::KeyStore,
            node: None,
            message: "the disk is full".to_owned(),
            next_step: "make room".to_owned(),
            retryable,
        })
    }

    fn unreached() -> Failure {
        Failure::Unreached("connection refused".to_owned())
    }

    fn again(next: Next) -> Duration {
        match next {
            Next::TryAgain(pause) => pause,
            Next::Log(event) => panic!("logged: {event:?}"),
        }
    }

    fn logged(next: Next) -> Event {
        match next {
            Next::TryAgain(pause) => panic!("tried again after {pause:?}"),
            Next::Log(event) => event,
        }
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let now = Instant::now();
        let mut patience = patience(Work::StoreKey, &FORWARD, now);
        let pauses: Vec<_> = (0..6).map(|_| again(patience.failed(unreached(), now)).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 2_000, 2_000]);
        // More rows done: it is a new start.
        patience.heard(1, now);
        assert_eq!(again(patience.failed(unreached(), now)), BACKOFF_MIN);
    }

    #[test]
    fn a_hopeless_fault_is_logged_at_once_but_not_in_an_undo() {
        let now = Instant::now();
        let event = logged(patience(Work::StoreKey, &FORWARD, now).failed(fault(false), now));
        assert!(matches!(event, Event::WorkFailed { .. }), "{event:?}");
        again(patience(Work::StoreKey, &FORWARD, now).failed(fault(true), now));
        again(patience(Work::RestoreKey, &UNDO, now).failed(fault(false), now));
    }

    #[test]
    fn that_the_database_lost_an_undo_is_logged_at_once_so_that_it_is_done_again() {
        let now = Instant::now();
        let lost = || match fault(false) {
            Failure::Fault(fault) => Failure::Fault(Fault { code: FaultCode::DatabasePosition, ..fault }),
            Failure::Unreached(_) => unreachable!(),
        };
        assert!(matches!(
            logged(patience(Work::AdmitInstance, &UNDO, now).failed(lost(), now)),
            Event::WorkFailed { .. }
        ));
        // Past the point of no return nothing is done again.
        let admit = Course::Forward { phase: Phase::Admit };
        again(patience(Work::AdmitInstance, &admit, now).failed(lost(), now));
    }

    #[test]
    fn a_retirement_that_is_hopeless_is_logged_at_once_for_its_operator_waits() {
        let now = Instant::now();
        let ended = Course::Ended(rotation::Ending::Completed);
        logged(patience(Work::RetireTables, &ended, now).failed(fault(false), now));
        again(patience(Work::AdmitInstance, &ended, now).failed(fault(false), now));
    }

    #[test]
    fn finishing_and_swapping_last_as_long_as_their_node_is_heard() {
        let now = Instant::now();
        for work in [Work::FinishShadows, Work::SwapTables, Work::SwapTablesBack] {
            let mut patience = patience(work, &FORWARD, now);
            let deadline = patience.ends() - now;
            patience.heard(0, now + deadline / 2);
            assert_eq!(patience.ends(), now + deadline / 2 + deadline);
        }
    }

    #[test]
    fn the_deadline_tells_a_node_that_answers_from_one_that_does_not() {
        let now = Instant::now();
        let check = |failure: Option<Failure>, heard: bool| {
            let mut patience = patience(Work::StoreKey, &FORWARD, now);
            let end = patience.ends();
            if heard {
                patience.heard(0, end);
            }
            match failure {
                Some(failure) => logged(patience.failed(failure, end)),
                None => patience.ended(end),
            }
        };
        assert!(
            matches!(check(Some(fault(true)), false), Event::WorkFailed { fault, .. } if fault.message == "the disk is full")
        );
        assert!(matches!(check(None, true), Event::WorkFailed { fault, .. } if fault.code == FaultCode::KeyStore));
        let missed = check(Some(unreached()), false);
        assert!(
            matches!(&missed, Event::DeadlineMissed { fault, .. } if fault.message.contains("connection refused")),
            "{missed:?}"
        );
        assert!(matches!(check(None, false), Event::DeadlineMissed { .. }));
    }

    #[test]
    fn a_silent_holder_loses_its_lease_and_a_busy_one_keeps_it() {
        let now = Instant::now();
        let mut patience = patience(shard(), &FORWARD, now);
        let lease = Duration::from_millis(LEASE_MS);
        assert_eq!(patience.ends(), now + lease);
        let later = now + lease / 2;
        patience.heard(10, later);
        assert_eq!(patience.ends(), later + lease);
        let event = logged(patience.failed(unreached(), later + lease));
        assert!(matches!(event, Event::LeaseExpired { .. }), "{event:?}");
    }

    #[test]
    fn work_on_rows_lasts_as_long_as_rows_come_and_no_longer() {
        let now = Instant::now();
        let strategy = rotation::StrategyChoice::Auto;
        let survey = Work::SurveyDatabase { accepted: Vec::new(), shards_wanted: 1, agents: 1, strategy };
        let mut patience = patience(survey, &FORWARD, now);
        let deadline = patience.ends() - now;
        let half = deadline / 2;
        patience.heard(0, now + half);
        assert_eq!(patience.ends(), now + half + deadline, "every word counts while nothing failed");
        again(patience.failed(fault(true), now + half));
        patience.heard(0, now + deadline);
        assert_eq!(patience.ends(), now + half + deadline, "after a failure the same rows again are no progress");
        patience.heard(7, now + deadline);
        assert_eq!(patience.ends(), now + deadline + deadline);
    }
}
