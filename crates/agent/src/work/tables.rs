//! Work on whole tables: copies are finished, put in their originals' place, and back; kept originals are dropped. Which
//! tables, the signed plan says.

use reencrypt::SwapJob;
use rotation::{Answer, Assignment, Direction, Fault, Plan};

use super::key::find_key;
use super::{Signed, refused};
use crate::authorize::shadow_tables;
use crate::node::Node;

pub(super) async fn finish(signed: Signed<'_>) -> Result<Answer, Fault> {
    signed.needs_held("finish the copied tables")?;
    signed.needs_database().await?;
    let progress = |steps| signed.ticket.rows(steps);
    signed.ticket.waiting_for("indexes and constraints to be built");
    let done = signed.node.engine.finish_shadows(&signed.mark(Direction::Forward), &progress).await;
    done.map_err(|error| error.fault())?;
    Ok(Answer::ShadowsFinished)
}

pub(super) async fn swap(signed: Signed<'_>) -> Result<Answer, Fault> {
    signed.needs_held("swap tables")?;
    signed.needs_database().await?;
    // Not on a coordinator's word: what is swapped in is what the application will read.
    signed.needs_rows_verified("swap tables").await?;
    let progress = |rows| signed.ticket.rows(rows);
    signed.ticket.waiting_for("the originals to be read under their lock");
    let job = signed.swap_job(Direction::Forward)?;
    signed.node.engine.swap(&job, &progress).await.map_err(|error| error.fault())?;
    Ok(Answer::TablesSwapped)
}

pub(super) async fn swap_back(signed: Signed<'_>) -> Result<Answer, Fault> {
    signed.needs_held("swap tables back")?;
    signed.needs_database().await?;
    let progress = |rows| signed.ticket.rows(rows);
    signed.ticket.waiting_for("the tables to be read under their lock");
    let job = signed.swap_job(Direction::Back)?;
    signed.node.engine.swap_back(&job, &progress).await.map_err(|error| error.fault())?;
    Ok(Answer::TablesSwappedBack)
}

/// The operator's word was checked, and that this node may not need the tables for an undo. Whether the rotation is over
/// for the database too, its ledger says.
pub(super) async fn retire(node: &Node, assignment: &Assignment, plan: &Plan) -> Result<Answer, Fault> {
    if node.is_held_for(assignment.rotation) {
        return Err(refused("asked to drop kept tables, but this node holds its instance offline for the rotation"));
    }
    super::rows::needs_planned_database(node, plan).await?;
    node.engine.retire(&assignment.rotation).await.map_err(|error| error.fault())?;
    Ok(Answer::TablesRetired)
}

impl Signed<'_> {
    fn swap_job(&self, direction: Direction) -> Result<SwapJob, Fault> {
        let (plan, statement) = (&self.grant.plan, &self.grant.statement);
        let shadows: Vec<&str> = shadow_tables(plan).collect();
        Ok(SwapJob {
            mark: self.mark(direction),
            old: find_key(self.node, statement.old_key)?,
            new: find_key(self.node, statement.new_key)?,
            shards: plan.shards.iter().filter(|shard| shadows.contains(&shard.table.as_str())).cloned().collect(),
        })
    }

    /// Every table that is swapped must have been, as far as the ledger knows.
    pub(super) async fn needs_swapped(&self, to: &str) -> Result<(), Fault> {
        let tables: Vec<String> = shadow_tables(&self.grant.plan).map(str::to_owned).collect();
        if tables.is_empty() {
            return Ok(());
        }
        let unswapped = self.node.engine.unswapped(&self.assignment.rotation, tables).await;
        match unswapped.map_err(|error| error.fault())? {
            None => Ok(()),
            Some(table) => Err(refused(&format!("asked to {to} while table {table} is not swapped"))),
        }
    }
}
