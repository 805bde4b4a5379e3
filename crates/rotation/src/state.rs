//! The replicated state: farm, nodes, rotations. Plain data with ordered maps; `apply` alone changes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Authorization, ClusterId, DatabasePosition, Digest, Direction, Epoch, Fault, Inspection, KeyId, LeaseNumber,
    Millis, NodeBackup, NodeId, Pace, Plan, RotationId, RotationOptions, ShardId, ShardTally, SignedRetirement,
    Statement, Strategy, Survey, Term,
};

/// Everything that the coordinators agree on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// The cluster's id; `None` before it is founded.
    pub cluster: Option<ClusterId>,
    /// The farm's name.
    pub farm: String,
    /// The time of the last entry; never runs backwards.
    pub now: Millis,
    /// The current epoch, over all rotations.
    pub epoch: Epoch,
    /// The term of the last elected leader.
    pub term: Term,
    /// Enrolled nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// All rotations, oldest first. Of ended ones beyond the newest 100 the oldest are dropped.
    pub rotations: BTreeMap<RotationId, Rotation>,
    /// The rotation under way, at most one.
    pub active: Option<RotationId>,
    /// Numbers of coordinators that were members of the cluster and are none any more: refused for ever, and never given
    /// out again. Absent before version 3 of the stored form.
    #[serde(default)]
    pub removed_replicas: BTreeSet<u64>,
}

impl State {
    /// Takes note of a membership that follows another. Not an event: memberships have entries of their own in the log.
    pub fn membership_changed(&mut self, before: &BTreeSet<u64>, after: &BTreeSet<u64>) {
        self.removed_replicas.extend(before.difference(after));
        // A release that did not keep them let a number be used again.
        self.removed_replicas.retain(|number| !after.contains(number));
    }
}

/// An enrolled node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where its agent listens: `https://host:port`.
    pub address: String,
    /// When it was enrolled.
    pub enrolled_at: Millis,
    /// The key it was last known to hold.
    pub key: Option<KeyId>,
    /// Set while the node is held: it could not be reached when a rotation needed it.
    pub quarantine: Option<Quarantine>,
}

/// Why a node is held, and which rotation it must still follow before it is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The rotation that went on without it.
    pub rotation: RotationId,
    /// Since when.
    pub since: Millis,
    /// What was last heard of it.
    pub reason: Fault,
}

/// The phases of a rotation, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Every node is inspected, the database is surveyed, the plan is made. Nothing is changed.
    Preflight,
    /// The plan waits for an operator's signature.
    Approval,
    /// Every node opens its bundle, proves the key and stores it pending. The farm still serves.
    Distribute,
    /// Every instance goes offline; the database is fenced.
    Quiesce,
    /// Rows are re-encrypted, shard by shard.
    Reencrypt,
    /// Every row is read back.
    Verify,
    /// Every node makes the new key its current one.
    Activate,
    /// Every instance is started and proves the key, but is not admitted.
    Start,
    /// Every instance is admitted. The point of no return.
    Admit,
    /// The evidence is written.
    Completed,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 10] = [
        Self::Preflight,
        Self::Approval,
        Self::Distribute,
        Self::Quiesce,
        Self::Reencrypt,
        Self::Verify,
        Self::Activate,
        Self::Start,
        Self::Admit,
        Self::Completed,
    ];

    /// The stable text, for example `reencrypt`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Approval => "approval",
            Self::Distribute => "distribute",
            Self::Quiesce => "quiesce",
            Self::Reencrypt => "reencrypt",
            Self::Verify => "verify",
            Self::Activate => "activate",
            Self::Start => "start",
            Self::Admit => "admit",
            Self::Completed => "completed",
        }
    }
}

/// The steps of an undo, in order. Which of them are needed depends on the phase that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UndoStep {
    /// The ledger turns back and its epoch rises, so that late workers change nothing. From Quiesce on.
    TurnBack,
    /// Instances that may run are taken offline again, those of held nodes too: with the new key, or with the old one
    /// when the database lost the undo. From Start.
    StopInstances,
    /// The previous `encryption.config` is put back. From Activate on.
    RestoreKeys,
    /// Swapped tables are put back in their place. From Activate on; nothing to do without any.
    SwapTablesBack,
    /// Rows go back under the old key. From Reencrypt on.
    RestoreRows,
    /// Every row is opened under the old key. From Reencrypt on.
    VerifyRows,
    /// The application's role gets its attributes back. From Quiesce on.
    LiftFence,
    /// Every instance is started and proves the old key. From Quiesce on.
    StartInstances,
    /// Every instance is admitted. From Quiesce on.
    AdmitInstances,
    /// Pending and recipient keys are deleted. From Distribute on.
    DiscardKeys,
    /// The ledger is closed. From Quiesce on.
    CloseLedger,
}

impl UndoStep {
    /// All steps in order.
    pub const ALL: [Self; 11] = [
        Self::TurnBack,
        Self::StopInstances,
        Self::RestoreKeys,
        Self::SwapTablesBack,
        Self::RestoreRows,
        Self::VerifyRows,
        Self::LiftFence,
        Self::StartInstances,
        Self::AdmitInstances,
        Self::DiscardKeys,
        Self::CloseLedger,
    ];

    /// The stable text, for example `restore-rows`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TurnBack => "turn-back",
            Self::StopInstances => "stop-instances",
            Self::RestoreKeys => "restore-keys",
            Self::SwapTablesBack => "swap-tables-back",
            Self::RestoreRows => "restore-rows",
            Self::VerifyRows => "verify-rows",
            Self::LiftFence => "lift-fence",
            Self::StartInstances => "start-instances",
            Self::AdmitInstances => "admit-instances",
            Self::DiscardKeys => "discard-keys",
            Self::CloseLedger => "close-ledger",
        }
    }
}

/// Where a rotation stands. The transition table (`course.rs`) says which may follow which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Course {
    /// Going forward.
    Forward {
        /// The phase.
        phase: Phase,
    },
    /// Being undone.
    Undo {
        /// The phase that had been reached; Start too when the undo itself had let the application in and begins again.
        from: Phase,
        /// The step of the undo.
        step: UndoStep,
    },
    /// An undo failed; everything is held still until an operator says `retry`.
    Stuck {
        /// The phase that had been reached.
        from: Phase,
        /// The step that failed.
        step: UndoStep,
        /// Why.
        reason: Fault,
        /// What to do, in order.
        next_steps: Vec<String>,
    },
    /// Over.
    Ended(Ending),
}

/// How a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Preflight found a reason not to; nothing was changed.
    Refused,
    /// The operator withdrew it before it was started; nothing was changed.
    Withdrawn,
    /// Every node and every row is under the new key.
    Completed,
    /// Every node and every row is under the old key.
    RolledBack,
}

/// When a phase or undo step began and ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// `reencrypt`, or `undo:restore-rows`.
    pub name: String,
    /// When it began.
    pub started: Millis,
    /// When it ended; `None` while it lasts.
    pub ended: Option<Millis>,
}

/// One rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its id.
    pub id: RotationId,
    /// Who asked for it.
    pub requested_by: String,
    /// When.
    pub requested_at: Millis,
    /// What was chosen.
    pub options: RotationOptions,
    /// Where it stands.
    pub course: Course,
    /// The furthest phase that was entered; an undo and the end leave it as it is.
    pub reached: Phase,
    /// The epoch of the present phase or undo step.
    pub epoch: Epoch,
    /// Whether an operator holds it still.
    pub paused: bool,
    /// The nodes that take part: all that were enrolled when it was requested.
    pub nodes: BTreeMap<NodeId, NodeProgress>,
    /// The node that does what needs doing once per farm (survey, fence, position); moves on when it does not answer.
    pub lead: Option<NodeId>,
    /// What was found in the database. Its shards are moved into the plan.
    pub survey: Option<Survey>,
    /// The plan, once preflight is over.
    pub plan: Option<Plan>,
    /// The digest of its bytes.
    pub plan_digest: Option<Digest>,
    /// The operator's word, once given.
    pub authorization: Option<Authorization>,
    /// Whether this phase's or step's single assignment (survey, fence, position, ledger …) is done.
    pub lead_done: bool,
    /// How often in this phase or step no node was left to work on shards, so that all were given another chance.
    pub lease_rounds: u32,
    /// Row counts fixed at Quiesce.
    pub rows_fixed: BTreeMap<String, u64>,
    /// The shards' progress.
    pub shards: BTreeMap<ShardId, ShardProgress>,
    /// Where the database's history stood at Verify.
    pub position: Option<DatabasePosition>,
    /// The time in the dated name of the old `encryption.config`: when Activate began.
    pub activated_at: Option<Millis>,
    /// Every phase and undo step, in the order in which they were entered.
    pub times: Vec<PhaseTime>,
    /// What went wrong, newest last; at most 100.
    pub faults: Vec<Fault>,
    /// How often the leader changed while it was under way.
    pub leader_changes: u32,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Rows per second that the whole farm may read or write; `None` without a bound.
    pub throttle: Option<u32>,
    /// How far the dropping of the tables that it kept has come; `None` before an operator asked for it, and again
    /// after it failed.
    pub retiring: Option<Retiring>,
    /// From when and where the speed of the present pass is measured, for the downtime budget. Absent before version 3 of
    /// the stored form, as what follows.
    #[serde(default)]
    pub pace: Pace,
    /// When it was found that the downtime budget could not be kept.
    #[serde(default)]
    pub budget_spent_at: Option<Millis>,
}

/// How far the dropping of a completed rotation's kept tables has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// Who signed for it.
    pub by: String,
    /// When.
    pub since: Millis,
    /// The signed word.
    pub word: SignedRetirement,
    /// The node that does it; another one when it does not answer.
    pub node: NodeId,
    /// When they were gone; `None` while it is under way.
    pub done: Option<Millis>,
}

/// How far one node has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeProgress {
    /// What it said of itself in Preflight.
    pub inspection: Option<Inspection>,
    /// Why it could not be inspected.
    pub inspection_fault: Option<Fault>,
    /// Its new key is stored and proved.
    pub key_stored: bool,
    /// When its instance was confirmed offline.
    pub offline_at: Option<Millis>,
    /// The new key is its current one.
    pub activated: bool,
    /// Its instance runs and opened the canary with the new key.
    pub started: bool,
    /// Its instance may be running since the application was let in: with the new key from Start on, with the old one in
    /// an undo. It could be asked to start, and has not confirmed offline since. True before an answer comes, so that an
    /// undo also stops an instance of which nothing was heard.
    pub may_run: bool,
    /// When its instance was admitted again, under either key.
    pub admitted_at: Option<Millis>,
    /// How far its undo has come.
    pub undo: NodeUndo,
    /// How far it has come in following a rotation that ended without it.
    pub catch_up: NodeCatchUp,
    /// It did not answer in this phase; it gets no shards and is not the lead until the next.
    pub shunned: bool,
    /// What it backed up in Preflight. Absent before version 3 of the stored form.
    #[serde(default)]
    pub backup: Option<NodeBackup>,
}

/// How far one node's undo has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeUndo {
    /// Its instance is offline again.
    pub offline: bool,
    /// The old `encryption.config` is its current one.
    pub restored: bool,
    /// Its instance runs and opened the canary with the old key.
    pub started: bool,
    /// Its instance is admitted.
    pub admitted: bool,
    /// Pending and recipient keys are deleted.
    pub discarded: bool,
}

/// How far a held node has come in following a rotation that ended while it could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeCatchUp {
    /// Its instance is offline.
    pub offline: bool,
    /// The live key is its current one.
    pub keyed: bool,
    /// Its instance runs and opened the canary with the live key.
    pub started: bool,
    /// Its instance is admitted.
    pub admitted: bool,
}

/// Who works on a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLease {
    /// The node.
    pub node: NodeId,
    /// The number of the lease.
    pub number: LeaseNumber,
    /// Since when.
    pub since: Millis,
    /// The share of the throttle that goes with it, rows per second.
    pub rows_per_second: Option<u32>,
}

/// How far one shard has come. `lease` is the present one; each pass has its own result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardProgress {
    /// How often it was leased so far, over all phases; the next lease has the next number.
    pub leases: LeaseNumber,
    /// The lease under way.
    pub lease: Option<ShardLease>,
    /// Re-encrypted forward.
    pub reencrypted: Option<ShardTally>,
    /// Verified forward.
    pub verified: Option<ShardTally>,
    /// Turned back.
    pub restored: Option<ShardTally>,
    /// Verified under the old key.
    pub restored_verified: Option<ShardTally>,
}

impl Rotation {
    /// Which way its rows are being turned or stand.
    pub const fn direction(&self) -> Direction {
        match &self.course {
            Course::Forward { .. } | Course::Ended(Ending::Completed) => Direction::Forward,
            Course::Undo { .. }
            | Course::Stuck { .. }
            | Course::Ended(Ending::Refused | Ending::Withdrawn | Ending::RolledBack) => Direction::Back,
        }
    }

    /// Whether it is over.
    pub const fn has_ended(&self) -> bool {
        matches!(self.course, Course::Ended(_))
    }

    /// The key that the farm held when the plan was made; `None` before there is a plan.
    pub fn old_key(&self) -> Option<KeyId> {
        self.plan.as_ref()?.nodes.values().next().map(|node| node.current_key)
    }

    /// The tables that are re-encrypted as a copy and swapped. None before there is a plan.
    pub fn shadow_tables(&self) -> impl Iterator<Item = &str> {
        let tables = self.plan.iter().flat_map(|plan| &plan.tables);
        tables.filter(|(_, table)| table.strategy == Strategy::Shadow).map(|(name, _)| name.as_str())
    }

    /// Whether there is any such table.
    pub fn has_shadows(&self) -> bool {
        self.shadow_tables().next().is_some()
    }

    /// The tables whose originals are still kept beside them, under the old key: of a completed rotation, until an
    /// operator has them retired.
    pub fn kept_tables(&self) -> Vec<&str> {
        let retired = self.retiring.as_ref().is_some_and(|retiring| retiring.done.is_some());
        match self.course {
            Course::Ended(Ending::Completed) if !retired => self.shadow_tables().collect(),
            Course::Ended(_) | Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } => Vec::new(),
        }
    }

    /// What the operator signed; `None` before the start.
    pub fn statement(&self) -> Option<Statement> {
        self.authorization.as_ref()?.read_statement().ok()
    }

    /// The key that the farm is to hold; `None` before the start.
    pub fn new_key(&self) -> Option<KeyId> {
        self.statement().map(|statement| statement.new_key)
    }
}
