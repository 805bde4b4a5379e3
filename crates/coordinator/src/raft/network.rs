//! Consensus's calls to the other replicas, over mutual TLS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, BasicNode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::pki::Role;
use wire::tls::{ExpectedPeer, InvalidAddress, Tls};
use wire::v1;
use wire::v1::raft_client::RaftClient;

use super::frame::VERSION;
use super::timing::{Timing, UNREACHABLE_RETRY};
use super::types::TypeConfig;

/// The version of the messages in [`v1::RaftRequest`] and [`v1::RaftResponse`]. Entries and states travel in the form in
/// which they are stored, so it rises with that.
const PROTOCOL: u32 = VERSION as u32;

/// For [`Peers::probe`], when nobody doubts that we are a member.
pub(super) const NEVER: u64 = u64::MAX;

type RpcError<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

/// Wraps a message of openraft for the wire.
pub(super) fn pack<T: Serialize>(message: &T) -> Result<v1::RaftRequest, postcard::Error> {
    Ok(v1::RaftRequest { version: PROTOCOL, payload: postcard::to_stdvec(message)? })
}

/// Unwraps a message of openraft.
pub(super) fn unpack<T: DeserializeOwned>(version: u32, payload: &[u8]) -> Result<T, Status> {
    if version != PROTOCOL {
        return Err(wire::status::refused(
            "RAFT_VERSION",
            format!("the coordinators speak version {version} and {PROTOCOL} of their protocol"),
            "run the same release on every coordinator",
        ));
    }
    postcard::from_bytes(payload)
        .map_err(|error| Status::invalid_argument(format!("not a message of consensus: {error}")))
}

/// The other replicas: how they are reached. Where each of them is, the membership says; the configuration only as long
/// as there is none.
#[derive(Clone)]
pub(crate) struct Peers {
    tls: Tls,
    timing: Timing,
    configured: Arc<BTreeMap<u64, String>>,
    /// Locked only to look up or put a link, never across a call.
    links: Arc<Mutex<BTreeMap<u64, Link>>>,
    /// The heartbeat with which each replica runs, as it said last, in milliseconds.
    said: Arc<Mutex<BTreeMap<u64, u32>>>,
}

/// The connection to one replica.
struct Link {
    address: String,
    channel: Channel,
    /// Since when no call was answered; `None` when the last one was.
    unanswered_since: Option<Instant>,
    /// When it last answered a call with anything but a failure.
    heard: Option<Instant>,
}

impl Peers {
    /// Takes the addresses of the replicas that the configuration names.
    pub(crate) fn new(tls: Tls, timing: Timing, configured: BTreeMap<u64, String>) -> Self {
        Self { tls, timing, configured: Arc::new(configured), links: Arc::default(), said: Arc::default() }
    }

    /// The addresses of the replicas that the configuration names.
    pub(crate) fn configured(&self) -> &BTreeMap<u64, String> {
        &self.configured
    }

    /// A client for one call. The server's certificate must be that of this very replica: what listens at an address is
    /// taken for a replica only if the farm's authority says so.
    fn client(&self, replica: u64, address: &str) -> Result<RaftClient<Channel>, InvalidAddress> {
        let now = Instant::now();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get_mut(&replica).filter(|link| link.address == address) {
            let since = *link.unanswered_since.get_or_insert(now);
            if now.duration_since(since) < self.timing.silence_max() {
                return Ok(wire::rpc::raft_client(link.channel.clone()));
            }
        }
        let expect = ExpectedPeer { role: Role::Coordinator, name: Some(replica.to_string()) };
        let channel = self.tls.channel(address, expect)?;
        let link =
            Link { address: address.to_owned(), channel: channel.clone(), unanswered_since: Some(now), heard: None };
        links.insert(replica, link);
        Ok(wire::rpc::raft_client(channel))
    }

    /// Takes note that a call to a replica came to an end, and whether the replica itself ended it well.
    fn ended(&self, replica: u64, well: bool) {
        if let Some(link) = self.links.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&replica) {
            link.unanswered_since = None;
            if well {
                link.heard = Some(Instant::now());
            }
        }
    }

    /// Whether a replica answered a call within this time.
    pub(super) fn heard_within(&self, replica: u64, duration: Duration) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&replica).and_then(|link| link.heard).is_some_and(|heard| heard.elapsed() <= duration)
    }

    /// Asks a replica what it is, and whether a membership of at least this index is without us. One that answers by
    /// another number than it is called by is refused.
    pub(super) async fn probe(
        &self,
        replica: u64,
        address: &str,
        without_us_since: u64,
    ) -> Result<v1::ProbeResponse, Status> {
        let mut client = self.client(replica, address).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let probing = client.probe(v1::ProbeRequest { without_us_since });
        let limit = self.timing.probe_timeout();
        let silent = |_| Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()));
        let answer = timeout(limit, probing).await.map_err(silent)?;
        self.ended(replica, answer.is_ok());
        let answer = answer?.into_inner();
        if answer.id != replica {
            let message = format!("replica {replica} answers as replica {}; correct id or address", answer.id);
            tracing::error!("{message}");
            return Err(Status::failed_precondition(message));
        }
        self.compare_heartbeat(replica, answer.heartbeat_ms);
        Ok(answer)
    }

    /// Says so, once, if a replica runs with another heartbeat: nothing is lost by that, but the two may find each other
    /// too slow and elect nobody for long. Zero is the word of a release that had none.
    fn compare_heartbeat(&self, replica: u64, theirs: u32) {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(replica, theirs);
        let ours = self.timing.heartbeat_ms();
        if theirs != 0 && theirs != ours && said != Some(theirs) {
            tracing::warn!(
                "coordinator {replica} has heartbeat_ms = {theirs}, and this one {ours}; set the same in every \
                 coordinator's configuration and start them again, one after the other"
            );
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer { peers: self.clone(), target, address: node.addr.clone() }
    }
}

/// One other replica, as one task of openraft calls it.
pub(crate) struct Peer {
    peers: Peers,
    target: u64,
    address: String,
}

/// Which method a message goes to.
#[derive(Debug, Clone, Copy)]
enum Method {
    AppendEntries,
    Vote,
    InstallSnapshot,
}

impl Peer {
    async fn call<Q, A, E>(&self, method: Method, message: &Q) -> Result<A, RpcError<E>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error,
    {
        let mut client = self.peers.client(self.target, &self.address).map_err(|error| Unreachable::new(&error))?;
        let request = pack(message).map_err(|error| NetworkError::new(&error))?;
        let answered = match method {
            Method::AppendEntries => client.append_entries(request).await,
            Method::Vote => client.vote(request).await,
            Method::InstallSnapshot => client.install_snapshot(request).await,
        };
        self.peers.ended(self.target, answered.is_ok());
        let response = answered.map_err(|status| unreachable(&status))?.into_inner();
        unpack(response.version, &response.payload).map_err(|status| unreachable(&status).into())
    }
}

/// Every failed call is retried after a pause: whatever the reason, the next attempt at once would meet it again.
fn unreachable(status: &Status) -> Unreachable {
    let text = match status.code() {
        Code::Unavailable => wire::status::describe(status),
        _ => format!("{:?}: {}", status.code(), wire::status::describe(status)),
    };
    Unreachable::from(AnyError::error(text))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        self.call(Method::AppendEntries, &request).await
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, RpcError> {
        self.call(Method::Vote, &request).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<InstallSnapshotError>> {
        // A mismatch of chunks is an answer: it makes openraft begin again from the first chunk.
        let answer: Result<InstallSnapshotResponse<u64>, InstallSnapshotError> =
            self.call(Method::InstallSnapshot, &request).await?;
        answer.map_err(|error| RemoteError::new(self.target, RaftError::APIError(error)).into())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_RETRY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinators_of_different_protocols_refuse_each_other_by_name() {
        let message = pack(&7_u64).expect("packs");
        assert_eq!(unpack::<u64>(message.version, &message.payload).expect("the same release"), 7);
        for other in [PROTOCOL - 1, PROTOCOL + 1] {
            let refused = unpack::<u64>(other, &message.payload).expect_err("another release");
            let problem = wire::status::problem(&refused).expect("a problem");
            assert_eq!(problem.reason, "RAFT_VERSION");
            let named = format!("version {other} and {PROTOCOL}");
            assert!(problem.message.contains(&named) && !problem.next_step.is_empty(), "{}", problem.message);
        }
    }
}
