//! Channels to the agents, one per node, each bound to the node's own certificate.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rotation::NodeId;
use tonic::transport::Channel;
use wire::pki::Role;
use wire::tls::{ExpectedPeer, InvalidAddress, Tls};
use wire::v1::agent_client::AgentClient;

/// The channels in use.
pub(super) struct Agents {
    tls: Tls,
    /// Address and channel by node. Locked only to look up or put a channel, never across a call.
    channels: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

impl Agents {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls, channels: Mutex::default() }
    }

    /// A client of the agent of this node.
    pub(super) fn client(&self, node: &NodeId, address: &str) -> Result<AgentClient<Channel>, InvalidAddress> {
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

    /// Forgets a connection that fell silent, so that the next call makes a new one.
    pub(super) fn renew(&self, node: &NodeId) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}
