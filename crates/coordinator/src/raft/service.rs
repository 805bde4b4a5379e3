//! The service with which the replicas speak among themselves.

use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesResponse, InstallSnapshotRequest};
use serde::Serialize;
use tokio::time::timeout;
use tonic::{Request, Response, Status, async_trait};
use wire::v1;

use super::formation::{Accepted, Membership, Standing};
use super::leadership::Heard;
use super::network::{pack, unpack};
use super::timing::STANDING_TIMEOUT;
use super::types::{Raft, TypeConfig};

/// Largest snapshot that is taken in. A state of a thousand rotations with large plans is well below it; openraft would
/// make room up to wherever a piece is said to stand.
const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Hands the calls of other replicas to openraft.
#[derive(Clone)]
pub(crate) struct RaftService {
    pub(super) raft: Raft,
    pub(super) membership: Membership,
    pub(super) heard: Heard,
    pub(super) id: u64,
}

impl RaftService {
    /// Waits for a moment until this replica knows what it is.
    async fn standing(&self) -> Result<Standing, Status> {
        let mut standing = self.membership.standing();
        let decided = standing.wait_for(|standing| *standing != Standing::Undecided);
        match timeout(STANDING_TIMEOUT, decided).await {
            Ok(Ok(standing)) => Ok(*standing),
            _ => Err(Status::unavailable("this replica does not know yet whether it is new to the cluster")),
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
        self.standing().await?;
        let request = request.into_inner();
        let request = unpack(request.version, &request.payload)?;
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
        if self.standing().await? != Standing::Voter {
            return Err(Status::unavailable("this replica lost its log and does not vote until it has caught up"));
        }
        let request = request.into_inner();
        let request = unpack(request.version, &request.payload)?;
        answer(&self.raft.vote(request).await.map_err(stopped)?)
    }

    async fn install_snapshot(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftResponse>, Status> {
        self.standing().await?;
        let request = request.into_inner();
        let request = unpack(request.version, &request.payload)?;
        if !fits(&request) {
            return Err(Status::invalid_argument(format!("a snapshot has {SNAPSHOT_BYTES_MAX} bytes at most")));
        }
        match self.raft.install_snapshot(request).await {
            Ok(response) => answer(&Ok::<_, InstallSnapshotError>(response)),
            Err(RaftError::APIError(error)) => answer(&Err::<openraft::raft::InstallSnapshotResponse<u64>, _>(error)),
            Err(RaftError::Fatal(error)) => Err(stopped(error)),
        }
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeResponse>, Status> {
        // The first entry is the membership that a founder writes before anybody voted; a second one means that a
        // leader was elected.
        let initialized = self.raft.metrics().borrow().last_log_index > Some(0);
        Ok(Response::new(v1::ProbeResponse { id: self.id, initialized }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
