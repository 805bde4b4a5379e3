//! Between the domain and the protocol: what is backed up, and what came of it.

use rotation::{
    BackedUpTable, BackupChoice, BackupOffer, BackupSource, DatabaseBackup, FolderArchive, Millis, NodeBackup,
};

use super::{ConvertError, enumerated, parsed, required};
use crate::v1;

/// The choice of an operator, from the two fields of a request.
pub fn backup_choice(shown: Option<String>, no_backup: bool) -> BackupChoice {
    match shown {
        _ if no_backup => BackupChoice::None,
        Some(path) => BackupChoice::Shown(path),
        None => BackupChoice::AsConfigured,
    }
}

/// What a node offers; one that says nothing backs nothing up.
pub(super) fn offer(number: i32) -> Result<BackupOffer, ConvertError> {
    match v1::BackupOffer::try_from(number) {
        Ok(v1::BackupOffer::Unspecified) => Ok(BackupOffer::Nothing),
        _ => enumerated::<v1::BackupOffer, BackupOffer>("Inspected.backup", number),
    }
}

impl From<&BackupSource> for v1::BackupSource {
    fn from(source: &BackupSource) -> Self {
        match source {
            BackupSource::Made => Self { shown: None },
            BackupSource::Shown(path) => Self { shown: Some(path.clone()) },
        }
    }
}

impl From<v1::BackupSource> for BackupSource {
    fn from(source: v1::BackupSource) -> Self {
        source.shown.map_or(Self::Made, Self::Shown)
    }
}

impl From<&NodeBackup> for v1::BackedUp {
    fn from(made: &NodeBackup) -> Self {
        Self { folder: Some((&made.folder).into()), database: made.database.as_ref().map(Into::into) }
    }
}

impl TryFrom<v1::BackedUp> for NodeBackup {
    type Error = ConvertError;

    fn try_from(made: v1::BackedUp) -> Result<Self, ConvertError> {
        Ok(Self {
            folder: required("BackedUp.folder", made.folder)?.try_into()?,
            database: made.database.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&FolderArchive> for v1::FolderArchive {
    fn from(archive: &FolderArchive) -> Self {
        Self {
            path: archive.path.clone(),
            bytes: archive.bytes,
            digest: archive.digest.to_string(),
            made_at_ms: archive.made_at.get(),
        }
    }
}

impl TryFrom<v1::FolderArchive> for FolderArchive {
    type Error = ConvertError;

    fn try_from(archive: v1::FolderArchive) -> Result<Self, ConvertError> {
        Ok(Self {
            path: archive.path,
            bytes: archive.bytes,
            digest: parsed("FolderArchive.digest", &archive.digest)?,
            made_at: Millis::new(archive.made_at_ms),
        })
    }
}

impl From<&DatabaseBackup> for v1::DatabaseBackup {
    fn from(backup: &DatabaseBackup) -> Self {
        let table = |(name, table): (&String, &BackedUpTable)| v1::BackedUpTable {
            table: name.clone(),
            rows: table.rows,
            rows_opened: table.rows_opened,
            values_opened: table.values_opened,
        };
        Self {
            node: backup.node.to_string(),
            path: backup.path.clone(),
            bytes: backup.bytes,
            digest: backup.digest.to_string(),
            made_at_ms: backup.made_at.get(),
            shown: backup.shown,
            position: backup.position.as_ref().map(Into::into),
            key: backup.key.to_string(),
            tables: backup.tables.iter().map(table).collect(),
            proof: backup.proof.clone(),
            made_ms: backup.made_ms,
            proved_ms: backup.proved_ms,
        }
    }
}

impl TryFrom<v1::DatabaseBackup> for DatabaseBackup {
    type Error = ConvertError;

    fn try_from(backup: v1::DatabaseBackup) -> Result<Self, ConvertError> {
        let table = |table: v1::BackedUpTable| {
            let found =
                BackedUpTable { rows: table.rows, rows_opened: table.rows_opened, values_opened: table.values_opened };
            (table.table, found)
        };
        Ok(Self {
            node: parsed("DatabaseBackup.node", &backup.node)?,
            path: backup.path,
            bytes: backup.bytes,
            digest: parsed("DatabaseBackup.digest", &backup.digest)?,
            made_at: Millis::new(backup.made_at_ms),
            shown: backup.shown,
            position: backup.position.map(TryInto::try_into).transpose()?,
            key: parsed("DatabaseBackup.key", &backup.key)?,
            tables: backup.tables.into_iter().map(table).collect(),
            proof: backup.proof,
            made_ms: backup.made_ms,
            proved_ms: backup.proved_ms,
        })
    }
}
