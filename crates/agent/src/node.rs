//! What an assignment works on: this node's identity, key store, database and instance, and what is remembered of
//! the rotation being followed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keys::{KeySet, KeyStore, StoreError};
use reencrypt::Engine;
use rotation::{AgentRelease, Digest, Fault, FaultCode, KeyId, Millis, NodeId, RotationId};
use wire::tls::Tls;

use crate::backup::SharedBackupTools;
use crate::config::{BackupConfig, Config};
use crate::durable::DurableError;
use crate::fault::{chain, durable, fault, retryable};
use crate::held::HeldFile;
use crate::instance::Driver;
use crate::kept::KeptFile;
use crate::pin::Pin;
use crate::recovered::RecoveredFile;

/// The release that this agent reports.
pub(crate) const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// The protocol between coordinator and agent that this release speaks.
pub(crate) const PROTOCOL: u32 = AgentRelease::PROTOCOL;

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) farm: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) tls: Tls,
    pub(crate) store: KeyStore,
    pub(crate) engine: Engine,
    /// The digest of its targets.toml.
    pub(crate) targets: Digest,
    /// The names of the tables in it, as a plan names them.
    pub(crate) tables: Vec<String>,
    pub(crate) instance: Driver,
    /// How it backs up, where it is configured to.
    pub(crate) backups: Option<Backups>,
    /// Held by the one assignment that may work on the instance or the key store.
    pub(crate) turn: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

/// What is remembered across restarts, besides the fence.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) pin: Pin,
    pub(crate) held: HeldFile,
    pub(crate) recovered: RecoveredFile,
    pub(crate) kept: KeptFile,
}

impl Memory {
    /// Reads it.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        Ok(Self {
            pin: Pin::open(state_dir)?,
            held: HeldFile::open(state_dir)?,
            recovered: RecoveredFile::open(state_dir)?,
            kept: KeptFile::open(state_dir)?,
        })
    }
}

/// What a [`Node`] is made of.
pub(crate) struct Parts {
    pub(crate) id: NodeId,
    pub(crate) farm: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) tls: Tls,
    pub(crate) store: KeyStore,
    pub(crate) engine: Engine,
    pub(crate) targets: Digest,
    pub(crate) tables: Vec<String>,
    pub(crate) instance: Driver,
    pub(crate) backups: Option<Backups>,
}

/// How a node backs up.
#[derive(Debug)]
pub(crate) struct Backups {
    pub(crate) config: Config,
    pub(crate) settings: BackupConfig,
    pub(crate) tools: SharedBackupTools,
}

impl Node {
    /// Reads what is remembered.
    pub(crate) fn open(parts: Parts) -> Result<Self, DurableError> {
        let memory = Memory::open(&parts.state_dir)?;
        let Parts { id, farm, state_dir, tls, store, engine, targets, tables, instance, backups } = parts;
        Ok(Self {
            id,
            farm,
            state_dir,
            tls,
            store,
            engine,
            targets,
            tables,
            instance,
            backups,
            turn: tokio::sync::Mutex::new(()),
            memory: Mutex::new(memory),
        })
    }

    /// The memory. A plain lock, held across a small durable write at most: whoever reads it must not see a
    /// decision that a crash could still take back.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        // A record is replaced in memory only after it was written, so a panic leaves it as it is on disk.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the instance is held offline for this rotation.
    pub(crate) fn is_held_for(&self, rotation: RotationId) -> bool {
        self.memory().held.get().is_some_and(|held| held.rotation == rotation)
    }

    /// Holds the instance: whatever it proved counts no more.
    pub(crate) fn hold(&self, rotation: RotationId, now: Millis) -> Result<(), Fault> {
        let mut memory = self.memory();
        memory.pin.set_held(rotation).and_then(|()| memory.held.hold(rotation, now)).map_err(|e| durable(&e))
    }

    /// Whether rows may have been turned in this rotation, as far as this node can know without asking.
    pub(crate) fn was_held_for(&self, rotation: RotationId) -> bool {
        self.memory().pin.followed(rotation).is_some_and(|followed| followed.was_held)
    }

    /// Remembers which key the running instance proved, or that it proved none.
    pub(crate) fn set_proved(&self, rotation: RotationId, proved: Option<KeyId>) -> Result<(), Fault> {
        self.memory().pin.set_proved(rotation, proved).map_err(|error| durable(&error))
    }

    /// The key that the running instance proved in this rotation.
    pub(crate) fn proved(&self, rotation: RotationId) -> Option<KeyId> {
        self.memory().pin.followed(rotation).and_then(|followed| followed.proved)
    }

    /// The keys in `encryption.config`.
    pub(crate) fn current_keys(&self) -> Result<KeySet, Fault> {
        self.store.current().map_err(|error| store_fault("reading encryption.config", &error))
    }

    /// The pending keys.
    pub(crate) fn pending_keys(&self) -> Result<Option<KeySet>, Fault> {
        self.store.pending().map_err(|error| store_fault("reading the pending keys", &error))
    }
}

/// A fault of the key store.
pub(crate) fn store_fault(doing: &str, error: &StoreError) -> Fault {
    let make = if error.is_retryable() { retryable } else { fault };
    make(FaultCode::KeyStore, chain(doing, error), error.next_step())
}
