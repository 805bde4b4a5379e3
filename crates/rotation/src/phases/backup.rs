//! Backups in Preflight, after everything else was found fit: every node archives its folder as it is configured, one of
//! them makes or proves the backup of the database. What came of it stands in the plan, which is made when all have answered.

use crate::phases::survey::{inconsistent, make_plan};
use crate::run::{Run, Stand};
use crate::{BackupChoice, BackupOffer, BackupSource, Fault, FaultCode, NodeBackup, NodeId, NodeProgress, Work};

/// What every node has still to back up.
pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    stand
        .present()
        .filter(|(_, progress)| is_wanted(stand, progress) && progress.backup.is_none())
        .map(|(id, _)| (id.clone(), Work::BackUp { database: source(stand, id) }))
        .collect()
}

/// Whether nothing is left to be backed up.
pub(super) fn is_complete(stand: Stand<'_>) -> bool {
    work(stand).is_empty()
}

/// A backup can be shown only where one can be looked at.
pub(super) fn check_choice(stand: Stand<'_>) -> Result<(), Fault> {
    match &stand.rotation.options.backup {
        BackupChoice::Shown(path) if keeper(stand).is_none() => Err(Fault::new(
            FaultCode::Backup,
            format!("{path} is to be proved, and no agent's configuration says where backups lie"),
            "add [backup] directory to the configuration of the agent that has it, restart it, and plan again",
        )),
        BackupChoice::Shown(_) | BackupChoice::AsConfigured | BackupChoice::None => Ok(()),
    }
}

pub(super) fn take(
    run: &mut Run<'_>,
    node: &NodeId,
    asked: Option<&BackupSource>,
    made: &NodeBackup,
) -> Result<(), Fault> {
    if asked.is_some() != made.database.is_some() {
        return Err(inconsistent(node, "it was asked for another backup than the one it answered with".to_owned()));
    }
    if let (Some(database), Some(progress)) = (&made.database, run.progress(node)) {
        let current = progress.inspection.as_ref().map(|inspection| inspection.current_key);
        if database.node != *node || Some(database.key) != current {
            let what = format!("its backup is said to be of {} and under key {}", database.node, database.key);
            return Err(inconsistent(node, what));
        }
    }
    if let Some(progress) = run.progress(node) {
        progress.backup = Some(made.clone());
    }
    if is_complete(run.stand()) {
        make_plan(run);
    }
    Ok(())
}

fn is_wanted(stand: Stand<'_>, progress: &NodeProgress) -> bool {
    stand.rotation.options.backup != BackupChoice::None && offer(progress) != BackupOffer::Nothing
}

fn offer(progress: &NodeProgress) -> BackupOffer {
    progress.inspection.as_ref().map_or(BackupOffer::Nothing, |inspection| inspection.backup)
}

/// The backup of the database that this node is asked for.
fn source(stand: Stand<'_>, node: &NodeId) -> Option<BackupSource> {
    if keeper(stand) != Some(node) {
        return None;
    }
    match &stand.rotation.options.backup {
        BackupChoice::AsConfigured => Some(BackupSource::Made),
        BackupChoice::Shown(path) => Some(BackupSource::Shown(path.clone())),
        BackupChoice::None => None,
    }
}

/// The node that makes or proves the backup of the database: the first that may.
fn keeper(stand: Stand<'_>) -> Option<&NodeId> {
    let may = |progress: &NodeProgress| match (&stand.rotation.options.backup, offer(progress)) {
        (BackupChoice::None, _) | (_, BackupOffer::Nothing) => false,
        (BackupChoice::AsConfigured, offer) => offer == BackupOffer::Database,
        (BackupChoice::Shown(_), BackupOffer::Folder | BackupOffer::Database) => true,
    };
    stand.present().find(|(_, progress)| may(progress)).map(|(id, _)| id)
}
