//! The service with which the replicas speak among themselves.

use std::sync::Arc;

use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use openraft::{BasicNode, EffectiveMembership};
use rotation::State;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, async_trait};
use wire::{status, v1};

use super::formation::{Accepted, Membership, Standing};
use super::leadership::Heard;
use super::network::{pack, unpack};
use super::timing::Timing;
use super::types::{Raft, TypeConfig, Vote};

/// Largest snapshot that is taken in. A state of a thousand rotations with large plans is well below it; openraft would
/// make room up to wherever a piece is said to stand.
const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Hands the calls of other replicas to openraft.
#[derive(Clone)]
pub(crate) struct RaftService {
    pub(super) raft: Raft,
    pub(super) membership: Membership,
    pub(super) heard: Heard,
    pub(super) timing: Timing,
    pub(super) state: watch::Receiver<State>,
    pub(super) id: u64,
}

impl RaftService {
    /// Waits for a moment until this replica knows what it is.
    async fn standing(&self) -> Result<Standing, Status> {
        let mut standing = self.membership.standing();
        let decided = standing.wait_for(|standing| *standing != Standing::Undecided);
        match timeout(self.timing.standing_timeout(), decided).await {
            Ok(Ok(standing)) => Ok(*standing),
            _ => Err(Status::unavailable("this replica does not know yet whether it is new to the cluster")),
        }
    }

    /// The membership that this replica knows to be committed.
    async fn committed(&self) -> Result<Arc<EffectiveMembership<u64, BasicNode>>, Status> {
        self.raft.with_raft_state(|state| state.membership_state.committed().clone()).await.map_err(stopped)
    }

    /// Refuses a replica that was removed, whatever it says: its certificate is good until it expires, and its machine may
    /// be in other hands. Whoever has not heard of the removal yet takes it for the member that it was, as it must.
    fn check_not_removed(&self, caller: Option<u64>) -> Result<(), Status> {
        match caller.filter(|caller| self.state.borrow().removed_replicas.contains(caller)) {
            Some(caller) => Err(removed(caller)),
            None => Ok(()),
        }
    }

    /// Refuses the vote to a replica that was removed and does not know: it would only disturb those who are left. A
    /// replica whose log reaches the membership is judged as any other.
    async fn check_member(&self, request: &VoteRequest<u64>, candidate: u64) -> Result<(), Status> {
        let committed = self.committed().await?;
        if committed.get_node(&candidate).is_none() && *committed.log_id() > request.last_log_id {
            tracing::warn!("coordinator {candidate} stands for election, but it was removed; stop it");
            return Err(removed(candidate));
        }
        Ok(())
    }
}

/// What a replica that is no member any more is told, and tells others.
pub(crate) fn removed(id: u64) -> Status {
    let message = format!("coordinator {id} was removed from the cluster");
    let next_step = "stop it, delete its data_dir, and ask the others; a new one gets a number of its own";
    status::error(Code::Unavailable, "REPLICA_REMOVED", message, next_step)
}

/// The number in the caller's certificate.
fn caller<T>(request: &Request<T>) -> Option<u64> {
    let name = wire::access::peer(request).map(|peer| peer.name.as_str())?;
    name.parse().ok().filter(|number: &u64| number.to_string() == name)
}

/// Sees that who sends a message of consensus is the replica in whose name it speaks: no replica, nor one that was
/// removed and given another number, speaks for another.
fn check_sender(caller: Option<u64>, vote: &Vote) -> Result<u64, Status> {
    match (caller, vote.leader_id().voted_for()) {
        (Some(caller), Some(named)) if caller == named => Ok(caller),
        (caller, named) => {
            let number = |id: Option<u64>| id.map_or_else(|| "no number".to_owned(), |id| id.to_string());
            let message = format!(
                "the certificate is that of coordinator {}, and the message that of coordinator {}",
                number(caller),
                number(named)
            );
            let next_step =
                "give every coordinator the certificate of its own number, by `keyturn pki issue coordinator NUMBER`";
            tracing::error!("{message}");
            Err(status::error(Code::PermissionDenied, "REPLICA_CERTIFICATE", message, next_step))
        }
    }
}

fn answer<T: Serialize>(message: &T) -> Result<Response<v1::RaftResponse>, Status> {
    let packed = pack(message).map_err(|error| Status::internal(format!("cannot be written: {error}")))?;
    Ok(Response::new(v1::RaftResponse { version: packed.version, payload: packed.payload }))
}

/// Whether a piece of a snapshot stands within the largest one.
fn fits(piece: &InstallSnapshotRequest<TypeConfig>) -> bool {
    piece.offset.checked_add(piece.data.len() as u64).is_some_and(|end| end <= SNAPSHOT_BYTES_MAX)
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("consensus does not run here: {error}"))
}

#[async_trait]
impl v1::raft_server::Raft for RaftService {
    async fn append_entries(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftResponse>, Status> {
        let caller = caller(&request);
        self.check_not_removed(caller)?;
        self.standing().await?;
        let request = request.into_inner();
        let request: AppendEntriesRequest<TypeConfig> = unpack(request.version, &request.payload)?;
        check_sender(caller, &request.vote)?;
        let accepted = Accepted::of(&request);
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.heard.now();
        }
        if matches!(response, AppendEntriesResponse::Success) {
            self.membership.caught_up(&self.raft, &accepted).map_err(stopped)?;
        }
        answer(&response)
    }

    async fn vote(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftResponse>, Status> {
        let caller = caller(&request);
        self.check_not_removed(caller)?;
        if self.standing().await? != Standing::Voter {
            return Err(Status::unavailable("this replica lost its log and does not vote until it has caught up"));
        }
        let request = request.into_inner();
        let request: VoteRequest<u64> = unpack(request.version, &request.payload)?;
        let candidate = check_sender(caller, &request.vote)?;
        self.check_member(&request, candidate).await?;
        answer(&self.raft.vote(request).await.map_err(stopped)?)
    }

    async fn install_snapshot(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftResponse>, Status> {
        let caller = caller(&request);
        self.check_not_removed(caller)?;
        self.standing().await?;
        let request = request.into_inner();
        let request: InstallSnapshotRequest<TypeConfig> = unpack(request.version, &request.payload)?;
        check_sender(caller, &request.vote)?;
        if !fits(&request) {
            return Err(Status::invalid_argument(format!("a snapshot has {SNAPSHOT_BYTES_MAX} bytes at most")));
        }
        match self.raft.install_snapshot(request).await {
            Ok(response) => answer(&Ok::<_, InstallSnapshotError>(response)),
            Err(RaftError::APIError(error)) => answer(&Err::<openraft::raft::InstallSnapshotResponse<u64>, _>(error)),
            Err(RaftError::Fatal(error)) => Err(stopped(error)),
        }
    }

    async fn probe(&self, request: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeResponse>, Status> {
        let caller = caller(&request);
        let since = request.into_inner().without_us_since;
        let committed = self.committed().await?;
        let newer = committed.log_id().as_ref().is_some_and(|log_id| log_id.index >= since);
        let is_member = caller.is_some_and(|caller| committed.get_node(&caller).is_some());
        // The first entry is the membership that a founder writes before anybody voted; a second one means that a
        // leader was elected.
        let initialized = self.raft.metrics().borrow().last_log_index > Some(0);
        let cluster = self.state.borrow().cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
        let votes = *self.membership.standing().borrow() == Standing::Voter;
        let removed = newer && !is_member;
        let heartbeat_ms = self.timing.heartbeat_ms();
        Ok(Response::new(v1::ProbeResponse { id: self.id, initialized, cluster, votes, removed, heartbeat_ms }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_speaks_for_another_replica() {
        let vote = Vote::new_committed(5, 2);
        assert_eq!(check_sender(Some(2), &vote).expect("its own number"), 2);
        for caller in [Some(3), None] {
            let refused = check_sender(caller, &vote).expect_err("not its own number");
            assert_eq!(refused.code(), Code::PermissionDenied);
            assert_eq!(status::problem(&refused).expect("a problem").reason, "REPLICA_CERTIFICATE");
        }
    }

    #[test]
    fn a_piece_far_out_makes_no_room() {
        let piece = |offset| InstallSnapshotRequest::<TypeConfig> {
            vote: openraft::Vote::new(1, 1),
            meta: Default::default(),
            offset,
            data: vec![0; 2],
            done: false,
        };
        assert!(fits(&piece(0)) && fits(&piece(SNAPSHOT_BYTES_MAX - 2)));
        assert!(!fits(&piece(SNAPSHOT_BYTES_MAX - 1)) && !fits(&piece(u64::MAX)));
    }
}
