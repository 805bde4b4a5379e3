//! Consensus as a promise instead of a protocol: one log, appended to by the leader of the present term alone, applied by
//! the real `rotation::apply` on every replica, sooner or later. What the protocol cannot hide is here too: a leader that
//! was replaced and does not know it, proposals that are lost, taken although nobody says so, or acknowledged too late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coordinator::simulation::{Consensus, Leadership, ProposeError};
use rotation::{Entry, Event, Millis, Outcome, Rejection, State, Term, apply};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::world::{World, lock};

/// How long a proposal waits for a majority, as in the coordinator.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a leader that was replaced may believe in itself, milliseconds.
const BELIEF_MS_MAX: u64 = 8_000;

/// The numbers of the replicas.
pub(crate) const REPLICAS: [u64; 3] = [1, 2, 3];

pub(crate) struct Cluster {
    shared: Mutex<Shared>,
    replicas: BTreeMap<u64, Replica>,
}

#[derive(Default)]
struct Shared {
    log: Vec<Entry>,
    term: u64,
    /// Who leads the present term.
    leader: Option<u64>,
    /// What a replica without a majority has in its log: the next leader may have it too.
    floating: Vec<Entry>,
}

pub(crate) struct Replica {
    state: watch::Sender<State>,
    leadership: watch::Sender<Leadership>,
    condition: Mutex<Condition>,
}

#[derive(Default)]
struct Condition {
    applied: usize,
    is_down: bool,
    /// It reaches no other replica.
    is_cut_off: bool,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let replica = || Replica {
            state: watch::Sender::new(State::default()),
            leadership: watch::Sender::new(Leadership::Other { address: None }),
            condition: Mutex::default(),
        };
        Self { shared: Mutex::default(), replicas: REPLICAS.into_iter().map(|id| (id, replica())).collect() }
    }

    fn replica(&self, id: u64) -> &Replica {
        &self.replicas[&id]
    }

    /// The replica that leads and can log something.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leader = lock(&self.shared).leader?;
        self.is_able(leader).then_some(leader)
    }

    fn is_able(&self, id: u64) -> bool {
        let condition = lock(&self.replica(id).condition);
        !condition.is_down && !condition.is_cut_off
    }

    /// The state after everything that is committed.
    pub(crate) fn committed(&self) -> State {
        let shared = lock(&self.shared);
        let newest = self.replicas.values().max_by_key(|replica| lock(&replica.condition).applied);
        let Some(replica) = newest else { return State::default() };
        let mut state = replica.state.borrow().clone();
        let applied = lock(&replica.condition).applied;
        for entry in &shared.log[applied..] {
            let _ = apply(&mut state, entry);
        }
        state
    }

    pub(crate) fn set_cut_off(&self, id: u64, is_cut_off: bool) {
        lock(&self.replica(id).condition).is_cut_off = is_cut_off;
    }

    pub(crate) fn set_down(&self, id: u64, is_down: bool) {
        lock(&self.replica(id).condition).is_down = is_down;
        if is_down {
            // What it led, nobody leads until the next election, also when it is back before that.
            let mut shared = lock(&self.shared);
            shared.leader = shared.leader.filter(|leader| *leader != id);
            drop(shared);
            self.replica(id).leadership.send_replace(Leadership::Other { address: None });
        }
    }

    pub(crate) fn is_down(&self, id: u64) -> bool {
        lock(&self.replica(id).condition).is_down
    }

    /// Whether there is a majority that could elect somebody.
    fn able(&self) -> Vec<u64> {
        REPLICAS.into_iter().filter(|id| self.is_able(*id)).collect()
    }

    /// Elects another leader, if there is a majority. The one before learns of it sooner or later.
    pub(crate) fn elect(&self, world: &Arc<World>) {
        let able = self.able();
        if able.len() <= REPLICAS.len() / 2 {
            return;
        }
        let before = lock(&self.shared).leader;
        let others: Vec<u64> = able.iter().copied().filter(|id| Some(*id) != before).collect();
        let leader = *world.pick(if others.is_empty() { &able } else { &others });
        let term = {
            let mut shared = lock(&self.shared);
            shared.term += 1;
            shared.leader = Some(leader);
            for entry in std::mem::take(&mut shared.floating) {
                if world.below(2) == 0 {
                    shared.log.push(entry);
                }
            }
            shared.term
        };
        world.say(format_args!("cluster: replica {leader} leads term {term}"));
        let _ = self.append(leader, Event::LeaderElected { term: Term::new(term), replica: leader });
        if let Some(before) = before.filter(|before| *before != leader) {
            let world = Arc::clone(world);
            tokio::spawn(async move {
                sleep(world.time(0, BELIEF_MS_MAX)).await;
                world.cluster.resign(before, term);
            });
        }
        self.replica(leader).leadership.send_replace(Leadership::Own { term: Term::new(term) });
        for follower in REPLICAS.into_iter().filter(|id| *id != leader) {
            world.cluster.follow(world, follower);
        }
    }

    /// A replica that believes in an earlier term gives up.
    fn resign(&self, id: u64, term: u64) {
        self.replica(id).leadership.send_if_modified(|now| {
            let stale = matches!(now, Leadership::Own { term: own } if own.get() < term);
            if stale {
                *now = Leadership::Other { address: None };
            }
            stale
        });
    }

    /// Gives up every belief in an earlier term: everybody hears from everybody.
    pub(crate) fn settle(&self) {
        let term = lock(&self.shared).term;
        REPLICAS.into_iter().for_each(|id| self.resign(id, term));
    }

    fn leads(&self, id: u64) -> Option<Term> {
        match &*self.replica(id).leadership.borrow() {
            Leadership::Own { term } => Some(*term),
            Leadership::Other { .. } => None,
        }
    }

    /// Applies everything that is committed.
    fn catch_up(&self, id: u64) {
        let log = lock(&self.shared).log.clone();
        let replica = self.replica(id);
        let mut condition = lock(&replica.condition);
        if condition.applied < log.len() {
            replica.state.send_modify(|state| {
                for entry in &log[condition.applied..] {
                    let _ = apply(state, entry);
                }
            });
            condition.applied = log.len();
        }
    }

    /// Catches up after a while, unless it cannot.
    pub(crate) fn follow(&self, world: &Arc<World>, id: u64) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            sleep(world.time(1, 60)).await;
            if world.cluster.is_able(id) {
                world.cluster.catch_up(id);
            }
        });
    }

    /// Starts from what the disk has: the log.
    pub(crate) fn restart(&self, id: u64) {
        let replica = self.replica(id);
        {
            let mut condition = lock(&replica.condition);
            condition.is_down = false;
            condition.applied = 0;
        }
        replica.state.send_modify(|state| *state = State::default());
        self.catch_up(id);
    }

    fn append(&self, id: u64, event: Event) -> Result<Outcome, Rejection> {
        lock(&self.shared).log.push(Entry { at: now(), event });
        let replica = self.replica(id);
        let (log, mut outcome) = (lock(&self.shared).log.clone(), Ok(Outcome::Unchanged));
        let mut condition = lock(&replica.condition);
        replica.state.send_modify(|state| {
            for entry in &log[condition.applied..] {
                outcome = apply(state, entry);
            }
        });
        condition.applied = log.len();
        outcome
    }
}

fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One replica's handle.
#[derive(Clone)]
pub(crate) struct Handle {
    world: Weak<World>,
    id: u64,
}

impl Handle {
    pub(crate) fn new(world: &Arc<World>, id: u64) -> Self {
        Self { world: Arc::downgrade(world), id }
    }

    fn world(&self) -> Arc<World> {
        self.world.upgrade().expect("the world outlives everybody in it")
    }

    async fn without_majority(&self, world: &World, event: Event) -> ProposeError {
        // It stands in this replica's log, and the next leader may have it there too.
        lock(&world.cluster.shared).floating.push(Entry { at: now(), event });
        let mut leadership = self.leadership();
        let lost = leadership.wait_for(|now| !matches!(now, Leadership::Own { .. }));
        match timeout(WRITE_TIME_MAX, lost).await {
            Ok(_) => ProposeError::NotLeader { address: None },
            Err(_) => ProposeError::NoQuorum,
        }
    }
}

impl Consensus for Handle {
    fn state(&self) -> watch::Receiver<State> {
        self.world().cluster.replica(self.id).state.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.world().cluster.replica(self.id).leadership.subscribe()
    }

    async fn propose(&self, event: Event) -> Result<Outcome, ProposeError> {
        let world = self.world();
        sleep(world.time(1, 8)).await;
        let Some(term) = world.cluster.leads(self.id) else { return Err(ProposeError::NotLeader { address: None }) };
        let is_leader = {
            let shared = lock(&world.cluster.shared);
            shared.leader == Some(self.id) && shared.term == term.get()
        };
        let able = world.cluster.able();
        if !is_leader || !able.contains(&self.id) || able.len() <= REPLICAS.len() / 2 {
            return Err(self.without_majority(&world, event).await);
        }
        let outcome = world.cluster.append(self.id, event.clone());
        world.happened(format_args!("log: replica {} {} {}", self.id, describe(&event), told(&outcome)));
        if let Event::WorkFailed { fault, .. } | Event::DeadlineMissed { fault, .. } = &event {
            world.explain(format_args!("{}", fault.message));
        }
        for follower in REPLICAS.into_iter().filter(|id| *id != self.id) {
            world.cluster.follow(&world, follower);
        }
        if world.misfortune(world.rates.proposal_late) {
            sleep(WRITE_TIME_MAX).await;
            return Err(ProposeError::NoQuorum);
        }
        sleep(world.time(1, 8)).await;
        outcome.map_err(ProposeError::Rejected)
    }
}

fn told(outcome: &Result<Outcome, Rejection>) -> String {
    match outcome {
        Ok(Outcome::Unchanged) => "(nothing new)".to_owned(),
        Ok(_) => "(taken)".to_owned(),
        Err(rejection) => format!("(refused: {})", rejection.code.as_str()),
    }
}

/// An event in a few words, without anything that differs between runs of a seed.
fn describe(event: &Event) -> String {
    match event {
        Event::WorkDone { assignment, .. } => format!("done {}", short(assignment)),
        Event::WorkFailed { assignment, fault } => format!("failed {} by {}", short(assignment), fault.code),
        Event::DeadlineMissed { assignment, fault } => format!("missed {} by {}", short(assignment), fault.code),
        Event::LeaseExpired { assignment } => format!("lease expired {}", short(assignment)),
        Event::FarmFounded { .. } => "farm founded".to_owned(),
        Event::LeaderElected { term, .. } => format!("leader of term {term}"),
        Event::NodeEnrolled { node, .. } => format!("{node} enrolled"),
        Event::NodeRemoved { node } => format!("{node} removed"),
        Event::RotationRequested { .. } => "rotation requested".to_owned(),
        Event::StartRequested { .. } => "start requested".to_owned(),
        Event::AbortRequested { .. } => "abort requested".to_owned(),
        Event::PauseRequested { .. } => "pause requested".to_owned(),
        Event::ResumeRequested { .. } => "resume requested".to_owned(),
        Event::RetryRequested { .. } => "retry requested".to_owned(),
        Event::AdmitDecided { epoch, .. } => format!("admit decided in epoch {epoch}"),
        Event::ThrottleRequested { rows_per_second, .. } => format!("throttle {rows_per_second:?}"),
        Event::RetireRequested { .. } => "retirement requested".to_owned(),
        Event::BudgetSpent { epoch, .. } => format!("budget spent in epoch {epoch}"),
    }
}

fn short(id: &rotation::AssignmentId) -> String {
    let shard = id.shard.map(|(shard, lease)| format!(" shard {shard} lease {lease}")).unwrap_or_default();
    format!("{} on {} in epoch {}{shard}", id.kind, id.node, id.epoch)
}
