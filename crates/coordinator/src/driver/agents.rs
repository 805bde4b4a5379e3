//! The way to the agents: channels, one per node, each bound to the node's own certificate.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use futures::Stream;
use rotation::NodeId;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::pki::Role;
use wire::tls::{ExpectedPeer, InvalidAddress, Tls};
use wire::v1;
use wire::v1::agent_client::AgentClient;

/// What the driver asks of the network.
pub trait Agents: Send + Sync + 'static {
    /// What comes back on one call, until it ends or breaks.
    type Reports: Stream<Item = Result<v1::Report, Status>> + Send + Unpin;

    /// Sends an assignment to the agent of this node, which is at this address.
    fn execute(
        &self,
        node: &NodeId,
        address: &str,
        request: v1::ExecuteRequest,
    ) -> impl Future<Output = Result<Self::Reports, Status>> + Send;

    /// Forgets a connection that fell silent, so that the next call makes a new one.
    fn renew(&self, node: &NodeId);
}

/// The channels in use.
pub(crate) struct Channels {
    tls: Tls,
    /// Address and channel by node. Locked only to look up or put a channel, never across a call.
    channels: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

impl Channels {
    pub(crate) fn new(tls: Tls) -> Self {
        Self { tls, channels: Mutex::default() }
    }

    /// A client of the agent of this node.
    fn client(&self, node: &NodeId, address: &str) -> Result<AgentClient<Channel>, InvalidAddress> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = channels.get(node)
            && known == address
        {
            return Ok(wire::rpc::agent_client(channel.clone()));
        }
        let expect = ExpectedPeer { role: Role::Agent, name: Some(node.to_string()) };
        let channel = self.tls.channel(address, expect)?;
        channels.insert(node.clone(), (address.to_owned(), channel.clone()));
        Ok(wire::rpc::agent_client(channel))
    }
}

impl Agents for Channels {
    type Reports = Streaming<v1::Report>;

    async fn execute(
        &self,
        node: &NodeId,
        address: &str,
        request: v1::ExecuteRequest,
    ) -> Result<Self::Reports, Status> {
        let mut client = self.client(node, address).map_err(|error| Status::unavailable(error.to_string()))?;
        client.execute(request).await.map(tonic::Response::into_inner)
    }

    fn renew(&self, node: &NodeId) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}
