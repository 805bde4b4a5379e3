//! Does one step of a recovery.

use futures::{StreamExt, TryStreamExt, stream};
use keys::SecretKey;
use reencrypt::{CensusRequest, LedgerMark, NoteKind, ShardJob, SwapJob};
use rotation::{Direction, Epoch, Fault, FaultCode, KeyId, LeaseNumber, RotationId, Shard, Strategy};

use super::{Recovery, Step};
use crate::clock;
use crate::fault::{durable, fault};
use crate::instance::Condition;
use crate::kept::Kept;
use crate::node::store_fault;
use crate::recovered::Recovered;
use crate::registry::Ticket;

/// Shards that are worked on at once; what the engine's connections allow.
const SHARDS_AT_ONCE: usize = 2;

/// Told how many rows of the present step are done.
type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

impl Recovery {
    /// Does one step, and says what came of it. Done already, it finds so.
    pub async fn perform(&mut self, step: &Step, progress: Progress<'_>) -> Result<String, Fault> {
        match step {
            Step::TakeOffline { rotation } => self.take_offline(*rotation).await,
            Step::NoteOffline { rotation } => self.note(rotation, NoteKind::Offline).await,
            Step::TurnBack { rotation, epoch, alone } => self.turn_back(*rotation, *epoch, *alone).await,
            Step::RestoreRows { rotation, epoch, lease } => self.rows(*rotation, *epoch, *lease, false, progress).await,
            Step::VerifyRows { rotation, epoch, lease } => self.rows(*rotation, *epoch, *lease, true, progress).await,
            Step::EndLedger { rotation, epoch } => self.end_ledger(*rotation, *epoch).await,
            Step::ProveKey { key, whole } => self.prove_key(*key, *whole, progress).await,
            Step::PutFileBack { name, key } => {
                let put = self.store.put_back(name, *key);
                put.map_err(|error| store_fault("putting an earlier encryption.config back", &error))?;
                Ok(format!("encryption.config holds key {key}"))
            }
            Step::ActivatePending { rotation, key } => {
                let activated = self.store.activate(rotation, *key, clock::now().get());
                activated.map_err(|error| store_fault("making the new key current", &error))?;
                Ok(format!("encryption.config holds key {key}"))
            }
            Step::LoadBackup { .. } => self.load_backup().await,
            Step::PutInPlace { lift_fence, .. } => self.put_in_place(*lift_fence).await,
            Step::ClearUp => self.clear_up().await,
            Step::StartInstance { key } => self.start(*key).await,
            Step::AdmitInstance { rotation } => self.admit(*rotation).await,
            Step::LeaveMark { rotation, key } => {
                let mark = Recovered { rotation: *rotation, key: *key, at: clock::now() };
                self.memory.recovered.mark(mark).map_err(|error| durable(&error))?;
                Ok("noted".to_owned())
            }
            Step::DiscardPending { rotation } => {
                let discarded = self.store.discard_pending();
                discarded
                    .and_then(|()| self.store.delete_recipient(&self.config.state_dir, rotation))
                    .map_err(|error| store_fault("discarding the pending key", &error))?;
                Ok("deleted".to_owned())
            }
        }
    }

    async fn take_offline(&mut self, rotation: Option<RotationId>) -> Result<String, Fault> {
        if let Some(rotation) = rotation {
            // The marker first: an agent that is started from here on keeps the instance offline.
            let held = self.memory.pin.set_held(rotation).and_then(|()| self.memory.held.hold(rotation, clock::now()));
            held.map_err(|error| durable(&error))?;
        }
        self.instance.take_offline(&self.ticket()).await?;
        Ok("it is offline".to_owned())
    }

    async fn note(&self, rotation: &RotationId, kind: NoteKind) -> Result<String, Fault> {
        let noted = self.engine.note(rotation, kind, self.config.node.as_str()).await;
        noted.map_err(|error| error.fault())?;
        Ok("noted".to_owned())
    }

    async fn turn_back(&self, rotation: RotationId, epoch: Epoch, alone: bool) -> Result<String, Fault> {
        let mark = LedgerMark { rotation, epoch, direction: Direction::Back };
        // Time has passed since it was looked. What is seen now is final: this node's note that it is offline is there, and
        // where that stands no other node is noted as started or admitted any more.
        self.refuse_if_others_went_on(rotation, alone).await?;
        self.engine.turn_back(&mark).await.map_err(|error| error.fault())?;
        if alone {
            self.engine.fence(&mark).await.map_err(|error| {
                let mut fault = error.fault();
                if fault.code == FaultCode::SessionsRemain {
                    "take the named instances offline (`keyturn recover` on their nodes does), then run this again"
                        .clone_into(&mut fault.next_step);
                }
                fault
            })?;
        }
        Ok(format!("the ledger goes back, at epoch {epoch}"))
    }

    /// Rows must not go back under an instance with the new key: one that clients reach, or one that may run, unless it is
    /// proved (`alone`) that nobody is in the database.
    async fn refuse_if_others_went_on(&self, rotation: RotationId, alone: bool) -> Result<(), Fault> {
        let history = self.engine.history().await.map_err(|error| error.fault())?;
        let Some(found) = history.iter().find(|found| found.rotation == rotation) else { return Ok(()) };
        if let Some(admitted) = found.nodes(NoteKind::Admitted).next() {
            return Err(fault(
                FaultCode::RowsChanged,
                format!("{admitted} was admitted with the new key while this recovery began"),
                "run `keyturn recover` again: it looks anew. If it cannot go forward, stop the coordinators and that node's \
                 agent and instance, and restore a backup: rows may exist under both keys",
            ));
        }
        let offline: Vec<&str> = found.nodes(NoteKind::Offline).chain([self.config.node.as_str()]).collect();
        match found.nodes(NoteKind::Started).find(|node| !offline.contains(node)) {
            Some(started) if !alone => Err(fault(
                FaultCode::RowsChanged,
                format!("{started} may have been started with the new key while this recovery began"),
                "run `keyturn recover` on that node first: it takes the instance offline; then run this again",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Every shard of the plan: restored, or read back.
    async fn rows(
        &self,
        rotation: RotationId,
        epoch: Epoch,
        lease: LeaseNumber,
        verify: bool,
        progress: Progress<'_>,
    ) -> Result<String, Fault> {
        let Kept { statement, plan } = self.kept(rotation)?;
        let (old, new) = (self.key(statement.old_key)?, self.key(statement.new_key)?);
        let mark = LedgerMark { rotation, epoch, direction: Direction::Back };
        let strategy = |table: &str| plan.tables.get(table).map_or(Strategy::InPlace, |table| table.strategy);
        let shadows: Vec<Shard> =
            plan.shards.iter().filter(|shard| strategy(&shard.table) == Strategy::Shadow).cloned().collect();
        if !verify && !shadows.is_empty() {
            let job = SwapJob { mark, old: old.clone(), new: new.clone(), shards: shadows };
            self.engine.swap_back(&job, &progress).await.map_err(|error| error.fault())?;
        }
        let done = std::sync::atomic::AtomicU64::new(0);
        let shards = stream::iter(&plan.shards).map(|shard| {
            let job = ShardJob {
                mark,
                shard: shard.clone(),
                lease,
                old: old.clone(),
                new: new.clone(),
                accepted: plan.accepted.clone(),
                strategy: strategy(&shard.table),
                rows_per_second: None,
            };
            let done = &done;
            async move {
                let before = done.load(std::sync::atomic::Ordering::Relaxed);
                let told = |rows| progress(before + rows);
                let tally = if verify {
                    self.engine.verify(&job, &told).await
                } else {
                    self.engine.reencrypt(&job, &told).await
                };
                let rows = tally.map_err(|error| error.fault())?.rows;
                done.fetch_add(rows, std::sync::atomic::Ordering::Relaxed);
                Ok::<u64, Fault>(rows)
            }
        });
        let rows: Vec<u64> = shards.buffer_unordered(SHARDS_AT_ONCE).try_collect().await?;
        let rows: u64 = rows.iter().sum();
        Ok(format!("{rows} rows in {} shards", plan.shards.len()))
    }

    async fn end_ledger(&self, rotation: RotationId, epoch: Epoch) -> Result<String, Fault> {
        let mark = LedgerMark { rotation, epoch, direction: Direction::Back };
        // Noted before it is closed: a ledger that is closed without the note ended in the ordinary way.
        self.note(&rotation, NoteKind::Recovered).await?;
        self.engine.lift_fence(&mark).await.map_err(|error| error.fault())?;
        self.engine.close(&mark).await.map_err(|error| error.fault())?;
        Ok("the ledger is closed, and says that the rotation was undone by hand".to_owned())
    }

    async fn prove_key(&self, key: KeyId, whole: bool, progress: Progress<'_>) -> Result<String, Fault> {
        let keys = [self.key(key)?];
        let kept = match self.memory.pin.current() {
            Some(followed) => self.memory.kept.read(followed.rotation).map_err(|error| durable(&error))?,
            None => None,
        };
        let (accepted, shards) =
            kept.as_ref().map_or((&[][..], &[][..]), |kept| (&kept.plan.accepted[..], &kept.plan.shards[..]));
        let sample_rows = (!whole).then_some(super::findings::SAMPLE_ROWS);
        let request = CensusRequest { keys: &keys, accepted, sample_rows, shards };
        let tables = self.engine.census(&request, progress).await.map_err(|error| error.fault())?;
        if let Some(table) = tables.iter().find(|table| table.unopened > 0) {
            let first = table.first_unopened.as_deref().unwrap_or_default();
            return Err(fault(
                FaultCode::Undecryptable,
                format!(
                    "{} values of table {} do not open under key {key}; the first is {first}",
                    table.unopened, table.table
                ),
                "nothing more was changed: repair these values, or restore a backup of the database",
            ));
        }
        let values: u64 = tables.iter().flat_map(|table| table.by_key.values()).sum();
        let rows: u64 = tables.iter().map(|table| table.rows_read).sum();
        Ok(format!("{values} values in {rows} rows open"))
    }

    async fn start(&mut self, key: KeyId) -> Result<String, Fault> {
        let current = self.store.current().map_err(|error| store_fault("reading encryption.config", &error))?;
        let secret = &current.active().secret;
        if secret.id() != key {
            return Err(fault(
                FaultCode::KeyStore,
                format!("encryption.config holds key {}, and the instance is to be started with {key}", secret.id()),
                "run `keyturn recover` again; somebody changed the file meanwhile",
            ));
        }
        self.instance.start(&self.ticket()).await?;
        if self.memory.held.get().is_some() && self.instance.observe(&self.cancel).await? == Condition::Online {
            return Err(fault(
                FaultCode::Instance,
                "the instance lets clients in before it is admitted",
                "let the start command of the agent's configuration start the instance and no more",
            ));
        }
        self.instance.prove(secret, &self.ticket()).await?;
        if let Some(followed) = self.memory.pin.current().map(|followed| followed.rotation) {
            self.memory.pin.set_proved(followed, Some(key)).map_err(|error| durable(&error))?;
        }
        Ok(format!("the running instance opened a value under key {key}"))
    }

    async fn admit(&mut self, rotation: Option<(RotationId, Direction)>) -> Result<String, Fault> {
        if let Some((rotation, Direction::Forward)) = rotation {
            self.note(&rotation, NoteKind::Admitted).await?;
            self.memory.pin.set_no_return(rotation).map_err(|error| durable(&error))?;
        }
        self.memory.held.release().map_err(|error| durable(&error))?;
        self.instance.admit(&self.ticket()).await?;
        if let Some((rotation, Direction::Forward)) = rotation
            && self.close_when_all_are_admitted(rotation).await?
        {
            return Ok("it is online; every node is, and the ledger is closed".to_owned());
        }
        Ok("it is online".to_owned())
    }

    /// The last node that goes forward closes the ledger, as the coordinators would have.
    async fn close_when_all_are_admitted(&self, rotation: RotationId) -> Result<bool, Fault> {
        let history = self.engine.history().await.map_err(|error| error.fault())?;
        let Some(found) = history.iter().find(|found| found.rotation == rotation) else { return Ok(false) };
        let Some(kept) = self.memory.kept.read(rotation).map_err(|error| durable(&error))? else { return Ok(false) };
        let admitted: Vec<&str> = found.nodes(NoteKind::Admitted).collect();
        if found.closed || !kept.plan.nodes.keys().all(|node| admitted.contains(&node.as_str())) {
            return Ok(found.closed);
        }
        let mark = LedgerMark { rotation, epoch: found.epoch, direction: Direction::Forward };
        self.engine.close(&mark).await.map_err(|error| error.fault())?;
        Ok(true)
    }

    fn kept(&self, rotation: RotationId) -> Result<Kept, Fault> {
        let kept = self.memory.kept.read(rotation).map_err(|error| durable(&error))?;
        kept.ok_or_else(|| {
            fault(
                FaultCode::Internal,
                format!("the plan of rotation {rotation} is no longer in the agent's state_dir"),
                "run `keyturn recover` again",
            )
        })
    }

    pub(super) fn key(&self, id: KeyId) -> Result<SecretKey, Fault> {
        self.keys()?.into_iter().find(|key| key.id() == id).ok_or_else(|| {
            fault(
                FaultCode::KeyStore,
                format!("no file of this node holds key {id}"),
                "import the bundle that holds it, or run this on a node that has it",
            )
        })
    }

    fn ticket(&self) -> Ticket {
        Ticket::unwatched(self.cancel.clone())
    }
}
