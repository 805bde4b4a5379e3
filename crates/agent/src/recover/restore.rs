//! Putting a backup back: it is proved before anything else, the damaged database is moved aside, and what follows is an
//! ordinary recovery of what was restored.

use std::path::{Path, PathBuf};

use reencrypt::{CensusRequest, Engine, NoteKind, RestorePlace, RestoreStage};
use rotation::{DatabaseBackup, Fault, FaultCode, KeyId, NodeId, RotationId};

use super::decide::{Choice, Decision, Verdict};
use super::findings::{Findings, SAMPLE_ROWS};
use super::{Recovery, Step};
use crate::backup::BackupJob;
use crate::config::BackupConfig;
use crate::fault::{durable, fault};

/// A backup that was proved, and the place that it is to have.
pub(super) struct Restore {
    backup: DatabaseBackup,
    place: RestorePlace,
}

/// What a restore is decided from.
#[derive(Debug)]
pub struct RestoreFindings<'a> {
    /// This node.
    pub node: NodeId,
    /// The backup, proved.
    pub backup: &'a DatabaseBackup,
    /// How far an earlier attempt came.
    pub stage: RestoreStage,
    /// Under which name the damaged database is kept.
    pub kept_as: String,
    /// It is loaded by a superuser, and so are the functions called that it defines.
    pub by_superuser: bool,
    /// What was found of the damaged database and this node; `Err` when the database cannot be looked at.
    pub found: Result<&'a Findings, &'a Fault>,
    /// The rotation that the agent followed last.
    pub followed: Option<RotationId>,
    /// In that one this node was taken offline, and the application's role may be shut out since.
    pub was_held: bool,
    /// The other nodes of the plan that this node keeps; `None` when it keeps none.
    pub others: Option<Vec<NodeId>>,
}

/// Decides what is done before the restored database is recovered like any other.
pub fn decide_restore(on: &RestoreFindings<'_>, choice: &Choice) -> Decision {
    let key = on.backup.key;
    if matches!(on.stage, RestoreStage::InPlace | RestoreStage::LeftBehind) {
        let left_behind = on.stage == RestoreStage::LeftBehind;
        return Decision {
            verdict: Verdict::Restore,
            why: format!("this backup was put into its place before; the earlier database is kept as {}", on.kept_as),
            key: Some(key),
            steps: left_behind.then_some(Step::ClearUp).into_iter().collect(),
            next_steps: Vec::new(),
        };
    }
    let rotation = on.found.ok().and_then(|found| found.open().map(|open| open.rotation)).or(on.followed);
    let mut steps = vec![Step::TakeOffline { rotation }];
    let path = &on.backup.path;
    let why = match on.found {
        Ok(_) => format!("{path} is put back; what was written since it was made is lost"),
        Err(fault) => format!(
            "the database cannot be looked at ({}), and {path} is put back; what was written since it was made is lost",
            fault.message
        ),
    };
    if !choice.others_offline {
        let at_risk = at_risk(on, rotation);
        if !at_risk.is_empty() {
            if let (Ok(found), Some(rotation)) = (on.found, rotation)
                && found.in_ledger(rotation).is_some_and(|one| !one.closed)
            {
                steps.push(Step::NoteOffline { rotation });
            }
            return waits(key, steps, &at_risk);
        }
    }
    steps.push(Step::LoadBackup { path: on.backup.path.clone(), key, by_superuser: on.by_superuser });
    // Who shut the role out is in the ledger, else what this node remembers has to do. A role that an administrator
    // locked stays locked.
    let lift_fence = on.found.map_or(on.was_held, |found| found.ledger.iter().any(|rotation| rotation.role_fenced));
    steps.push(Step::PutInPlace { kept_as: on.kept_as.clone(), lift_fence });
    Decision { verdict: Verdict::Restore, why, key: Some(key), steps, next_steps: Vec::new() }
}

/// The other nodes whose instances may run with a key that the restored database is not under, as far as can be known.
fn at_risk(on: &RestoreFindings<'_>, rotation: Option<RotationId>) -> Vec<String> {
    let others = || on.others.iter().flatten().map(ToString::to_string);
    match on.found {
        // Nobody can say what the others do.
        Err(_) if on.others.is_none() => vec!["all other nodes".to_owned()],
        Err(_) => others().collect(),
        Ok(found) => {
            let Some(noted) = rotation.and_then(|rotation| found.in_ledger(rotation)) else { return Vec::new() };
            let offline: Vec<&str> = noted.nodes(NoteKind::Offline).chain([on.node.as_str()]).collect();
            let running = noted.nodes(NoteKind::Started).chain(noted.nodes(NoteKind::Admitted));
            let mut running: Vec<String> =
                running.filter(|node| !offline.contains(node)).map(ToString::to_string).collect();
            running.sort();
            running.dedup();
            running
        }
    }
}

fn waits(key: KeyId, steps: Vec<Step>, nodes: &[String]) -> Decision {
    let names = nodes.join(", ");
    Decision {
        verdict: Verdict::Wait,
        why: format!(
            "instances of {names} may run with another key than the backup's, {key}, and must be offline first"
        ),
        key: Some(key),
        steps,
        next_steps: vec![
            format!("take the instances of {names} offline: by `keyturn recover` there, or by hand"),
            "then run it here again with --others-offline, which says that you saw to it".to_owned(),
        ],
    }
}

impl Recovery {
    /// Proves a backup with the keys of this node, or with the one that was named. Changes nothing.
    pub async fn prove_backup(
        &mut self,
        path: &Path,
        named: Option<KeyId>,
        told: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<DatabaseBackup, Fault> {
        let path = path.canonicalize().map_err(|error| {
            fault(
                FaultCode::Backup,
                format!("the backup {} cannot be found: {error}", path.display()),
                "give the path of a backup on this node",
            )
        })?;
        let mut keys = self.keys()?;
        if let Some(named) = named {
            keys.retain(|key| key.id() == named);
        }
        let Some(first) = keys.first() else {
            return Err(fault(
                FaultCode::KeyStore,
                "no file of this node holds the key that the backup is to be opened with",
                "name a key that `keyturn recover --look` shows, or import the bundle with it first",
            ));
        };
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let settings = self.config.backup.clone().unwrap_or_else(|| BackupConfig::of(folder));
        let job = BackupJob { config: &self.config, settings: &settings, name: "", key: first, told };
        let backup = self.backups.examine(&job, &keys, &path).await?;
        let engine = self.config.database.engine(&self.config.node);
        let configured = engine.map_err(|error| configuration(&error))?;
        let login = settings.restore_url().map_err(|error| configuration(&error))?;
        let place = RestorePlace::new(&configured, login.as_deref(), &backup.digest.to_string());
        let place = place.map_err(|error| error.fault())?;
        self.restore = Some(Restore { backup: backup.clone(), place });
        Ok(backup)
    }

    /// Decides how the proved backup is put back.
    pub async fn decide_restore(&self, found: Result<&Findings, &Fault>, choice: &Choice) -> Result<Decision, Fault> {
        let Restore { backup, place } = self.proved()?;
        let current = self.memory.pin.current();
        let (followed, was_held) = (current.map(|one| one.rotation), current.is_some_and(|one| one.was_held));
        let kept = match followed {
            Some(rotation) => self.memory.kept.read(rotation).map_err(|error| durable(&error))?,
            None => None,
        };
        let node = self.config.node.clone();
        let others = kept.map(|kept| kept.plan.nodes.into_keys().filter(|other| *other != node).collect());
        let stage = place.stage().await.map_err(|error| error.fault())?;
        let by_superuser = place.loads_as_superuser().await.map_err(|error| error.fault())?;
        let kept_as = place.kept_as();
        let on = RestoreFindings { node, backup, stage, kept_as, by_superuser, found, followed, was_held, others };
        Ok(decide_restore(&on, choice))
    }

    pub(super) async fn load_backup(&self) -> Result<String, Fault> {
        let Restore { backup, place } = self.proved()?;
        if place.stage().await.map_err(|error| error.fault())? == RestoreStage::Loaded
            && place.is_as_loaded().map_err(|error| error.fault())?
        {
            return Ok("it was loaded before".to_owned());
        }
        match place.prepare().await.map_err(|error| error.fault())? {
            Some(logins) => self.backups.load(backup, &logins).await?,
            None => place.copy(Path::new(&backup.path)).map_err(|error| error.fault())?,
        }
        place.loaded().await.map_err(|error| error.fault())?;
        Ok("it lies whole beside the damaged database".to_owned())
    }

    /// What was loaded is looked at once more before it takes the place.
    pub(super) async fn put_in_place(&self, lift_fence: bool) -> Result<String, Fault> {
        let Restore { backup, place } = self.proved()?;
        let stage = place.stage().await.map_err(|error| error.fault())?;
        if stage == RestoreStage::LeftBehind {
            self.clear_up().await?;
        }
        if matches!(stage, RestoreStage::InPlace | RestoreStage::LeftBehind) {
            return Ok("it is in its place".to_owned());
        }
        let configured = self.config.database.engine(&self.config.node).map_err(|error| configuration(&error))?;
        let url = place.loaded_url().await.map_err(|error| error.fault())?;
        let loaded = reencrypt::DatabaseConfig { url, ..configured };
        let engine = Engine::connect(&loaded, self.engine.targets().clone()).await.map_err(|error| error.fault())?;
        engine.check_file().await.map_err(|error| error.fault())?;
        let keys = [self.key(backup.key)?];
        let request = CensusRequest { keys: &keys, accepted: &[], sample_rows: Some(SAMPLE_ROWS), shards: &[] };
        let census = engine.census(&request, &|_| {}).await.map_err(|error| error.fault())?;
        for table in &census {
            let rows = backup.tables.get(&table.table).map_or(0, |found| found.rows);
            if rows != table.rows {
                return Err(fault(
                    FaultCode::Backup,
                    format!("table {} was loaded with {} rows, and the backup has {rows}", table.table, table.rows),
                    "run `keyturn recover` again; the damaged database is still in its place",
                ));
            }
        }
        drop(engine);
        place.put_in_place(lift_fence).await.map_err(|error| {
            let mut fault = error.fault();
            if fault.code == FaultCode::SessionsRemain {
                "take the named instances offline (`keyturn recover` on their nodes does), then run this again"
                    .clone_into(&mut fault.next_step);
            }
            fault
        })?;
        Ok(format!("the damaged one is kept as {}", place.kept_as()))
    }

    pub(super) async fn clear_up(&self) -> Result<String, Fault> {
        self.proved()?.place.clear_up().await.map_err(|error| error.fault())?;
        Ok("it is gone".to_owned())
    }

    fn proved(&self) -> Result<&Restore, Fault> {
        self.restore.as_ref().ok_or_else(|| {
            fault(FaultCode::Internal, "no backup was proved", "run `keyturn recover` again with --backup")
        })
    }
}

fn configuration(error: &crate::config::ConfigError) -> Fault {
    fault(FaultCode::Internal, error.to_string(), "correct the agent's configuration")
}
