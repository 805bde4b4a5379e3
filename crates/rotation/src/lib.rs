//! The domain of Keyturn: what a rotation is, which entries change it, and which work it still needs.
//!
//! Everything here is plain data and synchronous functions. There is no clock, no random source and
//! no I/O: time, ids and randomness arrive inside entries, so every replica that applies the same
//! entries holds the same state.

mod apply;
mod assignment;
mod authorization;
mod backup;
mod budget;
mod commands;
mod course;
mod entry;
mod estimate;
mod farm;
mod fault;
mod ids;
mod lease;
mod limits;
mod pending;
mod phases;
mod plan;
mod rejection;
mod report;
mod retire;
mod run;
mod state;
mod throttle;
mod waiting;

pub use apply::apply;
pub use assignment::{
    Answer, Assignment, AssignmentId, Direction, Fence, Inspection, ShardTally, Survey, Work, WorkKind,
};
pub use authorization::{Authorization, NodeGrant, Retirement, SignedRetirement, Statement};
pub use backup::{BackedUpTable, BackupChoice, BackupOffer, BackupSource, DatabaseBackup, FolderArchive, NodeBackup};
pub use budget::{BudgetStanding, DowntimeBudget, OnBudget, budget_counts, budget_decision, budget_standing};
pub use entry::{Entry, Event, RotationOptions};
pub use estimate::Pace;
pub use fault::{Fault, FaultCode};
pub use ids::{
    AgentRelease, ClusterId, ContentDigest, Digest, Epoch, KeyId, LeaseNumber, Millis, NodeId, ParseIdError,
    RotationId, ShardId, Term,
};
pub use limits::{LEASE_MS, SHARDS_PER_AGENT_MAX, deadline_ms, deadline_restarts, retry_until_deadline};
pub use pending::{decisions, pending};
pub use plan::{
    Attestation, DatabaseIdentity, DatabaseKind, DatabasePosition, KeyBound, NotLookedInto, Plan, PlanNode, PlanTable,
    ReadPlanError, Shard, ShardRange, Strategy, StrategyChoice, UndecryptableValue, Unseen,
};
pub use rejection::{Outcome, Rejection, RejectionCode};
pub use state::{
    Course, Ending, Node, NodeCatchUp, NodeProgress, NodeUndo, Phase, PhaseTime, Quarantine, Retiring, Rotation,
    ShardLease, ShardProgress, State, UndoStep,
};
pub use waiting::{Waiting, waiting};
