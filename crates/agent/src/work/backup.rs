//! Backups before a rotation: the application's folder, and the database if this node is the one that is asked. Nothing
//! that the rotation works on is changed.

use std::path::Path;

use rotation::{Answer, BackupSource, Fault, FaultCode, NodeBackup, Plan, RotationId};

use crate::backed_up;
use crate::backup::BackupJob;
use crate::fault::{durable, fault};
use crate::node::{Backups, Node};
use crate::registry::Ticket;

pub(super) async fn back_up(
    node: &Node,
    rotation: RotationId,
    database: Option<&BackupSource>,
    ticket: &Ticket,
) -> Result<Answer, Fault> {
    let Backups { config, settings, tools } = node.backups.as_ref().ok_or_else(|| {
        fault(
            FaultCode::Backup,
            "this agent's configuration no longer says where backups go",
            "plan again; [backup] in the agent's configuration names the folder",
        )
    })?;
    let keys = node.current_keys()?;
    let job = BackupJob {
        config,
        settings,
        // By the rotation: asked again after a restart, what is there is answered.
        name: &format!("{}-rotation-{rotation}", node.farm),
        key: &keys.active().secret,
        told: &|words| ticket.waiting_for(words),
    };
    let folder = tools.archive(&job).await?;
    let database = match database {
        None => None,
        Some(BackupSource::Made) => Some(tools.make(&job).await?),
        Some(BackupSource::Shown(path)) => Some(tools.prove(&job, Path::new(path)).await?),
    };
    let made = NodeBackup { folder, database };
    // Before it is answered: the plan that comes of it is compared with this.
    backed_up::keep(&node.state_dir, rotation, &made).map_err(|error| durable(&error))?;
    Ok(Answer::BackedUp(Box::new(made)))
}

/// A plan that names other backups as this node's than it made is not followed: the operator signed what somebody made up.
pub(super) fn check_named(node: &Node, plan: &Plan) -> Result<(), Fault> {
    match backed_up::misfit(&node.state_dir, &node.id, plan).map_err(|error| durable(&error))? {
        None => Ok(()),
        Some(misfit) => Err(fault(
            FaultCode::Backup,
            format!("the signed plan is not followed: {misfit}"),
            "nothing was changed; look into the backup folder of the node, plan again, and compare what `rotation start` \
             shows with what is there",
        )),
    }
}
