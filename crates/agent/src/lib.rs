//! The agent: one per node. It executes the assignments of the coordinators, as far as an operator signed them, on
//! the node's instance, its key store and the database.
//!
//! Read in this order: `service` judges an assignment by its `fence` and by what `authorize` makes of the operator's
//! signature, `registry` begins it or attaches to it, `work` does it. What must survive a restart stands in four
//! small files: the fence, the rotation followed (`pin`), the held marker (`held`), and the recipient key. Each is
//! written before it is acted upon.

mod authorize;
mod backed_up;
mod backup;
mod clock;
mod config;
mod durable;
mod exec;
mod fault;
mod fence;
#[cfg(test)]
mod format_1;
mod guard;
mod harden;
mod held;
mod instance;
mod kept;
mod leftover;
mod node;
mod notify;
mod pin;
pub mod recover;
mod recovered;
mod registry;
mod run;
mod service;
#[doc(hidden)]
pub mod simulation;
mod work;

pub use backup::{BackupJob, BackupTools, SharedBackupTools, backup_bytes};
pub use config::{
    BackedUpDatabase, BackupConfig, CommandConfig, Config, ConfigError, DatabaseConfig, DatabaseUrl, InstanceConfig,
    StoreConfig, TlsConfig,
};
pub use durable::DurableError;
pub use exec::harmless_environment;
pub use harden::HardenError;
pub use run::{RunError, held_for, open_store, run, run_with};
