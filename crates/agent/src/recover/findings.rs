//! What a recovery finds before it decides anything: the node's files, its memory, its instance, the database.

use std::collections::BTreeSet;

use keys::{FileRole, SecretKey};
use reencrypt::{CensusRequest, LedgerRotation, TableCensus};
use rotation::{Fault, KeyId, NodeId, Plan, RotationId, Statement};

use super::Recovery;
use crate::fault::durable;
use crate::instance::Condition;
use crate::kept::Kept;
use crate::node::store_fault;

/// Rows of each table, and of each shard's beginning, that are tried for a first look.
pub(super) const SAMPLE_ROWS: u64 = 200;

/// A file of the application's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFound {
    /// Its name.
    pub name: String,
    /// What the name says that it is.
    pub role: FileRole,
    /// The key that is active in it.
    pub active: Option<KeyId>,
    /// The keys that it only decrypts with.
    pub decrypt_only: Vec<KeyId>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// What the operator signed, as this node's agent kept it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanFound {
    /// The statement.
    pub statement: Statement,
    /// The plan that it names.
    pub plan: Plan,
    /// The plan is for this node's database and tables as they are configured now; else why it is not.
    pub misfit: Option<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// This node.
    pub node: NodeId,
    /// The key files.
    pub files: Vec<FileFound>,
    /// How the instance is: `online`, `drained`, `started` or `offline`; else why that cannot be told.
    pub instance: Result<String, String>,
    /// The rotation for which the instance is held offline.
    pub held: Option<RotationId>,
    /// The rotation that the agent followed last.
    pub followed: Option<RotationId>,
    /// In that one the instance was let to clients with the new key.
    pub no_return: bool,
    /// That one was undone on this node by hand, and the mark for it is there.
    pub marked: bool,
    /// What was signed for the rotation that is open in the ledger, or else for the one followed last.
    pub plan: Option<PlanFound>,
    /// The rotations in the database's ledger, oldest first.
    pub ledger: Vec<LedgerRotation>,
    /// Which key opens what, by a sample of every table.
    pub census: Vec<TableCensus>,
}

impl Findings {
    /// The rotation that the ledger holds open.
    pub fn open(&self) -> Option<&LedgerRotation> {
        self.ledger.iter().find(|rotation| !rotation.closed)
    }

    /// What the ledger has of a rotation.
    pub fn in_ledger(&self, rotation: RotationId) -> Option<&LedgerRotation> {
        self.ledger.iter().find(|found| found.rotation == rotation)
    }

    /// The key in `encryption.config`.
    pub fn current(&self) -> Option<KeyId> {
        self.files.iter().find(|file| file.role == FileRole::Current).and_then(|file| file.active)
    }

    /// Values that were tried and opened, or did not, over all tables.
    pub fn values_tried(&self) -> u64 {
        self.census.iter().map(|table| table.unopened + table.by_key.values().sum::<u64>()).sum()
    }

    /// Whether every value that was tried opens under this key.
    pub fn is_under(&self, key: KeyId) -> bool {
        self.census.iter().all(|table| table.is_under(key))
    }

    /// The file to take for this key: dated ones before others, the newest name before older ones.
    pub fn file_with(&self, key: KeyId) -> Option<&FileFound> {
        let with_key = || self.files.iter().filter(|file| file.active == Some(key));
        let of = |role| with_key().find(|file| file.role == role);
        of(FileRole::Current)
            .or_else(|| of(FileRole::Dated))
            .or_else(|| of(FileRole::Other))
            .or_else(|| of(FileRole::Pending))
    }

    /// Whether any file holds this key, active or not.
    pub fn holds(&self, key: KeyId) -> bool {
        self.files.iter().any(|file| file.active == Some(key) || file.decrypt_only.contains(&key))
    }
}

impl Recovery {
    /// Looks at everything. Changes nothing.
    pub async fn look(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<Findings, Fault> {
        let files = self.store.files().map_err(|error| store_fault("looking at the key files", &error))?;
        let keys = distinct(files.iter().filter_map(|file| file.keys.as_ref().ok()).flat_map(keys::KeySet::entries));
        let ledger = self.engine.history().await.map_err(|error| error.fault())?;
        let followed = self.memory.pin.current();
        let wanted = ledger.iter().find(|rotation| !rotation.closed).map(|open| open.rotation);
        let plan = match wanted.or(followed.map(|followed| followed.rotation)) {
            Some(rotation) => self.plan(rotation).await?,
            None => None,
        };
        let (accepted, shards) =
            plan.as_ref().map_or((&[][..], &[][..]), |found| (&found.plan.accepted[..], &found.plan.shards[..]));
        let request = CensusRequest { keys: &keys, accepted, sample_rows: Some(SAMPLE_ROWS), shards };
        let census = self.engine.census(&request, &progress).await.map_err(|error| error.fault())?;
        let observed = self.instance.observe(&self.cancel).await;
        Ok(Findings {
            node: self.config.node.clone(),
            files: files.iter().map(FileFound::from).collect(),
            instance: observed.map(|condition: Condition| condition.as_str().to_owned()).map_err(|fault| fault.message),
            held: self.memory.held.get().map(|held| held.rotation),
            followed: followed.map(|followed| followed.rotation),
            no_return: followed.is_some_and(|followed| followed.no_return),
            marked: followed.is_some_and(|followed| self.memory.recovered.get(followed.rotation).is_some()),
            plan,
            ledger,
            census,
        })
    }

    async fn plan(&self, rotation: RotationId) -> Result<Option<PlanFound>, Fault> {
        let kept = self.memory.kept.read(rotation).map_err(|error| durable(&error))?;
        let Some(Kept { statement, plan }) = kept else { return Ok(None) };
        let identity = self.engine.identity().await.map_err(|error| error.fault())?;
        let misfit = match plan.nodes.get(&self.config.node) {
            None => Some("it does not name this node".to_owned()),
            Some(planned) if planned.targets_digest != self.engine.targets().digest() => {
                Some("it was made with another targets.toml".to_owned())
            }
            Some(planned) if planned.database != identity => Some(format!(
                "it is for database {}, and the agent's configuration leads to {}",
                planned.database.identity, identity.identity
            )),
            Some(_) => None,
        };
        Ok(Some(PlanFound { statement, plan, misfit }))
    }

    /// Every key on this node, those of `encryption.config` first.
    pub(super) fn keys(&self) -> Result<Vec<SecretKey>, Fault> {
        let files = self.store.files().map_err(|error| store_fault("looking at the key files", &error))?;
        Ok(distinct(files.iter().filter_map(|file| file.keys.as_ref().ok()).flat_map(keys::KeySet::entries)))
    }
}

fn distinct<'a>(entries: impl Iterator<Item = &'a keys::KeyEntry>) -> Vec<SecretKey> {
    let mut seen = BTreeSet::new();
    entries.filter(|entry| seen.insert(entry.secret.id())).map(|entry| entry.secret.clone()).collect()
}

impl From<&keys::StoreFile> for FileFound {
    fn from(file: &keys::StoreFile) -> Self {
        let ids = |keys: &keys::KeySet| keys.entries().skip(1).map(|entry| entry.secret.id()).collect();
        Self {
            name: file.name.clone(),
            role: file.role,
            active: file.active(),
            decrypt_only: file.keys.as_ref().map(ids).unwrap_or_default(),
            problem: file.keys.as_ref().err().map(|error| crate::fault::chain("reading it", error)),
        }
    }
}
