//! Carries out the steps of a change of the membership, and finishes those that a leader inherits.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use tokio::time::timeout;

use super::members::{Change, Condition, Picture, Refusal, Step, next_step};
use super::network::NEVER;
use super::timing::CHANGE_WAIT;
use super::{Consensus, ProposeError};

/// A change that was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ChangeError {
    /// It would do harm or makes no sense; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody can change anything here and now.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// A member of the cluster, as the leader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its number.
    pub(crate) id: u64,
    /// Where the others reach it.
    pub(crate) address: String,
    /// Whether it leads.
    pub(crate) leader: bool,
    /// Whether it counts in a majority; a learner does not.
    pub(crate) voter: bool,
    /// Whether it answered lately.
    pub(crate) reachable: bool,
    /// Entries that it has not confirmed.
    pub(crate) behind: u64,
}

impl Consensus {
    /// Takes the next step towards the wished membership and answers which it was. It is under way or done then; asking
    /// again tells which.
    pub(crate) async fn change_replicas(&self, change: &Change) -> Result<Step, ChangeError> {
        self.read_barrier().await?;
        let step = next_step(&self.picture(change).await, change)?;
        match &step {
            Step::AddLearners(new) => {
                tracing::info!("coordinators {:?} become learners", new.keys());
                let nodes = new.iter().map(|(id, address)| (*id, BasicNode::new(address))).collect();
                self.change_membership(ChangeMembers::AddNodes(nodes)).await?;
            }
            Step::ChangeVoters(voters) => {
                tracing::info!("the voting coordinators are to be {voters:?}");
                self.change_membership(ChangeMembers::ReplaceAllVoters(voters.clone())).await?;
            }
            Step::DropLearners(learners) => {
                tracing::info!("the learners {learners:?} are removed");
                self.change_membership(ChangeMembers::RemoveNodes(learners.clone())).await?;
            }
            Step::CatchUp | Step::Done => {}
        }
        Ok(step)
    }

    /// Brings a change of voters to its end that an earlier leader, or this one before, left between its two halves.
    pub(super) async fn finish_change(&self) {
        let unfinished: Option<BTreeSet<u64>> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let configs = metrics.membership_config.membership().get_joint_config();
            configs.last().filter(|_| configs.len() > 1).cloned()
        };
        if let Some(voters) = unfinished
            && let Err(error) = self.change_membership(ChangeMembers::ReplaceAllVoters(voters)).await
        {
            tracing::debug!("the change of voters is not finished yet: {error}");
        }
    }

    /// The members. What is said of who answers and how far they are is true on the leader alone.
    pub(crate) fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| Member {
            id: *id,
            address: node.addr.clone(),
            leader: metrics.current_leader == Some(*id),
            voter: voters.contains(id),
            reachable: *id == self.id || self.peers.heard_within(*id, self.timing.leader_silence_max()),
            behind: if *id == self.id { 0 } else { behind(&metrics, *id) },
        });
        members.collect()
    }

    /// Looks at the cluster, and asks everybody. Who answered a moment ago may be dead, and counting on it could cost the
    /// majority.
    async fn picture(&self, change: &Change) -> Picture {
        let members = self.members();
        let configs = self.raft.metrics().borrow().membership_config.membership().get_joint_config().clone();
        let mut asked: BTreeMap<u64, String> = change.add.clone();
        asked.extend(members.iter().map(|member| (member.id, member.address.clone())));
        asked.remove(&self.id);
        let known: BTreeMap<u64, &Member> = members.iter().map(|member| (member.id, member)).collect();
        let answers = asked.iter().map(|(id, address)| self.condition(*id, address, known.get(id).copied()));
        let mut answering: BTreeMap<u64, Condition> = join_all(answers).await.into_iter().flatten().collect();
        answering.insert(self.id, Condition { behind: 0, votes: true, foreign: false });
        Picture {
            members: members.iter().map(|member| (member.id, member.address.clone())).collect(),
            voters: configs.last().cloned().unwrap_or_default(),
            joint: configs.len() > 1,
            answering,
            removed: self.state.borrow().removed_replicas.clone(),
        }
    }

    /// What a replica is like; `None` when it does not answer.
    async fn condition(&self, id: u64, address: &str, member: Option<&Member>) -> Option<(u64, Condition)> {
        let answer = match self.peers.probe(id, address, NEVER).await {
            Ok(answer) => answer,
            Err(status) => {
                tracing::warn!("coordinator {id} does not answer: {}", wire::status::describe(&status));
                return None;
            }
        };
        let cluster = self.state.borrow().cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
        let foreign = member.is_none() && answer.initialized && answer.cluster != cluster;
        let behind = member.map_or(u64::MAX, |member| member.behind);
        Some((id, Condition { behind, votes: answer.votes, foreign }))
    }

    async fn change_membership(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), ProposeError> {
        let (raft, stop) = (self.raft.clone(), self.stop.clone());
        // In a task of its own: who asked may go away between the two halves of a change of voters.
        let task = self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => None,
                written = raft.change_membership(change, false) => Some(written),
            }
        });
        match timeout(CHANGE_WAIT, task).await {
            Err(_) | Ok(Ok(Some(Ok(_)))) => Ok(()),
            Ok(Ok(Some(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))))) => {
                Err(self.not_leader(forward.leader_id))
            }
            // Another change has come in between; the next look at the membership decides anew.
            Ok(Ok(Some(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))))) => {
                tracing::debug!("the membership was changed meanwhile: {error}");
                Ok(())
            }
            Ok(Ok(Some(Err(RaftError::Fatal(_))) | None) | Err(_)) => Err(ProposeError::Stopped),
        }
    }
}

/// How many entries a replica has not confirmed to this leader.
fn behind(metrics: &openraft::RaftMetrics<u64, BasicNode>, id: u64) -> u64 {
    let entries = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let confirmed = metrics.replication.as_ref().and_then(|progress| progress.get(&id).copied().flatten());
    entries(metrics.last_log_index).saturating_sub(entries(confirmed.map(|log_id| log_id.index)))
}
