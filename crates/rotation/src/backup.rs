//! What a rotation can be fallen back from: the backup of the database and the archives of the nodes' folders that
//! Preflight made or was shown, and how they were proved. The operator signs them with the plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DatabasePosition, Digest, KeyId, Millis, NodeId};

/// What an operator chose about backups when asking for a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupChoice {
    /// What the agents' configurations say; nothing where they say nothing.
    #[default]
    AsConfigured,
    /// Folders are archived as configured; of the database this backup is proved, and none is made. A file in the
    /// backup folder of the node that proves it.
    Shown(String),
    /// Neither database nor folders.
    None,
}

/// What a node's configuration has it back up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupOffer {
    /// Nothing.
    #[default]
    Nothing,
    /// The application's folder.
    Folder,
    /// The application's folder, and the database if the node is asked.
    Database,
}

/// Where the backup of the database comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupSource {
    /// It is made now.
    Made,
    /// It is there already, under this path.
    Shown(String),
}

/// A backup of the whole database that was restored aside and opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseBackup {
    /// The node that has it.
    pub node: NodeId,
    /// Where it lies there.
    pub path: String,
    /// Its size; of a folder that was shown, that of all its files.
    pub bytes: u64,
    /// BLAKE3 of the file; of a folder that was shown, of the manifest that has the checksums of all its files.
    pub digest: Digest,
    /// When it was begun: what was written later is not in it.
    pub made_at: Millis,
    /// Whether an operator showed it; else it was made for this rotation.
    pub shown: bool,
    /// Where the database's history stood just before; `None` for one that came without its description.
    pub position: Option<DatabasePosition>,
    /// The key that opened its values.
    pub key: KeyId,
    /// What was found in it, by table.
    pub tables: BTreeMap<String, BackedUpTable>,
    /// How it was proved, in words.
    pub proof: String,
    /// How long making it took, milliseconds; 0 for one that was shown.
    pub made_ms: u64,
    /// How long restoring it aside and opening rows took, milliseconds.
    pub proved_ms: u64,
}

/// A table in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackedUpTable {
    /// Its rows in the backup.
    pub rows: u64,
    /// How many of them were read.
    pub rows_opened: u64,
    /// How many values of these opened.
    pub values_opened: u64,
}

/// An archive of a node's application folder, made before the rotation touched it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderArchive {
    /// Where it lies on that node.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub digest: Digest,
    /// When it was begun.
    pub made_at: Millis,
}

/// What one node backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBackup {
    /// Its application's folder.
    pub folder: FolderArchive,
    /// The database, if it was asked.
    pub database: Option<DatabaseBackup>,
}
