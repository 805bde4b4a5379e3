//! What can go wrong with work, as a value that is logged, shown and decided upon.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// The kind of a fault: stable, documented under docs/errors, and what scripts may match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// A node did not answer within its deadline.
    NodeUnreachable,
    /// The node refused the assignment: another cluster, a lower fence, or not signed by an operator.
    AssignmentRefused,
    /// The nodes do not agree on something they must share: key, targets, database, protocol.
    NodesDisagree,
    /// A node is held from an earlier rotation and must be brought back or removed first.
    NodeHeld,
    /// The node's key store cannot be read or written.
    KeyStore,
    /// The sealed bundle does not open, or holds another key than the plan says.
    Bundle,
    /// The instance did not reach the state asked of it.
    Instance,
    /// The instance runs, but could not decrypt the canary with the key it must hold.
    Canary,
    /// A table or column of targets.toml does not exist, has no primary key, or is of no usable type.
    Targets,
    /// Columns hold ciphertexts that targets.toml neither registers nor excludes.
    UnregisteredColumns,
    /// The database refused, or the connection to it was lost.
    Database,
    /// Sessions of somebody else remain in the database.
    SessionsRemain,
    /// A value opens under no known key.
    Undecryptable,
    /// A value was already under the key that was to be applied, or under one that must be gone.
    UnexpectedKey,
    /// Rows appeared, vanished or changed while they must not.
    RowsChanged,
    /// The content digests before and after differ.
    DigestDiffers,
    /// The ledger in the database is at a higher epoch, lease or direction: this worker is too late.
    Superseded,
    /// The database lost or gained history since it was verified.
    DatabasePosition,
    /// `keyturn recover` has put this node back by hand, and with it the rotation is over: rolled back.
    Recovered,
    /// An operator asked for the rotation to end.
    Aborted,
    /// The agent failed in a way that has no name of its own; its message says how.
    Internal,
    /// The farm would be offline for longer than its operator allows.
    DowntimeBudget,
    /// A backup was not made, or could not be proved usable.
    Backup,
}

impl FaultCode {
    /// The stable text of the code, for example `node-unreachable`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeUnreachable => "node-unreachable",
            Self::AssignmentRefused => "assignment-refused",
            Self::NodesDisagree => "nodes-disagree",
            Self::NodeHeld => "node-held",
            Self::KeyStore => "key-store",
            Self::Bundle => "bundle",
            Self::Instance => "instance",
            Self::Canary => "canary",
            Self::Targets => "targets",
            Self::UnregisteredColumns => "unregistered-columns",
            Self::Database => "database",
            Self::SessionsRemain => "sessions-remain",
            Self::Undecryptable => "undecryptable",
            Self::UnexpectedKey => "unexpected-key",
            Self::RowsChanged => "rows-changed",
            Self::DigestDiffers => "digest-differs",
            Self::Superseded => "superseded",
            Self::DatabasePosition => "database-position",
            Self::Recovered => "recovered",
            Self::Aborted => "aborted",
            Self::Internal => "internal",
            Self::DowntimeBudget => "downtime-budget",
            Self::Backup => "backup",
        }
    }

    /// Every code, for documentation and conversions.
    pub const ALL: [Self; 23] = [
        Self::NodeUnreachable,
        Self::AssignmentRefused,
        Self::NodesDisagree,
        Self::NodeHeld,
        Self::KeyStore,
        Self::Bundle,
        Self::Instance,
        Self::Canary,
        Self::Targets,
        Self::UnregisteredColumns,
        Self::Database,
        Self::SessionsRemain,
        Self::Undecryptable,
        Self::UnexpectedKey,
        Self::RowsChanged,
        Self::DigestDiffers,
        Self::Superseded,
        Self::DatabasePosition,
        Self::Recovered,
        Self::Aborted,
        Self::Internal,
        Self::DowntimeBudget,
        Self::Backup,
    ];
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that went wrong: where, what, and what a person can do about it. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind.
    pub code: FaultCode,
    /// The node it happened on, if on one.
    pub node: Option<NodeId>,
    /// What was being done and why it failed, naming the thing: a table, a row's key, a session, a file.
    pub message: String,
    /// What to do now, in a sentence.
    pub next_step: String,
    /// Whether the same work may succeed if simply tried again, as after a lost connection. The driver
    /// retries such a fault until the work's deadline; any other is logged at once.
    pub retryable: bool,
}

impl Fault {
    /// A fault that trying again does not cure, on no node in particular.
    pub fn new(code: FaultCode, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code, node: None, message: message.into(), next_step: next_step.into(), retryable: false }
    }

    /// The same fault, on this node.
    #[must_use]
    pub fn on(self, node: &NodeId) -> Self {
        Self { node: Some(node.clone()), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{} on {node}: {}", self.code, self.message),
            None => write!(f, "{}: {}", self.code, self.message),
        }
    }
}
