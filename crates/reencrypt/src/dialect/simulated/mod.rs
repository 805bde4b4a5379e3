//! A database in memory that behaves as a server does and fails on request: what a simulation puts in place of a real
//! one. Compiled for the simulation alone (feature `simulation`).
//!
//! It stands for PostgreSQL: transactions that commit as a whole or not at all, a header row that is held shared or
//! alone, sessions that can be ended, chunks whose commits do not wait for the disk, and a history that has a timeline.
//! What a statement means is written once more here, as plainly as possible, and with the decisions that all dialects
//! share ([`Header::admit`](crate::ledger::Header::admit), [`StoredRecord::take_over`](crate::ledger::StoredRecord)).

mod data;
mod server;
mod session;
mod shadows;

use std::sync::Arc;

use async_trait::async_trait;
use rotation::DatabaseKind;

use super::{Dialect, Session};
use crate::EngineError;
use crate::dialect::found::Seen;
use crate::table::Table;
use session::SimulatedSession;

pub use server::{Commit, Database, Lost};

/// Rows of a page, so that a shard of a few rows has several chunks.
const PAGE_ROWS_MAX: usize = 3;

/// Agents that may write at once; more than a simulated farm has.
const WRITERS_MAX: u32 = 8;

/// The way between one agent and the database. Whoever simulates decides here how long each part of it takes, and whether
/// the connection breaks, or the agent stands still, in the middle of it.
#[async_trait]
pub trait Line: Send + Sync {
    /// Who is at this end. Sessions of one name end together when its process does.
    fn worker(&self) -> String;

    /// A statement is on its way to the server.
    async fn to_server(&self, doing: &str) -> Result<(), Lost>;

    /// A transaction holds its locks and has not been told to commit yet.
    async fn inside(&self, doing: &str) -> Result<(), Lost>;

    /// The server has done it, and its answer is on its way back.
    async fn to_client(&self, doing: &str) -> Result<(), Lost>;
}

/// The simulated system, from one agent's end.
pub(crate) struct Simulated {
    database: Arc<Database>,
    line: Arc<dyn Line>,
}

impl Simulated {
    pub(crate) fn new(database: Arc<Database>, line: Arc<dyn Line>) -> Self {
        Self { database, line }
    }
}

#[async_trait]
impl Dialect for Simulated {
    fn kind(&self) -> DatabaseKind {
        DatabaseKind::Postgres
    }

    fn writers_max(&self) -> u32 {
        WRITERS_MAX
    }

    fn page_rows_max(&self, _table: &Table) -> usize {
        PAGE_ROWS_MAX
    }

    fn auto_shadow(&self) -> Result<(), &'static str> {
        Ok(())
    }

    async fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(SimulatedSession::open(Arc::clone(&self.database), Arc::clone(&self.line)).await?))
    }

    async fn see(&self) -> Result<Seen, EngineError> {
        Ok(Seen::default())
    }
}
