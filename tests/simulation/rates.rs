//! How often what goes wrong in one run: each seed has its own mixture, so that some runs are calm but for one kind of
//! fault, and others suffer all at once.

use crate::machine::next_random;

/// Of ten thousand times each, if not said otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    /// A message is lost, and its connection with it.
    pub(crate) message_lost: u64,
    /// A message arrives late, after many that were sent later.
    pub(crate) message_late: u64,
    /// A message arrives twice.
    pub(crate) message_twice: u64,
    /// The connection to the database breaks.
    pub(crate) statement_lost: u64,
    /// The process dies where it stands in work on the database, its files or its instance.
    pub(crate) dies: u64,
    /// It dies just before or just after a change to a file, or while it flushes one.
    pub(crate) dies_at_files: u64,
    /// It stands still there for a while.
    pub(crate) stands_still: u64,
    /// A command of the instance fails.
    pub(crate) command_fails: u64,
    /// What the logged answer to a proposal takes is longer than anybody waits.
    pub(crate) proposal_late: u64,
    /// Kinds of larger faults, as weights; see `faults`.
    pub(crate) faults: Vec<(FaultKind, u64)>,
    /// How many of them there are in the run.
    pub(crate) faults_max: u64,
    /// The pause before the next is below this, milliseconds.
    pub(crate) fault_pause_ms: u64,
}

/// What befalls a whole process, machine or server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    AgentDies,
    AgentStandsStill,
    InstanceDies,
    LeaderChanges,
    ReplicaDies,
    ReplicaCutOff,
    AgentCutOff,
    OneWayCut,
    DatabaseRestarts,
    DatabaseFailsOver,
    RowDamaged,
    ClockSteps,
    OperatorAborts,
    OperatorPauses,
    OperatorThrottles,
}

const KINDS: [FaultKind; 15] = [
    FaultKind::AgentDies,
    FaultKind::AgentStandsStill,
    FaultKind::InstanceDies,
    FaultKind::LeaderChanges,
    FaultKind::ReplicaDies,
    FaultKind::ReplicaCutOff,
    FaultKind::AgentCutOff,
    FaultKind::OneWayCut,
    FaultKind::DatabaseRestarts,
    FaultKind::DatabaseFailsOver,
    FaultKind::RowDamaged,
    FaultKind::ClockSteps,
    FaultKind::OperatorAborts,
    FaultKind::OperatorPauses,
    FaultKind::OperatorThrottles,
];

impl Rates {
    /// The mixture of a run.
    pub(crate) fn draw(random: &mut u64) -> Self {
        let mut below = |bound: u64| next_random(random) % bound;
        // A tenth of all runs has no faults at all: they show that a quiet farm completes.
        if below(10) == 0 {
            return Self::default();
        }
        let mut seldom = |rates: &[u64]| rates[usize::try_from(below(rates.len() as u64)).expect("small")];
        let message_lost = seldom(&[0, 0, 20, 200]);
        let message_late = seldom(&[0, 50, 300]);
        let message_twice = seldom(&[0, 50, 500]);
        let statement_lost = seldom(&[0, 0, 20, 150]);
        let dies = seldom(&[0, 0, 5, 30]);
        let dies_at_files = seldom(&[0, 0, 50, 300]);
        let stands_still = seldom(&[0, 0, 10, 50]);
        let command_fails = seldom(&[0, 0, 100, 500]);
        let proposal_late = seldom(&[0, 0, 100]);
        let faults_max = seldom(&[0, 1, 3, 8]);
        let fault_pause_ms = seldom(&[1_000, 4_000, 12_000]);
        let mut faults: Vec<_> = KINDS.iter().map(|kind| (*kind, seldom(&[0, 0, 1, 3]))).collect();
        if faults.iter().all(|(_, weight)| *weight == 0) {
            faults[0].1 = 1;
        }
        Self {
            message_lost,
            message_late,
            message_twice,
            statement_lost,
            dies,
            dies_at_files,
            stands_still,
            command_fails,
            proposal_late,
            faults,
            faults_max,
            fault_pause_ms,
        }
    }

    /// A run in which nothing goes wrong.
    pub(crate) fn is_quiet(&self) -> bool {
        self.faults_max == 0
            && [
                self.message_lost,
                self.message_late,
                self.message_twice,
                self.statement_lost,
                self.dies,
                self.dies_at_files,
                self.stands_still,
                self.command_fails,
                self.proposal_late,
            ]
            .iter()
            .all(|rate| *rate == 0)
    }
}
