//! Measures how long re-encrypting takes on a given database, against the floors that the database itself sets: in one
//! run, interleaved, on scratch tables that are removed afterwards however it ends.

mod memory;
mod rounds;
mod seed;
mod work;

use std::future::Future;

use crate::dialect::scratch::{LedgerBefore, Scratch, ScratchNames};
use crate::dialect::{self, Dialect};
use crate::{DatabaseConfig, EngineError};

pub use rounds::{BenchReport, Round};
pub(crate) use seed::fill;
pub(crate) use work::{Bench, Work};

/// Bytes that the smallest ciphertext has more than its plaintext, and one of plaintext.
pub const ROW_BYTES_MIN: u32 = 49;

/// A row is built in memory many times over.
pub const ROW_BYTES_MAX: u32 = 1 << 20;

/// What is to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchOptions {
    /// Rows of the scratch table.
    pub rows: u64,
    /// Stored bytes of the ciphertext in each row, from [`ROW_BYTES_MIN`] to [`ROW_BYTES_MAX`].
    pub row_bytes: u32,
    /// Agents that work at once, each on as many shards as in a rotation.
    pub agents: u32,
    /// How often everything is measured; medians are told.
    pub repeat: u32,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The database or the engine failed.
    #[error("the measurement failed")]
    Engine(#[from] EngineError),
    /// It was given up on request; the scratch tables are removed.
    #[error("the measurement was given up, and its scratch tables are removed")]
    Stopped,
    /// The scratch tables are still there.
    #[error("the scratch tables, whose names begin with keyturn_bench_, could not be removed")]
    Left(#[source] EngineError),
}

/// Measures. Ends early when `stop` does. `say` hears what is being done, in words for a person.
pub async fn bench(
    config: &DatabaseConfig,
    options: &BenchOptions,
    say: &(dyn Fn(&str) + Send + Sync),
    stop: impl Future<Output = ()> + Send,
) -> Result<BenchReport, BenchError> {
    let config = DatabaseConfig { client_name: format!("bench-{}", std::process::id()), ..config.clone() };
    let dialect = dialect::of(&config)?;
    let mut scratch = dialect.scratch(ScratchNames::BENCH).await?;
    let before = scratch.make().await?;
    let measured = tokio::select! {
        measured = rounds::measure(&config, options, scratch.as_mut(), say) => measured.map_err(BenchError::Engine),
        () = stop => Err(BenchError::Stopped),
    };
    say("removing the scratch tables");
    if measured.is_err() {
        // It may be in the middle of a statement, or lost.
        drop(scratch);
        scratch = dialect.scratch(ScratchNames::BENCH).await.map_err(BenchError::Left)?;
    }
    clean_up(dialect.as_ref(), scratch.as_mut(), before).await.map_err(BenchError::Left)?;
    scratch.end().await;
    measured
}

/// Removes everything that a measurement left.
pub(crate) async fn clean_up(
    dialect: &dyn Dialect,
    scratch: &mut dyn Scratch,
    before: LedgerBefore,
) -> Result<(), EngineError> {
    scratch.end_sessions().await?;
    for mark in scratch.left().await? {
        let mut session = dialect.open().await?;
        session.drop_shadows(&mark).await?;
        session.end().await;
    }
    scratch.remove(before).await
}
