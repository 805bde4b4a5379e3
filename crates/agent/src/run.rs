//! Starts the agent from its configuration and serves until told to stop.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{FutureExt as _, poll};
use keys::KeyStore;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use reencrypt::{Engine, EngineError, Targets, TargetsError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use wire::access::{Peer, Role};
use wire::tls::{Tls, TlsError};

use crate::backup::SharedBackupTools;
use crate::config::{Config, ConfigError, StoreConfig};
use crate::durable::{self, DurableError};
use crate::fence::FenceFile;
use crate::guard;
use crate::harden::{HardenError, harden};
use crate::held::HeldFile;
use crate::instance::Driver;
use crate::leftover;
use crate::node::{Backups, Node, Parts};
use crate::notify;
use crate::registry::Registry;
use crate::service::AgentService;

/// The folder in state_dir in which running commands are named.
pub(crate) const RUNNING: &str = "running";
/// The service's name to health checks.
const SERVICE: &str = "keyturn.v1.Agent";

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process could not protect its memory.
    #[error("starting the agent")]
    Harden(#[source] HardenError),
    /// The folder of its state cannot be made or locked.
    #[error("the agent's state_dir {path} cannot be used; check its owner and its disk")]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("another agent uses state_dir {path}; stop it, or give this one a folder of its own")]
    StateDirInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file of its state cannot be read.
    #[error("reading the agent's state")]
    State(#[source] DurableError),
    /// The configuration names something that cannot be used.
    #[error("reading the agent's configuration")]
    Config(#[source] ConfigError),
    /// The certificate cannot be used.
    #[error("loading the agent's certificate")]
    Tls(#[source] TlsError),
    /// The certificate is another's.
    #[error(
        "the agent's certificate is of {found} of farm {farm}, and the configuration is of agent {node} of farm \
         {expected_farm}; issue one: keyturn pki issue agent {node}"
    )]
    Identity {
        /// Role and name in the certificate.
        found: String,
        /// The farm in it.
        farm: String,
        /// The configured node.
        node: String,
        /// The configured farm.
        expected_farm: String,
    },
    /// The tables cannot be read.
    #[error("reading {path}")]
    Targets {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TargetsError,
    },
    /// The database's configuration cannot be used.
    #[error("preparing the database connection")]
    Database(#[source] EngineError),
    /// The address cannot be listened on.
    #[error("listening on {address}; see what else uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server failed.
    #[error("serving")]
    Serve(#[source] io::Error),
}

/// The node's key store, for the commands that import and export keys while no agent need run.
pub fn open_store(config: &Config) -> KeyStore {
    key_store(&config.store)
}

/// The key store at these places.
pub(crate) fn key_store(config: &StoreConfig) -> KeyStore {
    let StoreConfig { directory, hostkey, machine_id } = config.clone();
    KeyStore::new(keys::StoreConfig { directory, hostkey, machine_id })
}

/// The rotation for which this node holds its instance offline; `None` when it does not. What it holds need not be the
/// farm's key then.
pub fn held_for(config: &Config) -> Result<Option<rotation::RotationId>, DurableError> {
    Ok(HeldFile::open(&config.state_dir)?.get().map(|held| held.rotation))
}

/// Runs the agent until `shutdown`. Backups are made with these tools.
pub async fn run(
    config: Config,
    backups: SharedBackupTools,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
    run_with(config, backups, listener, shutdown).await
}

/// Runs the agent on a listener that exists already.
pub async fn run_with(
    config: Config,
    backups: SharedBackupTools,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    harden().map_err(RunError::Harden)?;
    let _lock = lock_state_dir(&config.state_dir)?;
    end_leftovers(&config.state_dir)?;
    let fence = FenceFile::open(&config.state_dir).map_err(RunError::State)?;
    let node = Arc::new(open_node(&config, backups).await?);
    let registry = Arc::new(Registry::default());
    let service = AgentService::new(Arc::clone(&node), fence, Arc::clone(&registry));
    let routes = Routes::new(wire::rpc::agent_server(service));

    let stop = CancellationToken::new();
    let guard = tokio::spawn(guard::keep_held(Arc::clone(&node), stop.clone()));
    // It listens from its first poll on: whoever reads that we serve may tell us to stop.
    let shutdown = shutdown.shared();
    let _ = poll!(shutdown.clone());
    tracing::info!(node = %config.node, listen = ?listener.local_addr().ok(), "the agent serves");
    if let Err(error) = notify::ready() {
        tracing::warn!(%error, "the service manager could not be told that the agent is ready");
    }
    // Work is given up first: its streams end then, and the server need not wait for them.
    let until = async {
        shutdown.await;
        stop.cancel();
        registry.stop().await;
    };
    let served = wire::serve::serve(listener, &node.tls, routes, &[SERVICE], until).await;
    // When the server failed by itself, work is still under way.
    stop.cancel();
    registry.stop().await;
    if guard.await.is_err() {
        tracing::error!("the guard of the held instance had failed");
    }
    served.map_err(RunError::Serve)
}

async fn open_node(config: &Config, backups: SharedBackupTools) -> Result<Node, RunError> {
    let tls = Tls::load(&config.tls.files()).map_err(RunError::Tls)?;
    check_identity(config, &tls.identity())?;
    let engine = open_engine(config).await?;
    let targets_digest = engine.targets().digest();
    let tables = engine.targets().tables().iter().map(reencrypt::TableTarget::label).collect();
    Node::open(Parts {
        id: config.node.clone(),
        farm: config.farm.clone(),
        state_dir: config.state_dir.clone(),
        tls,
        store: open_store(config),
        engine,
        targets: targets_digest,
        tables,
        instance: Driver::new(config.instance.clone(), config.state_dir.join(RUNNING)),
        backups: config.backup.clone().map(|settings| Backups { config: config.clone(), settings, tools: backups }),
    })
    .map_err(RunError::State)
}

/// The engine for the configured database and tables.
pub(crate) async fn open_engine(config: &Config) -> Result<Engine, RunError> {
    let path = &config.database.targets;
    let targets = Targets::load(path).map_err(|source| RunError::Targets { path: path.clone(), source })?;
    let database = config.database.engine(&config.node).map_err(RunError::Config)?;
    Engine::connect(&database, targets).await.map_err(RunError::Database)
}

fn check_identity(config: &Config, certificate: &Peer) -> Result<(), RunError> {
    let is_own =
        certificate.role == Role::Agent && certificate.name == config.node.as_str() && certificate.farm == config.farm;
    if is_own {
        return Ok(());
    }
    Err(RunError::Identity {
        found: certificate.to_string(),
        farm: certificate.farm.clone(),
        node: config.node.to_string(),
        expected_farm: config.farm.clone(),
    })
}

/// Ends the commands of an agent that was killed, before this one begins any.
pub(crate) fn end_leftovers(state_dir: &Path) -> Result<(), RunError> {
    let ended = leftover::end_all(&state_dir.join(RUNNING))
        .map_err(|source| RunError::StateDir { path: state_dir.to_owned(), source })?;
    if ended > 0 {
        tracing::warn!(ended, "commands of an agent that was killed still ran and were ended");
    }
    Ok(())
}

/// Makes the folder, for its owner alone, and keeps every other agent out of it while the lock lives.
pub(crate) fn lock_state_dir(path: &Path) -> Result<Flock<File>, RunError> {
    let unusable = |source| RunError::StateDir { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
    let file = File::options().create(true).truncate(false).write(true).open(path.join("lock")).map_err(unusable)?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => RunError::StateDirInUse { path: path.to_owned() },
        other => unusable(other.into()),
    })?;
    // What an agent that was killed was writing just then; a plan may have many megabytes.
    durable::sweep(path).map_err(unusable)?;
    Ok(lock)
}
