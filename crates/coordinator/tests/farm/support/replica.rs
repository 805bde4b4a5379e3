//! One coordinator in a runtime of its own, so that it can be stopped in order or killed between any two instants.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use coordinator::{Config, HEARTBEAT_MS, ReplicaConfig, RunError};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::tls::TlsFiles;

use super::{BOUND, FARM};

/// A coordinator that can be started again.
pub(crate) struct Replica {
    config: Config,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
    /// While it stands still; dropping it lets it go on.
    frozen: Option<mpsc::Sender<()>>,
}

impl Replica {
    pub(crate) fn new(id: u64, addresses: &[SocketAddr], data_dir: PathBuf, tls: TlsFiles) -> Self {
        let replicas = addresses
            .iter()
            .enumerate()
            .map(|(place, address)| ReplicaConfig { id: place as u64 + 1, address: format!("https://{address}") })
            .collect();
        let listen = addresses[usize::try_from(id).expect("small") - 1];
        let mut replica = Self::joining(id, listen, data_dir, tls);
        replica.config.join = false;
        replica.config.replicas = replicas;
        replica
    }

    /// One that joins, and knows nobody.
    pub(crate) fn joining(id: u64, listen: SocketAddr, data_dir: PathBuf, tls: TlsFiles) -> Self {
        let config = Config {
            id,
            farm: FARM.to_owned(),
            listen,
            data_dir,
            tls,
            heartbeat_ms: HEARTBEAT_MS,
            join: true,
            replicas: Vec::new(),
        };
        Self { config, running: None }
    }

    /// One that is the only one of its cluster.
    pub(crate) fn apart(id: u64, listen: SocketAddr, data_dir: PathBuf, tls: TlsFiles) -> Self {
        let mut replica = Self::joining(id, listen, data_dir, tls);
        replica.config.join = false;
        replica.config.replicas = vec![ReplicaConfig { id, address: format!("https://{listen}") }];
        replica
    }

    pub(crate) fn id(&self) -> u64 {
        self.config.id
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.config.listen)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.frozen.is_none() && !running.task.is_finished())
    }

    /// Makes it stand still wherever it is, as SIGSTOP does a process: its one thread is taken.
    pub(crate) fn freeze(&mut self) {
        let running = self.running.as_mut().expect("it runs");
        let (frozen, thawed) = mpsc::channel();
        let (sender, stands_still) = mpsc::channel();
        running.runtime.spawn(async move {
            sender.send(()).expect("somebody waits");
            // Ends when the other end is dropped.
            let _ = thawed.recv();
        });
        stands_still.recv_timeout(BOUND).expect("it stands still");
        running.frozen = Some(frozen);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self) {
        self.running.as_mut().expect("it runs").frozen = None;
    }

    /// Starts it on a listener that is bound to its address.
    pub(crate) fn start(&mut self, listener: TcpListener) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("coordinator-{}", self.config.id))
            .enable_all()
            .build()
            .expect("a runtime");
        let shutdown = CancellationToken::new();
        let (config, stop) = (self.config.clone(), shutdown.clone());
        listener.set_nonblocking(true).expect("a socket option");
        let task = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            coordinator::run_with(config, listener, stop.cancelled_owned()).await
        });
        self.running = Some(Running { runtime, shutdown, task, frozen: None });
    }

    /// Starts it again at its address.
    pub(crate) fn restart(&mut self) {
        let listener = TcpListener::bind(self.config.listen).expect("its own port is free again");
        self.start(listener);
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().expect("it runs");
        running.shutdown.cancel();
        running.task.await.expect("does not panic").expect("ends in order");
        end(running.runtime).await;
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.task.is_finished())
    }

    /// Waits until it ends by itself, and answers why.
    pub(crate) async fn ended(&mut self) -> RunError {
        let running = self.running.take().expect("it runs");
        let ended = tokio::time::timeout(BOUND, running.task).await.expect("it ends in time");
        end(running.runtime).await;
        ended.expect("does not panic").expect_err("it cannot go on")
    }

    /// Ends it wherever it is: nothing is told, flushed or handed over.
    pub(crate) async fn kill(&mut self) {
        end(self.running.take().expect("it runs").runtime).await;
    }

    /// Loses its disk.
    pub(crate) fn lose_data(&self) {
        assert!(self.running.is_none(), "it must be down for that");
        std::fs::remove_dir_all(&self.config.data_dir).expect("removes");
    }
}

/// Drops every task of a runtime and waits until its threads are gone, so that files and ports are free.
async fn end(runtime: Runtime) {
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(BOUND)).await.expect("does not panic");
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.frozen = None;
            running.runtime.shutdown_timeout(Duration::ZERO);
        }
    }
}
