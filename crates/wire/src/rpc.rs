//! Clients and servers of the services with the limits that all of Keyturn uses.

use tonic::transport::Channel;

use crate::v1::agent_client::AgentClient;
use crate::v1::agent_server::{Agent, AgentServer};
use crate::v1::operator_client::OperatorClient;
use crate::v1::operator_server::{Operator, OperatorServer};
use crate::v1::raft_client::RaftClient;
use crate::v1::raft_server::{Raft, RaftServer};

/// Largest message either way. A plan with ten thousand shards, or sealed bundles for a thousand nodes, is a few MiB;
/// tonic's own limit of 4 MiB would be met in earnest.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

macro_rules! with_limits {
    ($($client_fn:ident -> $client:ident, $server_fn:ident($service:ident) -> $server:ident, $name:literal;)*) => {$(
        #[doc = concat!("A client of the service ", $name, " on this channel.")]
        pub fn $client_fn(channel: Channel) -> $client<Channel> {
            $client::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        }

        #[doc = concat!("The service ", $name, ", to be added to the routes of a server.")]
        pub fn $server_fn<T: $service>(service: T) -> $server<T> {
            $server::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        }
    )*};
}

with_limits! {
    operator_client -> OperatorClient, operator_server(Operator) -> OperatorServer, "`keyturn.v1.Operator`";
    agent_client -> AgentClient, agent_server(Agent) -> AgentServer, "`keyturn.v1.Agent`";
    raft_client -> RaftClient, raft_server(Raft) -> RaftServer, "`keyturn.v1.Raft`";
}
