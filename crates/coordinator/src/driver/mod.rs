//! The driver: while this replica leads, has done whatever the state calls for.
//!
//! It remembers no plan. After every change it compares `pending(state)` with what is running, starts what is missing
//! and drops what is no longer wanted; so a first run, a retry, a restart and a change of leader are the same thing.

mod agents;
mod attempt;
mod hints;
mod job;
mod patience;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rotation::{Assignment, AssignmentId, Event, Fault, FaultCode, Millis, Outcome, State, Term};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::raft::{Leadership, ProposeError};
pub use agents::Agents;
pub(crate) use agents::Channels;
pub use hints::Hints;
use job::Job;

/// The pause before work begins anew that ended and is still wanted, such as admitting an instance that would not
/// come up: logged each time, so not more often than a person would look.
const REST: Duration = Duration::from_secs(2);

/// The pause before an event that found no majority is proposed again.
const PROPOSE_RETRY: Duration = Duration::from_millis(500);

/// How often a downtime budget is looked at while it counts.
const BUDGET_LOOK: Duration = Duration::from_millis(500);

/// What the driver asks of consensus.
pub trait Consensus: Clone + Send + Sync + 'static {
    /// The state as this replica has applied it, as it changes.
    fn state(&self) -> watch::Receiver<State>;

    /// Who leads, as it changes.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Logs an event, and answers once it is applied here.
    fn propose(&self, event: Event) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;
}

/// Drives whenever this replica leads, until stopped.
pub async fn run<C: Consensus, A: Agents>(
    consensus: C,
    agents: Arc<A>,
    hints: watch::Sender<Hints>,
    stop: CancellationToken,
) {
    let mut leadership = consensus.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        let drive = async {
            match now {
                Leadership::Own { term } => Driver::new(&consensus, &agents, &hints, term).drive().await,
                Leadership::Other { .. } => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            () = drive => {}
        }
        // Work of the lead that ended is dropped by now; what was known of it is nobody's business any more.
        hints.send_replace(Hints::default());
    }
}

/// The work of one lead. Dropping it drops everything it had running.
struct Driver<C, A> {
    consensus: C,
    agents: Arc<A>,
    hints: watch::Sender<Hints>,
    term: Term,
    tasks: JoinSet<AssignmentId>,
    running: BTreeMap<AssignmentId, AbortHandle>,
    /// Work that ended, and when it may begin anew should it still be wanted.
    resting: BTreeMap<AssignmentId, Instant>,
}

impl<C: Consensus, A: Agents> Driver<C, A> {
    fn new(consensus: &C, agents: &Arc<A>, hints: &watch::Sender<Hints>, term: Term) -> Self {
        Self {
            consensus: consensus.clone(),
            agents: Arc::clone(agents),
            hints: hints.clone(),
            term,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    async fn drive(mut self) {
        let mut state = self.consensus.state();
        // From the last time in the log on, the leader measures by a clock that nobody puts forward or back.
        let mut clock = LogClock::new(state.borrow().now);
        loop {
            let (jobs, decisions, looks_again) = {
                let state = state.borrow_and_update();
                let pending = rotation::pending(&state);
                self.drop_unwanted(&state, &pending);
                let mut decisions = rotation::decisions(&state);
                decisions.extend(rotation::budget_decision(&state, clock.now(state.now)));
                (self.missing(&state, pending), decisions, rotation::budget_counts(&state))
            };
            for job in jobs {
                self.start(job);
            }
            for decision in decisions {
                propose(&self.consensus, decision).await;
            }
            let rested = self.resting.values().min().copied();
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                () = sleep_until(rested.unwrap_or_else(Instant::now)), if rested.is_some() => self.wake(),
                () = sleep(BUDGET_LOOK), if looks_again => {}
            }
        }
    }

    /// Stops what the state no longer wants. A paused rotation wants nothing new, but what runs may finish; shards alone
    /// are put down, since their leases were taken back.
    fn drop_unwanted(&mut self, state: &State, pending: &[Assignment]) {
        let wanted: BTreeSet<AssignmentId> = pending.iter().map(Assignment::id).collect();
        let keep = |id: &AssignmentId| {
            wanted.contains(id)
                || (id.shard.is_none()
                    && state.rotations.get(&id.rotation).is_some_and(|now| now.paused && now.epoch == id.epoch))
        };
        self.running.retain(|id, task| {
            let keep = keep(id);
            if !keep {
                task.abort();
            }
            keep
        });
        self.resting.retain(|id, _| wanted.contains(id));
    }

    /// What the state wants and does not run.
    fn missing(&self, state: &State, pending: Vec<Assignment>) -> Vec<Job> {
        pending
            .into_iter()
            .filter(|assignment| {
                let id = assignment.id();
                !self.running.contains_key(&id) && !self.resting.contains_key(&id)
            })
            .filter_map(|assignment| Job::new(state, assignment, self.term))
            .collect()
    }

    fn start(&mut self, job: Job) {
        let id = job.order.assignment.id();
        tracing::debug!(assignment = %id, "given out");
        let (consensus, agents, hints) = (self.consensus.clone(), Arc::clone(&self.agents), self.hints.clone());
        let task = self.tasks.spawn(async move {
            let event = attempt::perform(&job, agents.as_ref(), &hints).await;
            propose(&consensus, event).await;
            job.order.assignment.id()
        });
        self.running.insert(id, task);
    }

    fn ended(&mut self, ended: Result<AssignmentId, tokio::task::JoinError>) {
        match ended {
            Ok(id) => {
                self.running.remove(&id);
                self.resting.insert(id, Instant::now() + REST);
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                // The state still wants it, so the next round starts it again.
                tracing::error!("work on an assignment panicked: {error}");
                self.running.retain(|_, task| !task.is_finished());
            }
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
    }
}

/// The time of the log, carried on by a monotonic clock.
struct LogClock {
    logged: Millis,
    since: Instant,
}

impl LogClock {
    fn new(logged: Millis) -> Self {
        Self { logged, since: Instant::now() }
    }

    /// Never before what is logged: an entry that is later than this measure begins it anew.
    fn now(&mut self, logged: Millis) -> Millis {
        let elapsed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let measured = Millis::new(self.logged.get().saturating_add(elapsed));
        if logged > measured {
            *self = Self::new(logged);
        }
        logged.max(measured)
    }
}

/// Logs an event; gives up only when this replica does not lead any more, since then another one does the work.
async fn propose(consensus: &impl Consensus, mut event: Event) {
    let mut replaced = false;
    loop {
        match consensus.propose(event.clone()).await {
            Ok(_) | Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => return,
            Err(ProposeError::Rejected(rejection)) => {
                tracing::error!("the state refuses what its own work led to: {rejection}");
                return;
            }
            Err(error @ ProposeError::TooLarge { .. }) => match event {
                Event::WorkDone { assignment, .. } | Event::WorkFailed { assignment, .. } if !replaced => {
                    replaced = true;
                    event = too_large(assignment, &error);
                }
                other => {
                    tracing::error!("{error}: {other:?}");
                    return;
                }
            },
            Err(ProposeError::NoQuorum) => sleep(PROPOSE_RETRY).await,
        }
    }
}

/// What is logged in place of an answer that does not fit into the log.
fn too_large(assignment: AssignmentId, error: &ProposeError) -> Event {
    let fault = Fault {
        code: FaultCode::Internal,
        node: Some(assignment.node.clone()),
        message: format!("the answer to {} cannot be logged: {error}", assignment.kind),
        next_step: "register fewer tables, so that there are fewer shards, and rotate again".to_owned(),
        retryable: false,
    };
    Event::WorkFailed { assignment, fault }
}
