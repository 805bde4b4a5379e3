//! One coordinator replica: keeps the rotation's state in consensus with the others, drives the agents while it leads,
//! and answers operators.
//!
//! It holds no key and no database credential, and has no power of its own: agents obey only what an operator signed.
//! `raft` is all that knows openraft, `driver` turns pending work into calls of agents, `view` turns state into
//! what operators see.

mod config;
mod driver;
mod notify;
mod operator;
mod raft;
mod replicas;
mod run;
#[cfg(test)]
mod sample;
mod view;

pub use config::{Config, ConfigError, HEARTBEAT_MS, HEARTBEAT_MS_MAX, ReplicaConfig};
pub use raft::{OpenStoreError, StartError};
pub use run::{RunError, run, run_with};

/// The driver, and what it asks of everything around it: what a simulation puts in the place of consensus and network.
#[doc(hidden)]
pub mod simulation {
    pub use crate::driver::{Agents, Consensus, Hints, run as drive};
    pub use crate::raft::{Leadership, ProposeError};
}
