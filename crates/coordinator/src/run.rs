//! Starts a replica, keeps it going, and takes it down in order.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, poll};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use wire::access::Peer;
use wire::pki::Role;
use wire::tls::{Tls, TlsError};

use crate::config::{Config, ConfigError};
use crate::driver::{self, Channels, Hints};
use crate::notify;
use crate::operator::OperatorService;
use crate::raft::{Consensus, StartError};

/// The services of a replica, by the names that health and reflection speak of.
const SERVICES: [&str; 2] = ["keyturn.v1.Operator", "keyturn.v1.Raft"];

/// How long the log's file may take to be closed once everything has ended; only a disk that hangs takes it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A replica cannot start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration contradicts itself.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The address to listen on cannot be had.
    #[error("cannot listen on {address}; see that no other process uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("the certificate in [tls] cannot be used")]
    Tls(#[from] TlsError),
    /// The certificate is somebody else's.
    #[error(
        "the certificate is that of {peer} of the farm {:?}, and this is coordinator {id} of {farm:?}; \
         issue one with `keyturn pki issue coordinator {id}`", .peer.farm
    )]
    ForeignCertificate {
        /// Whose it is.
        peer: Peer,
        /// The farm in the configuration.
        farm: String,
        /// The number in the configuration, which must be the certificate's name.
        id: u64,
    },
    /// Consensus did not start.
    #[error("the replica cannot take part in consensus")]
    Start(#[from] StartError),
    /// Consensus failed while it ran, as after a full disk.
    #[error("consensus failed: {0}; repair what it names and start the replica again")]
    Consensus(String),
    /// The server failed.
    #[error("the server on {address} failed")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs a replica until `shutdown`.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    let listener =
        TcpListener::bind(config.listen).await.map_err(|source| RunError::Listen { address: config.listen, source })?;
    run_with(config, listener, shutdown).await
}

/// As [`run`], on a listener that is bound already.
///
/// When it answers, the driver has stopped, no connection is left, and the log's file is closed.
pub async fn run_with(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    config.check()?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let tls = Tls::load(&config.tls)?;
    let peer = tls.identity();
    if peer.role != Role::Coordinator || peer.farm != config.farm || peer.name != config.id.to_string() {
        return Err(RunError::ForeignCertificate { peer, farm: config.farm, id: config.id });
    }

    let consensus = Consensus::start(&config, tls.clone()).await?;
    let stop = CancellationToken::new();
    let (hints_sender, hints) = watch::channel(Hints::default());
    let driver =
        tokio::spawn(driver::run(consensus.clone(), Arc::new(Channels::new(tls.clone())), hints_sender, stop.clone()));
    // From here on, and not from the task's first turn: whoever reads that we listen may send one.
    let hangups = signal(SignalKind::hangup())
        .inspect_err(|error| tracing::warn!("SIGHUP cannot be caught, new certificates need a restart: {error}"))
        .ok();
    let reload = tokio::spawn(reload_on_signal(tls.clone(), hangups, stop.clone()));
    let operator = OperatorService {
        consensus: consensus.clone(),
        tls: tls.clone(),
        farm: config.farm.clone(),
        hints,
        stop: stop.clone(),
    };
    let routes =
        Routes::new(wire::rpc::raft_server(consensus.service())).add_service(wire::rpc::operator_server(operator));

    // It listens from its first poll on: whoever reads that we do may tell us to stop.
    let shutdown = shutdown.shared();
    let _ = poll!(shutdown.clone());
    tracing::info!(replica = config.id, %address, "listening");
    notify::notify(notify::READY);
    let (ended, closed) = {
        let mut serving = pin!(wire::serve::serve(listener, &tls, routes, &SERVICES, stop.cancelled()));
        let mut served = None;
        let ended = tokio::select! {
            result = &mut serving => { served = Some(result); Ok(()) }
            reason = consensus.failed() => Err(RunError::Consensus(reason)),
            () = shutdown => Ok(()),
        };
        notify::notify(notify::STOPPING);
        stop.cancel();
        // The driver first: it must give out nothing more once consensus is gone. Neither task panics.
        let _ = tokio::join!(driver, reload);
        let closed = consensus.shutdown().await;
        let served = match served {
            Some(result) => result,
            None => serving.await,
        };
        (ended.and(served.map_err(|source| RunError::Serve { address, source })), closed)
    };
    if timeout(CLOSE_TIMEOUT, closed.cancelled()).await.is_err() {
        tracing::warn!("the log's file is still open {} s after everything ended", CLOSE_TIMEOUT.as_secs());
    }
    ended
}

/// Reads the certificates again on SIGHUP, so that renewing them needs no restart.
async fn reload_on_signal(tls: Tls, hangups: Option<Signal>, stop: CancellationToken) {
    let Some(mut hangups) = hangups else { return };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            received = hangups.recv() => if received.is_none() { return },
        }
        match tls.reload() {
            Ok(()) => tracing::info!("the certificates were read again"),
            Err(error) => tracing::error!("the certificates could not be read again, the old ones stay: {error}"),
        }
    }
}
