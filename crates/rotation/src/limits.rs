//! Every bound of the domain, with its reason.

use crate::{Course, Phase, WorkKind};

/// How long the holder of a shard's lease may be silent before the shard moves on. Progress is reported several times
/// a second, so this much silence means that the agent is gone, stopped or cut off.
pub const LEASE_MS: u64 = 5_000;

/// Shards that one agent works on at once: one computes while the other waits for the database.
pub const SHARDS_PER_AGENT_MAX: usize = 2;

/// Shards to aim for per node: enough that the last shards end at nearly the same time, few enough that leasing them is
/// a trickle in the log.
pub(crate) const SHARDS_WANTED_PER_NODE: u32 = 16;

/// Shards that one plan may have. At some 150 bytes each the plan still fits one message and one log entry.
pub(crate) const SHARDS_MAX: usize = 10_000;

/// Nodes that one farm may have; every barrier and every Start entry grows with them.
pub(crate) const NODES_MAX: usize = 256;

/// Values that may be accepted as undecryptable: as many as a survey names.
pub(crate) const ACCEPTED_MAX: usize = 1_000;

/// Bytes of one sealed bundle. A bundle holds one key; more is not one.
pub(crate) const SEALED_BYTES_MAX: usize = 64 * 1024;

/// Faults that a rotation remembers.
pub(crate) const FAULTS_MAX: usize = 100;

/// Phases and undo steps whose times a rotation remembers; only repeated retries of a stuck undo come near.
pub(crate) const PHASE_TIMES_MAX: usize = 200;

/// Ended rotations that are remembered, for the report and the list.
pub(crate) const ENDED_MAX: usize = 100;

/// Downtime budgets below this are slips: no instance stops and starts within a second.
pub(crate) const BUDGET_MIN_MS: u64 = 1_000;

/// And above this: a farm that may be offline for a week needs none.
pub(crate) const BUDGET_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// Undecryptable values, or nodes, that one message names; the rest is counted.
pub(crate) const NAMED_MAX: usize = 5;

/// How often all nodes may fall silent over their shards before the way forward is given up. Each time takes a lease,
/// so this is half a minute in which no agent at all was heard.
pub(crate) const LEASE_ROUNDS_MAX: u32 = 6;

/// The same for an undo: two minutes, because the only way out is to be stuck.
pub(crate) const LEASE_ROUNDS_UNDO_MAX: u32 = 24;

/// How often an undo begins by itself, because the database loses what it did again and again: a server that fails over
/// this often needs a person.
pub(crate) const UNDOS_MAX: usize = 4;

/// At the least this long is an undo's work tried: what heals by itself (a restarted agent, a database that recovers)
/// does so within a minute.
const UNDO_DEADLINE_MIN_MS: u64 = 120_000;

/// Until when an assignment of this kind must be answered, milliseconds from its first sending; where
/// [`deadline_restarts`] holds, from the last word heard of it.
pub const fn deadline_ms(kind: WorkKind, course: &Course) -> u64 {
    let forward = match kind {
        // A look at files, a command and a database; a node that does not answer is to be known soon.
        WorkKind::Inspect => 20_000,
        // An agent that was killed is back within seconds, and the farm still serves.
        WorkKind::StoreKey => 45_000,
        // Two commands of the instance with deadlines of their own, one after the other.
        WorkKind::TakeOffline | WorkKind::StartInstance => 120_000,
        // Counts every row.
        WorkKind::FenceDatabase => 120_000,
        // From the last word: a shard that is worked on is heard of all the time.
        WorkKind::SurveyDatabase | WorkKind::BackUp | WorkKind::ReencryptShard | WorkKind::VerifyShard => 60_000,
        // From the last word: building indexes and reading whole tables under their lock takes as long as they are large.
        WorkKind::FinishShadows | WorkKind::SwapTables => 60_000,
        // From the last word too, and with more patience: the way out of it is to be stuck.
        WorkKind::SwapTablesBack => 2 * UNDO_DEADLINE_MIN_MS,
        // Drops what nobody uses any more.
        WorkKind::RetireTables => 60_000,
        // The farm is offline while these are waited for.
        WorkKind::RecordPosition | WorkKind::ActivateKey | WorkKind::LiftFence | WorkKind::CloseLedger => 45_000,
        WorkKind::AdmitInstance => 60_000,
        WorkKind::TurnBack | WorkKind::RestoreKey | WorkKind::DiscardKey => UNDO_DEADLINE_MIN_MS,
    };
    match course {
        Course::Undo { .. } | Course::Stuck { .. } if forward < UNDO_DEADLINE_MIN_MS => UNDO_DEADLINE_MIN_MS,
        Course::Undo { .. } | Course::Stuck { .. } | Course::Forward { .. } | Course::Ended(_) => forward,
    }
}

/// Whether every report of progress starts the deadline of such work anew: work on rows takes as long as there are rows.
pub const fn deadline_restarts(kind: WorkKind) -> bool {
    matches!(
        kind,
        WorkKind::SurveyDatabase
            | WorkKind::ReencryptShard
            | WorkKind::VerifyShard
            | WorkKind::FinishShadows
            | WorkKind::SwapTables
            | WorkKind::SwapTablesBack
            | WorkKind::BackUp
    )
}

/// Whether the driver goes on trying until the deadline even after a fault that is not retryable: in an undo, from
/// Admit on, and for a held node that catches up, where giving up early has no better way out. Not for a retirement,
/// which its operator waits for and can ask for again.
pub const fn retry_until_deadline(kind: WorkKind, course: &Course) -> bool {
    match course {
        Course::Ended(_) if matches!(kind, WorkKind::RetireTables) => false,
        Course::Forward { phase } => matches!(phase, Phase::Admit | Phase::Completed),
        Course::Undo { .. } | Course::Stuck { .. } | Course::Ended(_) => true,
    }
}
