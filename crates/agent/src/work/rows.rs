//! Work on the database: the fence, the ledger, and rows, shard by shard. Tables come from this node's targets, keys
//! from its store, and the ledger in the database has the last word on what is still wanted.

use std::num::NonZeroU32;

use reencrypt::{LedgerMark, NoteKind, ShardJob};
use rotation::{Answer, DatabasePosition, Direction, Fault, FaultCode, LeaseNumber, Plan, Shard, Strategy};

use super::key::{expect_key, find_key};
use super::{Signed, refused};
use crate::fault::fault;
use crate::node::Node;

pub(super) async fn fence(signed: Signed<'_>) -> Result<Answer, Fault> {
    signed.needs_held("fence the database")?;
    signed.needs_database().await?;
    signed.ticket.waiting_for("sessions in the database to end");
    let rows = signed.node.engine.fence(&signed.mark(Direction::Forward)).await.map_err(|error| error.fault())?;
    Ok(Answer::DatabaseFenced { rows })
}

/// A shard as it was leased.
pub(super) struct Leased<'a> {
    pub(super) shard: &'a Shard,
    pub(super) lease: LeaseNumber,
    /// Its share of the throttle.
    pub(super) rows_per_second: Option<u32>,
}

pub(super) async fn reencrypt(signed: Signed<'_>, leased: &Leased<'_>, direction: Direction) -> Result<Answer, Fault> {
    let job = signed.shard_job(leased, direction).await?;
    let progress = |rows| signed.ticket.rows(rows);
    let tally = signed.node.engine.reencrypt(&job, &progress).await.map_err(|error| error.fault())?;
    Ok(Answer::ShardReencrypted { shard: leased.shard.id, lease: leased.lease, tally })
}

pub(super) async fn verify(signed: Signed<'_>, leased: &Leased<'_>, direction: Direction) -> Result<Answer, Fault> {
    let job = signed.shard_job(leased, direction).await?;
    let progress = |rows| signed.ticket.rows(rows);
    let tally = signed.node.engine.verify(&job, &progress).await.map_err(|error| error.fault())?;
    Ok(Answer::ShardVerified { shard: leased.shard.id, lease: leased.lease, tally })
}

pub(super) async fn record_position(signed: Signed<'_>) -> Result<Answer, Fault> {
    signed.needs_database().await?;
    let position = signed.node.engine.position().await.map_err(|error| error.fault())?;
    Ok(Answer::PositionRecorded(position))
}

pub(super) async fn lift_fence(
    signed: Signed<'_>,
    direction: Direction,
    position: Option<&DatabasePosition>,
) -> Result<Answer, Fault> {
    signed.needs_key_of(direction, "let the application into the database")?;
    signed.needs_database().await?;
    // Not on a coordinator's word: an application among rows that it cannot open would fail its users.
    signed.needs_rows_of(direction, "let the application into the database").await?;
    if let Some(position) = position {
        signed.node.engine.check_position(position).await.map_err(|error| error.fault())?;
    }
    signed.node.engine.lift_fence(&signed.mark(direction)).await.map_err(|error| error.fault())?;
    Ok(Answer::FenceLifted)
}

pub(super) async fn close(signed: Signed<'_>, direction: Direction) -> Result<Answer, Fault> {
    signed.needs_key_of(direction, "close the ledger")?;
    signed.needs_database().await?;
    // Closing lets the application in as well, and nothing is put right in a closed ledger any more.
    signed.needs_rows_of(direction, "close the ledger").await?;
    signed.node.engine.close(&signed.mark(direction)).await.map_err(|error| error.fault())?;
    Ok(Answer::LedgerClosed)
}

pub(super) async fn turn_back(signed: Signed<'_>) -> Result<Answer, Fault> {
    signed.needs_database().await?;
    signed.node.engine.turn_back(&signed.mark(Direction::Back)).await.map_err(|error| error.fault())?;
    Ok(Answer::TurnedBack)
}

/// The database must be the one that this plan names for the node.
pub(super) async fn needs_planned_database(node: &Node, plan: &Plan) -> Result<(), Fault> {
    let found = node.engine.identity().await.map_err(|error| error.fault())?;
    match plan.nodes.get(&node.id) {
        Some(planned) if planned.database == found => Ok(()),
        _ => Err(fault(
            FaultCode::Database,
            format!("this agent is connected to database {}, and the signed plan names another", found.identity),
            "correct [database] in the agent's configuration, restart the agent, and retry",
        )),
    }
}

impl Signed<'_> {
    pub(super) fn mark(&self, direction: Direction) -> LedgerMark {
        LedgerMark { rotation: self.assignment.rotation, epoch: self.assignment.epoch, direction }
    }

    async fn shard_job(&self, leased: &Leased<'_>, direction: Direction) -> Result<ShardJob, Fault> {
        let Leased { shard, lease, rows_per_second } = *leased;
        self.needs_held("work on rows")?;
        self.needs_database().await?;
        let statement = &self.grant.statement;
        // By the signed plan alone: a coordinator has no word in it.
        let table = self.grant.plan.tables.get(&shard.table);
        Ok(ShardJob {
            mark: self.mark(direction),
            shard: shard.clone(),
            lease,
            old: find_key(self.node, statement.old_key)?,
            new: find_key(self.node, statement.new_key)?,
            accepted: self.grant.plan.accepted.clone(),
            strategy: table.map_or(Strategy::InPlace, |table| table.strategy),
            rows_per_second: rows_per_second.and_then(NonZeroU32::new),
        })
    }

    /// The database must be the one of the signed plan: an agent that was pointed at another since must not touch it.
    pub(super) async fn needs_database(&self) -> Result<(), Fault> {
        needs_planned_database(self.node, &self.grant.plan).await
    }

    /// Every row must be under the key of this direction, in the table that the application uses.
    async fn needs_rows_of(&self, direction: Direction, to: &str) -> Result<(), Fault> {
        match direction {
            Direction::Forward => {
                self.needs_rows_verified(to).await?;
                self.needs_swapped(to).await
            }
            Direction::Back => self.needs_rows_back(to).await,
        }
    }

    /// Every row must have been read back under the new key, as far as the ledger knows.
    pub(super) async fn needs_rows_verified(&self, to: &str) -> Result<(), Fault> {
        let shards = self.grant.plan.shards.iter().map(|shard| shard.id);
        let unverified = self.node.engine.unverified(&self.assignment.rotation, shards).await;
        match unverified.map_err(|error| error.fault())? {
            None => Ok(()),
            Some(shard) => {
                Err(refused(&format!("asked to {to} while rows of shard {shard} are not verified under the new key")))
            }
        }
    }

    /// Leaves a note about this node in the ledger, which refuses it when the rotation no longer goes forward.
    pub(super) async fn note(&self, kind: NoteKind) -> Result<(), Fault> {
        let noted = self.node.engine.note(&self.assignment.rotation, kind, self.node.id.as_str()).await;
        noted.map_err(|error| error.fault())
    }

    /// No row may need the new key any more, as far as the ledger knows.
    pub(super) async fn needs_rows_back(&self, to: &str) -> Result<(), Fault> {
        let shards = self.grant.plan.shards.iter().map(|shard| shard.id);
        let unrestored = self.node.engine.unrestored(&self.assignment.rotation, shards).await;
        match unrestored.map_err(|error| error.fault())? {
            None => Ok(()),
            Some(shard) => {
                Err(lost(to, &format!("rows of shard {shard} were turned to the new key and not verified back")))
            }
        }
    }

    /// The ledger must still say what the undo did until the application was let in: that it goes back, that every row was
    /// read back, and that the application may log in. A database that lost history says less. One that does not know the
    /// rotation at all never had a row of it turned.
    pub(super) async fn needs_undo_kept(&self, to: &str) -> Result<(), Fault> {
        let ledger = self.node.engine.history().await.map_err(|error| error.fault())?;
        let Some(known) = ledger.iter().find(|known| known.rotation == self.assignment.rotation) else { return Ok(()) };
        let shards = u64::try_from(self.grant.plan.shards.len()).unwrap_or(u64::MAX);
        if known.direction == Direction::Forward {
            Err(lost(to, "it goes forward"))
        } else if known.shards_turned > 0 && known.shards_restored < shards {
            let restored = known.shards_restored;
            Err(lost(to, &format!("rows were turned to the new key, and {restored} of {shards} shards verified back")))
        } else if known.role_fenced {
            Err(lost(to, "the application may not log in"))
        } else {
            Ok(())
        }
    }

    /// The node's own current key must be the one that the rows are said to be under.
    fn needs_key_of(&self, direction: Direction, to: &str) -> Result<(), Fault> {
        let key = match direction {
            Direction::Forward => self.grant.statement.new_key,
            Direction::Back => self.grant.statement.old_key,
        };
        expect_key(&self.node.current_keys()?, &[key], to)
    }
}

/// The ledger in the database does not say of an undo what the leader's log says.
fn lost(to: &str, says: &str) -> Fault {
    fault(
        FaultCode::DatabasePosition,
        format!(
            "asked to {to}, and by the ledger in the database {says}: what the undo had done is lost, or was not done"
        ),
        "nothing, what is missing is done again; find out whether another server or a backup took the database's place",
    )
}
