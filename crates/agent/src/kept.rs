//! What the operator signed for the rotation being followed: statement and plan, kept so that the node can undo the
//! rotation when no coordinator is left to send them again.

use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::{Digest, Plan, RotationId, Statement};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

const FORMAT: &str = "keyturn-agent-plan 1";
const FILE: &str = "plan.json";

/// Both as they were sent, byte for byte; both are JSON, and so text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    rotation: RotationId,
    statement: String,
    plan: String,
}

/// What was signed, read again.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) statement: Statement,
    pub(crate) plan: Plan,
}

/// The file. Its content is read when it is needed: a plan may have many megabytes.
#[derive(Debug)]
pub(crate) struct KeptFile {
    path: PathBuf,
    /// Of which rotation, by which statement.
    holds: Option<(RotationId, Digest)>,
}

impl KeptFile {
    /// Looks what is kept.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, DurableError> {
        let path = state_dir.join(FILE);
        let record: Option<Record> = durable::read(&path, FORMAT)?;
        Ok(Self { path, holds: record.map(|record| (record.rotation, digest(&record.statement))) })
    }

    /// Keeps what was verified. Kept already, nothing is written.
    pub(crate) fn keep(&mut self, rotation: RotationId, statement: &[u8], plan: &[u8]) -> Result<(), DurableError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let record = Record { rotation, statement: text(statement), plan: text(plan) };
        let holds = Some((rotation, digest(&record.statement)));
        if self.holds != holds {
            durable::write(&self.path, FORMAT, &record, point!(PLAN_KEPT))?;
            self.holds = holds;
        }
        Ok(())
    }

    /// What was signed for a rotation, if it is kept whole: the plan must be the one that the statement names.
    pub(crate) fn read(&self, rotation: RotationId) -> Result<Option<Kept>, DurableError> {
        let record: Option<Record> = durable::read(&self.path, FORMAT)?;
        let Some(record) = record.filter(|record| record.rotation == rotation) else { return Ok(None) };
        let malformed = |source| DurableError::Malformed { path: self.path.display().to_string(), source };
        let statement: Statement = serde_json::from_str(&record.statement).map_err(malformed)?;
        let plan = Plan::from_bytes(record.plan.as_bytes())
            .map_err(|error| malformed(serde::de::Error::custom(format!("the plan cannot be read: {error}"))))?;
        if Plan::digest_of(record.plan.as_bytes()) != statement.plan_digest {
            return Err(malformed(serde::de::Error::custom("the plan is not the one that the statement names")));
        }
        Ok(Some(Kept { statement, plan }))
    }
}

fn digest(statement: &str) -> Digest {
    Digest::new(*blake3::hash(statement.as_bytes()).as_bytes())
}
