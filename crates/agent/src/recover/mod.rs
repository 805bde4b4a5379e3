//! The recovery that an administrator would do by hand, on one node: look at everything, decide, and do it step by step.
//!
//! `findings` looks and changes nothing. `decide` is a pure function from what was found to a list of steps. `perform`
//! does one step; `restore` puts a backup back before all that. Whoever was interrupted looks again: what is done already is not in the new list, or does nothing.
//! The agent of the node must not run meanwhile, which the lock on its state folder guarantees.

mod decide;
#[cfg(test)]
mod decide_tests;
mod findings;
mod perform;
mod restore;
mod steps;

use std::fs::File;

use keys::KeyStore;
use nix::fcntl::Flock;
use reencrypt::Engine;
use rotation::NodeId;
use tokio_util::sync::CancellationToken;

use crate::backup::SharedBackupTools;
use crate::config::Config;
use crate::instance::Driver;
use crate::node::Memory;
use crate::run::{RUNNING, RunError, end_leftovers, lock_state_dir, open_engine, open_store};

pub use decide::{Choice, Decision, Verdict, decide};
pub use findings::{FileFound, Findings, PlanFound};
pub use restore::{RestoreFindings, decide_restore};
pub use steps::Step;

/// One node in recovery. While it lives, no agent of this node can start.
pub struct Recovery {
    config: Config,
    store: KeyStore,
    engine: Engine,
    instance: Driver,
    memory: Memory,
    backups: SharedBackupTools,
    /// The backup that is to be put back, once it was proved.
    restore: Option<restore::Restore>,
    cancel: CancellationToken,
    _lock: Flock<File>,
}

impl Recovery {
    /// Takes the node over. [`RunError::StateDirInUse`] while its agent runs.
    pub async fn open(config: Config, backups: SharedBackupTools) -> Result<Self, RunError> {
        crate::harden::harden().map_err(RunError::Harden)?;
        let lock = lock_state_dir(&config.state_dir)?;
        end_leftovers(&config.state_dir)?;
        let engine = open_engine(&config).await?;
        Ok(Self {
            store: open_store(&config),
            engine,
            instance: Driver::new(config.instance.clone(), config.state_dir.join(RUNNING)),
            memory: Memory::open(&config.state_dir).map_err(RunError::State)?,
            backups,
            restore: None,
            cancel: CancellationToken::new(),
            config,
            _lock: lock,
        })
    }

    /// The node.
    pub fn node(&self) -> &NodeId {
        &self.config.node
    }

    /// The farm's name, which an operator types to confirm.
    pub fn farm(&self) -> &str {
        &self.config.farm
    }
}
