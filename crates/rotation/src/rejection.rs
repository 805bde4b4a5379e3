//! What `apply` answers: the outcome of an entry, or the reason for which a request is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::RotationId;

/// What an entry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing but time: the entry was a repetition, came too late, or said what was known.
    Unchanged,
    /// The state is another one.
    Changed,
    /// A rotation with this id began.
    RotationRequested(RotationId),
}

/// Why a request is refused: stable, and what scripts may match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectionCode {
    /// The cluster has an id and a farm already.
    AlreadyFounded,
    /// The cluster has no id yet.
    NotFounded,
    /// A rotation is under way, and this must wait for its end.
    RotationUnderWay,
    /// No node is enrolled.
    NoNodes,
    /// More nodes than one farm may have.
    TooManyNodes,
    /// The address is not of the form `https://host:port`.
    Address,
    /// A node is held from an earlier rotation.
    NodeHeld,
    /// There is no such node.
    UnknownNode,
    /// There is no such rotation.
    UnknownRotation,
    /// The rotation's phase does not allow it.
    WrongPhase,
    /// The rotation is past its point of no return.
    PointOfNoReturn,
    /// More values are to be accepted as undecryptable than may be.
    Accepted,
    /// The phase to hold at is none that a rotation can hold at.
    HoldAt,
    /// The statement cannot be read, or is of an unknown format.
    Statement,
    /// The statement does not fit the plan: another digest, farm, rotation, current key, node or recipient key.
    PlanDiffers,
    /// A sealed bundle is missing, superfluous, or not the one that the statement speaks of.
    SealedBundle,
    /// The new key is the one that the farm holds.
    SameKey,
    /// The rotation was started already, with another statement.
    AlreadyStarted,
    /// The rotation is not stuck.
    NotStuck,
    /// A throttle must let at least one row per second through.
    Throttle,
    /// The rotation keeps no tables that could be retired.
    NothingKept,
    /// Tables of an earlier rotation are being retired, and this must wait for its end.
    Retiring,
    /// The signed retirement cannot be read, or is not of this rotation.
    Retirement,
    /// The downtime budget is none, or the forecast exceeds it.
    DowntimeBudget,
}

impl RejectionCode {
    /// Every code, for documentation and conversions.
    pub const ALL: [Self; 24] = [
        Self::AlreadyFounded,
        Self::NotFounded,
        Self::RotationUnderWay,
        Self::NoNodes,
        Self::TooManyNodes,
        Self::Address,
        Self::NodeHeld,
        Self::UnknownNode,
        Self::UnknownRotation,
        Self::WrongPhase,
        Self::PointOfNoReturn,
        Self::Accepted,
        Self::HoldAt,
        Self::Statement,
        Self::PlanDiffers,
        Self::SealedBundle,
        Self::SameKey,
        Self::AlreadyStarted,
        Self::NotStuck,
        Self::Throttle,
        Self::NothingKept,
        Self::Retiring,
        Self::Retirement,
        Self::DowntimeBudget,
    ];

    /// The stable text of the code, for example `rotation-under-way`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyFounded => "already-founded",
            Self::NotFounded => "not-founded",
            Self::RotationUnderWay => "rotation-under-way",
            Self::NoNodes => "no-nodes",
            Self::TooManyNodes => "too-many-nodes",
            Self::Address => "address",
            Self::NodeHeld => "node-held",
            Self::UnknownNode => "unknown-node",
            Self::UnknownRotation => "unknown-rotation",
            Self::WrongPhase => "wrong-phase",
            Self::PointOfNoReturn => "point-of-no-return",
            Self::Accepted => "accepted",
            Self::HoldAt => "hold-at",
            Self::Statement => "statement",
            Self::PlanDiffers => "plan-differs",
            Self::SealedBundle => "sealed-bundle",
            Self::SameKey => "same-key",
            Self::AlreadyStarted => "already-started",
            Self::NotStuck => "not-stuck",
            Self::Throttle => "throttle",
            Self::NothingKept => "nothing-kept",
            Self::Retiring => "retiring",
            Self::Retirement => "retirement",
            Self::DowntimeBudget => "downtime-budget",
        }
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused request. A value, not an error of the log: the state stays exactly as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// The kind.
    pub code: RejectionCode,
    /// What was refused and why, naming the thing.
    pub message: String,
    /// What to do now, in a sentence.
    pub next_step: String,
}

impl Rejection {
    pub(crate) fn new(code: RejectionCode, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code, message: message.into(), next_step: next_step.into() }
    }
}
