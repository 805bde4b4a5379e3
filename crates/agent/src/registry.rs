//! The assignments under way and answered: the same one again attaches or is answered; a higher epoch gives up what is
//! below it, a later lease of a shard the earlier ones, and a shard that nobody listens to any more is put down.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rotation::{Answer, Assignment, AssignmentId, Epoch, Fault, FaultCode, Work};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fault::{fault, retryable};

/// Assignments of one epoch that are remembered: every shard of a plan, many times over. More is no rotation.
const ASSIGNMENTS_MAX: usize = 100_000;

/// Assignments under way at once. A rotation gives a node a handful; each may hold a plan of many MiB.
const RUNNING_MAX: usize = 64;
/// The work itself, and who waits for its end.
const TASKS_PER_ASSIGNMENT: usize = 2;

/// How long work on a shard goes on when nobody listens to it: its lease was taken back, as by a pause, or its leader is
/// gone, and the next one takes longer to be elected than this at times. Then it goes on from the ledger's cursor.
const UNHEARD_MAX: Duration = Duration::from_secs(2);

/// How far an assignment has come. A hint for people; nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Rows done, for work on rows.
    pub(crate) rows_done: u64,
    /// What is being waited for, in words.
    pub(crate) waiting_for: String,
}

/// An assignment under way or ended.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Under way.
    Running(Progress),
    /// Answered or failed.
    Ended(Box<Result<Answer, Fault>>),
}

/// What the work itself holds: it says how far it is, and hears when it is given up.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    stage: watch::Sender<Stage>,
    /// Cancelled when the work is given up.
    pub(crate) cancel: CancellationToken,
}

impl Ticket {
    /// A ticket for work that nobody assigned and nobody watches.
    pub(crate) fn unwatched(cancel: CancellationToken) -> Self {
        Self { stage: watch::channel(Stage::Running(Progress::default())).0, cancel }
    }

    /// Says how many rows are done.
    pub(crate) fn rows(&self, rows_done: u64) {
        self.progress(|progress| progress.rows_done = rows_done);
    }

    /// Says what is being waited for.
    pub(crate) fn waiting_for(&self, what: &str) {
        self.progress(|progress| what.clone_into(&mut progress.waiting_for));
    }

    /// Ends work that was given up. Asked before every step that changes something.
    pub(crate) fn still_wanted(&self) -> Result<(), Fault> {
        if self.cancel.is_cancelled() { Err(given_up()) } else { Ok(()) }
    }

    fn progress(&self, change: impl FnOnce(&mut Progress)) {
        self.stage.send_modify(|stage| {
            if let Stage::Running(progress) = stage {
                change(progress);
            }
        });
    }
}

/// What ends work that was given up.
pub(crate) fn given_up() -> Fault {
    retryable(
        FaultCode::Superseded,
        "the work was given up: a higher epoch or a later lease was seen, nobody listened, another cluster was adopted, or \
         the agent is stopping",
        "nothing: what is still needed is given out again",
    )
}

/// Why an assignment is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TakeRefusal {
    /// One name for two different things.
    #[error("assignment {0} was given before with other particulars")]
    OtherWork(Box<AssignmentId>),
    /// Nobody sends that many.
    #[error("more than {ASSIGNMENTS_MAX} assignments in one epoch")]
    TooMany,
    /// Nobody needs that many at once.
    #[error("{RUNNING_MAX} assignments are under way already")]
    Busy,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

#[derive(Debug)]
struct Item {
    work: Work,
    // The sending end, so that it shows whether anybody else listens.
    stage: watch::Sender<Stage>,
    cancel: CancellationToken,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    // A plain lock: held for map operations only, never across a wait.
    items: Mutex<BTreeMap<AssignmentId, Item>>,
    tasks: TaskTracker,
}

impl Registry {
    /// Attaches to the assignment when it is under way or answered, and begins it otherwise. One that failed is
    /// begun anew: whoever sends it again wants it tried again.
    pub(crate) fn take<F, W>(&self, assignment: &Assignment, work: W) -> Result<watch::Receiver<Stage>, TakeRefusal>
    where
        W: FnOnce(Ticket) -> F,
        F: Future<Output = Result<Answer, Fault>> + Send + 'static,
    {
        let id = assignment.id();
        let mut items = self.lock();
        if self.tasks.is_closed() {
            return Err(TakeRefusal::Stopping);
        }
        if let Some(item) = items.get(&id) {
            if item.work != assignment.work {
                return Err(TakeRefusal::OtherWork(Box::new(id)));
            }
            if !matches!(&*item.stage.borrow(), Stage::Ended(result) if result.is_err()) {
                return Ok(item.stage.subscribe());
            }
        }
        if items.len() >= ASSIGNMENTS_MAX {
            return Err(TakeRefusal::TooMany);
        }
        if self.tasks.len() >= RUNNING_MAX * TASKS_PER_ASSIGNMENT {
            return Err(TakeRefusal::Busy);
        }
        give_up_earlier_leases(&mut items, &id);
        let (sender, receiver) = watch::channel(Stage::Running(Progress::default()));
        let cancel = CancellationToken::new();
        let mut running = self.tasks.spawn(work(Ticket { stage: sender.clone(), cancel: cancel.clone() }));
        let item = Item { work: assignment.work.clone(), stage: sender.clone(), cancel: cancel.clone() };
        let leased = id.shard.is_some();
        items.insert(id.clone(), item);
        self.tasks.spawn(async move {
            let ended = loop {
                tokio::select! {
                    ended = &mut running => break ended,
                    () = unheard(&sender), if leased && !cancel.is_cancelled() => {
                        tracing::info!(%id, "put down: nobody listens any more");
                        cancel.cancel();
                    }
                }
            };
            let result = ended.unwrap_or_else(|error| {
                // The panic's own text stays in the log: it is not known to be free of secrets.
                tracing::error!(%id, panic = error.is_panic(), "the work ended without a result");
                Err(fault(
                    FaultCode::Internal,
                    "the agent failed while doing this; its log says where",
                    "report this with the agent's log",
                ))
            });
            sender.send_replace(Stage::Ended(Box::new(result)));
        });
        Ok(receiver)
    }

    /// Gives up everything below this epoch and forgets its answers: the fence lets nobody ask for them again.
    pub(crate) fn give_up_below(&self, epoch: Epoch) {
        self.lock().retain(|id, item| {
            if id.epoch < epoch {
                item.cancel.cancel();
            }
            id.epoch >= epoch
        });
    }

    /// Gives up everything: another cluster is obeyed from now on.
    pub(crate) fn give_up_all(&self) {
        for (_, item) in std::mem::take(&mut *self.lock()) {
            item.cancel.cancel();
        }
    }

    /// Takes nothing more, gives up everything, and waits until it has ended.
    pub(crate) async fn stop(&self) {
        {
            let items = self.lock();
            self.tasks.close();
            for item in items.values() {
                item.cancel.cancel();
            }
        }
        self.tasks.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AssignmentId, Item>> {
        // The map is whole after every operation, so a panic elsewhere does not spoil it.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives up what is under way of the same shard under an earlier lease, and forgets it: the ledger lets it do nothing.
fn give_up_earlier_leases(items: &mut BTreeMap<AssignmentId, Item>, id: &AssignmentId) {
    let Some((shard, lease)) = id.shard else { return };
    items.retain(|other, item| {
        let same = (other.rotation, other.epoch, other.kind) == (id.rotation, id.epoch, id.kind);
        let earlier = same && other.shard.is_some_and(|(of, number)| of == shard && number < lease);
        if earlier {
            item.cancel.cancel();
        }
        !earlier
    });
}

/// Returns when nobody has listened for a while.
async fn unheard(stage: &watch::Sender<Stage>) {
    loop {
        stage.closed().await;
        tokio::time::sleep(UNHEARD_MAX).await;
        if stage.is_closed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rotation::{Millis, RotationId};

    use super::*;

    fn assignment(epoch: u64, at: u64) -> Assignment {
        Assignment {
            rotation: RotationId::new(uuid::Uuid::from_u128(1)),
            epoch: Epoch::new(epoch),
            node: "node-1".parse().unwrap(),
            work: Work::ActivateKey { at: Millis::new(at) },
        }
    }

    async fn ended(mut stage: watch::Receiver<Stage>) -> Result<Answer, Fault> {
        let stage = stage.wait_for(|stage| matches!(stage, Stage::Ended(_))).await.unwrap();
        match &*stage {
            Stage::Ended(result) => (**result).clone(),
            Stage::Running(_) => unreachable!("waited for the end"),
        }
    }

    #[tokio::test]
    async fn the_same_assignment_attaches_while_it_runs_and_is_answered_when_it_is_done() {
        let registry = Registry::default();
        let done = Arc::new(AtomicU64::new(0));
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let counter = Arc::clone(&done);
        let first = registry
            .take(&assignment(1, 1), |ticket| async move {
                ticket.rows(7);
                gone.await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(Answer::WentOffline)
            })
            .unwrap();
        let again = || async { panic!("done twice") };
        let second = registry.take(&assignment(1, 1), |_| again()).unwrap();
        go.send(()).unwrap();
        assert_eq!(ended(first).await, Ok(Answer::WentOffline));
        assert_eq!(ended(second).await, Ok(Answer::WentOffline));
        assert_eq!(ended(registry.take(&assignment(1, 1), |_| again()).unwrap()).await, Ok(Answer::WentOffline));
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn other_particulars_under_the_same_name_are_refused() {
        let registry = Registry::default();
        let work = |_| async { Ok(Answer::WentOffline) };
        registry.take(&assignment(1, 1), work).unwrap();
        assert!(matches!(registry.take(&assignment(1, 2), work), Err(TakeRefusal::OtherWork(_))));
    }

    #[tokio::test]
    async fn what_failed_or_panicked_is_tried_again() {
        let registry = Registry::default();
        let failed = registry.take(&assignment(1, 1), |_| async { Err(given_up()) }).unwrap();
        assert!(ended(failed).await.is_err());
        let panicked = registry.take(&assignment(1, 1), |_| async { panic!("as a test") }).unwrap();
        assert_eq!(ended(panicked).await.unwrap_err().code, FaultCode::Internal);
        let done = registry.take(&assignment(1, 1), |_| async { Ok(Answer::WentOffline) }).unwrap();
        assert_eq!(ended(done).await, Ok(Answer::WentOffline));
    }

    #[tokio::test]
    async fn no_more_is_under_way_than_a_rotation_needs() {
        let registry = Registry::default();
        let work = |ticket: Ticket| async move {
            ticket.cancel.cancelled().await;
            Err(given_up())
        };
        for epoch in 0..RUNNING_MAX as u64 {
            registry.take(&assignment(epoch, 1), work).unwrap();
        }
        assert_eq!(registry.take(&assignment(1_000, 1), work).unwrap_err(), TakeRefusal::Busy);
        registry.take(&assignment(0, 1), work).unwrap();
        registry.stop().await;
    }

    fn shard(lease: u64) -> Assignment {
        let range = rotation::ShardRange { after: None, through: None };
        let id = rotation::ShardId::new(3);
        let shard = rotation::Shard { id, table: "items".to_owned(), range, rows_estimated: 1 };
        let lease = rotation::LeaseNumber::new(lease);
        let direction = rotation::Direction::Forward;
        Assignment { work: Work::ReencryptShard { shard, lease, direction, rows_per_second: None }, ..assignment(1, 1) }
    }

    async fn until_cancelled(ticket: Ticket) -> Result<Answer, Fault> {
        ticket.cancel.cancelled().await;
        Err(given_up())
    }

    #[tokio::test]
    async fn a_later_lease_of_a_shard_gives_up_the_earlier_one_alone() {
        let registry = Registry::default();
        let earlier = registry.take(&shard(1), until_cancelled).unwrap();
        let other = registry.take(&assignment(1, 1), until_cancelled).unwrap();
        let later = registry.take(&shard(2), until_cancelled).unwrap();
        assert_eq!(ended(earlier).await.unwrap_err().code, FaultCode::Superseded);
        assert!(matches!(&*later.borrow(), Stage::Running(_)) && matches!(&*other.borrow(), Stage::Running(_)));
        registry.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_nobody_listens_to_is_put_down_and_taken_up_again_when_asked() {
        let registry = Registry::default();
        let (sender, mut gone) = tokio::sync::mpsc::channel(2);
        let work = |ticket: Ticket| {
            let sender = sender.clone();
            async move {
                ticket.cancel.cancelled().await;
                sender.send(()).await.unwrap();
                Err(given_up())
            }
        };
        let heard = registry.take(&shard(1), work).unwrap();
        tokio::time::sleep(10 * UNHEARD_MAX).await;
        assert!(matches!(&*heard.borrow(), Stage::Running(_)), "somebody listens");
        // A call that breaks and is made again at once is nothing.
        drop(heard);
        tokio::time::sleep(UNHEARD_MAX / 2).await;
        let again = registry.take(&shard(1), work).unwrap();
        tokio::time::sleep(10 * UNHEARD_MAX).await;
        assert!(matches!(&*again.borrow(), Stage::Running(_)));
        drop(again);
        gone.recv().await.unwrap();
        tokio::time::sleep(UNHEARD_MAX).await;
        let done = registry.take(&shard(1), |_| async { Ok(Answer::WentOffline) }).unwrap();
        assert_eq!(ended(done).await, Ok(Answer::WentOffline));

        // All other work goes on to its end.
        drop(registry.take(&assignment(1, 1), work).unwrap());
        tokio::time::sleep(10 * UNHEARD_MAX).await;
        assert!(gone.try_recv().is_err());
        registry.stop().await;
    }

    #[tokio::test]
    async fn a_higher_epoch_gives_up_what_is_below() {
        let registry = Registry::default();
        let work = |ticket: Ticket| async move {
            ticket.cancel.cancelled().await;
            ticket.still_wanted().map(|()| Answer::WentOffline)
        };
        let low = registry.take(&assignment(1, 1), work).unwrap();
        let high = registry.take(&assignment(2, 1), work).unwrap();
        registry.give_up_below(Epoch::new(2));
        assert_eq!(ended(low).await.unwrap_err().code, FaultCode::Superseded);
        assert!(matches!(&*high.borrow(), Stage::Running(_)));
        registry.stop().await;
        assert!(ended(high).await.is_err());
        assert!(matches!(registry.take(&assignment(3, 1), work), Err(TakeRefusal::Stopping)));
    }
}
