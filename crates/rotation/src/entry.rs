//! The entries of the log: everything that can change the state, each with the time that its leader gave it.

use serde::{Deserialize, Serialize};

use crate::{
    Answer, AssignmentId, Authorization, BackupChoice, ClusterId, DowntimeBudget, Epoch, Fault, Millis, NodeId, Phase,
    RotationId, SignedRetirement, StrategyChoice, Term, UndecryptableValue,
};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's clock. `apply` clamps it, so that time in the state never runs backwards.
    pub at: Millis,
    /// What happened or was asked.
    pub event: Event,
}

/// What an operator chose when asking for a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RotationOptions {
    /// Values that may stay undecryptable, bound to their raw bytes.
    pub accepted: Vec<UndecryptableValue>,
    /// Pause as soon as this phase is entered, until `resume`.
    pub hold_at: Option<Phase>,
    /// How tables are to be re-encrypted.
    pub strategy: StrategyChoice,
    /// How long the farm may be offline; `None` without a bound. Absent before version 3 of the stored form.
    #[serde(default)]
    pub budget: Option<DowntimeBudget>,
    /// What is backed up first. Absent before version 3 too.
    #[serde(default)]
    pub backup: BackupChoice,
}

/// What happened or was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first entry of a cluster: its id and the farm's name. Refused when there is one already.
    FarmFounded {
        /// Drawn at random by the first leader.
        cluster: ClusterId,
        /// From the coordinators' configuration.
        farm: String,
    },
    /// A replica became leader; counted, and a sign in the audit trail.
    LeaderElected {
        /// The term.
        term: Term,
        /// The replica's number.
        replica: u64,
    },
    /// An operator enrolled a node. Refused while a rotation is under way.
    NodeEnrolled {
        /// Its name.
        node: NodeId,
        /// Where its agent listens: `https://host:port`.
        address: String,
    },
    /// An operator removed a node. Refused while a rotation is under way.
    NodeRemoved {
        /// Its name.
        node: NodeId,
    },
    /// An operator asked for a rotation: preflight begins. Refused while another is under way or a node is held.
    RotationRequested {
        /// Drawn by the replica that took the request.
        rotation: RotationId,
        /// Who asked: the name in the operator's certificate.
        by: String,
        /// What was chosen.
        options: RotationOptions,
    },
    /// An operator signed the plan. Refused when it does not fit the plan, or when another was taken already.
    StartRequested {
        /// The rotation.
        rotation: RotationId,
        /// Who signed.
        by: String,
        /// The statement, its signature, the sealed bundles.
        authorization: Box<Authorization>,
    },
    /// An operator asked to end it: withdrawn in Preflight and Approval, undone up to Start, refused from Admit on.
    AbortRequested {
        /// The rotation.
        rotation: RotationId,
        /// Who asked.
        by: String,
    },
    /// An operator asked that no new work be given out, and that shards under way be put down. Refused in Approval, where
    /// none is, when stuck, and from Admit on.
    PauseRequested {
        /// The rotation.
        rotation: RotationId,
        /// Who asked.
        by: String,
    },
    /// An operator asked that work go on.
    ResumeRequested {
        /// The rotation.
        rotation: RotationId,
        /// Who asked.
        by: String,
    },
    /// An operator asked a stuck rotation to try again what it was stuck on.
    RetryRequested {
        /// The rotation.
        rotation: RotationId,
        /// Who asked.
        by: String,
    },
    /// An agent finished an assignment. An answer to an assignment that is no longer pending changes nothing.
    WorkDone {
        /// Which assignment.
        assignment: AssignmentId,
        /// Its answer.
        answer: Answer,
    },
    /// An agent could not do an assignment, and trying again does not help or did not until its deadline.
    WorkFailed {
        /// Which assignment.
        assignment: AssignmentId,
        /// Why.
        fault: Fault,
    },
    /// The leader heard nothing of an assignment until its deadline: the node could not be reached.
    DeadlineMissed {
        /// Which assignment.
        assignment: AssignmentId,
        /// What was last heard, for the message.
        fault: Fault,
    },
    /// The leader heard nothing from the holder of a shard's lease for as long as a lease lasts: it moves on.
    LeaseExpired {
        /// Which assignment.
        assignment: AssignmentId,
    },
    /// All nodes passed their canary and the leader decided to admit them: the point of no return.
    AdmitDecided {
        /// The rotation.
        rotation: RotationId,
        /// The epoch of the Start phase in which every canary was passed.
        epoch: Epoch,
    },
    /// An operator bounded the speed of the work on rows, or took the bound away. In force at once, also for shards
    /// under way. Refused after the end.
    ThrottleRequested {
        /// The rotation.
        rotation: RotationId,
        /// Who asked.
        by: String,
        /// Rows per second that the whole farm may read or write, at least 1; `None` for no bound.
        rows_per_second: Option<u32>,
    },
    /// An operator signed that the tables which a completed rotation kept are to be dropped. Refused while any rotation
    /// is under way, and when nothing is kept.
    RetireRequested {
        /// The rotation that kept them.
        rotation: RotationId,
        /// Who signed.
        by: String,
        /// The signed word.
        word: SignedRetirement,
    },
    /// The leader found that the downtime budget will not be kept: the way back takes all that is left of it, and the way
    /// forward longer still. The rotation is undone, or goes on and says so, as its operator chose.
    BudgetSpent {
        /// The rotation.
        rotation: RotationId,
        /// The epoch of the phase in which it was found.
        epoch: Epoch,
        /// For how long the farm has been offline by the leader's own measure, milliseconds.
        used_ms: u64,
    },
}
