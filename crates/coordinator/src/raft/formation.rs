//! How a cluster comes to be, and how a replica that lost its disk comes back, without either being taken for the other.
//!
//! A replica that never wrote anything asks all the others. If none was ever part of a cluster, it is a first start:
//! the lowest id founds it. If one was, then this replica is new only to itself: it has lost what it had promised, so
//! it neither votes nor stands for election until a leader has brought it up to everything committed meanwhile. One
//! whose configuration says that it joins asks nobody and founds nothing: it waits for a leader in the same way.

use std::collections::BTreeMap;

use futures::future::join_all;
use openraft::BasicNode;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;
use tokio::time::sleep;

use super::network::{NEVER, Peers};
use super::store::{Store, StoreError};
use super::timing::PROBE_INTERVAL;
use super::types::{Raft, TypeConfig};

/// What this replica may do in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does not know yet whether it is new or has lost its disk; it answers nobody.
    Undecided,
    /// It is new to the cluster or has lost its disk: it takes entries and does not vote.
    Rejoining,
    /// A full member.
    Voter,
}

/// Holds the standing, and keeps it in the store where it must outlive a restart.
#[derive(Clone)]
pub(super) struct Membership {
    store: Store,
    standing: watch::Sender<Standing>,
}

impl Membership {
    /// Reads from the store what is known before anybody is asked.
    pub(super) fn open(store: Store) -> Result<Self, StoreError> {
        let standing = if store.is_rejoining()? {
            Standing::Rejoining
        } else if store.is_pristine()? {
            Standing::Undecided
        } else {
            Standing::Voter
        };
        Ok(Self { store, standing: watch::Sender::new(standing) })
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Finds out what this replica is, if it does not know, and founds the cluster if that falls to it.
    pub(super) async fn settle(&self, raft: &Raft, peers: &Peers, own: u64, join: bool) -> Result<(), StoreError> {
        if *self.standing.borrow() != Standing::Undecided {
            return Ok(());
        }
        if join {
            tracing::info!("this replica is new: it waits to be added, see `keyturn coordinator add` and `replace`");
            return self.rejoin(raft);
        }
        let others: Vec<(u64, &str)> =
            peers.configured().iter().filter(|(id, _)| **id != own).map(|(id, to)| (*id, to.as_str())).collect();
        loop {
            let answers = join_all(others.iter().map(|(id, address)| probe(peers, *id, address))).await;
            if answers.contains(&Probed::Founded) {
                tracing::warn!("this replica's data directory is empty, but the cluster exists: catching up first");
                return self.rejoin(raft);
            }
            if answers.iter().all(|answer| *answer == Probed::New) {
                self.standing.send_replace(Standing::Voter);
                if others.iter().all(|(id, _)| own < *id) {
                    found(raft, peers).await;
                }
                return Ok(());
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    /// From now on it takes entries, and does not vote before it has caught up.
    fn rejoin(&self, raft: &Raft) -> Result<(), StoreError> {
        raft.runtime_config().elect(false);
        self.store.set_rejoining(true)?;
        self.standing.send_replace(Standing::Rejoining);
        Ok(())
    }

    /// Takes note that a leader's entries were accepted. A replica that has lost its disk is a voter again once it
    /// holds everything that a leader of the present term knows to be committed.
    pub(super) fn caught_up(&self, raft: &Raft, request: &Accepted) -> Result<(), StoreError> {
        if *self.standing.borrow() == Standing::Rejoining && request.complete {
            self.store.set_rejoining(false)?;
            raft.runtime_config().elect(true);
            self.standing.send_replace(Standing::Voter);
            tracing::info!("caught up: this replica votes again");
        }
        Ok(())
    }
}

/// What matters of entries that a leader sent, once they are accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    /// With them this replica holds everything committed, by a leader whose own term has committed something: such a
    /// leader knows of every commit before it.
    complete: bool,
}

impl Accepted {
    pub(super) fn of(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let held = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let complete = request.leader_commit.is_some_and(|committed| {
            committed.leader_id.term == request.vote.leader_id().term && held >= Some(committed)
        });
        Self { complete }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probed {
    /// It was never part of a cluster with a leader.
    New,
    /// It was.
    Founded,
    /// It did not answer, or is another than the configuration says.
    Unknown,
}

async fn probe(peers: &Peers, id: u64, address: &str) -> Probed {
    match peers.probe(id, address, NEVER).await {
        Ok(answer) if answer.initialized => Probed::Founded,
        Ok(_) => Probed::New,
        Err(status) => {
            tracing::debug!("replica {id} does not answer yet: {}", wire::status::describe(&status));
            Probed::Unknown
        }
    }
}

/// Writes the first membership. Every replica would write the same, so doing it twice is harmless.
async fn found(raft: &Raft, peers: &Peers) {
    let members: BTreeMap<u64, BasicNode> =
        peers.configured().iter().map(|(id, address)| (*id, BasicNode::new(address))).collect();
    match raft.initialize(members).await {
        Ok(()) => tracing::info!("the cluster of coordinators is founded"),
        // It was asked to vote before it came to this: another replica has founded the cluster.
        Err(error) => tracing::info!("the cluster is founded already: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::super::types::{LogId, Vote};
    use super::*;

    #[test]
    fn only_what_a_leader_of_the_present_term_committed_brings_the_vote_back() {
        let log_id = |term, index| LogId::new(CommittedLeaderId::new(term, 1), index);
        let complete = |leader_commit: Option<LogId>, held: Option<LogId>| {
            let request = AppendEntriesRequest {
                vote: Vote::new_committed(5, 1),
                prev_log_id: held,
                entries: Vec::new(),
                leader_commit,
            };
            Accepted::of(&request).complete
        };
        assert!(complete(Some(log_id(5, 9)), Some(log_id(5, 9))));
        assert!(complete(Some(log_id(5, 9)), Some(log_id(5, 12))));
        assert!(!complete(Some(log_id(5, 9)), Some(log_id(4, 8))), "more is committed than this replica holds");
        assert!(!complete(Some(log_id(4, 9)), Some(log_id(5, 10))), "of later commits this leader may not know yet");
        assert!(!complete(None, None));
    }
}
