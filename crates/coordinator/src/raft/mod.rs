//! Consensus: everything that knows openraft, so that another release of it, or another library, is a matter of this
//! folder alone. The rest of the coordinator proposes events, watches the state, and asks who leads.

mod change;
mod earlier;
mod formation;
mod frame;
mod leadership;
mod log;
mod machine;
mod members;
mod network;
mod removal;
mod service;
mod store;
mod timing;
mod types;

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod frame_tests;
#[cfg(test)]
mod store_tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use rotation::{Entry, Event, Millis, Outcome, Rejection, State};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::tls::Tls;

use crate::config::Config;
use crate::driver;
use formation::{Membership, Standing};
use leadership::Heard;
use machine::Machine;
use network::{NEVER, Peers};
use store::Store;
use timing::COMPARE_INTERVAL;
use types::{Applied, Raft};

pub(crate) use change::{ChangeError, Member};
pub use leadership::Leadership;
pub(crate) use members::{Change, Refusal, Step, VOTERS_MAX};
pub(crate) use service::{RaftService, removed};
pub use store::OpenStoreError;
pub(crate) use timing::Timing;

/// The largest entry: half a message, and little enough to reach a follower within a heartbeat on a usual network.
const ENTRY_BYTES_MAX: usize = wire::rpc::MESSAGE_BYTES_MAX / 2;

/// Consensus cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("the replicated log cannot be opened")]
    Store(#[from] OpenStoreError),
    /// What the store holds cannot be read.
    #[error("the replicated log cannot be read; restore data_dir, or empty it and let this replica catch up")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// openraft did not start.
    #[error("consensus cannot be started")]
    Consensus(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An event that was not taken into the log, or of which that is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, at this address if it is known.
    #[error("this replica does not lead")]
    NotLeader {
        /// Where.
        address: Option<String>,
    },
    /// The domain refused it; the state is as it was.
    #[error(transparent)]
    Rejected(Rejection),
    /// It would not fit into one message to the other replicas, and hold up everything behind it.
    #[error("the entry has {bytes} bytes, and the log takes {ENTRY_BYTES_MAX} at most")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// No majority of replicas answered in time. It may yet be taken.
    #[error("no majority of coordinators answered in time")]
    NoQuorum,
    /// Consensus has stopped here.
    #[error("consensus does not run on this replica")]
    Stopped,
}

/// A handle to consensus; clones share it.
#[derive(Clone)]
pub(crate) struct Consensus {
    raft: Raft,
    id: u64,
    farm: String,
    timing: Timing,
    peers: Peers,
    membership: Membership,
    heard: Heard,
    state: watch::Receiver<State>,
    leadership: watch::Receiver<Leadership>,
    removed: watch::Receiver<bool>,
    stop: CancellationToken,
    tasks: TaskTracker,
    closed: CancellationToken,
}

impl Consensus {
    /// Opens the store and starts consensus. The cluster forms once [`Consensus::service`] is served.
    pub(crate) async fn start(config: &Config, tls: Tls) -> Result<Self, StartError> {
        let store = Store::open(&config.data_dir, &config.farm, config.id)?;
        let closed = store.closed();
        let read = |error: store::StoreError| StartError::Read(Box::new(error));
        let machine = Machine::open(store.clone()).map_err(read)?;
        let membership = Membership::open(store.clone()).map_err(read)?;
        let state = machine.watch();

        let addresses = config.addresses();
        // Of those before it in number, also when it joins and the configuration does not name it.
        let place = addresses.keys().filter(|id| **id < config.id).count();
        let elect = *membership.standing().borrow() != Standing::Rejoining;
        let timing = Timing::new(config.heartbeat_ms);
        let raft_config = timing
            .openraft_config(&config.farm, u32::try_from(place).unwrap_or(0), elect)
            .map_err(|error| StartError::Consensus(error))?;
        let peers = Peers::new(tls, timing, addresses);
        let raft = Raft::new(config.id, Arc::new(raft_config), peers.clone(), log::Log::new(store), machine)
            .await
            .map_err(|error| StartError::Consensus(Box::new(error)))?;

        let (leadership_sender, leadership) = watch::channel(Leadership::Other { address: None });
        let (removed_sender, removed) = watch::channel(false);
        let consensus = Self {
            raft,
            id: config.id,
            farm: config.farm.clone(),
            timing,
            peers,
            membership,
            heard: Heard::default(),
            state,
            leadership,
            removed,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            closed,
        };
        consensus.tasks.spawn(leadership::observe(consensus.clone(), leadership_sender, consensus.stop.clone()));
        consensus.tasks.spawn(leadership::watch_for_leaderless(consensus.clone(), consensus.stop.clone()));
        consensus.tasks.spawn(removal::watch(consensus.clone(), removed_sender, consensus.stop.clone()));
        consensus.tasks.spawn(consensus.clone().form(config.join));
        consensus.tasks.spawn(consensus.clone().compare_heartbeats());
        consensus.tasks.close();
        Ok(consensus)
    }

    /// The service to be served to the other replicas.
    pub(crate) fn service(&self) -> RaftService {
        RaftService {
            raft: self.raft.clone(),
            membership: self.membership.clone(),
            heard: self.heard.clone(),
            timing: self.timing,
            state: self.state.clone(),
            id: self.id,
        }
    }

    async fn form(self, join: bool) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            settled = self.membership.settle(&self.raft, &self.peers, self.id, join) => {
                if let Err(error) = settled {
                    tracing::error!("the store failed while the cluster formed: {error}");
                }
            }
        }
    }

    /// Hears every other replica once, so that one with another heartbeat is named.
    async fn compare_heartbeats(self) {
        let ask_all = async {
            let mut others = self.addresses();
            others.remove(&self.id);
            while !others.is_empty() {
                sleep(COMPARE_INTERVAL).await;
                let asked = others.iter().map(|(id, address)| self.peers.probe(*id, address, NEVER));
                let answers = join_all(asked).await;
                let silent = others.into_iter().zip(answers).filter(|(_, answer)| answer.is_err());
                others = silent.map(|(other, _)| other).collect();
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = ask_all => {}
        }
    }

    /// How long what consensus does takes here.
    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// This replica's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The address of every member; of every replica of the configuration while there is no membership yet.
    pub(crate) fn addresses(&self) -> BTreeMap<u64, String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let members: BTreeMap<u64, String> =
            metrics.membership_config.membership().nodes().map(|(id, node)| (*id, node.addr.clone())).collect();
        if members.is_empty() { self.peers.configured().clone() } else { members }
    }

    fn address_of(&self, id: u64) -> Option<String> {
        self.addresses().remove(&id)
    }

    /// Whether this replica was removed from the cluster, as far as it knows.
    pub(crate) fn is_removed(&self) -> bool {
        *self.removed.borrow()
    }

    /// The state as this replica has applied it, as it changes. A borrow of it must be short: it holds up applying.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Who leads, as it changes.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The id of the replica that leads, as far as this one knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow().current_leader
    }

    /// Logs an event with the time of this clock, and answers once it is applied here.
    pub(crate) async fn propose(&self, event: Event) -> Result<Outcome, ProposeError> {
        let entry = Entry { at: now(), event };
        let bytes = frame::encode(frame::Kind::Entry, &entry).map_or(0, |frame| frame.len());
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes });
        }
        let written = match timeout(self.timing.write_timeout(), self.raft.client_write(entry)).await {
            Err(_) => return Err(ProposeError::NoQuorum),
            Ok(Err(RaftError::Fatal(_))) => return Err(ProposeError::Stopped),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                return Err(self.not_leader(forward.leader_id));
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_)))) => {
                return Err(ProposeError::Stopped);
            }
            Ok(Ok(written)) => written,
        };
        match written.data {
            Applied::Done(outcome) => Ok(outcome),
            Applied::Refused(rejection) => Err(ProposeError::Rejected(rejection)),
            Applied::Nothing => Ok(Outcome::Unchanged),
        }
    }

    /// Waits until the state here holds everything that was committed before the call. The leader alone can.
    pub(crate) async fn read_barrier(&self) -> Result<(), ProposeError> {
        match timeout(self.timing.read_timeout(), self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(self.not_leader(forward.leader_id))
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => {
                Err(ProposeError::NoQuorum)
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
        }
    }

    fn not_leader(&self, leader: Option<u64>) -> ProposeError {
        ProposeError::NotLeader { address: leader.and_then(|id| self.address_of(id)) }
    }

    async fn stand_for_election(&self) {
        let votes = *self.membership.standing().borrow() == Standing::Voter && !self.is_removed();
        let initialized = self.raft.is_initialized().await.unwrap_or(false);
        if votes && initialized {
            tracing::info!("no leader for long: standing for election");
            // It fails only when consensus stops, which others notice.
            let _ = self.raft.trigger().elect().await;
        }
    }

    /// Resolves when consensus cannot go on, with the reason.
    pub(crate) async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        let failure = metrics.wait_for(|now| now.running_state.is_err()).await;
        match failure {
            Ok(metrics) => metrics.running_state.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            Err(_) => "consensus stopped".to_owned(),
        }
    }

    /// Ends consensus here. The answer resolves when the store's file is closed; every other handle must be dropped.
    pub(crate) async fn shutdown(self) -> CancellationToken {
        self.stop.cancel();
        self.tasks.wait().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!("consensus did not stop in order: {error}");
        }
        self.closed
    }
}

impl driver::Consensus for Consensus {
    fn state(&self) -> watch::Receiver<State> {
        self.state()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership()
    }

    fn propose(&self, event: Event) -> impl Future<Output = Result<Outcome, ProposeError>> + Send {
        self.propose(event)
    }
}

/// The time of this machine's clock, for entries and views.
pub(crate) fn now() -> Millis {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::new(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
