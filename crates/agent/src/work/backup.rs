//! Backups before a rotation: the application's folder, and the database if this node is the one that is asked. Nothing
//! that the rotation works on is changed.

use std::path::Path;

use rotation::{Answer, BackupSource, Fault, FaultCode, NodeBackup, RotationId};

use crate::backup::BackupJob;
use crate::fault::fault;
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
    Ok(Answer::BackedUp(Box::new(NodeBackup { folder, database })))
}
