//! The data plane: reads the registered columns of a database, turns every ciphertext from one key to another in
//! place, proves that nothing was lost, and turns it back.
//!
//! [`Targets`] says which columns, [`Engine`] does the work. Everything that must survive a crash stands in the
//! ledger inside the target database, written in the same transaction as the rows it speaks of; so an interrupted
//! pass goes on where it stopped, and a worker that wakes late finds its [`LedgerMark`] outdated and changes nothing.
//!
//! SQL stands in `dialect/` only. Ciphertexts are opened by the `keys` crate only.

pub mod bench;
mod census;
mod config;
mod dialect;
pub mod doctor;
mod engine;
mod error;
mod forecast;
mod history;
mod key;
mod ledger;
mod offload;
mod pace;
mod pass;
mod percent;
mod restore;
pub mod scan;
mod shadow;
mod sink;
mod split;
mod survey;
mod table;
mod targets;
mod transform;

pub use census::{CensusRequest, TableCensus};
pub use config::{DatabaseConfig, DatabaseUrlError};
pub use dialect::{libpq_fields, role_names};
pub use engine::{Engine, Progress, ShardJob, SurveyRequest, SwapJob};
pub use error::EngineError;
pub use history::{LedgerRotation, NoteKind};
pub use ledger::LedgerMark;
pub use percent::decoded as percent_decoded;
pub use restore::{RestoreLogins, RestorePlace, RestoreStage};
pub use targets::{Aad, ColumnTarget, Exclude, TableTarget, Targets, TargetsError};

/// What a simulation puts in place of a real database.
#[cfg(feature = "simulation")]
pub mod simulation {
    pub use crate::dialect::simulated::{Commit, Database, Line, Lost};
}
