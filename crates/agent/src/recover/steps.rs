//! The steps of a recovery, as values that can be printed before they are done.

use std::fmt;

use rotation::{Direction, Epoch, KeyId, LeaseNumber, RotationId};

/// One step. Each may be done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The instance is stopped, so that it stays stopped.
    TakeOffline {
        /// The rotation for which it is held until it is admitted again.
        rotation: Option<RotationId>,
    },
    /// The database is told that this node's instance is offline.
    NoteOffline {
        /// The rotation.
        rotation: RotationId,
    },
    /// The ledger turns back under a higher epoch, so that no late worker changes anything.
    TurnBack {
        /// The rotation.
        rotation: RotationId,
        /// The epoch that is taken.
        epoch: Epoch,
        /// Nobody else may be left in the database, because rows will change.
        alone: bool,
    },
    /// Every row that was turned goes back under the old key.
    RestoreRows {
        /// The rotation.
        rotation: RotationId,
        /// The epoch that was taken.
        epoch: Epoch,
        /// The lease under which this recovery works.
        lease: LeaseNumber,
    },
    /// Every row is read back and opened with the old key.
    VerifyRows {
        /// The rotation.
        rotation: RotationId,
        /// The epoch that was taken.
        epoch: Epoch,
        /// The lease under which this recovery works.
        lease: LeaseNumber,
    },
    /// The application's role is let in again, the ledger is closed, and it says that the rotation was undone by hand.
    EndLedger {
        /// The rotation.
        rotation: RotationId,
        /// The epoch that was taken.
        epoch: Epoch,
    },
    /// Values are opened with the key that the instance is to have; a single one that does not open ends the recovery.
    ProveKey {
        /// The key.
        key: KeyId,
        /// Every row; else a sample, since all were read when the rotation was undone.
        whole: bool,
    },
    /// `encryption.config` is renamed to `encryption.config.bak`, and another file to `encryption.config`.
    PutFileBack {
        /// The other file.
        name: String,
        /// The key in it.
        key: KeyId,
    },
    /// The pending file becomes `encryption.config`, and what was there gets its dated name.
    ActivatePending {
        /// The rotation.
        rotation: RotationId,
        /// The key in it.
        key: KeyId,
    },
    /// A proved backup is loaded beside the damaged database.
    LoadBackup {
        /// The backup.
        path: String,
        /// The key that it is under.
        key: KeyId,
        /// By a superuser, as whom functions that the database defines run meanwhile.
        by_superuser: bool,
    },
    /// The damaged database is moved aside, and the loaded one takes its place.
    PutInPlace {
        /// Under which name the damaged one is kept.
        kept_as: String,
        /// The application's role, which a rotation shut out, is let in again.
        lift_fence: bool,
    },
    /// What the backup was loaded into is dropped, since an earlier attempt was ended just before it was.
    ClearUp,
    /// The instance is started, without clients, and opens a value that was encrypted just now.
    StartInstance {
        /// The key that it must have.
        key: KeyId,
    },
    /// Clients are let in.
    AdmitInstance {
        /// The rotation and which way it went, if there is one.
        rotation: Option<(RotationId, Direction)>,
    },
    /// The agent remembers that the rotation was undone, and answers so.
    LeaveMark {
        /// The rotation.
        rotation: RotationId,
        /// The key with which the node serves.
        key: KeyId,
    },
    /// The key that nobody needs any more is deleted from this node; the operator's bundle still has it.
    DiscardPending {
        /// The rotation.
        rotation: RotationId,
    },
}

impl Step {
    /// The stable name, for scripts.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::TakeOffline { .. } => "take-offline",
            Self::NoteOffline { .. } => "note-offline",
            Self::TurnBack { .. } => "turn-back",
            Self::RestoreRows { .. } => "restore-rows",
            Self::VerifyRows { .. } => "verify-rows",
            Self::EndLedger { .. } => "end-ledger",
            Self::ProveKey { .. } => "prove-key",
            Self::PutFileBack { .. } => "put-file-back",
            Self::ActivatePending { .. } => "activate-pending",
            Self::LoadBackup { .. } => "load-backup",
            Self::PutInPlace { .. } => "put-in-place",
            Self::ClearUp => "clear-up",
            Self::StartInstance { .. } => "start-instance",
            Self::AdmitInstance { .. } => "admit-instance",
            Self::LeaveMark { .. } => "leave-mark",
            Self::DiscardPending { .. } => "discard-pending",
        }
    }
}

/// What will be done, in a sentence.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeOffline { .. } => f.write_str("take this node's instance offline, so that it stays offline"),
            Self::NoteOffline { rotation } => {
                write!(f, "note in the database that this node's instance is offline for rotation {rotation}")
            }
            Self::TurnBack { rotation, epoch, alone } => {
                write!(f, "turn the ledger of rotation {rotation} back under epoch {epoch}")?;
                if *alone { f.write_str(", and see that nobody else is left in the database") } else { Ok(()) }
            }
            Self::RestoreRows { .. } => f.write_str("turn every row that was turned back to the old key"),
            Self::VerifyRows { .. } => f.write_str("read every row back and open it with the old key"),
            Self::EndLedger { .. } => {
                f.write_str("let the application's role in again, note the recovery in the ledger, and close it")
            }
            Self::ProveKey { key, whole: true } => write!(f, "open every value of the database with key {key}"),
            Self::ProveKey { key, whole: false } => write!(f, "open a sample of every table with key {key}"),
            Self::PutFileBack { name, key } => write!(
                f,
                "rename encryption.config to encryption.config.bak, and {name} (which holds key {key}) to encryption.config"
            ),
            Self::ActivatePending { key, .. } => {
                write!(f, "make the pending file (which holds key {key}) encryption.config, and date the present one")
            }
            Self::LoadBackup { path, key, by_superuser } => {
                write!(f, "load {path}, which is under key {key}, beside the damaged database")?;
                if *by_superuser {
                    f.write_str(
                        ", as a superuser: functions that its constraints and indexes call can do anything to the server \
                         meanwhile, so only if you trust who could define them (docs/database.md says how to do without)",
                    )?;
                }
                Ok(())
            }
            Self::ClearUp => {
                f.write_str("drop the database that the backup was loaded into, whose tables are in their place")
            }
            Self::PutInPlace { kept_as, lift_fence } => {
                write!(
                    f,
                    "move the damaged database aside (it is kept as {kept_as}) and put the loaded one into its place"
                )?;
                if *lift_fence { f.write_str(", and let the application's role in again") } else { Ok(()) }
            }
            Self::StartInstance { key } => {
                write!(f, "start the instance without clients, and have it open a value under key {key}")
            }
            Self::AdmitInstance { .. } => f.write_str("let clients reach the instance"),
            Self::LeaveMark { rotation, .. } => {
                write!(f, "note for this node's agent that rotation {rotation} was undone by hand")
            }
            Self::DiscardPending { .. } => f.write_str("delete the pending key file of the undone rotation"),
        }
    }
}
