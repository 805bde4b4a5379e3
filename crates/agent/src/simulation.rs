//! An agent without its process: the service as it is called behind TLS, on whatever stands for its instance and its
//! database. For a simulation alone.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use reencrypt::Engine;
use rotation::NodeId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use wire::tls::Tls;
use wire::v1;
use wire::v1::agent_server::Agent as _;

pub use crate::exec::{Commands, ExecError, Finished};

use crate::config::{InstanceConfig, StoreConfig};
use crate::durable::DurableError;
use crate::fence::FenceFile;
use crate::guard;
use crate::instance::Driver;
use crate::node::{Node, Parts};
use crate::registry::Registry;
use crate::service::AgentService;

/// What an agent is made of.
pub struct Surroundings {
    /// The node.
    pub node: NodeId,
    /// The farm.
    pub farm: String,
    /// Where it keeps its own state.
    pub state_dir: PathBuf,
    /// Its identity, with which it signs and checks signatures.
    pub tls: Tls,
    /// The key store's places.
    pub store: StoreConfig,
    /// Its way to the database.
    pub engine: Engine,
    /// The commands of its instance.
    pub instance: InstanceConfig,
    /// Who runs them.
    pub commands: Arc<dyn Commands>,
}

/// A running agent.
pub struct Agent {
    service: AgentService,
    guard: JoinHandle<()>,
}

impl Agent {
    /// Starts it as its process does, from what it remembers. Needs a runtime.
    pub fn start(surroundings: Surroundings) -> Result<Self, DurableError> {
        let Surroundings { node, farm, state_dir, tls, store, engine, instance, commands } = surroundings;
        let fence = FenceFile::open(&state_dir)?;
        let targets = engine.targets();
        let node = Arc::new(Node::open(Parts {
            id: node,
            farm,
            state_dir,
            tls,
            store: crate::run::key_store(&store),
            targets: targets.digest(),
            tables: targets.tables().iter().map(reencrypt::TableTarget::label).collect(),
            engine,
            instance: Driver::with(instance, commands),
            backups: None,
        })?);
        let guard = tokio::spawn(guard::keep_held(Arc::clone(&node), CancellationToken::new()));
        Ok(Self { service: AgentService::new(node, fence, Arc::new(Registry::default())), guard })
    }

    /// Takes an assignment from a coordinator, and answers its reports.
    pub async fn execute(
        &self,
        request: v1::ExecuteRequest,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<v1::Report, Status>> + Send>>, Status> {
        self.service.execute(Request::new(request)).await.map(Response::into_inner)
    }

    /// Obeys a cluster from now on, as an operator says.
    pub async fn adopt(&self, request: v1::AdoptRequest) -> Result<(), Status> {
        self.service.adopt(Request::new(request)).await.map(drop)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.guard.abort();
    }
}
