//! What this node answered when it was asked to back up, so that it follows no plan that names another backup as its own.

use std::path::Path;

use fail_points::point;
use rotation::{DatabaseBackup, NodeBackup, Plan, RotationId};
use serde::{Deserialize, Serialize};

use crate::backup::backup_bytes;
use crate::durable::{self, DurableError};

const FORMAT: &str = "keyturn-agent-backup 1";
const FILE: &str = "backup.json";

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    rotation: RotationId,
    made: NodeBackup,
}

/// Remembers the answer for the newest rotation.
pub(crate) fn keep(state_dir: &Path, rotation: RotationId, made: &NodeBackup) -> Result<(), DurableError> {
    let record = Record { rotation, made: made.clone() };
    durable::write(&state_dir.join(FILE), FORMAT, &record, point!(BACKUP_NOTED))
}

/// What was answered for this rotation, if that was the newest.
pub(crate) fn kept(state_dir: &Path, rotation: RotationId) -> Result<Option<NodeBackup>, DurableError> {
    let record: Option<Record> = durable::read(&state_dir.join(FILE), FORMAT)?;
    Ok(record.filter(|record| record.rotation == rotation).map(|record| record.made))
}

/// What is wrong with what a plan names as this node's, if anything is: it must be what was answered, and lie there still.
pub(crate) fn misfit(state_dir: &Path, node: &rotation::NodeId, plan: &Plan) -> Result<Option<String>, DurableError> {
    if let Some(stranger) = plan.backup.iter().map(|backup| &backup.node).find(|node| !plan.nodes.contains_key(*node)) {
        return Ok(Some(format!("it has a backup of the database on {stranger}, which is no node of it")));
    }
    let folder = plan.folders.get(node);
    let database = plan.backup.as_ref().filter(|backup| backup.node == *node);
    if folder.is_none() && database.is_none() {
        return Ok(None);
    }
    let Some(made) = kept(state_dir, plan.rotation)? else {
        return Ok(Some("it names backups of this node, which made none for this rotation".to_owned()));
    };
    if folder.is_some_and(|folder| *folder != made.folder) {
        return Ok(Some("the archive of this node's folder in it is not the one that was made".to_owned()));
    }
    if database.is_some_and(|backup| made.database.as_ref().map(timeless) != Some(timeless(backup))) {
        return Ok(Some("the backup of the database in it is not the one that this node made or proved".to_owned()));
    }
    let files = folder.map(|folder| (&folder.path, folder.bytes)).into_iter();
    let mut files = files.chain(database.map(|backup| (&backup.path, backup.bytes)));
    let is_there = |path: &str, bytes| backup_bytes(Path::new(path)).is_ok_and(|found| found == bytes);
    let gone = files.find(|(path, bytes)| !is_there(path, *bytes)).map(|(path, _)| path.clone());
    Ok(gone.map(|path| format!("{path} is no longer what it was when it was made")))
}

/// Asked twice, it may take longer the second time.
fn timeless(backup: &DatabaseBackup) -> DatabaseBackup {
    DatabaseBackup { made_ms: 0, proved_ms: 0, ..backup.clone() }
}

#[cfg(test)]
mod tests {
    use rotation::{Digest, FolderArchive, KeyId, Millis, NodeId};

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn database(path: &Path) -> DatabaseBackup {
        DatabaseBackup {
            node: node("node-1"),
            path: path.display().to_string(),
            bytes: 6,
            digest: Digest::new([2; 32]),
            made_at: Millis::new(1),
            shown: false,
            position: None,
            key: KeyId::new([1; 16]),
            tables: std::collections::BTreeMap::new(),
            proof: "restored".to_owned(),
            made_ms: 1,
            proved_ms: 2,
        }
    }

    /// A plan of one node that names what was made.
    fn plan(made: &NodeBackup) -> Plan {
        let text = r#"{"format":2,"farm":"demo","rotation":"00000000-0000-0000-0000-000000000007","nodes":{"node-1":{
            "release":{"version":"0","protocol":0},"current_key":"01010101010101010101010101010101","recipient_key":"",
            "targets_digest":"0000000000000000000000000000000000000000000000000000000000000000",
            "database":{"kind":"sqlite","identity":""},"protector":"","attestation":{"certificates":[],"signature":"","mac":""}}},
            "tables":{},"shards":[],"writers_max":1,"accepted":[],"downtime_forecast_ms":1}"#;
        let mut plan: Plan = serde_json::from_str(text).unwrap();
        plan.folders.insert(node("node-1"), made.folder.clone());
        plan.backup = made.database.clone();
        plan
    }

    #[test]
    fn only_a_plan_that_names_what_was_made_and_lies_there_is_followed() {
        // A file, and a folder with one.
        for (backup, part) in [("backup", ""), ("backups", "inner/backup")] {
            let state = tempfile::tempdir().unwrap();
            let path = state.path().join(backup);
            let part = if part.is_empty() { path.clone() } else { path.join(part) };
            std::fs::create_dir_all(part.parent().unwrap()).unwrap();
            std::fs::write(&part, "backup").unwrap();
            followed_if_it_lies_there(state.path(), &path, &part);
        }
    }

    /// `part` is the backup, or in it.
    fn followed_if_it_lies_there(state: &Path, path: &Path, part: &Path) {
        let folder = FolderArchive {
            path: path.display().to_string(),
            bytes: 6,
            digest: Digest::new([1; 32]),
            made_at: Millis::new(1),
        };
        let made = NodeBackup { folder, database: Some(database(path)) };
        let named = plan(&made);
        let misfit = |plan: &Plan| misfit(state, &node("node-1"), plan).unwrap();
        let check = |plan: &Plan, expected: &str| {
            let found = misfit(plan).unwrap_or_default();
            assert!(!expected.is_empty() && found.contains(expected), "{expected}: {found}");
        };
        check(&named, "made none for this rotation");
        keep(state, named.rotation, &made).unwrap();
        assert_eq!(misfit(&named), None);
        let mut slower = named.clone();
        slower.backup.as_mut().unwrap().proved_ms = 9;
        assert_eq!(misfit(&slower), None, "asked twice it may take longer");

        let mut other = named.clone();
        other.backup.as_mut().unwrap().digest = Digest::new([3; 32]);
        check(&other, "backup of the database");
        let mut other = named.clone();
        other.folders.get_mut(&node("node-1")).unwrap().bytes = 7;
        check(&other, "archive of this node's folder");
        let mut other = named.clone();
        other.backup.as_mut().unwrap().node = node("node-9");
        check(&other, "no node of it");
        let mut other = named.clone();
        other.rotation = rotation::RotationId::new(uuid::Uuid::from_u128(8));
        check(&other, "made none");
        std::fs::write(part, "b").unwrap();
        check(&named, "no longer what it was");
        let mut without = named.clone();
        (without.backup, without.folders) = (None, std::collections::BTreeMap::new());
        assert_eq!(misfit(&without), None);
    }
}
