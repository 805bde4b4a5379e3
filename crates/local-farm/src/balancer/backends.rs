//! Which instances are healthy, found out by asking each of them a few times a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::http::{request, send};

/// How often every instance is asked. An instance that drains leaves within this time.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// An instance that does not answer its health check within this time is not healthy.
const CHECK_LIMIT: Duration = Duration::from_millis(500);

/// The instances, in the order of the command line.
#[derive(Debug)]
pub(super) struct Backends {
    backends: Vec<Backend>,
    /// Where the next session without a home begins to look.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    healthy: AtomicBool,
}

impl Backends {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        let backends =
            addresses.into_iter().map(|address| Backend { address, healthy: AtomicBool::new(false) }).collect();
        Self { backends, turn: AtomicUsize::new(0) }
    }

    /// Healthy instances by number, the session's own first, the others from a place that moves on with every call.
    pub(super) fn candidates(&self, home: Option<usize>) -> Vec<usize> {
        let count = self.backends.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let others = (0..count).map(|step| (first + step) % count).filter(|number| Some(*number) != home);
        home.into_iter()
            .filter(|number| *number < count)
            .chain(others)
            .filter(|number| self.is_healthy(*number))
            .collect()
    }

    /// The address of an instance.
    pub(super) fn address(&self, number: usize) -> SocketAddr {
        self.backends[number].address
    }

    fn is_healthy(&self, number: usize) -> bool {
        self.backends[number].healthy.load(Ordering::Relaxed)
    }

    /// Takes an instance out until its next health check says otherwise.
    pub(super) fn mark_unhealthy(&self, number: usize) {
        self.backends[number].healthy.store(false, Ordering::Relaxed);
    }

    /// Asks every instance, again and again.
    pub(super) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(CHECK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let checks = async {
            loop {
                ticks.tick().await;
                join_all(self.backends.iter().map(Backend::check)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = checks => {}
        }
    }
}

impl Backend {
    async fn check(&self) {
        let question = request(Method::GET, self.address, "/healthz", Bytes::new());
        let answer = send(self.address, question, CHECK_LIMIT).await;
        let healthy = answer.is_ok_and(|response| response.status() == StatusCode::OK);
        if self.healthy.swap(healthy, Ordering::Relaxed) != healthy {
            tracing::info!(instance = %self.address, healthy, "an instance's health changed");
        }
    }
}
