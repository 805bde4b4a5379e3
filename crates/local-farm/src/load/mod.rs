//! The client load: reads and writes through the balancer, throughout, that remembers what it was promised.

mod client;
mod memory;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::seed::content::Counts;
use client::Client;
pub(crate) use memory::{Memory, is_seeded};

/// Clients at work; each has rows of its own, so that each knows what its rows must say.
const CLIENTS: u64 = 6;

/// How often each client asks something: 100 requests a second together, which leaves two cores to the rotation.
const PACE: Duration = Duration::from_millis(60);

/// Problems that are kept as text; the rest is only counted.
const PROBLEMS_MAX: usize = 20;

/// The last rows of every table, which the load leaves alone: a fault may corrupt one behind everybody's back.
pub(crate) const ROWS_LEFT_ALONE: u64 = 1;

/// What was counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LoadCounts {
    /// Right answers.
    pub(crate) ok: u64,
    /// No answer: nobody was online, or the connection broke.
    pub(crate) refused: u64,
    /// Wrong content, or an acknowledged write that is lost.
    pub(crate) wrong: u64,
}

/// What came of it in the end.
#[derive(Debug, Clone)]
pub(crate) struct LoadOutcome {
    /// What was counted.
    pub(crate) counts: LoadCounts,
    /// What was wrong, in words.
    pub(crate) problems: Vec<String>,
    /// What every row that was written must say now.
    pub(crate) memory: Memory,
}

/// Clients that are at work.
pub(crate) struct Load {
    tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<Client>,
}

/// Counters that all clients share.
#[derive(Debug, Default)]
struct Tally {
    ok: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
    problems: Mutex<Vec<String>>,
}

impl Tally {
    fn counts(&self) -> LoadCounts {
        LoadCounts {
            ok: self.ok.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            wrong: self.wrong.load(Ordering::Relaxed),
        }
    }

    fn ok(&self) {
        self.ok.fetch_add(1, Ordering::Relaxed);
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn wrong(&self, problem: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        let mut problems = self.problems.lock().expect("nobody panics while holding it");
        if problems.len() < PROBLEMS_MAX {
            problems.push(problem);
        }
    }
}

impl Load {
    /// Sets the clients to work on a farm seeded with so many rows.
    pub(crate) fn start(balancer: SocketAddr, counts: Counts) -> Self {
        let tally = Arc::new(Tally::default());
        let clients = (0..CLIENTS).map(|number| Client::new(number, balancer, counts, Arc::clone(&tally))).collect();
        Self::of(tally, clients)
    }

    fn of(tally: Arc<Tally>, resting: Vec<Client>) -> Self {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for mut client in resting {
            let stop = stop.clone();
            clients.spawn(async move {
                client.work(&stop).await;
                client
            });
        }
        Self { tally, stop, clients }
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> LoadCounts {
        self.tally.counts()
    }

    /// Waits until that many more requests were answered rightly; false when that does not happen within `limit`.
    pub(crate) async fn goes_on(&self, answers: u64, limit: Duration) -> bool {
        let before = self.counts().ok;
        let going_on = async {
            while self.counts().ok < before + answers {
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::time::timeout(limit, going_on).await.is_ok()
    }

    /// Ends the work and has every client read back what it was promised.
    pub(crate) async fn finish(self) -> LoadOutcome {
        self.rest().await.0
    }

    /// The same, with the clients, who remember what they were promised and can go on.
    pub(crate) async fn rest(mut self) -> (LoadOutcome, Resting) {
        self.stop.cancel();
        let mut memory = Memory::default();
        let mut clients = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            match ended {
                Ok(mut client) => {
                    client.read_back().await;
                    memory.add(client.memory().clone());
                    clients.push(client);
                }
                Err(error) => self.tally.wrong(format!("a client of the load ended early: {error}")),
            }
        }
        let problems = self.tally.problems.lock().expect("nobody panics while holding it").clone();
        let outcome = LoadOutcome { counts: self.tally.counts(), problems, memory };
        (outcome, Resting { tally: self.tally, clients })
    }
}

/// Clients that rest while everything is looked at.
pub(crate) struct Resting {
    tally: Arc<Tally>,
    clients: Vec<Client>,
}

impl Resting {
    /// Sets them to work again. What was counted counts on.
    pub(crate) fn go_on(self) -> Load {
        Load::of(self.tally, self.clients)
    }
}

#[cfg(test)]
mod tests;
