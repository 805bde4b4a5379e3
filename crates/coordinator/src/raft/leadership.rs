//! Who leads, as the rest of the coordinator may rely on it: a replica counts as leading only once everything of
//! earlier terms is applied and its own election is in the log, and only while it can show that it still leads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rotation::{ClusterId, Event, Term};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Consensus;
use super::timing::PRESENCE_FAILURES_MAX;

/// Who leads, from where this replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This replica, in this term.
    Own {
        /// The term; part of every fence.
        term: Term,
    },
    /// Another replica, at this address; `None` while there is no leader or it is not ready.
    Other {
        /// The leader's address.
        address: Option<String>,
    },
}

/// When a leader was last heard of by this replica.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub(super) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn within(&self, duration: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|heard| heard.elapsed() <= duration)
    }
}

/// The pause before what a new leader must log first is tried again.
const PREPARE_RETRY: Duration = Duration::from_millis(200);

/// Keeps `leadership` true until stopped.
pub(super) async fn observe(consensus: Consensus, leadership: watch::Sender<Leadership>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(&consensus, &leadership) => {}
    }
    leadership.send_replace(Leadership::Other { address: None });
}

async fn follow(consensus: &Consensus, leadership: &watch::Sender<Leadership>) {
    let mut metrics = consensus.raft.metrics();
    loop {
        let (leads, term, leader) = {
            let metrics = metrics.borrow_and_update();
            (metrics.state.is_leader(), metrics.current_term, metrics.current_leader)
        };
        if leads {
            lead(consensus, leadership, Term::new(term)).await;
        } else {
            // openraft names the leader of its term until the next election begins, also when it is long gone.
            let heard = consensus.heard.within(consensus.timing.leader_silence_max());
            let leader = leader.filter(|id| heard && *id != consensus.id);
            set(leadership, Leadership::Other { address: leader.and_then(|id| consensus.address_of(id)) });
        }
        // A leader that falls silent changes nothing here, hence the look from time to time.
        if matches!(timeout(consensus.timing.presence_interval(), metrics.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}

/// Holds the lead of one term for as long as it can be shown.
async fn lead(consensus: &Consensus, leadership: &watch::Sender<Leadership>, term: Term) {
    let mut metrics = consensus.raft.metrics();
    let mut still_leading = async || {
        let lost = metrics.wait_for(|now| !now.state.is_leader() || now.current_term != term.get()).await;
        drop(lost);
    };
    let held = async {
        while let Err(error) = prepare(consensus, term).await {
            tracing::debug!("not ready to lead yet: {error}");
            sleep(PREPARE_RETRY).await;
        }
        let mut failures = 0;
        loop {
            if failures == 0 {
                set(leadership, Leadership::Own { term });
            } else if failures >= PRESENCE_FAILURES_MAX {
                set(leadership, Leadership::Other { address: None });
            }
            sleep(consensus.timing.presence_interval()).await;
            match timeout(consensus.timing.read_timeout(), consensus.raft.ensure_linearizable()).await {
                Ok(Ok(_)) => {
                    failures = 0;
                    consensus.finish_change().await;
                }
                Ok(Err(_)) | Err(_) => failures += 1,
            }
        }
    };
    tokio::select! {
        () = held => {}
        () = still_leading() => {}
    }
}

/// Logs what a new leader must. Once its entry is applied, so is everything of earlier terms.
async fn prepare(consensus: &Consensus, term: Term) -> Result<(), super::ProposeError> {
    // A read that is linearizable shows whether an earlier leader of this term, or of any, has done it already.
    consensus.read_barrier().await?;
    let (founded, known) = {
        let state = consensus.state.borrow();
        (state.cluster.is_some(), state.term)
    };
    if !founded {
        let cluster = ClusterId::new(uuid::Uuid::new_v4());
        consensus.propose(Event::FarmFounded { cluster, farm: consensus.farm.clone() }).await?;
    }
    if known < term || !founded {
        consensus.propose(Event::LeaderElected { term, replica: consensus.id }).await?;
        tracing::info!(term = term.get(), "this replica leads");
    }
    Ok(())
}

fn set(leadership: &watch::Sender<Leadership>, to: Leadership) {
    leadership.send_if_modified(|now| {
        let changed = *now != to;
        *now = to;
        changed
    });
}

/// Stands for election when there was no leader for long. The regular elections are openraft's; but it draws their
/// time-out once per process, and two replicas that drew badly would go on splitting the votes.
pub(super) async fn watch_for_leaderless(consensus: Consensus, stop: CancellationToken) {
    let mut metrics = consensus.raft.metrics();
    let watching = async {
        loop {
            let without_leader = metrics.wait_for(|now| now.current_leader.is_none()).await.is_ok();
            if !without_leader {
                return;
            }
            let wait = rand::rng().random_range(consensus.timing.leaderless());
            let found = timeout(wait, metrics.wait_for(|now| now.current_leader.is_some())).await.is_ok();
            if !found {
                consensus.stand_for_election().await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = watching => {}
    }
}
