//! Work that the coordinator gives to an agent, and the answers that come back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AgentRelease, Attestation, BackupOffer, BackupSource, ClusterId, ContentDigest, DatabaseIdentity, DatabaseKind,
    DatabasePosition, Digest, Epoch, KeyId, LeaseNumber, Millis, NodeBackup, NodeId, PlanTable, RotationId, Shard,
    ShardId, StrategyChoice, Term, UndecryptableValue, Unseen,
};

/// Which way rows are being turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the old key to the new one.
    Forward,
    /// Back to the old key.
    Back,
}

/// The order of authority. An agent persists the highest it has seen and refuses lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The cluster of coordinators.
    pub cluster: ClusterId,
    /// The leader's term.
    pub term: Term,
    /// The epoch of the work.
    pub epoch: Epoch,
}

/// One piece of work for one node. What to do is a function of the state; only the fence's term is the sender's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The rotation it belongs to.
    pub rotation: RotationId,
    /// The epoch in which it is valid.
    pub epoch: Epoch,
    /// The node that is to do it.
    pub node: NodeId,
    /// What to do.
    pub work: Work,
}

/// Tells assignments apart: the same id again is the same work, answered and not done again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AssignmentId {
    /// The rotation.
    pub rotation: RotationId,
    /// The epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
    /// The kind of work.
    pub kind: WorkKind,
    /// The shard and lease, for work on a shard.
    pub shard: Option<(ShardId, LeaseNumber)>,
}

impl fmt::Display for AssignmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.rotation, self.epoch, self.node, self.kind)?;
        if let Some((shard, lease)) = self.shard {
            write!(f, "/{shard}.{lease}")?;
        }
        Ok(())
    }
}

/// What an agent can be asked to do. All of it is idempotent: asked again, it looks at what is and does the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Preflight: say what this node is and holds, and make a fresh recipient key. Changes nothing else.
    Inspect,
    /// Preflight, one node: read the whole of every registered column with the current key; count, split, forecast.
    SurveyDatabase {
        /// Values that the operator accepts as undecryptable.
        accepted: Vec<UndecryptableValue>,
        /// How many shards to aim for.
        shards_wanted: u32,
        /// How many agents will share them.
        agents: u32,
        /// How tables are to be re-encrypted; what is chosen for each stands in the plan, which is signed.
        strategy: StrategyChoice,
    },
    /// Distribute: open the sealed bundle, prove the key, store it pending, delete the recipient key.
    StoreKey,
    /// Quiesce: drain and take the instance offline, so that it stays so after a reboot. Also the way a started
    /// instance is stopped again.
    TakeOffline,
    /// Quiesce, one node: write the ledger's header, fence the application's role, prove that no session is left,
    /// fix the row counts.
    FenceDatabase,
    /// Re-encrypt one shard: forward from the old key to the new, or back.
    ReencryptShard {
        /// The shard.
        shard: Shard,
        /// Its lease.
        lease: LeaseNumber,
        /// Which way.
        direction: Direction,
        /// This shard's share of the throttle, rows per second; `None` without one.
        rows_per_second: Option<u32>,
    },
    /// Read one shard back and open every value: under the new key when forward, under the old when back.
    VerifyShard {
        /// The shard.
        shard: Shard,
        /// Its lease.
        lease: LeaseNumber,
        /// Which way the rows were turned.
        direction: Direction,
        /// This shard's share of the throttle, rows per second; `None` without one.
        rows_per_second: Option<u32>,
    },
    /// Verify, one node: say where the database's history stands.
    RecordPosition,
    /// Activate: link the old file to its dated name and rename the pending one over `encryption.config`.
    ActivateKey {
        /// The time in the dated name; from the log, so that a second try makes no second file.
        at: Millis,
    },
    /// Start, one node: recheck the database's position (forward only) and give the application's role its
    /// attributes back.
    LiftFence {
        /// Which way the rows now stand.
        direction: Direction,
        /// Where history stood at Verify; it must not be behind or on another timeline. `None` when going back.
        position: Option<DatabasePosition>,
    },
    /// Start: start the instance without admitting it, and have it open a canary with the key it must hold now.
    StartInstance {
        /// The key it must hold.
        key: KeyId,
    },
    /// Admit: let clients reach the instance.
    AdmitInstance,
    /// Completed or rolled back, one node: close the ledger's header.
    CloseLedger {
        /// Which way the rows now stand.
        direction: Direction,
    },
    /// Undo, one node, before anything else: turn the ledger's header back, raise its epoch, fence the role, end sessions.
    TurnBack,
    /// Undo: put the previous `encryption.config` back.
    RestoreKey,
    /// Undo: delete the pending key and the recipient key.
    DiscardKey,
    /// Reencrypt, one node, when every shard is through: give every shadow its keys, indexes and constraints.
    FinishShadows,
    /// Activate, one node, before any key: put every verified shadow in its original's place, in one transaction.
    SwapTables,
    /// Undo, one node: put the originals back. A live table that changed since it was verified stays, and its rows
    /// are turned back like those of any other.
    SwapTablesBack,
    /// After the end, one node, on an operator's signed word: drop the originals that were kept.
    RetireTables,
    /// Preflight, every node that is configured to: archive the application's folder. One of them: make a backup of the
    /// database too, or take the one that is shown, restore it aside and open rows of it.
    BackUp {
        /// Where the backup of the database comes from; `None` on all nodes but one.
        database: Option<BackupSource>,
    },
}

/// The kind of a [`Work`], without its particulars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkKind {
    /// See [`Work::Inspect`].
    Inspect,
    /// See [`Work::SurveyDatabase`].
    SurveyDatabase,
    /// See [`Work::StoreKey`].
    StoreKey,
    /// See [`Work::TakeOffline`].
    TakeOffline,
    /// See [`Work::FenceDatabase`].
    FenceDatabase,
    /// See [`Work::ReencryptShard`].
    ReencryptShard,
    /// See [`Work::VerifyShard`].
    VerifyShard,
    /// See [`Work::RecordPosition`].
    RecordPosition,
    /// See [`Work::ActivateKey`].
    ActivateKey,
    /// See [`Work::LiftFence`].
    LiftFence,
    /// See [`Work::StartInstance`].
    StartInstance,
    /// See [`Work::AdmitInstance`].
    AdmitInstance,
    /// See [`Work::CloseLedger`].
    CloseLedger,
    /// See [`Work::TurnBack`].
    TurnBack,
    /// See [`Work::RestoreKey`].
    RestoreKey,
    /// See [`Work::DiscardKey`].
    DiscardKey,
    /// See [`Work::FinishShadows`].
    FinishShadows,
    /// See [`Work::SwapTables`].
    SwapTables,
    /// See [`Work::SwapTablesBack`].
    SwapTablesBack,
    /// See [`Work::RetireTables`].
    RetireTables,
    /// See [`Work::BackUp`].
    BackUp,
}

impl fmt::Display for WorkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inspect => "inspect",
            Self::SurveyDatabase => "survey-database",
            Self::StoreKey => "store-key",
            Self::TakeOffline => "take-offline",
            Self::FenceDatabase => "fence-database",
            Self::ReencryptShard => "reencrypt-shard",
            Self::VerifyShard => "verify-shard",
            Self::RecordPosition => "record-position",
            Self::ActivateKey => "activate-key",
            Self::LiftFence => "lift-fence",
            Self::StartInstance => "start-instance",
            Self::AdmitInstance => "admit-instance",
            Self::CloseLedger => "close-ledger",
            Self::TurnBack => "turn-back",
            Self::RestoreKey => "restore-key",
            Self::DiscardKey => "discard-key",
            Self::FinishShadows => "finish-shadows",
            Self::SwapTables => "swap-tables",
            Self::SwapTablesBack => "swap-tables-back",
            Self::RetireTables => "retire-tables",
            Self::BackUp => "back-up",
        })
    }
}

impl Work {
    /// The kind, without its particulars.
    pub const fn kind(&self) -> WorkKind {
        match self {
            Self::Inspect => WorkKind::Inspect,
            Self::SurveyDatabase { .. } => WorkKind::SurveyDatabase,
            Self::StoreKey => WorkKind::StoreKey,
            Self::TakeOffline => WorkKind::TakeOffline,
            Self::FenceDatabase => WorkKind::FenceDatabase,
            Self::ReencryptShard { .. } => WorkKind::ReencryptShard,
            Self::VerifyShard { .. } => WorkKind::VerifyShard,
            Self::RecordPosition => WorkKind::RecordPosition,
            Self::ActivateKey { .. } => WorkKind::ActivateKey,
            Self::LiftFence { .. } => WorkKind::LiftFence,
            Self::StartInstance { .. } => WorkKind::StartInstance,
            Self::AdmitInstance => WorkKind::AdmitInstance,
            Self::CloseLedger { .. } => WorkKind::CloseLedger,
            Self::TurnBack => WorkKind::TurnBack,
            Self::RestoreKey => WorkKind::RestoreKey,
            Self::DiscardKey => WorkKind::DiscardKey,
            Self::FinishShadows => WorkKind::FinishShadows,
            Self::SwapTables => WorkKind::SwapTables,
            Self::SwapTablesBack => WorkKind::SwapTablesBack,
            Self::RetireTables => WorkKind::RetireTables,
            Self::BackUp { .. } => WorkKind::BackUp,
        }
    }
}

impl Assignment {
    /// The id of this piece of work.
    pub fn id(&self) -> AssignmentId {
        let shard = match &self.work {
            Work::ReencryptShard { shard, lease, .. } | Work::VerifyShard { shard, lease, .. } => {
                Some((shard.id, *lease))
            }
            Work::Inspect
            | Work::SurveyDatabase { .. }
            | Work::StoreKey
            | Work::TakeOffline
            | Work::FenceDatabase
            | Work::RecordPosition
            | Work::ActivateKey { .. }
            | Work::LiftFence { .. }
            | Work::StartInstance { .. }
            | Work::AdmitInstance
            | Work::CloseLedger { .. }
            | Work::TurnBack
            | Work::RestoreKey
            | Work::DiscardKey
            | Work::FinishShadows
            | Work::SwapTables
            | Work::SwapTablesBack
            | Work::RetireTables
            | Work::BackUp { .. } => None,
        };
        AssignmentId {
            rotation: self.rotation,
            epoch: self.epoch,
            node: self.node.clone(),
            kind: self.work.kind(),
            shard,
        }
    }
}

/// What a node says of itself in Preflight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Its release.
    pub release: AgentRelease,
    /// The active key of its store.
    pub current_key: KeyId,
    /// The instance's state as observed, in the driver's words: `online`.
    pub instance: String,
    /// Whether that state is online.
    pub instance_online: bool,
    /// How the key store is bound to the machine, and what that is worth.
    pub protector: String,
    /// The database it sees.
    pub database: DatabaseIdentity,
    /// The digest of its targets.toml.
    pub targets_digest: Digest,
    /// Public half of the recipient key made for this rotation, hex.
    pub recipient_key: String,
    /// Proof that this recipient key is the node's.
    pub attestation: Attestation,
    /// What its configuration has it back up. Absent before version 3 of the stored form.
    #[serde(default)]
    pub backup: BackupOffer,
}

/// What one node found in the database in Preflight, having read every registered value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The system.
    pub kind: DatabaseKind,
    /// Every registered table, by name, with counts. Ordered.
    pub tables: Vec<(String, PlanTable)>,
    /// The shards, covering every table wholly.
    pub shards: Vec<Shard>,
    /// How many agents may write at once.
    pub writers_max: u32,
    /// Values that open under no key, accepted ones included. At most 1,000 are named; `undecryptable_total` counts all.
    pub undecryptable: Vec<UndecryptableValue>,
    /// How many values open under no key.
    pub undecryptable_total: u64,
    /// Expected time offline, milliseconds.
    pub downtime_forecast_ms: u64,
    /// Where nobody looked for values that are not registered.
    #[serde(default)]
    pub unseen: Unseen,
}

/// What was counted while a shard was re-encrypted or verified, cumulative over all its chunks and leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardTally {
    /// Rows read.
    pub rows: u64,
    /// Values opened (neither NULL nor empty nor accepted as undecryptable).
    pub values: u64,
    /// Accepted undecryptable values met, left as they are.
    pub undecryptable: u64,
    /// The content digest over all values of these rows.
    pub digest: ContentDigest,
    /// The keyed digest over the primary keys and all columns that are not registered.
    pub rest: ContentDigest,
}

/// What an agent answers when it is done; one kind per kind of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Work::Inspect`].
    Inspected(Box<Inspection>),
    /// To [`Work::SurveyDatabase`].
    DatabaseSurveyed(Box<Survey>),
    /// To [`Work::StoreKey`].
    KeyStored {
        /// The proof that the new key was opened: see the glossary, proof of possession.
        possession: Digest,
    },
    /// To [`Work::TakeOffline`].
    WentOffline,
    /// To [`Work::FenceDatabase`].
    DatabaseFenced {
        /// Rows of every registered table, fixed from here on. Ordered by table.
        rows: Vec<(String, u64)>,
    },
    /// To [`Work::ReencryptShard`].
    ShardReencrypted {
        /// The shard.
        shard: ShardId,
        /// Its lease.
        lease: LeaseNumber,
        /// What was counted.
        tally: ShardTally,
    },
    /// To [`Work::VerifyShard`].
    ShardVerified {
        /// The shard.
        shard: ShardId,
        /// Its lease.
        lease: LeaseNumber,
        /// What was counted.
        tally: ShardTally,
    },
    /// To [`Work::RecordPosition`].
    PositionRecorded(DatabasePosition),
    /// To [`Work::ActivateKey`].
    KeyActivated {
        /// The key now in `encryption.config`.
        key: KeyId,
    },
    /// To [`Work::LiftFence`].
    FenceLifted,
    /// To [`Work::StartInstance`].
    InstanceStarted {
        /// The key with which the running process opened the canary.
        key: KeyId,
    },
    /// To [`Work::AdmitInstance`].
    InstanceAdmitted,
    /// To [`Work::CloseLedger`].
    LedgerClosed,
    /// To [`Work::TurnBack`].
    TurnedBack,
    /// To [`Work::RestoreKey`].
    KeyRestored {
        /// The key now in `encryption.config`.
        key: KeyId,
    },
    /// To [`Work::DiscardKey`].
    KeyDiscarded,
    /// To [`Work::FinishShadows`].
    ShadowsFinished,
    /// To [`Work::SwapTables`].
    TablesSwapped,
    /// To [`Work::SwapTablesBack`].
    TablesSwappedBack,
    /// To [`Work::RetireTables`].
    TablesRetired,
    /// To [`Work::BackUp`].
    BackedUp(Box<NodeBackup>),
}

impl Answer {
    /// The kind of work that this answers.
    pub const fn kind(&self) -> WorkKind {
        match self {
            Self::Inspected(_) => WorkKind::Inspect,
            Self::DatabaseSurveyed(_) => WorkKind::SurveyDatabase,
            Self::KeyStored { .. } => WorkKind::StoreKey,
            Self::WentOffline => WorkKind::TakeOffline,
            Self::DatabaseFenced { .. } => WorkKind::FenceDatabase,
            Self::ShardReencrypted { .. } => WorkKind::ReencryptShard,
            Self::ShardVerified { .. } => WorkKind::VerifyShard,
            Self::PositionRecorded(_) => WorkKind::RecordPosition,
            Self::KeyActivated { .. } => WorkKind::ActivateKey,
            Self::FenceLifted => WorkKind::LiftFence,
            Self::InstanceStarted { .. } => WorkKind::StartInstance,
            Self::InstanceAdmitted => WorkKind::AdmitInstance,
            Self::LedgerClosed => WorkKind::CloseLedger,
            Self::TurnedBack => WorkKind::TurnBack,
            Self::KeyRestored { .. } => WorkKind::RestoreKey,
            Self::KeyDiscarded => WorkKind::DiscardKey,
            Self::ShadowsFinished => WorkKind::FinishShadows,
            Self::TablesSwapped => WorkKind::SwapTables,
            Self::TablesSwappedBack => WorkKind::SwapTablesBack,
            Self::TablesRetired => WorkKind::RetireTables,
            Self::BackedUp(_) => WorkKind::BackUp,
        }
    }
}
